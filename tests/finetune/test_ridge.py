"""The closed form against normal equations, against leaving rows out one by one, and against a general optimiser."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from ftrect_ray.finetune.ridge import PENALTIES, _of_influences, _of_the_mean, _System, fit_readout

OBJECTIVES = ["variance", "mse", "coefficient", "trace", "determinant"]


def problem(n: int, p: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, p) of unequal scale and far from 0, targets (n,), weights (n, d): 1 where d is 0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * rng.uniform(0.1, 5, p) + rng.normal(size=p) * 3
    t = x @ rng.normal(size=p) / np.sqrt(p) + rng.normal(size=n)
    return x, t, rng.normal(1, 1, (n, d)) if d else np.ones((n, 1))


def weights_of(objective: str) -> int:
    return {"variance": 0, "mse": 0, "coefficient": 1}.get(objective, 3)


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


def penalised(objective, x, t, w, slopes, level, penalty) -> float:
    """n L + λ |β|², written down anew. ``slopes`` of standardised features."""
    u = w * (t - level - standardised(x) @ slopes)[:, None]
    covariance = np.atleast_2d(np.cov(u, rowvar=False, ddof=0))
    if objective == "mse":
        value = (u**2).sum() / len(u)
    elif objective == "determinant":
        d = len(covariance)
        value = np.linalg.det(covariance + 1e-6 * np.trace(covariance) / d * np.eye(d)) ** (1 / d)
    else:
        value = np.trace(covariance)
    return len(u) * value + penalty * (slopes**2).sum()


@pytest.mark.parametrize(("n", "p"), [(40, 5), (12, 30)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_optimiser_finds_a_better_readout(objective, n, p):
    x, t, w = problem(n, p, weights_of(objective))
    found = fit_readout(objective, x, t, w)
    assert found.penalty > 0
    slopes = found.slopes * x.std(0)
    level = found.level + x.mean(0) @ found.slopes

    def value(parameters):
        return penalised(objective, x, t, w, parameters[1:], parameters[0], found.penalty)

    here = value(np.array([level, *slopes]))
    starts = [np.zeros(1 + p)] if objective != "determinant" else [np.zeros(1 + p), np.array([level, *slopes])]
    for start in starts:  # the determinant is not convex: from 0 another valley may be found, a worse one
        best = minimize(value, start, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
        assert here <= best.fun * (1 + 1e-7)
    np.testing.assert_allclose(slopes, best.x[1:], atol=2e-3 * np.abs(slopes).max() + 1e-9)
    assert found.loss == pytest.approx((here - found.penalty * (slopes**2).sum()) / n, rel=1e-9)


def test_equal_weights_give_the_normal_equations_of_ridge_regression():
    x, t, w = problem(50, 6, 0)
    found = fit_readout("variance", x, t, w)
    z = standardised(x)
    slopes = np.linalg.solve(z.T @ z + found.penalty * np.eye(6), z.T @ (t - t.mean()))
    np.testing.assert_allclose(found.slopes, slopes / x.std(0), rtol=1e-10)
    assert np.mean(t - found.level - x @ found.slopes) == pytest.approx(0, abs=1e-12)
    mse = fit_readout("mse", x, t, w)
    assert (mse.level, mse.penalty) == pytest.approx((found.level, found.penalty), rel=1e-12)
    np.testing.assert_allclose(mse.slopes, found.slopes, rtol=1e-12)


def without(objective, x, t, w, penalty, i) -> np.ndarray:
    """Influence of row i less the mean influence of the others, (d,), under the others' own least-squares fit."""
    keep = np.arange(len(t)) != i
    d = w.shape[1]
    means = np.zeros((len(t), d, d)) + np.eye(d)
    columns = [w[:, :, None], w[:, :, None] * x[:, None, :]] + ([] if objective == "mse" else [means])
    design = np.concatenate(columns, 2)
    ridge = np.diag([0.0, *[penalty] * x.shape[1], *[0.0] * (design.shape[2] - 1 - x.shape[1])])
    rows, y = design[keep].reshape(-1, design.shape[2]), (w * t[:, None])[keep].reshape(-1)
    return w[i] * t[i] - design[i] @ np.linalg.pinv(rows.T @ rows + ridge, rcond=1e-13) @ rows.T @ y


@pytest.mark.parametrize(("n", "p"), [(30, 4), (9, 20)])
@pytest.mark.parametrize("objective", OBJECTIVES[:4])
def test_leave_one_out_is_that_of_fits_without_the_row(objective, n, p):
    x, t, w = problem(n, p, weights_of(objective), seed=1)
    x = standardised(x)
    penalties = np.array([0.1, 3.0, 200.0])
    found = _System.of(x, t, w, centred=objective != "mse").left_out(penalties)
    assert found.shape == (3, n, w.shape[1])
    for penalty, residuals in zip(penalties, found, strict=True):
        brute = np.array([without(objective, x, t, w, penalty, i) for i in range(n)])
        np.testing.assert_allclose(residuals, brute, atol=1e-8 * np.abs(brute).max())


