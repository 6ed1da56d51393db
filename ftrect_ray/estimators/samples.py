"""How rows came into a sample: survey weights, strata, clusters, selection probabilities, density ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import LEAST_PROBABILITY, PROBABILITY_RULE, finite, first_wrong


@dataclass(frozen=True, eq=False)
class Sample:
    """What is known about how rows were drawn; every array has one entry a row.

    Attributes
    ----------
    weights : array, optional
        Survey weights: how many units of the population a row stands for. ≥ 0, not all 0; their scale is free.
    density_ratio : array, optional
        Density of the target population over that of this sample at the row (covariate shift); multiplies the
        weight. The ratio is taken as known.
    probabilities : array, optional
        Labelled rows only: the known probability, in (0, 1], with which the row was chosen for labelling out of all
        rows of the table. The labels then count 1/probability, and the predictions of *all* rows, labelled ones
        included, carry the imputed part (design-based supervised learning, Egami et al. 2023).
    total : {"estimated", "known"}
        Under ``probabilities``: divide by the sum of the weights (Hájek) or by the number of rows (Horvitz–Thompson).
    strata : array, optional
        Rows were drawn within these; each needs two sampling units.
    clusters : array, optional
        Sampling units that hold several rows; named uniquely across strata. The same name among the labelled and the
        unlabelled rows is the same cluster.
    """

    weights: ArrayLike | None = None
    density_ratio: ArrayLike | None = None
    probabilities: ArrayLike | None = None
    total: Literal["estimated", "known"] = "estimated"
    strata: ArrayLike | None = None
    clusters: ArrayLike | None = None


@dataclass(frozen=True, eq=False)
class Drawn:
    """A checked :class:`Sample` of N rows.

    Attributes
    ----------
    weights : ndarray (N,) or None
        Weight × density ratio; None: all 1.
    probabilities, strata, clusters : ndarray (N,) or None
    known_total : bool
        Horvitz–Thompson.
    """

    weights: np.ndarray | None
    probabilities: np.ndarray | None
    strata: np.ndarray | None
    clusters: np.ndarray | None
    known_total: bool

    @property
    def plain(self) -> bool:
        """A simple random sample."""
        return self.weights is None and self.probabilities is None and self.strata is None and self.clusters is None


def drawn(sample: Sample | None, rows: int, side: str) -> Drawn:
    """Check the arrays of ``sample`` against ``rows`` rows; ``side`` is the option's name.

    Raises
    ------
    InputError
        Wrong lengths, weights that are negative or all 0, probabilities outside (0, 1], missing names.
    """
    if sample is None:
        return Drawn(None, None, None, None, False)
    if not isinstance(sample, Sample):
        raise InputError(f"'{side}' must be a Sample; got {type(sample).__name__}.", mend="write Sample(weights=w)")
    weights = _weights(sample.weights, f"{side}.weights", rows)
    ratio = _weights(sample.density_ratio, f"{side}.density_ratio", rows)
    probabilities = None
    if sample.probabilities is not None:
        probabilities = _numbers(sample.probabilities, f"{side}.probabilities", rows)
        wrong = (probabilities < LEAST_PROBABILITY) | (probabilities > 1)
        if wrong.any():
            raise InputError(
                f"'{side}.probabilities' {PROBABILITY_RULE}; {first_wrong(wrong, probabilities)}.",
                mend="a row that could not have been chosen cannot be labelled",
            )
    if sample.total not in ("estimated", "known"):
        raise InputError(f"'{side}.total' must be 'estimated' or 'known'; got {sample.total!r}.")
    if sample.total == "known" and probabilities is None:
        raise InputError(f"'{side}.total' may be 'known' with '{side}.probabilities' only.")
    if weights is not None and ratio is not None:
        weights = weights * ratio
    return Drawn(
        ratio if weights is None else weights,
        probabilities,
        row_names(sample.strata, f"{side}.strata", rows),
        row_names(sample.clusters, f"{side}.clusters", rows),
        sample.total == "known",
    )


def _numbers(values: ArrayLike, name: str, rows: int) -> np.ndarray:
    array = finite(name, values, (1,))
    if len(array) != rows:
        raise InputError(f"'{name}' must have one entry a row ({rows}); got {len(array)}.")
    return array


def _weights(values: ArrayLike | None, name: str, rows: int) -> np.ndarray | None:
    if values is None:
        return None
    array = _numbers(values, name, rows)
    wrong = array < 0
    if wrong.any():
        raise InputError(f"'{name}' must not be negative; {first_wrong(wrong, array)}.")
    if rows and not array.any():
        raise InputError(f"'{name}' must not be all 0.")
    return array


def row_names(values: ArrayLike | None, name: str, rows: int) -> np.ndarray | None:
    """A name for each of ``rows`` rows, none missing; None where there are no names at all."""
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (rows,):
        raise InputError(f"'{name}' must have one entry a row ({rows}); got shape {array.shape}.")
    if array.dtype == object:
        missing = np.array([value is None or value != value for value in array], dtype=bool)
        array = array.astype(str)
    else:
        missing = np.isnan(array) if array.dtype.kind in "fM" else np.zeros(rows, dtype=bool)
    if missing.any():
        raise InputError(
            f"'{name}' must name every row; {int(missing.sum())} are missing, the first at position "
            f"{int(np.argmax(missing))}.",
            mend="give these rows a name of their own",
        )
    return array.astype(np.int64) if array.dtype.kind in "biu" else array
