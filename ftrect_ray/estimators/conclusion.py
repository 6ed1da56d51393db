"""From a point and its spread to an :class:`Estimate`: λ, standard error, t interval, p-value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.diagnostics import Accuracy, Facts, compare
from ftrect_ray.estimators.power_tuning import LONGER, lam_per_coordinate, tuned_lam
from ftrect_ray.estimators.result import Estimate, Number, reported
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.simultaneous import joint_p_values, joint_quantile
from ftrect_ray.estimators.spread import Spread


@dataclass(frozen=True, eq=False)
class Weighting:
    """A λ that has been settled.

    Attributes
    ----------
    lam : float or ndarray (d,)
    spent : int or ndarray (d,) of int
        Degrees of freedom that finding it took: 1 where it was tuned and is not 0.
    notes : tuple of str
        What to tell the reader.
    """

    lam: Number
    spent: Any
    notes: tuple[str, ...] = ()


def settle_lam(settings: Settings, spread: Spread, m: int, fitted: int) -> Weighting:
    """λ as given, or tuned on ``spread``; 0 where predictions cannot save anything.

    ``"crossfit"`` is settled elsewhere, row by row (:mod:`~ftrect_ray.estimators.crossfit`); here it falls back to 0
    or is tuned like ``"tuned"``.

    Parameters
    ----------
    m : int
        Rows that the imputed part rests on.
    fitted : int
        Parameters that the labelled rows fit: 1 for a mean, d for a regression.

    Raises
    ------
    InputError
        A λ above 0 with fewer than two such rows, or one λ a coordinate of another number.
    """
    width = len(spread.answers)
    if not settings.tunes:
        if np.ndim(settings.lam) and len(settings.lam) != width:
            raise InputError(f"'lam' must have one entry a coordinate ({width}); got {len(settings.lam)}.")
        if m < 2 and np.any(settings.lam != 0):
            raise InputError(
                f"'lam' must be 0 or 'tuned' with fewer than 2 unlabelled rows; got {np.max(settings.lam):g}.",
                mend="add unlabelled rows",
            )
        return Weighting(settings.lam, 0)
    if m < 2:
        return Weighting(0.0, 0, (f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate",))
    if spread.freedom - fitted < 2:
        return Weighting(0.0, 0, ("too few labels to tune λ: this is the classical estimate",))
    if settings.lam == "per-coordinate":
        lams = lam_per_coordinate(spread, settings.lam_range)
        reach = _reach(spread, Weighting(lams, np.ones(width, dtype=int)), settings, fitted)
        saves = reach < _reach(spread, Weighting(0.0, 0), settings, fitted)
        lams = np.where(saves | (settings.lam_range[0] > 0), lams, 0.0)
        return Weighting(lams, (lams > 0).astype(int))
    lam = tuned_lam(spread, settings.lam_range)
    if settings.lam_range[0] == 0 and not saves_length(spread, Weighting(lam, 1), settings, fitted):
        lam = 0.0
    return Weighting(lam, int(lam > 0))


def saves_length(spread: Spread, weighting: Weighting, settings: Settings, fitted: int) -> bool:
    """Whether 95 % intervals are shorter than the classical ones on the whole, and none longer by more than 2 %."""
    base = _reach(spread, Weighting(0.0, 0), settings, fitted)
    reach = _reach(spread, weighting, settings, fitted)
    return bool(reach @ reach < base @ base and (reach <= LONGER * base).all())


def _charged(spread: Spread, weighting: Weighting) -> np.ndarray:
    """Covariance (d, d) at λ, with the labelled part times ν/(ν − 2) where λ was tuned; ν units less strata.

    λ̂ is a regression slope fitted on the labels. The residuals that it leaves are too small by (ν − 1)/ν, and its own
    error adds 1/(ν − 2) of their variance to the estimate's (Cochran 1977, Sampling Techniques, §12.6, under
    normality). Without it a nominal 95 % interval holds 92 % at ten labels.
    """
    labeled, unlabeled = spread.at(weighting.lam)
    spent = 2 * np.broadcast_to(weighting.spent, (len(labeled),))
    charge = np.sqrt(spread.freedom / np.maximum(spread.freedom - spent, 1))
    return charge[:, None] * labeled * charge + unlabeled


def _certainty(
    spread: Spread, weighting: Weighting, settings: Settings, fitted: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance (d, d), standard errors (d,) and degrees of freedom (d,) of the estimate at a settled λ.

    Degrees of freedom: units less strata less further fitted parameters less one for a tuned λ, for the labelled
    part; units less strata for the unlabelled part; combined by Satterthwaite (1946).
    """
    covariance = _charged(spread, weighting)
    unlabeled = np.diag(spread.at(weighting.lam)[1])
    variance = np.maximum(np.diag(covariance), 0.0)
    if settings.quantiles == "normal":
        return covariance, np.sqrt(variance), np.full_like(variance, np.inf)
    freedom = np.maximum(spread.freedom - (fitted - 1) - np.broadcast_to(weighting.spent, variance.shape), 1)
    df = satterthwaite(variance - unlabeled, unlabeled, freedom, max(spread.freedom_unlabeled, 1))
    return covariance, np.sqrt(variance), df


