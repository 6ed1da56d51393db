"""Seeded simulations: two-sided coverage within three Monte-Carlo standard errors."""

import numpy as np
import pytest
from scipy.stats import norm

from ftrect_ray.estimators import mean, ols, quantile


def within_error(hits, repetitions, level):
    error = np.sqrt(level * (1 - level) / repetitions)
    assert abs(hits / repetitions - level) <= 3 * error, f"coverage {hits / repetitions:.4f} of {level}"


def covers(interval, truth):
    return interval[0] <= truth <= interval[1]


@pytest.mark.parametrize("lam", [0.0, 1.0, "tuned"])
@pytest.mark.parametrize("m", [300, 5000])
def test_mean(lam, m):
    rng = np.random.default_rng(11)
    repetitions, n, hits = 3000, 250, 0
    for _ in range(repetitions):
        Y = rng.exponential(size=n)
        f, unlabeled = Y + rng.normal(1, 0.6, n), rng.exponential(size=m) + rng.normal(1, 0.6, m)
        hits += covers(mean(Y, f, unlabeled, lam=lam, alpha=0.1).interval, 1.0)
    within_error(hits, repetitions, 0.9)


@pytest.mark.parametrize("q", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("lam", [0.0, 1.0, "tuned"])
def test_quantile_of_continuous_answers(q, lam):
    rng = np.random.default_rng(12)
    repetitions, n, m, hits = 1500, 600, 3000, 0
    for _ in range(repetitions):
        Y, truth = rng.normal(size=n), rng.normal(size=m)
        hits += covers(
            quantile(Y, Y + rng.normal(0, 0.5, n), truth + rng.normal(0, 0.5, m), q, lam=lam, alpha=0.1).interval,
            norm.ppf(q),
        )
    within_error(hits, repetitions, 0.9)


def test_quantile_of_ratings_covers_at_least_the_level():
    rng = np.random.default_rng(13)
    repetitions, hits = 1000, 0
    shares = [0.1, 0.25, 0.14, 0.3, 0.21]  # P(Y ≤ 3) = 0.49: the median is 4, and 3 is nearly one
    for _ in range(repetitions):
        Y, truth = rng.choice(5, 120, p=shares) + 1, rng.choice(5, 600, p=shares) + 1
        f, unlabeled = np.clip(Y + rng.integers(-1, 2, 120), 1, 5), np.clip(truth + rng.integers(-1, 2, 600), 1, 5)
        hits += covers(quantile(Y, f, unlabeled, lam=1.0, alpha=0.1).interval, 4)
    assert hits / repetitions >= 0.9


def test_ols():
    rng = np.random.default_rng(14)
    repetitions, n, m = 1500, 400, 2000
    hits = np.zeros(2)
    for _ in range(repetitions):
        X = np.column_stack([np.ones(n + m), rng.uniform(-1, 1, n + m)])
        Y = X @ [1.0, 2.0] + (0.5 + X[:, 1] ** 2) * rng.normal(size=n + m)
        f = 0.7 * Y + 0.5 * X[:, 1] + 0.3 * rng.normal(size=n + m)
        low, high = ols(X[:n], Y[:n], f[:n], X[n:], f[n:], alpha=0.1).interval
        hits += (low <= [1.0, 2.0]) & (high >= [1.0, 2.0])
    within_error(hits[0], repetitions, 0.9)
    within_error(hits[1], repetitions, 0.9)


def ridge(X, Y, penalty=5.0):
    centre, level = X.mean(axis=0), Y.mean()
    C = X - centre
    slope = np.linalg.solve(C.T @ C + penalty * np.eye(X.shape[1]), C.T @ (Y - level))
    return lambda new: level + (new - centre) @ slope


def nearest_neighbour(X, Y):
    order = np.argsort(X[:, 0])
    sorted_x, sorted_y = X[order, 0], Y[order]

    def predict(new):
        right = np.clip(np.searchsorted(sorted_x, new[:, 0]), 1, len(sorted_x) - 1)
        nearer_left = new[:, 0] - sorted_x[right - 1] < sorted_x[right] - new[:, 0]
        return sorted_y[right - nearer_left]

    return predict


def cross_fitted_coverage(learner, draw, truth, *, n, m, folds, repetitions, alpha, lam, seed):
    rng = np.random.default_rng(seed)
    fold = np.arange(n) % folds
    hits = 0
    for _ in range(repetitions):
        X, Y = draw(rng, n)
        X_unlabeled, _ = draw(rng, m)
        out_of_fold, unlabeled = np.empty(n), np.empty((m, folds))
        for k in range(folds):
            model = learner(X[fold != k], Y[fold != k])
            out_of_fold[fold == k], unlabeled[:, k] = model(X[fold == k]), model(X_unlabeled)
        hits += covers(mean(Y, out_of_fold, unlabeled, folds=fold, alpha=alpha, lam=lam).interval, truth)
    return hits


@pytest.mark.parametrize("lam", [1.0, "tuned"])
def test_cross_fitted_ridge_covers(lam):
    def draw(rng, size):
        X = rng.normal(size=(size, 8))
        return X, 1 + X @ np.linspace(1, 0, 8) + rng.normal(size=size)

    hits = cross_fitted_coverage(
        ridge, draw, 1.0, n=200, m=1000, folds=2, repetitions=2000, alpha=0.1, lam=lam, seed=15
    )
    within_error(hits, 2000, 0.9)


def test_negative_control_interpolating_neighbour_in_ten_folds_undercovers():
    """An unstable learner breaks the plug-in variance; were this to pass, the simulation could not see a fault."""

    def draw(rng, size):
        X = rng.uniform(-1, 1, size=(size, 1))
        return X, X[:, 0] + rng.normal(size=size)

    repetitions = 1500
    hits = cross_fitted_coverage(
        nearest_neighbour, draw, 0.0, n=100, m=1000, folds=10, repetitions=repetitions, alpha=0.1, lam=1.0, seed=16
    )
    assert hits / repetitions < 0.9 - 3 * np.sqrt(0.09 / repetitions)
