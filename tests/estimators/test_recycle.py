"""Recycling: inverse variance, its exact numbers, and where it cannot be done."""

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.estimators import classical_mean, classical_ols, mean, ols, quantile, recycle


def parts(seed=0, s=40, r=60, m=500):
    rng = np.random.default_rng(seed)
    Y = rng.normal(3, 2, s + r + m)
    f = Y + rng.normal(size=s + r + m)
    return classical_mean(Y[:s]), mean(Y[s : s + r], f[s : s + r], f[s + r :])


def test_weights_are_inverse_variances():
    classical, rectified = parts()
    combined = recycle(classical, rectified)
    w1, w2 = classical.std_error**-2, rectified.std_error**-2
    assert combined.value == pytest.approx((w1 * classical.value + w2 * rectified.value) / (w1 + w2))
    assert combined.std_error == pytest.approx((w1 + w2) ** -0.5)
    assert combined.n == 100
    assert combined.m == 500
    assert combined.lam == rectified.lam
    assert combined.std_error < min(classical.std_error, rectified.std_error)
    assert combined.effective_n == pytest.approx(60 * classical_mean_variance(rectified) / combined.std_error**2)


def classical_mean_variance(rectified):
    return rectified.effective_n * rectified.std_error**2 / rectified.n


def test_coverage_of_the_combination():
    hits, repetitions = 0, 3000
    for seed in range(repetitions):
        low, high = recycle(*parts(seed)).interval
        hits += low <= 3 <= high
    assert hits / repetitions == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / repetitions))


def test_coefficients_one_by_one():
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(300), rng.normal(size=300)])
    Y = X @ [1.0, 2.0] + rng.normal(size=300)
    f = Y + rng.normal(size=300)
    classical = classical_ols(X[:50], Y[:50], names=["one", "x"])
    rectified = ols(X[50:100], Y[50:100], f[50:100], X[100:], f[100:], names=["one", "x"])
    combined = recycle(classical, rectified)
    expected = (classical.std_error**-2 + rectified.std_error**-2) ** -0.5
    np.testing.assert_allclose(combined.std_error, expected)
    assert combined.names == ("one", "x")


def test_constant_answers_in_one_part_do_not_take_all_the_weight():
    _, rectified = parts()
    combined = recycle(classical_mean(np.full(40, 1.0)), rectified)
    assert combined.value == pytest.approx(0.4 * 1.0 + 0.6 * rectified.value)
    assert combined.std_error == pytest.approx(0.6 * rectified.std_error)
    assert "one part has variance 0: the parts are weighted by their numbers of labels" in combined.warnings


def test_different_things_are_not_combined():
    _, rectified = parts()
    with pytest.raises(InputError, match="must have the same target, names and alpha"):
        recycle(classical_mean([1.0, 2.0], alpha=0.1), rectified)
    Y = np.arange(20.0)
    median = quantile(Y, Y, Y)
    with pytest.raises(InputError, match="a quantile cannot be recycled"):
        recycle(median, median)
