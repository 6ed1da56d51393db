"""The weights w of the influence residuals u = w (Y − f) that the objectives are functions of.

The answers' influence on the coefficients of a regression is H⁻¹x (Y − μ(x'θ)), with H = E[xx' μ'(x'θ)]. Rectified
(λ = 1), a model's prediction f takes the place of μ, and ν is what the interval pays for (Wang, Ye & Zhao,
arXiv 2511.19486, section 5):

    coefficient   w = (H⁻¹x)_c   ν = Var u
    trace         w = H⁻¹x       ν = tr Var u
    determinant   w = H⁻¹x       ν = det(Var u)^(1/p)

With endless texts √(ν/n) is the standard error of the coefficient; of all of them, the root of the sum of squares;
their geometric mean along the axes of the joint interval. For the mean, x = 1 and H = 1, and ν = Var(Y − f).

Least squares takes one more thing off: with the labels' own regression Δ of Y − f on x, its influence is
H⁻¹x (Y − f − x'Δ) (``estimators.ols``), as a level of f is taken off for the mean. So :meth:`Influence.variance`,
which says what an interval will cost, takes it off too. The objective, which is a sum over rows, does not; the best f
is the same where x is a property of the text.

The determinant needs H for its unit only: det(Var Wx(Y − f)) is that of W = I times a constant. So x is whitened,
which no unit of a column can make singular, and scaled to the determinant that H⁻¹x would have.

H and θ come from rows that the fit is charged with. Whatever they are, the rectified estimate stays valid: they only
say what the fine-tune aims at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import classical_logistic, classical_poisson
from ftrect_ray.estimators.glm_score import LOGISTIC, POISSON
from ftrect_ray.estimators.regression import refuse_singular, triangle
from ftrect_ray.estimators.validation import column_names
from ftrect_ray.finetune.spec import Coefficients, FitSpec, Rows

#: Rows of a step for each coefficient of the determinant: a covariance of fewer is mostly noise.
ROWS_PER_COEFFICIENT = 2


@dataclass(frozen=True, eq=False)
class Influence:
    """From features to weights, as some labelled rows have it.

    Attributes
    ----------
    objective : str
    coefficients : Coefficients or None
        None for the mean.
    matrix : ndarray (p, d) or None
        w = x'·matrix, in the unit of a coefficient over that of an answer. None for the mean: w = 1.
    scale : float
        Root mean square of w over those rows. The fine-tune works with w / ``scale``, so that neither the step nor
        the clipping depends on a column's unit.
    fitted : ndarray (n,)
        μ(x'θ) of those rows, the classical estimate's own prediction.
    """

    objective: str
    coefficients: Coefficients | None
    matrix: np.ndarray | None
    scale: float
    fitted: np.ndarray

    @classmethod
    def of(
        cls, objective: str, coefficients: Coefficients | None, *parts: Rows, where: str = "labelled rows"
    ) -> Influence:
        """From the rows of ``parts`` together.

        Raises
        ------
        StatisticalRefusal
            Too few rows for the coefficients, or columns of which one explains another: it is named.
        InputError
            Answers that the regression cannot have.
        """
        Y = np.concatenate([np.asarray(rows.answers, dtype=np.float64) for rows in parts])
        if coefficients is None:
            return cls(objective, None, None, 1.0, np.full(len(Y), Y.mean()))
        X = np.concatenate([features_of(rows) for rows in parts])
        names = column_names(coefficients.names or None, X.shape[1])
        refuse_singular(X, names, where)
        fitted, bend = _fitted(coefficients.link, X, Y)
        root = triangle(np.sqrt(bend / len(X))[:, None] * X)  # R'R = H
        whole = solve_triangular(root, np.eye(len(root)))
        if objective == "determinant":
            white = solve_triangular(triangle(X / np.sqrt(len(X))), np.eye(len(root)))
            matrix = white * np.exp((2 * _log_determinant(whole) - _log_determinant(white)) / len(root))
        else:
            matrix = whole @ whole.T
        if objective == "coefficient":
            matrix = matrix[:, [coefficients.coordinate]]
        return cls(objective, coefficients, matrix, float(np.sqrt(np.mean((X @ matrix) ** 2))), fitted)

    @classmethod
    def of_fit(cls, spec: FitSpec) -> Influence:
        """From all rows that the fine-tune is charged with: those that train, and those that choose the epoch.

        The latter too, for all epochs are compared by the same weights, and H of few rows is noisy.

        Raises
        ------
        StatisticalRefusal, InputError
            See :meth:`of`; also where a step has too few rows for the determinant. The closed form has no steps.
        """
        influence = cls.of(
            spec.objective, spec.coefficients, spec.train, spec.stop, where=f"the labels of fine-tune {spec.name!r}"
        )
        if influence.matrix is not None and spec.objective == "determinant" and spec.model.adapter != "head":
            steps = -(-len(spec.train) // spec.training.batch_size)
            rows, needed = len(spec.train) // max(steps, 1), ROWS_PER_COEFFICIENT * influence.matrix.shape[1]
            if rows < needed:
                raise InputError(
                    f"a step of {rows} rows is too few for the determinant of {influence.matrix.shape[1]} coefficients",
                    where=f"training.batch_size, fine-tune {spec.name!r}",
                    mend=f"it needs {needed}: raise training.batch_size or the labels, or use 'objective: trace'",
                )
        return influence

    def weights(self, rows: Rows) -> np.ndarray:
        """w of ``rows``, (n, d)."""
        return np.ones((len(rows), 1)) if self.matrix is None else features_of(rows) @ self.matrix

    def variance(self, rows: Rows, residual: np.ndarray) -> float:
        """ν of the ``residual`` (n,) of ``rows``, with ddof 1."""
        return float(self.criterion(np.atleast_2d(np.cov(self.residuals(rows, residual), rowvar=False))))

    def residuals(self, rows: Rows, residual: np.ndarray) -> np.ndarray:
        """u (n, d), whose covariance ν is a function of: weighted, and with x'Δ taken off for least squares."""
        if self.coefficients is not None and self.coefficients.link == "identity":
            X = features_of(rows)
            residual = residual - X @ np.linalg.lstsq(X, residual, rcond=None)[0]
        return self.weights(rows) * residual[:, None]

    def criterion(self, covariance: np.ndarray) -> np.ndarray:
        """ν of covariances of u, (..., d, d) to (...)."""
        if self.objective == "determinant" and covariance.shape[-1] > 1:
            return np.asarray(np.exp(np.linalg.slogdet(covariance)[1] / covariance.shape[-1]))
        return np.asarray(np.trace(covariance, axis1=-2, axis2=-1))


def features_of(rows: Rows) -> np.ndarray:
    """The design matrix (n, p)."""
    if rows.features is None:
        raise ValueError("a fine-tune for coefficients needs features")
    return np.asarray(rows.features, dtype=np.float64)


def _fitted(link: str, X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """μ(x'θ) and μ'(x'θ) (n,) at the classical estimate.

    Few answers may have none (separated, or all equal). Then at the same mean for all rows, half an answer of 1 added
    so that it is neither 0 nor certain: H is that of least squares but for a factor.
    """
    if link == "identity":
        return X @ np.linalg.lstsq(X, Y, rcond=None)[0], np.ones(len(Y))
    fit, score = (classical_logistic, LOGISTIC) if link == "logit" else (classical_poisson, POISSON)
    try:
        mu, bend = score.mean(X @ fit(X, Y).value)
        refuse_singular(X, column_names(None, X.shape[1]), "", bend)
    except StatisticalRefusal:
        mean = (Y.sum() + 0.5) / (len(Y) + 1)
        mu, bend = score.mean(np.full(len(Y), np.log(mean / (1 - mean) if link == "logit" else mean)))
    return mu, bend


def _log_determinant(matrix: np.ndarray) -> float:
    return float(np.linalg.slogdet(matrix)[1])
