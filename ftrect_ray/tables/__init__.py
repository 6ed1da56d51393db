"""From the user's files to one checked Arrow table: ``id``, ``text``, ``label``, and the other columns."""

from ftrect_ray.tables.assembling import LoadedTable, load_table
from ftrect_ray.tables.reading import read_any
from ftrect_ray.tables.scanning import Scan, scan

__all__ = ["LoadedTable", "Scan", "load_table", "read_any", "scan"]
