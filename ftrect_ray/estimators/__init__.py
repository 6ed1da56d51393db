"""Estimates with valid intervals from few answers and many predictions. Pure NumPy and SciPy.

Every estimator takes answers ``Y``, predictions on the same rows ``Yhat`` and predictions on unlabelled
rows ``Yhat_unlabeled``, in the argument order of ppi_py, and returns an :class:`Estimate`. Cross-fitted
predictions come as ``Yhat`` out of fold and ``Yhat_unlabeled`` with one column a fold's model.

Sources: Wang, Ye & Zhao, arXiv 2511.19486 (FTR); Angelopoulos et al. 2023 (PPI); Angelopoulos, Duchi &
Zrnic, arXiv 2311.01453 (PPI++); Zrnic & Candès 2024 (cross-prediction).
"""

from ftrect_ray.estimators.classical import classical_mean, classical_ols, classical_quantile
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.naive import naive_mean, naive_ols, naive_quantile
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.quantile import quantile
from ftrect_ray.estimators.recycle import recycle
from ftrect_ray.estimators.result import Estimate

__all__ = [
    "Estimate",
    "classical_mean",
    "classical_ols",
    "classical_quantile",
    "mean",
    "naive_mean",
    "naive_ols",
    "naive_quantile",
    "ols",
    "quantile",
    "recycle",
]
