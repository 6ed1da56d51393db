"""Scores of logistic and Poisson regression: canonical links, ψ = x(y − μ(x'θ))."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.newton import Unsolved
from ftrect_ray.estimators.regression import refuse_singular
from ftrect_ray.estimators.validation import first_wrong, shown

CERTAIN = 1e-6
"""A fitted mean so near its answer, where the search found no end, tells that the answers are separated."""


@dataclass(frozen=True)
class Glm:
    """Score of a canonical link; see :class:`~ftrect_ray.estimators.score.Score`.

    Attributes
    ----------
    mean : callable
        η → (μ, dμ/dη).
    begin : callable
        (X, Y, weights) → θ to begin at.
    refuse : callable
        Of answers (n,) that the regression cannot have.
    """

    mean: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    begin: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    refuse: Callable[[np.ndarray], None]

    def at(self, theta: np.ndarray, X: np.ndarray | None) -> GlmAt:
        """See :class:`~ftrect_ray.estimators.score.Score`."""
        assert X is not None
        return GlmAt(X, *self.mean(X @ theta))

    def start(self, labeled: Labeled, names: tuple[str, ...]) -> np.ndarray:
        """Where Newton's method begins; answers and columns are checked."""
        X, Y = labeled.X, labeled.Y[:, 0]
        assert X is not None
        self.refuse(Y)
        refuse_singular(X, names, "labelled rows", labeled.weights)
        return self.begin(X, Y, labeled.weights)

    def fault(self, failure: Unsolved, labeled: Labeled, names: tuple[str, ...]) -> StatisticalRefusal:
        """Answers that are all equal, or separated; else no root."""
        X, Y = labeled.X, labeled.Y[:, 0]
        assert X is not None
        reach = np.abs(failure.theta) * np.linalg.norm(X - X.mean(axis=0), axis=0)
        certain = np.abs(Y - self.mean(X @ failure.theta)[0]) <= CERTAIN
        return no_estimate(Y[:, None], certain, names[int(np.argmax(reach))])


def all_equal(Y: np.ndarray) -> StatisticalRefusal:
    """Of answers (n, J) that do not vary."""
    value = f" ({shown(float(Y[0, 0]))})" if Y.shape[1] == 1 else ""
    return StatisticalRefusal(
        f"all {len(Y)} answers are equal{value}: there is no estimate", where="labelled rows", mend="label more rows"
    )


def no_estimate(Y: np.ndarray, certain: np.ndarray, name: str) -> StatisticalRefusal:
    """Why answers (n, J) have no maximum likelihood estimate, given the rows whose fitted mean is the answer itself."""
    if not np.ptp(Y, axis=0).any():
        return all_equal(Y)
    if certain.any():
        return StatisticalRefusal(
            f"the answers are separated: the columns, '{name}' above all, tell {np.count_nonzero(certain)} of "
            f"{len(Y)} answers with certainty, and coefficients grow without bound",
            where="labelled rows",
            mend=f"drop column '{name}', or label more rows",
        )
    return StatisticalRefusal("Newton's method did not converge", where="labelled rows", mend="rescale the columns")


@dataclass(frozen=True, eq=False)
class GlmAt:
    """ψ = x(y − μ) with ∂ψ = −μ'xx', linear in y; see :class:`~ftrect_ray.estimators.score.Fitted`."""

    X: np.ndarray
    mu: np.ndarray
    bend: np.ndarray

    def totals(self, F: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        return ((F - self.mu[:, None]) * weights[:, None]).T @ self.X

    def rows(self, F: np.ndarray, mix: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        return self.X * (F @ mix - self.mu)[:, None]

    def slope(self, F: np.ndarray, mix: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        return -(self.X.T * (weights * self.bend)) @ self.X


def _logistic_mean(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore"):
        mu = 1 / (1 + np.exp(-eta))  # three times as fast as scipy's expit
    return mu, mu * (1 - mu)


def _poisson_mean(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore"):
        mu = np.exp(eta)
    return mu, mu


def _at_zero(X: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.zeros(X.shape[1])


def _reweighted(X: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One step of iteratively reweighted least squares from μ = (y + ȳ)/2."""
    mu = (Y + weights @ Y / weights.sum()) / 2
    root = np.sqrt(weights * mu)
    return np.asarray(np.linalg.lstsq(root[:, None] * X, root * (np.log(mu) + Y / mu - 1), rcond=None)[0])


def _refuse_but_yes_and_no(Y: np.ndarray) -> None:
    _refuse((Y != 0) & (Y != 1), Y, "'Y' must be 0 or 1")


def _refuse_negative(Y: np.ndarray) -> None:
    _refuse(Y < 0, Y, "'Y' must not be negative")
    if not Y.any():
        raise all_equal(Y[:, None])


def _refuse(wrong: np.ndarray, Y: np.ndarray, rule: str) -> None:
    if wrong.any():
        raise InputError(f"{rule}; {first_wrong(wrong, Y)}.", mend="recode the answers, or drop those rows")


LOGISTIC = Glm(_logistic_mean, _at_zero, _refuse_but_yes_and_no)
POISSON = Glm(_poisson_mean, _reweighted, _refuse_negative)
