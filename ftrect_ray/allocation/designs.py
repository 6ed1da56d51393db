"""The predicted variance of each way to spend n labels.

One formula serves them all, that of the estimator that runs, whose λ is tuned. With r rows that rectify, residual
variance v, m texts and a calibrated model (residual uncorrelated with prediction, so Var f = σ² − v):

    Var θ̂ = v/r + (σ² − v)/(m + r).

For m ≫ r it is FTR's (section 4.2, λ = 1); it is never above σ²/r, the sample mean of the rectifying rows. Without σ²
(not known) there is no second term: exact for m → ∞ and v < σ².

Where the target is the mean of this very table of N rows, every row is predicted and Var(f)/m is gone:

    Var θ̂ = min(v, σ²)·(1/r − 1/N).

A design is a rule from a setting and n to a :class:`Prediction`. Its criterion takes the curve as a function, so that
the point forecast, the search for the best size (an array of sizes) and the doubt (B curves) are one formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ftrect_ray.allocation.curves import Curve
from ftrect_ray.allocation.split import best_whole, tuned_variance

NO_VARIANCE = "the variance of the answers is not given"
TINY = float(np.finfo(float).tiny)
Residual = Callable[[np.ndarray], np.ndarray]
"""v at sizes of any shape; leading axes may be added."""
Criterion = Callable[[Residual, np.ndarray], np.ndarray]
"""Var θ̂ (…, k) for sizes (k,)."""


@dataclass(frozen=True)
class Setting:
    """What a study has: the curve, texts m (may be inf), σ² = Var(Y) or None, the residual variance of given
    predictions or None, the fewest labels that train or rectify a model, the table's rows N where they are the target,
    and whether an untrained model has to make those predictions yet."""

    curve: Curve
    texts: float
    sigma2: float | None
    rectify_variance: float | None
    minimum: int
    rows: int | None = None
    untrained: bool = False

    @property
    def least(self) -> int:
        """Fine-tuning labels of which something is known."""
        return max(self.minimum, int(np.ceil(self.curve.smallest)))

    def texts_beside(self, n: int) -> float:
        """Texts without a label where n rows have one."""
        return self.texts if self.rows is None else self.rows - n


@dataclass(frozen=True, eq=False)
class Prediction:
    """Var θ̂ of a design, or why it cannot be had.

    Attributes
    ----------
    variance : float or None
    draws : ndarray (B,)
        The same for every draw of the curve.
    sizes : tuple of int
        Labels that train each of its models.
    models : int
        That predict all texts: those, or one that is not trained.
    rectified : int
        Predictions of labelled rows.
    unavailable : str
    """

    variance: float | None
    draws: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    sizes: tuple[int, ...] = ()
    models: int = 0
    rectified: int = 0
    unavailable: str = ""


Rule = Callable[[Setting, int], Prediction]


def rectified_variance(residual: np.ndarray, rectifying: np.ndarray, setting: Setting) -> np.ndarray:
    """The formulas above; v = ``residual`` and r = ``rectifying`` of shapes that broadcast."""
    sigma2 = setting.sigma2
    if setting.rows is not None:
        kept = residual if sigma2 is None else np.minimum(residual, sigma2)
        return np.asarray(kept * (1 / rectifying - 1 / setting.rows))
    if sigma2 is None:
        return np.asarray(residual / rectifying)
    return tuned_variance(residual, rectifying, setting.texts, sigma2)


def classical(setting: Setting, n: int) -> Prediction:
    """σ²/n."""
    if setting.sigma2 is None:
        return Prediction(None, unavailable=NO_VARIANCE)
    return Prediction(float(rectified_variance(np.array(setting.sigma2), np.array(n), setting)))


def rectify_only(setting: Setting, n: int) -> Prediction:
    """Predictions that exist already, or an untrained model's; every label rectifies."""
    if setting.rectify_variance is None:
        return Prediction(None, unavailable="no predictions with a known residual variance")
    variance = float(rectified_variance(np.array(setting.rectify_variance), np.array(n), setting))
    return Prediction(variance, models=1, rectified=n) if setting.untrained else Prediction(variance)


def split(least: int, seen: Setting | None = None) -> Rule:
    """s labels train, n − s rectify; the best s ≥ ``least`` by ``seen``, what labels tell that will not rectify."""

    def rule(setting: Setting, n: int) -> Prediction:
        def criterion(given: Setting, residual: Residual, s: np.ndarray) -> np.ndarray:
            return rectified_variance(residual(s), n - s, given)

        return _best(setting, n, least, seen, criterion)

    return rule


def recycle(least: int, seen: Setting | None = None) -> Rule:
    """A split whose fine-tuning labels add their classical mean, by inverse variance: 1/(s/σ² + 1/Var_split)."""

    def rule(setting: Setting, n: int) -> Prediction:
        refused = _needs_random_labels(setting)
        if setting.sigma2 is None or refused:
            return Prediction(None, unavailable=refused or NO_VARIANCE)

        def criterion(given: Setting, residual: Residual, s: np.ndarray) -> np.ndarray:
            return np.asarray(1 / (s / given.sigma2 + 1 / rectified_variance(residual(s), n - s, given)))

        return _best(setting, n, least, seen, criterion)

    return rule


