"""Difference of two means: two groups of rows, or two policies on the same rows (FTR eq. 1 and 2, twice)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import FtrectError, InputError
from ftrect_ray.estimators.combination import combined, variance_without_model
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import answers, finite

if TYPE_CHECKING:
    from typing_extensions import Unpack


def difference(
    Y: ArrayLike,
    Yhat: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    Y_other: ArrayLike,
    Yhat_other: ArrayLike,
    Yhat_unlabeled_other: ArrayLike,
    *,
    paired: bool = False,
    sample_other: Sample | None = None,
    sample_unlabeled_other: Sample | None = None,
    folds_other: ArrayLike | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """The mean of the first answers less the mean of the other ones.

    Independent groups: θ̂ = θ̂₁ − θ̂₂, two rectified means with a λ each and Var θ̂ = Var θ̂₁ + Var θ̂₂. The degrees of
    freedom are Satterthwaite's over all four samples; with λ = 0 this is Welch's test.

    Paired (two policies judged on the same rows): the rectified mean of Y − Y_other, with f − f_other as predictions.

    Parameters
    ----------
    Y, Yhat, Yhat_unlabeled : array
        Of the first group, as :func:`~ftrect_ray.estimators.mean.mean` takes them.
    Y_other, Yhat_other, Yhat_unlabeled_other : array
        Of the other group; paired: of the same rows in the same order.
    paired : bool
    sample_other, sample_unlabeled_other : Sample, optional
    folds_other : array, optional
        Independent groups: how the other group's rows were drawn, and its folds. ``sample``, ``sample_unlabeled``
        and ``folds`` are the first group's.
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`. ``lam`` may be a pair, one for each group. The bootstrap
        goes with paired rows only.

    Returns
    -------
    Estimate
        Independent groups: ``lam`` (2,); ``n`` and ``m`` count both groups; ``effective_n`` is n · Var_classical /
        Var θ̂, the labels, shared out between the groups as they are now, that would do without a model; the texts of
        the diagnostics begin with the group, "first: " or "second: ".

    Raises
    ------
    InputError
        See :func:`~ftrect_ray.estimators.mean.mean` (its text ends with the group); a cluster that lies in both
        groups; paired answers of different shapes.

    Examples
    --------
    >>> est = difference([3.0, 5.0, 4.0], [3.0, 4.0, 4.0], [4.0, 5.0], [1.0, 3.0], [1.0, 2.0], [1.0, 2.0], lam=1.0)
    >>> round(est.value, 4), est.n, est.m
    (2.8333, 5, 4)
    """
    settings = Settings.of(options)
    other: dict[str, Any] = {
        "sample": sample_other,
        "sample_unlabeled": sample_unlabeled_other,
        "folds": folds_other,
    }
    if paired:
        for name, value in other.items():
            if value is not None:
                raise InputError(f"'{name}_other' has no meaning with paired=True: the rows are the same.")
        numbers = (
            _less("Y", answers(Y), answers(Y_other, "Y_other")),
            _less("Yhat", finite("Yhat", Yhat, (1, 2)), finite("Yhat_other", Yhat_other, (1, 2))),
            _less(
                "Yhat_unlabeled",
                finite("Yhat_unlabeled", Yhat_unlabeled, (1, 2)),
                finite("Yhat_unlabeled_other", Yhat_unlabeled_other, (1, 2)),
            ),
        )
        return replace(mean(*numbers, **options), target="difference")

    if settings.bootstrap is not None:
        raise InputError("'bootstrap' goes with paired=True only.", mend="take the t interval")
    if np.ndim(settings.lam) and len(settings.lam) != 2:
        raise InputError(f"'lam' must have one entry a group (2); got {len(settings.lam)}.")
    lams = settings.lam if np.ndim(settings.lam) else (settings.lam, settings.lam)
    common = {name: getattr(settings, name) for name in ("alpha", "lam_range", "population", "quantiles")}
    own = {name: getattr(settings, name) for name in other}
    one = _group("first", Y, Yhat, Yhat_unlabeled, {**common, **own, "lam": lams[0]})
    two = _group("second", Y_other, Yhat_other, Yhat_unlabeled_other, {**common, **other, "lam": lams[1]})
    refuse_common_clusters(_clusters(own), _clusters(other))
    return difference_of({"first": one, "second": two}, settings)


def difference_of(parts: Mapping[str, Estimate], settings: Settings) -> Estimate:
    """The first of two independent estimates less the second; ``parts`` names both."""
    one, two = parts.values()
    return combined(
        parts,
        (1.0, -1.0),
        settings,
        target="difference",
        lam=np.array([one.lam, two.lam], dtype=float),
        classical_variance=variance_without_model(one) + variance_without_model(two),
    )


def _less(name: str, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    if one.shape != two.shape:
        raise InputError(
            f"'{name}_other' must have the shape of '{name}' with paired=True, {one.shape}; got {two.shape}."
        )
    return one - two


def _group(name: str, Y: ArrayLike, Yhat: ArrayLike, Yhat_unlabeled: ArrayLike, options: dict[str, Any]) -> Estimate:
    try:
        return mean(Y, Yhat, Yhat_unlabeled, **options)
    except FtrectError as error:
        raise type(error)(error.what, where=f"{name} group", mend=error.mend) from None


def _clusters(samples: dict[str, Any]) -> set[str]:
    """Names of all clusters of a group."""
    given = [samples[side].clusters for side in ("sample", "sample_unlabeled") if samples[side] is not None]
    return {name for clusters in given if clusters is not None for name in np.asarray(clusters).astype(str).tolist()}


def refuse_common_clusters(one: set[str], two: set[str]) -> None:
    if one & two:
        raise InputError(
            f"cluster {min(one & two)!r} lies in both groups, so their means are not independent.",
            mend="take paired=True where rows pair up, else ols with a column for the group",
        )
