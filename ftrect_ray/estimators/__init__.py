"""Estimates with valid intervals from few answers and many predictions. Pure NumPy and SciPy.

Every estimator takes answers ``Y``, predictions on the same rows ``Yhat`` and predictions on unlabelled rows
``Yhat_unlabeled``, in the argument order of ppi_py, and the options of
:class:`~ftrect_ray.estimators.settings.Options`, and returns an :class:`Estimate`. Cross-fitted predictions come as
``Yhat`` out of fold and ``Yhat_unlabeled`` with one column a fold's model. ``classical_…`` is the same target from the
answers alone, ``naive_…`` from the model alone.

Sources: Wang, Ye & Zhao, arXiv 2511.19486 (FTR); Angelopoulos et al. 2023 (PPI); Angelopoulos, Duchi & Zrnic,
arXiv 2311.01453 (PPI++); Zrnic & Candès 2024 (cross-prediction); Egami et al. 2023 (known selection probabilities).
"""

from ftrect_ray.estimators.classical import (
    classical_difference,
    classical_logistic,
    classical_mean,
    classical_multinomial,
    classical_ols,
    classical_poisson,
    classical_proportions,
    classical_quantile,
)
from ftrect_ray.estimators.difference import difference
from ftrect_ray.estimators.folds import draw_folds, rotation
from ftrect_ray.estimators.glm import logistic, poisson
from ftrect_ray.estimators.m_estimate import m_estimate
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.multinomial import multinomial
from ftrect_ray.estimators.naive import (
    naive_logistic,
    naive_mean,
    naive_ols,
    naive_poisson,
    naive_proportions,
    naive_quantile,
)
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.proportions import proportions
from ftrect_ray.estimators.quantile import quantile
from ftrect_ray.estimators.recycle import recycle
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.sequential import sequential
from ftrect_ray.estimators.settings import Bootstrap

__all__ = [
    "Bootstrap",
    "Estimate",
    "Sample",
    "classical_difference",
    "classical_logistic",
    "classical_mean",
    "classical_multinomial",
    "classical_ols",
    "classical_poisson",
    "classical_proportions",
    "classical_quantile",
    "difference",
    "draw_folds",
    "logistic",
    "m_estimate",
    "mean",
    "multinomial",
    "naive_logistic",
    "naive_mean",
    "naive_ols",
    "naive_poisson",
    "naive_proportions",
    "naive_quantile",
    "ols",
    "poisson",
    "proportions",
    "quantile",
    "recycle",
    "rotation",
    "sequential",
]
