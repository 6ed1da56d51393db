"""The truth of a finite population: the target's value where every row is labelled, for many tables at once.

Written apart from the library, so that the two check each other.
"""

from __future__ import annotations

import numpy as np
from worlds import World

STEPS = 20
"""Of Newton's method from 0, at most; these tables of thousands of rows need seven."""


def census(target: str, world: World, Y: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Values (S, d) for tables Y (S, N), X (S, N, p)."""
    if target == "mean":
        return Y.mean(axis=1, keepdims=True)
    if target == "proportions":
        assert world.shares is not None
        codes = np.arange(len(world.shares))
        return np.asarray(np.mean(Y[..., None] == codes, axis=1))
    if target == "quantile":
        return np.quantile(Y, world.q, axis=1, method="inverted_cdf")[:, None]
    if target == "difference":
        second = X[0, :, 0] == 1
        return np.asarray(Y[:, second].mean(axis=1) - Y[:, ~second].mean(axis=1))[:, None]
    if target == "ols":
        gram = np.einsum("sni,snj->sij", X, X, optimize=True)
        return np.asarray(np.linalg.solve(gram, np.einsum("sni,sn->si", X, Y)[..., None])[..., 0])
    if target == "poisson":
        return _root(X, Y[..., None], np.exp)
    options = 1 if target == "logistic" else int(world.truth.size // X.shape[-1])
    return _root(X, (Y[..., None] == np.arange(1, options + 1)).astype(float), None)


def _root(X: np.ndarray, Y: np.ndarray, rate: np.ufunc | None) -> np.ndarray:
    """Roots (S, J·p) of Σ x(y_j − μ_j) = 0 for answers Y (S, N, J): μ the logit shares of J options, or a rate."""
    tables, _, options = Y.shape
    width = X.shape[-1]
    theta = np.zeros((tables, options, width))
    for _ in range(STEPS):
        utility = X @ theta.transpose(0, 2, 1)
        if rate is None:
            odds = np.exp(utility)
            mu = odds / (1 + odds.sum(axis=-1, keepdims=True))
        else:
            mu = rate(utility)
        score = (Y - mu).transpose(0, 2, 1) @ X
        hessian = np.empty((tables, options, width, options, width))
        for j in range(options):
            for k in range(options):
                weight = mu[..., j] * (j == k) - (mu[..., j] * mu[..., k] if rate is None else 0.0)
                hessian[:, j, :, k] = (X * weight[..., None]).transpose(0, 2, 1) @ X
        size = options * width
        step = np.linalg.solve(hessian.reshape(tables, size, size), score.reshape(tables, size, 1))
        theta = theta + step.reshape(theta.shape)
        if np.abs(step).max() < 1e-12:
            break
    return theta.reshape(tables, -1)
