"""Shares of the values of a categorical answer: rectified means of their indicators (FTR §5; PPI++ §6)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.blocks import Block, Blocks, InMemory
from ftrect_ray.estimators.categories import as_given, categorical, categories_of, indicators, positions
from ftrect_ray.estimators.checks import Check
from ftrect_ray.estimators.diagnostics import noted
from ftrect_ray.estimators.labeled import Labeled, assembled
from ftrect_ray.estimators.means import MeanSums, means_from_sums
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import finite, two_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack


def proportions(
    Y: ArrayLike,
    Yhat: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    *,
    categories: ArrayLike | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """The share of each category among the answers of the population.

    Each is the mean of an indicator, and all are estimated at once: θ̂_c = mean(1{Y = c} − λp_c) + λ·mean p̃_c. With
    one λ for all (the default) the shares sum to 1 where the predictions do; with ``lam="per-coordinate"`` each
    interval is shortest by itself, and the shares need not sum to 1. Intervals are not cut at 0 and 1.

    The dimensions of ``Yhat`` say what predictions are: (n,) holds categories and (n, C) holds probabilities, and
    ``Yhat_unlabeled`` holds the same.

    Parameters
    ----------
    Y : array (n,) of str, int or bool
        Answers, n ≥ 2. "None" and "NA" are categories like any other; None and NaN are refused.
    Yhat : array (n,) or (n, C)
        Predicted categories, or their probabilities in the order of ``categories``; a row may sum to another number
        than 1. Of models that never saw the row; where several did not (rotation), give their mean probabilities.
    Yhat_unlabeled : array
        Categories (m,) or (m, K), or probabilities (m, C) or (m, K, C); K models.
    categories : sequence, optional
        The categories, in the order of the report. Required with probabilities; default the sorted values of ``Y``
        and of the predictions.
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`; ``coefficients`` chooses categories by their names, and
        ``simultaneous=True`` makes all intervals hold together.

    Returns
    -------
    Estimate
        One coefficient a category, named by its text. A category that nobody answered has a warning.

    Raises
    ------
    InputError
        Missing or mixed values, shapes that do not match, or an answer or a prediction that is not among
        ``categories``.

    Examples
    --------
    >>> est = proportions(["yes", "no", "yes"], ["yes", "no", "no"], ["yes", "no", "no", "no"], lam=1.0)
    >>> dict(zip(est.names, est.value.round(4).tolist()))
    {'no': 0.4167, 'yes': 0.5833}
    """
    settings = Settings.of(options)
    labels = two_rows("Y", categorical("Y", Y))
    if as_given(Yhat).ndim == 2:
        names, labeled, unlabeled = _with_probabilities(labels, Yhat, Yhat_unlabeled, categories, settings)
    else:
        names, labeled, unlabeled = _with_categories(labels, Yhat, Yhat_unlabeled, categories, settings)
    estimate = estimated(partial(rectified_shares, names=names), labeled, unlabeled, settings)
    return with_unanswered(estimate, labeled.Y.sum(axis=0), names)


def rectified_shares(labeled: Labeled, unlabeled: Blocks, settings: Settings, *, names: tuple[str, ...]) -> Estimate:
    """Shares from one fold of the unlabelled rows.

    F of a block is (b, K, C), probabilities, or (b, K, 1) of int, the position of the predicted category: indicators
    are made block by block.
    """
    sums = unlabeled.fold(partial(_share_sums, width=len(names)))
    return means_from_sums(labeled, sums, settings, "proportions", names)


def _share_sums(block: Block, width: int) -> MeanSums:
    if block.F.dtype.kind == "i":
        block = replace(block, F=indicators(block.F[..., 0], width))
    return MeanSums.of(block)


def with_unanswered(estimate: Estimate, answered: np.ndarray, names: tuple[str, ...]) -> Estimate:
    """``estimate`` with a check that each of its categories has an answer; ``answered`` (C,) counts them."""
    counts = dict(zip(names, answered.tolist(), strict=True))
    missing = [repr(name) for name in estimate.names or () if counts[name] == 0]
    text = f"nobody answered {', '.join(missing)}: the interval says nothing about how rare that is"
    check = Check(
        "answered",
        "WARN" if missing else "PASS",
        float(min(counts[name] for name in estimate.names or names)),
        "at least 1 answer a category",
        text if missing else "every category was answered",
        "label more rows, or merge rare categories",
    )
    return replace(estimate, diagnostics=noted(estimate.diagnostics, checks=[check]))


def _with_categories(
    labels: np.ndarray, Yhat: ArrayLike, Yhat_unlabeled: ArrayLike, given: ArrayLike | None, settings: Settings
) -> tuple[tuple[str, ...], Labeled, InMemory]:
    predicted = categorical("Yhat", Yhat)
    unlabeled = categorical("Yhat_unlabeled", Yhat_unlabeled, (1, 2))
    known = categories_of(given, {"Y": labels, "Yhat": predicted, "Yhat_unlabeled": unlabeled})
    width = len(known)
    codes = positions("Yhat_unlabeled", unlabeled, known)
    labeled, rows = assembled(
        indicators(positions("Y", labels, known), width),
        indicators(positions("Yhat", predicted, known), width),
        (codes if codes.ndim == 2 else codes[:, None])[..., None],
        settings,
    )
    return texts(known), labeled, rows


def _with_probabilities(
    labels: np.ndarray, Yhat: ArrayLike, Yhat_unlabeled: ArrayLike, given: ArrayLike | None, settings: Settings
) -> tuple[tuple[str, ...], Labeled, InMemory]:
    known = columns_of(given)
    answered = indicators(positions("Y", labels, categories_of(given, {"Y": labels})), len(known))
    predicted = probabilities("Yhat", Yhat, (2,), len(known))
    unlabeled = probabilities("Yhat_unlabeled", Yhat_unlabeled, (2, 3), len(known))
    rows = unlabeled if unlabeled.ndim == 3 else unlabeled[:, None, :]
    return texts(known), *assembled(answered, predicted, rows, settings)


def columns_of(categories: ArrayLike | None) -> np.ndarray:
    """The categories (C,) that columns of probabilities stand for.

    Raises
    ------
    InputError
        None are given.
    """
    if categories is None:
        raise InputError(
            "'categories' must be given with probabilities, which are columns without names.",
            mend="give the categories in the order of the columns of 'Yhat'",
        )
    return categories_of(categories, {})


def probabilities(name: str, values: ArrayLike, ndim: tuple[int, ...], width: int) -> np.ndarray:
    """Finite numbers (…, C), one column a category."""
    array = finite(name, values, ndim)
    if array.shape[-1] != width:
        raise InputError(f"'{name}' must have one column a category ({width}); got {array.shape[-1]}.")
    return array


def texts(categories: np.ndarray) -> tuple[str, ...]:
    """Their names."""
    return tuple(str(category) for category in categories.tolist())
