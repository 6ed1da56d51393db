"""The same estimates from tables of any length: files, Arrow batches and datasets, Ray Data.

A thin layer around :mod:`ftrect_ray.estimators`: it turns record batches into the blocks and sums that the estimators'
cores take, so that nothing but the labelled rows and one batch is in memory.
"""

from ftrect_ray.streaming.columns import Columns
from ftrect_ray.streaming.estimating import StreamOptions, estimate_stream

__all__ = ["Columns", "StreamOptions", "estimate_stream"]
