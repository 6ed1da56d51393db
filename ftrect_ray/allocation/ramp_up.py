"""Pilots one after the other, until they are as large as the fine-tune that they recommend (FTR EC.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ftrect_ray.allocation.checks import count
from ftrect_ray.allocation.fitting import fit_scaling_law
from ftrect_ray.allocation.split import s_star
from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import shown

LEAST_SIZES = 3
"""Different sizes that a law of three parameters needs; before them nothing is said about s*."""


def next_size(
    sizes: Sequence[int],
    measured: Mapping[int, Sequence[float]],
    counts: Mapping[int, int] | int | None,
    labels: int,
) -> int | None:
    """The next pilot of a ramp-up, or None: stop.

    FTR EC.2: fixed validation rows, nested fine-tuning rows N_1 ⊂ N_2 ⊂ …; after each size measure
    Var(Y − f^(n_l)), refit the law to all sizes so far, and stop at the first size ≥ the fitted s*. A pilot of s*
    labels or more has done what it was for: its rows are the fine-tuning rows, and any larger size would only move
    rows that should rectify. Before s* is reached the law is extrapolated, so the next size is tried, and no more
    than the next one.

    Three different sizes are needed before it may stop: the law has three parameters. A size whose pilots all
    failed counts as tried and tells nothing. Where none of three left any variance, it stops. No size is tried that
    leaves fewer than two of ``labels`` to rectify, nor one that is not in the list.

    Parameters
    ----------
    sizes : sequence of int
        The ramp, rising.
    measured : mapping of size to variances
        What the pilots so far left, by size; empty where all repetitions failed.
    counts : mapping of size to int, or int, or None
        Rows that a size's variances were measured on, for the weights of the fit; one number where they are the
        same fixed rows; None: unknown.
    labels : int
        Labels that are to be split between training and rectifying: the budget less the validation rows.

    Returns
    -------
    int or None
        The smallest size of the list that is larger than all tried ones; None where the rule says stop, or the list
        is exhausted.

    Raises
    ------
    InputError
        Sizes that do not rise, or a measured size that is not among them.

    Examples
    --------
    >>> next_size([25, 50, 100, 200], {25: [4.0], 50: [3.5]}, 60, labels=500)
    100
    >>> next_size([25, 50, 100, 200], {25: [5.60], 50: [4.69], 100: [4.07]}, 60, labels=500)  # s* = 80
    """
    labels = count("labels", labels, 3)
    ramp = [count("sizes", size, 1) for size in sizes]
    if not ramp or any(later <= earlier for earlier, later in pairwise(ramp)):
        raise InputError(f"'sizes' must rise; got {[shown(size) for size in ramp]}.")
    unknown = sorted(set(measured) - set(ramp))
    if unknown:
        raise InputError(f"'measured' has size {unknown[0]}, which is not among 'sizes'.")
    left = [size for size in ramp if size > max(measured, default=0) and size <= labels - 2]
    if not left:
        return None
    found = {size: values for size, values in measured.items() if len(values)}
    if len(found) < LEAST_SIZES:
        return left[0]
    tried = np.repeat(sorted(found), [len(found[size]) for size in sorted(found)])
    variances = np.concatenate([np.asarray(found[size], dtype=float) for size in sorted(found)])
    if not variances.any():
        return None
    rows = None
    if counts is not None:
        rows = [counts if isinstance(counts, int) else counts[int(size)] for size in tried]
    fit = fit_scaling_law(tried, variances, counts=rows, bootstrap=0)
    return None if max(found) >= s_star(fit.law, labels) else left[0]