@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize(("n", "p"), [(50, 200), (40, 41), (41, 40), (31, 30), (30, 31), (200, 50), (5, 3)])
@pytest.mark.parametrize("objective", ["variance", "mse"])
def test_for_the_mean_the_short_way_gives_what_the_long_one_does(objective, n, p, duplicates):
    """Features of singular values from 1 to 1e-4; rows that stand twice take directions away."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, p)) @ (np.logspace(0, -4, p)[:, None] * rng.normal(size=(p, p)))
    if duplicates:
        x[: n // 3] = x[-(n // 3) :]
    z = standardised(x)
    t, w = z[:, 0] + rng.normal(size=n), np.ones((n, 1))
    short, long = _of_the_mean(objective, z, t, w), _of_influences(objective, z, t, w)
    np.testing.assert_allclose(z @ short.slopes, z @ long.slopes, atol=1e-10 * t.std())
    for field in ("penalty", "loss", "left_out"):
        assert getattr(short, field) == pytest.approx(getattr(long, field), rel=1e-10)
    assert short.level == pytest.approx(long.level, abs=1e-12)


@pytest.mark.parametrize(("n", "p"), [(20, 100), (30, 29), (60, 10)])
def test_for_the_mean_the_smallest_penalty_is_still_exact(n, p, monkeypatch):
    x, t, w = problem(n, p, 0, seed=3)
    monkeypatch.setattr("ftrect_ray.finetune.ridge.PENALTIES", PENALTIES[:1])
    found = fit_readout("mse", x, t, w)
    brute = [without("mse", standardised(x), t, w, found.penalty, i)[0] for i in range(n)]
    assert found.left_out == pytest.approx(np.mean(np.square(brute)), rel=1e-6)


def test_penalties_that_leave_the_same_out_are_equal_and_the_largest_is_taken():
    """Of two rows, each is predicted by the other's answer, whatever the penalty."""
    x, t, w = problem(2, 5, 0)
    assert fit_readout("variance", x, t, w).penalty == pytest.approx(10 * PENALTIES[-1])


def test_the_penalty_is_the_candidate_that_leaving_rows_out_likes_best():
    x, t, w = problem(25, 60, 0, seed=2)
    found = fit_readout("variance", x, t, w)
    z = standardised(x)
    unit = (np.linalg.svd(z, compute_uv=False)[:24] ** 2).mean()
    brute = [np.var([without("mse", z, t, w, p, i)[0] for i in range(25)]) for p in unit * PENALTIES]
    best = int(np.argmin(brute))
    assert 0 < best < len(PENALTIES) - 1
    assert found.penalty == pytest.approx(unit * PENALTIES[best], rel=1e-8)
    assert found.left_out == pytest.approx(brute[best], rel=1e-6)


def test_the_smallest_penalty_is_still_exact_with_more_features_than_rows():
    """Where the fit all but interpolates, residual and freedom both vanish: their ratio must not be noise."""
    x, t, w = problem(20, 100, 0, seed=3)
    x = standardised(x)
    system = _System.of(x, t, w, centred=True)
    penalty = system.unit * PENALTIES[0]
    brute = np.array([without("mse", x, t, w, penalty, i) for i in range(20)])
    np.testing.assert_allclose(system.left_out(np.array([penalty]))[0], brute, rtol=1e-5)


def test_noise_is_shrunk_to_nothing_and_a_line_is_not():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 200))
    noise = fit_readout("variance", x, rng.normal(size=60), np.ones((60, 1)))
    assert np.std(x @ noise.slopes) < 0.2
    line = fit_readout("variance", x[:, :3], x[:, 0] - 2 * x[:, 1], np.ones((60, 1)))
    np.testing.assert_allclose(line.slopes, [1, -2, 0], atol=1e-3)


def test_each_solve_lowers_the_determinant(monkeypatch):
    x, t, w = problem(30, 4, 3, seed=5)
    w = w * [1, 30, 0.01]  # units must not matter
    values = []
    for solves in (1, 2, 3, 5, 10, 50):
        monkeypatch.setattr("ftrect_ray.finetune.ridge.CHOOSING", 1)
        monkeypatch.setattr("ftrect_ray.finetune.ridge.MOST_SOLVES", solves)
        found = fit_readout("determinant", x, t, w)
        values.append(30 * found.loss + found.penalty * ((found.slopes * x.std(0)) ** 2).sum())
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(values))
    assert values[-1] < 0.999 * values[0]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_answers_and_constant_features_give_the_level(objective):
    x, _, w = problem(10, 4, weights_of(objective))
    x[:, 1] = 7.0
    found = fit_readout(objective, x, np.full(10, 3.0), w)
    np.testing.assert_allclose(found.level + x @ found.slopes, 3.0, atol=1e-9)
    assert found.slopes[1] == 0
    same = fit_readout(objective, np.ones((10, 4)), np.arange(10.0), w)
    assert not same.slopes.any()
    assert np.isfinite([same.level, same.loss, same.left_out]).all()


def test_two_rows_have_a_readout():
    found = fit_readout("variance", np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([0.0, 1.0]), np.ones((2, 1)))
    assert found.level + 0.5 * found.slopes[0] == pytest.approx(0.5)
