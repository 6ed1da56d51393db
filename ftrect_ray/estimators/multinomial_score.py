"""Score of the multinomial logit: choice among J options beside one of utility 0 (FTR example 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators.glm_score import CERTAIN, all_equal, no_estimate
from ftrect_ray.estimators.labeled import Labeled
from ftrect_ray.estimators.newton import Unsolved
from ftrect_ray.estimators.regression import refuse_singular


@dataclass(frozen=True)
class MultinomialLogit:
    """Its score; see :class:`~ftrect_ray.estimators.score.Score`.

    Attributes
    ----------
    options : int or None
        J where X are features of the row; None where X are attributes of the options.
    """

    options: int | None

    def at(self, theta: np.ndarray, X: np.ndarray | None) -> AttributesAt | FeaturesAt:
        """See :class:`~ftrect_ray.estimators.score.Score`."""
        assert X is not None
        if self.options is None:
            return AttributesAt(X, _probabilities(X @ theta))
        return FeaturesAt(X, _probabilities(X @ theta.reshape(self.options, -1).T))

    def start(self, labeled: Labeled, names: tuple[str, ...]) -> np.ndarray:
        """0, where all options are equally likely; columns are checked."""
        X, weights = labeled.X, labeled.weights
        assert X is not None
        if labeled.n <= len(names):
            raise StatisticalRefusal(
                f"{labeled.n} rows cannot carry {len(names)} coefficients with a standard error",
                where="labelled rows",
                mend="drop columns or add rows",
            )
        if self.options is None:
            each = X.reshape(-1, X.shape[2])
            refuse_singular(each, names, "labelled rows", np.repeat(weights, X.shape[1]))
        else:
            columns = tuple(name.split(":", 1)[1] for name in names[: X.shape[1]])
            refuse_singular(X, columns, "labelled rows", weights)
            _refuse_unchosen(labeled.Y)
        return np.zeros(len(names))

    def fault(self, failure: Unsolved, labeled: Labeled, names: tuple[str, ...]) -> StatisticalRefusal:
        """Answers that are all equal, or separated; else no root."""
        X = labeled.X
        assert X is not None
        certain = (np.abs(labeled.Y - self.at(failure.theta, X).probabilities) <= CERTAIN).all(axis=1)
        length = np.linalg.norm(X.reshape(-1, X.shape[-1]), axis=0)
        reach = np.abs(failure.theta).reshape(-1, len(length)) * length
        return no_estimate(labeled.Y, certain, names[int(np.argmax(reach))])


def _refuse_unchosen(Y: np.ndarray) -> None:
    """With a θ for each option, one that nobody chose has θ_j → −∞."""
    counts = np.append(len(Y) - Y.sum(), Y.sum(axis=0))
    if counts.max() == len(Y):
        raise all_equal(Y)
    if (counts == 0).any():
        raise StatisticalRefusal(
            f"no labelled row chose option {int(np.argmax(counts == 0))}",
            where="labelled rows",
            mend="number the options without gaps, or label more rows",
        )


def _probabilities(utilities: np.ndarray) -> np.ndarray:
    """p_1 … p_J (b, J) from their utilities, beside an outside option of utility 0."""
    top = np.maximum(utilities.max(axis=1, initial=0.0), 0.0)[:, None]
    odds = np.exp(utilities - top)
    return np.asarray(odds / (np.exp(-top) + odds.sum(axis=1, keepdims=True)))


@dataclass(frozen=True, eq=False)
class AttributesAt:
    """X (b, J, d): ψ = Σ_j x_j(y_j − p_j); see :class:`~ftrect_ray.estimators.score.Fitted`."""

    X: np.ndarray
    probabilities: np.ndarray

    def totals(self, F: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        return np.tensordot(_beyond(F, self.probabilities) * weights[:, None, None], self.X, axes=([0, 2], [0, 1]))

    def rows(self, F: np.ndarray, mix: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        return np.einsum("bjd,bj->bd", self.X, np.tensordot(_beyond(F, self.probabilities), mix, axes=(1, 0)))

    def slope(self, F: np.ndarray, mix: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """−Σ w (Σ_j p_j x_j x_j' − x̄x̄'), x̄ = Σ_j p_j x_j."""
        b, J, d = self.X.shape
        flat, heft = self.X.reshape(b * J, d), (weights[:, None] * self.probabilities).reshape(-1)
        middle = np.einsum("bjd,bj->bd", self.X, self.probabilities)
        return (middle.T * weights) @ middle - (flat.T * heft) @ flat


@dataclass(frozen=True, eq=False)
class FeaturesAt:
    """X (b, p): ψ = (y − p) ⊗ x; see :class:`~ftrect_ray.estimators.score.Fitted`."""

    X: np.ndarray
    probabilities: np.ndarray

    def totals(self, F: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        beyond = _beyond(F, self.probabilities) * weights[:, None, None]
        return np.tensordot(beyond, self.X, axes=(0, 0)).reshape(F.shape[1], -1)

    def rows(self, F: np.ndarray, mix: np.ndarray) -> np.ndarray:
        """See :class:`~ftrect_ray.estimators.score.Fitted`."""
        beyond = np.tensordot(_beyond(F, self.probabilities), mix, axes=(1, 0))
        return (beyond[:, :, None] * self.X[:, None, :]).reshape(len(F), beyond.shape[1] * self.X.shape[1])

    def slope(self, F: np.ndarray, mix: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Blocks −Σ w p_j(δ_jl − p_l) xx' for options j and l."""
        p, J = self.probabilities, self.probabilities.shape[1]
        blocks = [
            [(self.X.T * (weights * p[:, j] * (p[:, other] - (j == other)))) @ self.X for other in range(J)]
            for j in range(J)
        ]
        return np.block(blocks)


def _beyond(F: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """y − p (b, K, J) of each model."""
    return F.reshape(*F.shape[:2], probabilities.shape[1]) - probabilities[:, None, :]