def _reach(spread: Spread, weighting: Weighting, settings: Settings, fitted: int) -> np.ndarray:
    """Half the length of each 95 % interval (d,), whatever level is wished: the point must not depend on alpha."""
    _, error, df = _certainty(spread, weighting, settings, fitted)
    return upper_quantile(0.025, df) * error


def conclude(
    value: np.ndarray,
    spread: Spread,
    weighting: Weighting,
    settings: Settings,
    *,
    fitted: int,
    target: str,
    names: tuple[str, ...] | None,
    facts: Facts,
) -> Estimate:
    """The estimate ``value`` (d,) with standard error, t interval and p-value.

    Raises
    ------
    InputError
        A null of another shape.
    """
    covariance, error, df = _certainty(spread, weighting, settings, fitted)
    low, high, p_value = interval_and_test(value, error, df, settings, covariance)
    rows = facts.labeled.n + facts.m if facts.labeled.finite else np.inf
    worth = effective_labels(facts.labeled.n, np.diag(spread.answers), error**2, rows)
    control_error = np.sqrt(np.diag(spread.labeled) + np.diag(spread.unlabeled))
    accuracy = Accuracy(error, control_error, settings.alpha, bool(np.any(weighting.lam > 0)))
    numbers = reported(names, value, error, low, high, worth, df, p_value)
    return Estimate(
        value=numbers[0],
        std_error=numbers[1],
        interval=(numbers[2], numbers[3]),
        alpha=settings.alpha,
        lam=weighting.lam if names is not None else float(np.ravel(weighting.lam)[0]),
        n=facts.labeled.n,
        m=facts.m,
        effective_n=numbers[4],
        names=names,
        target=target,
        diagnostics=compare(facts, accuracy, weighting.notes),
        df=numbers[5],
        p_value=numbers[6],
        alternative=settings.alternative,
        null=settings.null,
    )


def interval_and_test(
    value: np.ndarray, error: np.ndarray, df: np.ndarray, settings: Settings, covariance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower ends, upper ends and p-values (d,); the p-value is below alpha exactly where ``null`` is outside."""
    if np.ndim(settings.null) and len(settings.null) != len(value):
        raise InputError(f"'null' must have one entry a coordinate ({len(value)}); got {len(settings.null)}.")
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(value == settings.null, 0.0, (value - settings.null) / error)
    sides = 2 if settings.alternative == "two-sided" else 1
    against = {"two-sided": np.abs(score), "larger": score, "smaller": -score}[settings.alternative]
    if settings.simultaneous and len(value) > 1 and covariance is not None:
        least = float(df.min())
        p_value = joint_p_values(against, covariance, least, sides)
        reach = joint_quantile(covariance, least, settings.alpha, sides) * error
    else:
        p_value = np.minimum(sides * upper_tail(against, df), 1.0)
        reach = upper_quantile(settings.alpha / sides, df) * error
    low = np.full_like(value, -np.inf) if settings.alternative == "smaller" else value - reach
    high = np.full_like(value, np.inf) if settings.alternative == "larger" else value + reach
    return low, high, p_value


def upper_quantile(tail: float, df: np.ndarray) -> np.ndarray:
    """The t (normal, where df is infinite) quantile above which ``tail`` lies."""
    return np.where(np.isinf(df), -ndtri(tail), -stdtrit(np.where(np.isinf(df), 1.0, df), tail))


def upper_tail(score: np.ndarray, df: np.ndarray) -> np.ndarray:
    """P(t > score)."""
    return np.where(np.isinf(df), ndtr(-score), stdtr(np.where(np.isinf(df), 1.0, df), -score))


def satterthwaite(first: np.ndarray, second: np.ndarray, df_first: ArrayLike, df_second: ArrayLike) -> np.ndarray:
    """(V₁ + V₂)²/(V₁²/df₁ + V₂²/df₂), of the sum of two independent variances (d,); df₁ where nothing varies."""
    total = first + second
    share = np.divide(first, total, out=np.ones_like(total), where=total > 0)
    with np.errstate(divide="ignore"):
        return np.asarray(1 / (share**2 / df_first + (1 - share) ** 2 / df_second))


def effective_labels(n: int, classical: np.ndarray, variance: np.ndarray, rows: float = np.inf) -> np.ndarray:
    """Labels that the classical estimate would need: n · Var_classical / Var; n where both are 0.

    Of a finite population of N ``rows`` its variance is ∝ 1/n − 1/N: no more than N are ever needed.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = variance / classical
        worth = n / (n / rows + (1 - n / rows) * ratio)
    return np.where((classical == 0) & (variance == 0), float(n), worth)
