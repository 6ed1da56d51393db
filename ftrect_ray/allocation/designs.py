"""The predicted variance of each way to spend n labels.

One formula serves them all. With r rows that rectify, residual variance v, m texts and a calibrated model
(residual uncorrelated with prediction, so Var f = σ² − v):

    Var θ̂ = min( v/r + (σ² − v)/m, σ²/r ).

The first is λ = 1 (FTR section 4.2), the second λ = 0. A tuned λ does at least as well as both, so a plan
never promises too much on this account, and no tuned design is predicted to do worse than the sample mean
of its own rectifying rows. For m ≫ r, λ = 1 is the optimum. Without σ² (not known) there is no second
term and no bound: exact for m → ∞ and v < σ².
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import best_size, whole_size


@dataclass(frozen=True)
class Setting:
    """What a study has: the law, texts m (may be inf), σ² = Var(Y) or None, the residual variance of given
    predictions or None, the least number of fine-tuning labels."""

    law: ScalingLaw
    texts: float
    sigma2: float | None
    rectify_variance: float | None
    minimum: int


@dataclass(frozen=True)
class Prediction:
    """Var θ̂ of a design and the labels that train it, or why it cannot be had."""

    variance: float | None
    n_finetune: int = 0
    unavailable: str = ""


FloatOrArray = TypeVar("FloatOrArray", float, np.ndarray)
Rule = Callable[[Setting, int], Prediction]


def rectified_variance(residual: FloatOrArray, rectifying: FloatOrArray, setting: Setting) -> FloatOrArray:
    """The formula above; ``residual`` v and ``rectifying`` r are numbers, or arrays of one shape."""
    if setting.sigma2 is None:
        return residual / rectifying
    without_model = setting.sigma2 / rectifying
    if setting.texts == 0:
        return without_model
    kept = np.minimum(residual, setting.sigma2)
    return np.minimum(kept / rectifying + (setting.sigma2 - kept) / setting.texts, without_model)


def classical(setting: Setting, n: int) -> Prediction:
    """σ²/n."""
    if setting.sigma2 is None:
        return Prediction(None, unavailable="the variance of the answers is not given")
    return Prediction(setting.sigma2 / n)


def rectify_only(setting: Setting, n: int) -> Prediction:
    """Predictions that exist already; every label rectifies."""
    if setting.rectify_variance is None:
        return Prediction(None, unavailable="no predictions with a known residual variance")
    return Prediction(float(rectified_variance(setting.rectify_variance, float(n), setting)))


def split(least: int) -> Rule:
    """s labels train, n − s rectify; the best s ≥ ``least``."""

    def rule(setting: Setting, n: int) -> Prediction:
        return _best(setting, n, least, lambda s: rectified_variance(setting.law.variance(s), n - s, setting))

    return rule


def recycle(least: int) -> Rule:
    """A split whose fine-tuning labels add their classical mean, by inverse variance: 1/(s/σ² + 1/Var_split)."""

    def rule(setting: Setting, n: int) -> Prediction:
        sigma2 = setting.sigma2
        if sigma2 is None:
            return Prediction(None, unavailable="the variance of the answers is not given")
        return _best(
            setting,
            n,
            least,
            lambda s: 1 / (s / sigma2 + 1 / rectified_variance(setting.law.variance(s), n - s, setting)),
        )

    return rule


def crossfit(folds: int) -> Rule:
    """K folds: every label rectifies, by a model of (K − 1)n/K labels: v((K−1)n/K)/n + Var(f)/m."""

    def rule(setting: Setting, n: int) -> Prediction:
        trains = (folds - 1) * n / folds
        if trains < setting.minimum or n < 2 * folds:
            return Prediction(None, unavailable=f"{n} labels are too few for {folds} folds")
        return Prediction(float(rectified_variance(setting.law.variance(trains), float(n), setting)), int(trains))

    return rule


def _best(setting: Setting, n: int, least: int, criterion: Callable[[np.ndarray], np.ndarray]) -> Prediction:
    low, high = max(least, setting.minimum), n - 2
    if low > high:
        return Prediction(None, unavailable=f"{n} labels leave nothing to rectify after {low} for training")
    size = whole_size(criterion, best_size(criterion, low, high), low, high)
    return Prediction(float(criterion(np.array([size], dtype=float))[0]), size)
