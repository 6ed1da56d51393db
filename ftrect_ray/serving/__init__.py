"""Finished runs over HTTP: a study's estimate, its sub-populations, its other targets. Nothing is trained here."""

from ftrect_ray.serving.app import serve_runs

__all__ = ["serve_runs"]
