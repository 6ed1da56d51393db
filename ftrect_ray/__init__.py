"""Estimates from few human answers and much text: fine-tune a language model, then rectify it.

The names below are loaded on first use, so that ``import ftrect_ray`` costs nothing and needs neither
PyTorch nor Ray.

>>> import ftrect_ray
>>> ftrect_ray.mean([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]).n
3
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftrect_ray.allocation import ScalingLaw, fit_scaling_law, optimal_split, plan
    from ftrect_ray.errors import EnvironmentFault, FtrectError, InputError, StatisticalRefusal
    from ftrect_ray.estimators import (
        Bootstrap,
        Estimate,
        Sample,
        difference,
        logistic,
        m_estimate,
        mean,
        multinomial,
        ols,
        poisson,
        proportions,
        quantile,
        recycle,
        sequential,
    )
    from ftrect_ray.study import Study
    from ftrect_ray.study_file import load_study

__version__ = "0.1.0"

_HOMES = {
    "Bootstrap": "estimators",
    "Estimate": "estimators",
    "Sample": "estimators",
    "difference": "estimators",
    "logistic": "estimators",
    "m_estimate": "estimators",
    "mean": "estimators",
    "multinomial": "estimators",
    "ols": "estimators",
    "poisson": "estimators",
    "proportions": "estimators",
    "quantile": "estimators",
    "recycle": "estimators",
    "sequential": "estimators",
    "ScalingLaw": "allocation",
    "fit_scaling_law": "allocation",
    "optimal_split": "allocation",
    "plan": "allocation",
    "Study": "study",
    "load_study": "study_file",
    "FtrectError": "errors",
    "InputError": "errors",
    "EnvironmentFault": "errors",
    "StatisticalRefusal": "errors",
}

__all__ = [
    "Bootstrap",
    "EnvironmentFault",
    "Estimate",
    "FtrectError",
    "InputError",
    "Sample",
    "ScalingLaw",
    "StatisticalRefusal",
    "Study",
    "__version__",
    "difference",
    "fit_scaling_law",
    "load_study",
    "logistic",
    "m_estimate",
    "mean",
    "multinomial",
    "ols",
    "optimal_split",
    "plan",
    "poisson",
    "proportions",
    "quantile",
    "recycle",
    "sequential",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
