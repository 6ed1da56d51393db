"""Reading csv, jsonl and parquet without guessing: a cell of text stays the text that was written.

``NA``, ``None`` and ``007`` are text; only an empty csv cell and a JSON or parquet null are missing. Numbers
are made later, strictly, in :mod:`ftrect_ray.tables.columns`. Nested columns (lists, structs) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ftrect_ray.tables.folding import unfold
from ftrect_ray.tables.limits import Limits
from ftrect_ray.tables.scanning import find_reader


def read_any(path: str, *, columns: Sequence[str] | None = None, max_rows: int, max_bytes: int) -> pa.Table:
    """A table from a csv, jsonl or parquet file.

    Parameters
    ----------
    path : str
        Local path or URI; its ending names the format.
    columns : sequence of str, optional
        Only these, in this order; default all flat columns.
    max_rows, max_bytes : int
        A table with more rows, or with more bytes once decoded, is refused before it fills the memory.

    Returns
    -------
    pa.Table
        csv and jsonl: every column is ``string`` (JSON numbers keep their digits). parquet: the file's own
        types, text as ``string``.

    Raises
    ------
    InputError
        Naming the file, and the line or column.
    """
    file, reader = find_reader(path)
    folded = list(reader(file, columns, Limits(max_rows, max_bytes)))  # the whole file is checked before it unfolds
    names = folded[-1].schema.names
    folded.reverse()
    tables = [pa.Table.from_batches([unfold(folded.pop())]) for _ in range(len(folded))]
    return pa.concat_tables(tables, promote_options="default").select(names)
