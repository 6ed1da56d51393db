"""The M-estimate of any smooth score that the user gives (FTR §5; PPI++ §3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.labeled import Labeled, checked
from ftrect_ray.estimators.newton import Unsolved
from ftrect_ray.estimators.resampling import estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.roots import rectified_root
from ftrect_ray.estimators.score import QUIET
from ftrect_ray.estimators.settings import Options, Settings
from ftrect_ray.estimators.validation import column_names, finite

if TYPE_CHECKING:
    from typing_extensions import Unpack

Function = Callable[[np.ndarray, np.ndarray | None, np.ndarray], ArrayLike]


def m_estimate(
    psi: Function,
    jacobian: Function,
    theta0: ArrayLike,
    Y: ArrayLike,
    Yhat: ArrayLike,
    Yhat_unlabeled: ArrayLike,
    *,
    X: ArrayLike | None = None,
    X_unlabeled: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    target: str = "m-estimate",
    **options: Unpack[Options],
) -> Estimate:
    """The parameter at which a score has mean 0.

    θ̂ solves mean_r[ψ(Y) − λψ(f)] + λ·mean_u ψ(f) = 0; its covariance is the sandwich H⁻¹(…)H⁻¹ with H the Jacobian of
    that very equation, whose middle is Var(ψ(Y) − λψ(f))/n + λ²·Var ψ(f)/m (FTR §5). Weights, strata, clusters,
    selection probabilities, cross-fitting and finite populations act on the scores as they do on the answers of a mean.

    Parameters
    ----------
    psi : callable
        ``psi(theta, X, Y)`` → (b, d): ψ of b rows, for ``theta`` (d,), ``X`` (b, …) or None, ``Y`` (b,).
    jacobian : callable
        ``jacobian(theta, X, Y)`` → (b, d, d): ∂ψ_j/∂θ_k of each row. It must be the Jacobian of ``psi``: the root
        would not suffer from an error, but its standard error would.
    theta0 : array (d,)
        Where Newton's method begins on the labelled rows.
    Y, Yhat, Yhat_unlabeled
        As in :func:`~ftrect_ray.estimators.mean.mean`.
    X, X_unlabeled : array (n, …) and (m, …), optional
        Both or neither.
    names : sequence of str, optional
        One a parameter; default x0, x1, …
    target : str
        What the estimate calls itself.
    **options
        See :class:`~ftrect_ray.estimators.settings.Options`. ``lam="per-coordinate"`` solves once for each λ.

    Returns
    -------
    Estimate
        ``value`` (d,), also for d = 1.

    Raises
    ------
    InputError
        Shapes, also of what ``psi`` and ``jacobian`` return.
    StatisticalRefusal
        Scores that are not finite, parameters that the rows do not determine, or no root.

    Notes
    -----
    Unlabelled rows are passed over four to six times, at most 25 times for each λ; with ``lam=0`` once, to count them.
    There ``psi`` does not see the predictions.

    Examples
    --------
    The mean, once more:

    >>> est = m_estimate(
    ...     lambda theta, X, Y: Y[:, None] - theta,
    ...     lambda theta, X, Y: np.full((len(Y), 1, 1), -1.0),
    ...     [0.0], [1.0, 2.0, 4.0], [1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 3.0], lam=1.0,
    ... )
    >>> est.value.round(4).tolist()
    [3.3333]
    """
    for name, function in (("psi", psi), ("jacobian", jacobian)):
        if not callable(function):
            raise InputError(f"'{name}' must be a function of theta, X and Y; got {type(function).__name__}.")
    begin = finite("theta0", theta0, (1,))
    if len(begin) == 0:
        raise InputError("'theta0' must have at least one parameter.")
    settings = Settings.of(options)
    labeled, unlabeled = checked(Y, Yhat, Yhat_unlabeled, settings, *_covariates(X, X_unlabeled, Y, Yhat_unlabeled))
    score = FunctionScore(psi, jacobian, begin)
    core = partial(rectified_root, score=score, names=column_names(names, len(begin)), target=target)
    return estimated(core, labeled, unlabeled, settings)


def _covariates(
    X: ArrayLike | None, X_unlabeled: ArrayLike | None, Y: ArrayLike, Yhat_unlabeled: ArrayLike
) -> tuple[np.ndarray | None, np.ndarray | None]:
    if X is None and X_unlabeled is None:
        return None, None
    if X is None or X_unlabeled is None:
        raise InputError("'X' and 'X_unlabeled' must both be given, or neither.")
    design, other = finite("X", X, (1, 2, 3)), finite("X_unlabeled", X_unlabeled, (1, 2, 3))
    n, m = len(np.atleast_1d(Y)), len(np.atleast_1d(Yhat_unlabeled))
    for name, array, rows in (("X", design, n), ("X_unlabeled", other, m)):
        if len(array) != rows or array.shape[1:] != design.shape[1:]:
            raise InputError(f"'{name}' must have shape {(rows, *design.shape[1:])}; got {array.shape}.")
    return design, other


@dataclass(frozen=True, eq=False)
class FunctionScore:
    """A score from two functions; see :class:`~ftrect_ray.estimators.score.Score`."""

    psi: Function
    jacobian: Function
    theta0: np.ndarray

    def at(self, theta: np.ndarray, X: np.ndarray | None) -> FunctionAt:
        """See :class:`~ftrect_ray.estimators.score.Score`."""
        return FunctionAt(self, theta, X)

    def start(self, labeled: Labeled, names: tuple[str, ...]) -> np.ndarray:
        """θ₀; more parameters than rows are refused."""
        if labeled.n <= len(names):
            raise StatisticalRefusal(
                f"{labeled.n} rows cannot carry {len(names)} parameters with a standard error",
                where="labelled rows",
                mend="label more rows",
            )
        return self.theta0

    @QUIET
    def fault(self, failure: Unsolved, labeled: Labeled, names: tuple[str, ...]) -> StatisticalRefusal:
        """The row whose score is not finite, the parameter that is not determined, or else no root."""
        at = self.at(failure.theta, labeled.X)
        for name, values in (("psi", at.scores(labeled.Y[:, 0])), ("jacobian", at.jacobians(labeled.Y[:, 0]))):
            bad = ~np.isfinite(values.reshape(labeled.n, -1)).all(axis=1)
            if bad.any():
                return StatisticalRefusal(
                    f"'{name}' must be finite; it is not at labelled row {int(np.argmax(bad))} "
                    f"({np.count_nonzero(bad)} such rows) for theta = {failure.theta.round(6).tolist()}",
                    mend="begin at another 'theta0', or rescale",
                )
        if failure.column is not None:
            return StatisticalRefusal(
                f"the Jacobian is singular: parameter {names[failure.column]!r} is not determined",
                where="labelled rows",
                mend="drop that parameter",
            )
        ended = failure.theta.round(6).tolist()
        return StatisticalRefusal(
            f"'psi' has no root that Newton's method finds from 'theta0'; it ended at {ended}",
            where="labelled rows",
            mend="begin at another 'theta0', and check 'jacobian' against differences of 'psi'",
        )


@dataclass(frozen=True, eq=False)
class FunctionAt:
    """The two functions at one θ; see :class:`~ftrect_ray.estimators.score.Fitted`."""

    score: FunctionScore
    theta: np.ndarray
    X: np.ndarray | None

    def scores(self, Y: np.ndarray) -> np.ndarray:
        """ψ (b, d)."""
        return self._checked("psi", self.score.psi, Y, (len(Y), len(self.theta)))

    def jacobians(self, Y: np.ndarray) -> np.ndarray:
        """∂ψ (b, d, d)."""
        return self._checked("jacobian", self.score.jacobian, Y, (len(Y), len(self.theta), len(self.theta)))

    def _checked(self, name: str, function: Function, Y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if len(Y) == 0:
            return np.zeros(shape)
        values = np.asarray(function(self.theta, self.X, Y), dtype=float)
        if values.shape != shape:
            raise InputError(f"'{name}' must return shape {shape} for {len(Y)} rows; got {values.shape}.")
        return values

    def totals(self, F: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        return np.array([weights @ self.scores(f) for f in F.T])

    def rows(self, F: np.ndarray, mix: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        return np.sum([share * self.scores(f) for share, f in zip(mix, F.T, strict=True)], axis=0)

    def slope(self, F: np.ndarray, mix: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        models = zip(mix, F.T, strict=True)
        return np.sum([share * np.tensordot(weights, self.jacobians(f), axes=1) for share, f in models], axis=0)
