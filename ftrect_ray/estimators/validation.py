"""What an estimator may be given; every refusal names the argument, the rule and the value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError

Lam = float | Literal["tuned"]
LARGEST = 1e100
"""Beyond this, variances of variances would overflow float64."""


def open_unit(name: str, value: Any) -> float:
    """A number strictly between 0 and 1.

    Raises
    ------
    InputError
        ``'alpha' must be in (0, 1); got 1.5.``
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0 < value < 1:
        raise InputError(f"'{name}' must be in (0, 1); got {shown(value)}.")
    return float(value)


def power_tuning(lam: Any) -> Lam:
    """``"tuned"`` or a number in [0, 1].

    Raises
    ------
    InputError
        For anything else.
    """
    if isinstance(lam, str) and lam == "tuned":
        return "tuned"
    number = isinstance(lam, (int, float, np.integer, np.floating)) and not isinstance(lam, bool)
    if not number or not 0 <= lam <= 1:
        raise InputError(f"'lam' must be 'tuned' or a number in [0, 1]; got {shown(lam)}.")
    return float(lam)


def finite(name: str, values: ArrayLike, ndim: tuple[int, ...]) -> np.ndarray:
    """``values`` as a finite float64 array with one of the numbers of dimensions in ``ndim``.

    Raises
    ------
    InputError
        Not numbers, another number of dimensions, NaN/inf (naming the first position), or too large.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"'{name}' must hold numbers only.", mend="drop or convert the rows that are not numbers"
        ) from None
    if array.ndim not in ndim:
        raise InputError(f"'{name}' must have {' or '.join(map(str, ndim))} dimension(s); got shape {array.shape}.")
    bad = ~np.isfinite(array)
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), array.shape)
        position = str(int(place[0])) if array.ndim == 1 else str(tuple(int(i) for i in place))
        raise InputError(
            f"'{name}' must be finite; got {array[place]} at position {position}.",
            mend="drop that row, or treat it as unlabelled",
        )
    largest = float(np.abs(array).max(initial=0.0))
    if largest > LARGEST:
        raise InputError(
            f"'{name}' must not exceed {LARGEST:g} in size; got {largest:g}.", mend="divide the numbers by a constant"
        )
    return array


def answers(values: ArrayLike, name: str = "Y") -> np.ndarray:
    """At least two finite numbers, shape (n,).

    Raises
    ------
    InputError
        Fewer than two rows, or see :func:`finite`.
    """
    array = finite(name, values, (1,))
    if len(array) < 2:
        raise InputError(f"'{name}' must have at least 2 rows; got {len(array)}.", mend="a variance needs two answers")
    return array


@dataclass(frozen=True)
class Predictions:
    """Checked answers and predictions.

    Attributes
    ----------
    Y, Yhat : ndarray (n,)
    unlabeled : ndarray (m, K)
        One column a model; K = 1 for a single model.
    weights : ndarray (K,)
        Share of the labelled rows that each model rectifies: n_k/n where folds are known, else 1/K.
    folds : ndarray (n,) of int, or None
        The column of ``unlabeled`` whose model predicted the row; None where unknown (K > 1).
    """

    Y: np.ndarray
    Yhat: np.ndarray
    unlabeled: np.ndarray
    weights: np.ndarray
    folds: np.ndarray | None

    @property
    def n(self) -> int:
        return len(self.Y)

    @property
    def m(self) -> int:
        return len(self.unlabeled)

    @property
    def imputed(self) -> np.ndarray:
        """f̄ on the unlabelled rows, the weighted mean of the models (m,)."""
        return self.unlabeled[:, 0] if self.unlabeled.shape[1] == 1 else self.unlabeled @ self.weights

    def own(self, per_model: np.ndarray) -> np.ndarray:
        """For each labelled row the value of its own model: (n, …) from ``per_model`` (K, …).

        Without folds the models cannot be told apart, and each row gets their weighted mean.
        """
        if self.folds is None:
            return np.broadcast_to(self.weights @ per_model, (self.n, *per_model.shape[1:]))
        return per_model[self.folds]


def predictions(
    Y: ArrayLike, Yhat: ArrayLike, Yhat_unlabeled: ArrayLike, folds: Sequence[int] | np.ndarray | None
) -> Predictions:
    """Check the three arrays against each other.

    Raises
    ------
    InputError
        Shapes that do not match, folds that do not fit the columns, or see :func:`answers`.
    """
    labels = answers(Y)
    predicted = finite("Yhat", Yhat, (1,))
    if len(predicted) != len(labels):
        raise InputError(f"'Yhat' must have as many rows as 'Y' ({len(labels)}); got {len(predicted)}.")
    unlabeled = finite("Yhat_unlabeled", Yhat_unlabeled, (1, 2))
    if unlabeled.ndim == 1:
        unlabeled = unlabeled[:, None]
    n_models = unlabeled.shape[1]
    if n_models == 0:
        raise InputError("'Yhat_unlabeled' must have at least one column.")
    if folds is not None:
        index = _folds(folds, len(labels), n_models)
        return Predictions(labels, predicted, unlabeled, np.bincount(index, minlength=n_models) / len(labels), index)
    only_model = np.zeros(len(labels), dtype=np.intp) if n_models == 1 else None
    return Predictions(labels, predicted, unlabeled, np.full(n_models, 1 / n_models), only_model)


def _folds(folds: Sequence[int] | np.ndarray, n: int, n_models: int) -> np.ndarray:
    index = finite("folds", folds, (1,))
    if len(index) != n:
        raise InputError(f"'folds' must have as many rows as 'Y' ({n}); got {len(index)}.")
    if not np.array_equal(np.unique(index), np.arange(n_models)):
        raise InputError(
            f"'folds' must hold each of 0..{n_models - 1}, one for each column of 'Yhat_unlabeled'; "
            f"got {[shown(x) for x in np.unique(index)[:10].tolist()]}."
        )
    return index.astype(np.intp)


def usable_lam(lam: Lam, m: int) -> tuple[Lam, list[str]]:
    """λ where there may be too few unlabelled rows for Var f: ``"tuned"`` then falls to 0 with a warning.

    Raises
    ------
    InputError
        A λ above 0 is asked for, with fewer than two unlabelled rows.
    """
    if m >= 2 or lam == 0.0:
        return lam, []
    if lam != "tuned":
        raise InputError(
            f"'lam' must be 0 or 'tuned' with fewer than 2 unlabelled rows; got {lam:g}.", mend="add unlabelled rows"
        )
    return 0.0, [f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate"]


def shown(value: Any) -> str:
    """A number without its type, anything else as Python writes it."""
    if isinstance(value, (float, np.floating)):
        return f"{value:g}" if math.isfinite(value) else str(float(value))
    return repr(value)
