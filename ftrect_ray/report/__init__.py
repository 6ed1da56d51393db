"""The report of a run: one HTML page that needs nothing beside itself, and its figures as PNG."""

from ftrect_ray.report.inputs import ReportInputs
from ftrect_ray.report.page import build_report

__all__ = ["ReportInputs", "build_report"]
