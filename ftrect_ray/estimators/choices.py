"""Choices among J options and an outside option 0, as the arrays that a multinomial logit works on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import answers, finite, shown

SUM_MARGIN = 1e-6
"""How far from 1 probabilities may sum to."""


@dataclass(frozen=True, eq=False)
class Choices:
    """Columns 1 to J: 1 where the option was chosen, or its probability; the outside option is what is left.

    Attributes
    ----------
    Y, Yhat : ndarray (n, J)
    Yhat_unlabeled : ndarray (m, K, J)
    """

    Y: np.ndarray
    Yhat: np.ndarray
    Yhat_unlabeled: np.ndarray

    @classmethod
    def of(cls, Y: ArrayLike, Yhat: ArrayLike, Yhat_unlabeled: ArrayLike, options: int | None) -> Choices:
        """From chosen options (n,), and predicted ones (n,) and (m,) or (m, K), or their probabilities.

        Probabilities are (n, J + 1) and (m, J + 1) or (m, J + 1, K): ``Yhat``'s number of dimensions tells which.

        Parameters
        ----------
        options : int or None
            J; None: as many as the probabilities have columns beyond the first, else the largest answer.

        Raises
        ------
        InputError
            Options that are not 0 to J, probabilities of other shapes or another sum.
        """
        labels, predicted = answers(Y), finite("Yhat", Yhat, (1, 2))
        inferred = int(labels.max()) if predicted.ndim == 1 else predicted.shape[1] - 1
        J = max(inferred, 1) if options is None else options
        if options is None and len(labels) <= J:
            raise InputError(
                f"'Y' must hold options 0, 1, …, each of them chosen; got {J} among {len(labels)} rows.",
                mend="number the options without gaps",
            )
        if predicted.ndim == 1:
            unlabeled = finite("Yhat_unlabeled", Yhat_unlabeled, (1, 2))
            columns = unlabeled[:, None] if unlabeled.ndim == 1 else unlabeled
            if columns.shape[1] == 0:
                raise InputError("'Yhat_unlabeled' must have at least one column.")
            return cls(_hot("Y", labels, J), _hot("Yhat", predicted, J), _hot("Yhat_unlabeled", columns, J))
        unlabeled = finite("Yhat_unlabeled", Yhat_unlabeled, (2, 3))
        _refuse_no_distribution("Yhat", predicted, J)
        _refuse_no_distribution("Yhat_unlabeled", unlabeled, J)
        layers = unlabeled[:, :, None] if unlabeled.ndim == 2 else unlabeled
        return cls(_hot("Y", labels, J), predicted[:, 1:], np.moveaxis(layers, 2, 1)[:, :, 1:])


def _hot(name: str, chosen: np.ndarray, J: int) -> np.ndarray:
    """(…, J) of 0 and 1 from options (…)."""
    wrong = (chosen < 0) | (chosen > J) | (chosen != np.floor(chosen))
    if wrong.any():
        place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        position = str(int(place[0])) if wrong.ndim == 1 else str(tuple(int(i) for i in place))
        raise InputError(
            f"'{name}' must hold options, whole numbers from 0 to {J}; got {shown(chosen[place])} at position "
            f"{position} ({np.count_nonzero(wrong)} such values).",
            mend="number the options of 'X' from 1, and the outside option 0",
        )
    return np.asarray(chosen[..., None] == np.arange(1, J + 1), dtype=float)


def _refuse_no_distribution(name: str, values: np.ndarray, J: int) -> None:
    """``values`` (rows, J + 1, …) must sum to 1 over the options."""
    if values.shape[1] != J + 1 or 0 in values.shape[2:]:
        raise InputError(
            f"'{name}' must have one probability an option, the outside option first ({J + 1} columns); "
            f"got shape {values.shape}.",
            mend="give predicted options in one dimension less, or label a row of each option",
        )
    off = np.abs(values.sum(axis=1) - 1).reshape(len(values), math.prod(values.shape[2:])).max(axis=1, initial=0.0)
    if (off > SUM_MARGIN).any():
        row = int(np.argmax(off > SUM_MARGIN))
        total = values[row].sum(axis=0).reshape(-1)
        raise InputError(
            f"'{name}' must sum to 1 over the options; row {row} sums to {shown(total[np.argmax(np.abs(total - 1))])} "
            f"({np.count_nonzero(off > SUM_MARGIN)} such rows).",
            mend="the outside option counts too: it is the first column",
        )
