"""The readout in closed form: on frozen features every objective is a least-squares problem.

    min over β, b:   n L(u) + λ |β|²,    u_i = w_i (t_i − b − x_i β) ∈ R^d

L is the form Σ (u_i − c)ᵀ A (u_i − c) / n of ``objectives``. With A = F Fᵀ these are n·d equations, Fᵀ w_i t_i on
Fᵀ w_i x_i, less their mean where c = ū. b is not penalised. Where all rows weigh the same, the variance leaves b
free, and it moves the mean residual to zero.

The determinant's A is that of the solution. det(Σ)^(1/d) is concave in Σ, so it lies below the form at any A, and
each solve with the last one's A lowers n L + λ |β|² (majorise, minimise).

λ is chosen by leave-one-out. A row's d equations leave together, and with them its part in the mean and in b:

    y_i − ŷ_{−i} = (I − H_ii)⁻¹ (y_i − ŷ_i),    I − H = P − U diag(s² / (s² + λ)) Uᵀ

P projects off what is not penalised (means, b), and P X = U diag(s) Vᵀ. That is exact for given w, A and units of
the features: the deviation of row i's influence from the mean of the others', under the fit to the others.

For the mean w = 1: ordinary ridge regression, in which P takes off the mean alone. Then the eigenvectors of the
smaller of X Xᵀ and Xᵀ X do, a third of the work of the singular value decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ftrect_ray.finetune import objectives

#: Candidates for λ, over the mean squared singular value.
PENALTIES = np.logspace(-5, 5, 41)

#: Solves for the determinant: λ is chosen anew in the first ones, and the last ones only converge.
CHOOSING, MOST_SOLVES, TOLERANCE = 3, 100, 1e-6

#: Relative difference of two penalties' scores below which the larger penalty is taken.
TIE = 1e-10

#: Eigenvalue of a row's block of I − H below which what is not penalised fits it, whatever its answer.
NO_FREEDOM = 1e-12


@dataclass(frozen=True)
class Readout:
    """A linear readout f = level + x · slopes.

    Attributes
    ----------
    slopes : ndarray (p,)
    level : float
    penalty : float
        λ, for features of unit standard deviation.
    loss, left_out : float
        The objective on the rows, and on their leave-one-out residuals under this λ.
    """

    slopes: np.ndarray
    level: float
    penalty: float
    loss: float
    left_out: float


def fit_readout(objective: str, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Readout:
    """Minimise ``objective`` with the penalty that leave-one-out finds best, the largest of equals.

    Parameters
    ----------
    objective : str
        See ``finetune.objectives``.
    features : ndarray (n, p)
        n ≥ 2; p may exceed n. A constant feature gets no slope.
    targets : ndarray (n,)
    weights : ndarray (n, d)
    """
    center = features.mean(0)
    x = features - center
    spread = np.sqrt(np.einsum("ij,ij->j", x, x) / len(x))
    spread = np.where(spread > 1e-7 * np.abs(center), spread, np.inf)  # less is rounding of fp32
    plain = objective in ("variance", "mse") and weights.shape[1] == 1 and bool((weights == 1).all())
    found = (_of_the_mean if plain else _of_influences)(objective, x / spread, targets, weights)
    slopes = found.slopes / spread
    return replace(found, slopes=slopes, level=found.level - float(center @ slopes))


def _of_influences(objective: str, x: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Readout:
    """Any objective, on standardised features ``x`` (n, p)."""
    metric = _form(objective, weights * (targets - targets.mean())[:, None])[0]
    chosen = np.nan
    for solve in range(MOST_SOLVES):
        factor = np.linalg.cholesky(metric)
        system = _System.of(x, targets, weights @ factor, centred=objective != "mse")
        penalties = system.unit * PENALTIES if solve < CHOOSING else np.array([chosen])
        left_out = system.left_out(penalties) @ np.linalg.inv(factor)
        scores = np.array([objectives.metric(objective, torch.from_numpy(u)) for u in left_out])
        best = _largest_of_the_best(scores)
        chosen = float(penalties[best])
        slopes = system.slopes(chosen)
        level = system.level(targets - x @ slopes)
        before, (metric, loss) = metric, _form(objective, weights * (targets - x @ slopes - level)[:, None])
        if np.abs(metric - before).max() <= TOLERANCE * np.abs(metric).max():
            break
    return Readout(slopes, level, chosen, loss, float(scores[best]))


def _of_the_mean(objective: str, x: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Readout:
    """``variance`` or ``mse``, which differ in how they score what is left out alone; ``weights`` are all 1."""
    n, p = x.shape
    level = float(targets.mean())
    y = targets - level
    energy, vectors = np.linalg.eigh(x @ x.T if n <= p else x.T @ x)
    keep = energy > max(n, p) * np.finfo(float).eps * energy[-1]
    energy, vectors = energy[keep], vectors[:, keep]
    u = vectors if n <= p else x @ vectors / np.sqrt(energy)
    coordinates = u.T @ y
    penalties = (float(energy.mean()) if len(energy) else 1.0) * PENALTIES
    left = penalties / (energy[:, None] + penalties)  # (r, g), 1 − s² / (s² + λ) without cancellation
    squares = u**2
    freedom = squares @ left + (1 - 1 / n - squares.sum(1))[:, None]
    residual = u @ (left * coordinates[:, None]) + (y - u @ coordinates)[:, None]
    left_out = np.where(freedom > NO_FREEDOM, residual / np.maximum(freedom, NO_FREEDOM), 0.0)
    scores = left_out.var(0) if objective == "variance" else (left_out**2).mean(0)
    best = _largest_of_the_best(scores)
    chosen = float(penalties[best])
    shrunk = coordinates / (energy + chosen)
    slopes = x.T @ (u @ shrunk) if n <= p else vectors @ (shrunk * np.sqrt(energy))
    return Readout(slopes, level, chosen, float((y - x @ slopes).var()), float(scores[best]))


def _largest_of_the_best(scores: np.ndarray) -> int:
    """Position of the last of the smallest ``scores`` (g,); what differs by rounding is equal."""
    return int(np.flatnonzero(scores <= scores.min() * (1 + TIE))[-1])


def _form(objective: str, u: np.ndarray) -> tuple[np.ndarray, float]:
    """The metric A (d, d) of the objective at ``u`` (n, d), and its value."""
    total = objectives.sums(torch.from_numpy(u), torch.ones(len(u)))
    form = objectives.Form.of(objective, total)
    return form.metric.numpy(), form.value(total)


@dataclass(frozen=True)
class _System:
    """n·d equations in p slopes, without what is not penalised: P X = ``u`` diag(``s``) ``vt``, u (n, d, r).

    Attributes
    ----------
    weights, column : ndarray (n, d)
        w, and what the level moves: w less its mean where the equations are centred, 0 where all rows weigh the same.
    response : ndarray (n, d)
        P y.
    freedom : ndarray (n, d, d)
        The rows' own blocks of P.
    """

    weights: np.ndarray
    column: np.ndarray
    response: np.ndarray
    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray
    freedom: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, centred: bool) -> _System:
        n, d = weights.shape

        def centre(values: np.ndarray) -> np.ndarray:
            return values - values.mean(0) if centred else values

        column = centre(weights)
        if (column**2).sum() <= 1e-12 * (weights**2).sum():
            column = np.zeros_like(weights)
        energy = (column**2).sum() or 1.0

        def projected(values: np.ndarray) -> np.ndarray:
            """P times ``values`` (n, d, k)."""
            values = centre(values)
            return values - column[..., None] * np.einsum("nd,ndk->k", column, values) / energy

        response = projected((weights * targets[:, None])[..., None])[..., 0]
        design = projected(weights[..., None] * x[:, None, :]).reshape(n * d, -1)
        u, s, vt = np.linalg.svd(design, full_matrices=False)
        keep = s > max(design.shape) * np.finfo(float).eps * s.max(initial=0.0)
        freedom = np.eye(d) * (1 - centred / n) - column[:, :, None] * column[:, None, :] / energy
        return cls(weights, column, response, u[:, keep].reshape(n, d, -1), s[keep], vt[keep], freedom)

    @property
    def unit(self) -> float:
        """Mean squared singular value; 1 where no feature varies."""
        return float((self.s**2).mean()) if len(self.s) else 1.0

    def slopes(self, penalty: float) -> np.ndarray:
        """β (p,)."""
        return (self.s / (self.s**2 + penalty) * self._coordinates) @ self.vt

    def level(self, residual: np.ndarray) -> float:
        """b, for the residual t − x β (n,)."""
        energy = (self.column**2).sum()
        return float((self.column * self.weights).sum(1) @ residual / energy if energy else residual.mean())

    def left_out(self, penalties: np.ndarray) -> np.ndarray:
        """Leave-one-out residuals (g, n, d) for each of ``penalties`` (g,)."""
        left = penalties[:, None] / (self.s**2 + penalties[:, None])  # 1 − s² / (s² + λ), without cancellation
        rest = self.response - self.u @ self._coordinates
        residual = rest + np.einsum("ndr,gr->gnd", self.u, left * self._coordinates, optimize=True)
        blocks = np.einsum("ndr,gr,ner->gnde", self.u, left, self.u, optimize=True)
        blocks += self.freedom - np.einsum("ndr,ner->nde", self.u, self.u, optimize=True)
        values, vectors = np.linalg.eigh(blocks)
        inverse = np.where(values > NO_FREEDOM, 1 / np.maximum(values, NO_FREEDOM), 0.0)
        return np.einsum("gndk,gnk,gnek,gne->gnd", vectors, inverse, vectors, residual, optimize=True)

    @property
    def _coordinates(self) -> np.ndarray:
        """Uᵀ y (r,)."""
        return np.einsum("ndr,nd->r", self.u, self.response)