def sequential(batches: int) -> Rule:
    """L batches, each rectified by the model of the batches before, weights ω_l ∝ n_l/v_l.

    With one λ for all it is A − (2λ − λ²)B + λ²C with A = Σ ω_l²σ²/n_l, B = Σ ω_l²Var(f_l)/n_l and
    C = Σ ω_l Var(f_l)/m, at the best λ A − B²/(B + C) = Σ ω_l²v_l/n_l + BC/(B + C): for endless texts 1/Σ n_l/v_l.
    The first batch has no model (v_1 = σ²), or given predictions. The labels of the batches together grow by one
    factor, which keeps the predicted gain per fine-tune even; the best first batch is searched, of those that leave
    the others ``minimum`` labels on average. The models' errors on the texts are taken as if they were one (convexity:
    never too little).
    """

    def rule(setting: Setting, n: int) -> Prediction:
        sigma2 = setting.sigma2
        refused = _needs_random_labels(setting)
        if sigma2 is None or refused:
            return Prediction(None, unavailable=refused or NO_VARIANCE)
        most = n - (batches - 1) * setting.minimum
        if setting.least > most:
            return _too_few(setting, n, setting.least)

        def trains(s: np.ndarray) -> np.ndarray:
            """(k, L − 1) labels of the first l batches."""
            growth = (n / s)[:, None] ** (np.arange(batches - 1) / (batches - 1))
            return np.asarray(np.round(s[:, None] * growth))

        def criterion(residual: Residual, s: np.ndarray) -> np.ndarray:
            ends = trains(s)
            labels = np.diff(ends, prepend=0, append=n)
            left = np.minimum(residual(ends), sigma2)
            first = np.full((*left.shape[:-1], 1), min(setting.rectify_variance or sigma2, sigma2))
            left = np.concatenate([first, left], axis=-1)
            weights = labels / left
            weights = weights / weights.sum(axis=-1, keepdims=True)
            rest = (weights**2 * left / labels).sum(axis=-1)
            explained = (weights**2 * (sigma2 - left) / labels).sum(axis=-1)
            if setting.texts:
                of_texts = (weights * (sigma2 - left)).sum(axis=-1) / setting.texts
                explained = explained * of_texts / np.maximum(explained + of_texts, TINY)
            return np.asarray(np.minimum(rest + explained, sigma2 / n))

        size = best_whole(lambda s: criterion(setting.curve.variance, s), setting.least, most)
        sizes = tuple(int(end) for end in trains(np.array([float(size)]))[0])
        return _at(setting, criterion, size, sizes, n - size)

    return rule


def crossfit(folds: int) -> Rule:
    """K folds: every label rectifies, by a model of (K − 1)n/K labels: v((K−1)n/K)/n + Var(f)/m."""
    return rotation(folds - 1, folds)


def rotation(train: int, folds: int) -> Rule:
    """q ``folds``, p = ``train`` of them train, rotated q times (FTR section 1.2): v(pn/q)/n + Var(f)/m.

    A row is rectified by the mean of the q − p models that did not see it, whose residual variance is at most that of
    one of them: a bound for p < q − 1, and for p = q − 1 cross-fitting.
    """

    def rule(setting: Setting, n: int) -> Prediction:
        trains = train * n / folds
        if n < folds * setting.minimum:
            return Prediction(None, unavailable=f"{n} labels are too few for {folds} folds of {setting.minimum}")
        if trains < setting.curve.smallest:
            return _below(setting, int(trains))

        def criterion(residual: Residual, s: np.ndarray) -> np.ndarray:
            return rectified_variance(residual(s), np.array(n), setting)

        return _at(setting, criterion, trains, (int(trains),) * folds, (folds - train) * n)

    return rule


def _best(
    setting: Setting,
    n: int,
    least: int,
    seen: Setting | None,
    criterion: Callable[[Setting, Residual, np.ndarray], np.ndarray],
) -> Prediction:
    """The size that is best by what may choose it, and what it gives."""
    low, high = max(least, setting.least), n - setting.minimum
    if low > high:
        return _too_few(setting, n, low)
    sized = seen or setting
    size = best_whole(lambda s: criterion(sized, sized.curve.variance, s), low, high)
    return _at(setting, partial(criterion, setting), size, (size,), n - size)


def _at(setting: Setting, criterion: Criterion, size: float, sizes: tuple[int, ...], rectified: int) -> Prediction:
    s = np.array([size], dtype=float)
    variance, draws = criterion(setting.curve.variance, s), criterion(setting.curve.draws_at, s)
    return Prediction(float(variance[0]), draws[:, 0], sizes, len(sizes), rectified)


def _needs_random_labels(setting: Setting) -> str:
    """Why labels of unequal weight cannot be had: a finite population's estimate needs simple random ones."""
    return "its labels weigh unequally, which does not go with a finite population" if setting.rows else ""


def _too_few(setting: Setting, n: int, least: int) -> Prediction:
    left = f"{n} labels leave fewer than {setting.minimum} to rectify after {least} for training"
    return Prediction(None, unavailable=left)


def _below(setting: Setting, size: int) -> Prediction:
    known = f"no law is identified and no pilot had fewer than {setting.curve.smallest:g}"
    return Prediction(None, unavailable=f"its models would have {size} labels; {known}")
