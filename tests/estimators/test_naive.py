"""The model alone: what it pretends to, and that it says so."""

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.classical import (
    classical_logistic,
    classical_mean,
    classical_ols,
    classical_poisson,
    classical_proportions,
    classical_quantile,
)
from ftrect_ray.estimators.naive import (
    WARNING,
    naive_logistic,
    naive_mean,
    naive_ols,
    naive_poisson,
    naive_proportions,
    naive_quantile,
)
from ftrect_ray.estimators.samples import Sample

RNG = np.random.default_rng(0)
N = 60
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
F = 1 + X[:, 1] + RNG.normal(size=N)
YES, COUNT, NAMES = RNG.random(N) < 0.5, RNG.poisson(2, N), RNG.choice(["a", "b"], N)
SAMPLE = Sample(weights=RNG.uniform(0.5, 2, N), clusters=np.arange(N) // 2)

CASES = {
    "mean": (lambda **o: naive_mean(F, **o), lambda **o: classical_mean(F, **o)),
    "quantile": (lambda **o: naive_quantile(F, 0.3, **o), lambda **o: classical_quantile(F, 0.3, **o)),
    "proportions": (
        lambda **o: naive_proportions(NAMES, categories=["b", "a"], **o),
        lambda **o: classical_proportions(NAMES, categories=["b", "a"], **o),
    ),
    "ols": (
        lambda **o: naive_ols(X, F, names=["one", "x"], **o),
        lambda **o: classical_ols(X, F, names=["one", "x"], **o),
    ),
    "logistic": (
        lambda **o: naive_logistic(X, YES, names=["one", "x"], **o),
        lambda **o: classical_logistic(X, YES, names=["one", "x"], **o),
    ),
    "poisson": (
        lambda **o: naive_poisson(X, COUNT, names=["one", "x"], **o),
        lambda **o: classical_poisson(X, COUNT, names=["one", "x"], **o),
    ),
}


@pytest.mark.parametrize("options", [{}, {"alpha": 0.1, "alternative": "larger", "null": 0.5, "sample": SAMPLE}])
@pytest.mark.parametrize("target", list(CASES))
def test_predictions_are_taken_for_answers_and_it_says_so(target, options):
    naive, classical = CASES[target]
    found, expected = naive(**options), classical(**options)
    for field in ("value", "std_error", "interval", "df", "p_value"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-12)
    assert (found.target, found.names, found.alpha) == (expected.target, expected.names, expected.alpha)
    assert (found.lam, found.n, found.m, found.effective_n) == (None, 0, N, None)
    assert found.warnings == [WARNING]
    assert WARNING == "the model alone: its bias is unknown and not in the interval"
    assert found.state == "WARN"
    assert found.diagnostics["checks"] == []
    assert found.diagnostics["r2"] is None


def test_several_models_are_averaged():
    several = np.column_stack([F, F + 2])
    assert naive_mean(several).value == pytest.approx(F.mean() + 1)
    assert naive_quantile(several).value == pytest.approx(classical_quantile(F + 1).value)
    np.testing.assert_allclose(naive_ols(X, several).value, classical_ols(X, F + 1).value)


def test_the_default_quantile_is_the_median():
    assert naive_quantile(F).value == classical_quantile(F, 0.5).value


def test_shares_of_probabilities_are_their_means():
    P = RNG.random((N, 3))
    found = naive_proportions(P, categories=["x", "y", "z"], alpha=0.1)
    for j in range(3):
        column = classical_mean(P[:, j], alpha=0.1)
        assert found.value[j] == pytest.approx(column.value, rel=1e-12)
        assert (found.interval[0][j], found.interval[1][j]) == pytest.approx(column.interval, rel=1e-12)
    assert found.names == ("x", "y", "z")
    assert found.target == "proportions"
    assert (found.n, found.m, found.warnings) == (0, N, [WARNING])


def test_probabilities_and_other_numbers_have_a_regression_too():
    chances = 1 / (1 + np.exp(-F))
    found = naive_logistic(X, chances)
    mu = 1 / (1 + np.exp(-X @ found.value))
    np.testing.assert_allclose(X.T @ (chances - mu), 0, atol=1e-8)
    off = np.where(np.arange(N) < 3, -0.2, COUNT)
    found = naive_poisson(X, off)
    scores = X * (off - np.exp(X @ found.value))[:, None]
    np.testing.assert_allclose(scores.sum(axis=0), 0, atol=1e-7)
    bread = np.linalg.inv((X.T * np.exp(X @ found.value)) @ X)
    sandwich = bread @ (scores.T @ scores) @ bread * N / (N - 1)
    np.testing.assert_allclose(found.std_error, np.sqrt(np.diag(sandwich)), rtol=1e-7)


def test_it_misses_the_truth_where_the_model_is_biased():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = naive_mean(rng.normal(0.3, 1, 400)).interval
        hits += low <= 0 <= high
    assert hits / 200 < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: naive_mean([1.0]), r"'Yhat' must have at least 2 rows; got 1\."),
        (lambda: naive_mean([1.0, np.nan]), r"'Yhat' must be finite; got nan at position 1\."),
        (lambda: naive_mean(np.zeros((2, 2, 2))), r"'Yhat' must have 1 or 2 dimension\(s\); got shape \(2, 2, 2\)\."),
        (lambda: naive_proportions(["a", None]), r"'Yhat' must name a category in every row; got None at position 1\."),
        (lambda: naive_proportions(["a"]), r"'Yhat' must have at least 2 rows; got 1\."),
        (lambda: naive_proportions([[0.5, 0.5]] * 2), r"'categories' must be given with probabilities"),
        (
            lambda: naive_proportions([[0.5, 0.5]] * 2, categories=["a"]),
            r"'Yhat' must have one column a category \(1\); got 2\.",
        ),
        (lambda: naive_proportions([[0.5, 0.5]], categories=["a", "b"]), r"'Yhat' must have at least 2 rows; got 1\."),
        (lambda: naive_logistic(X[:5], F), r"'X' must have shape \(60, 2\); got \(5, 2\)\."),
        (lambda: naive_poisson(X, F[:1]), r"'Yhat' must have at least 2 rows; got 1\."),
        (lambda: naive_mean(F, lam=0.5), r"'lam' has no meaning without a model\. — drop 'lam'"),
        (lambda: naive_logistic(X, YES, lam=0.5), r"'lam' has no meaning without a model"),
        (lambda: naive_proportions([[0.5, 0.5]] * 2, categories=[1, 2], folds=[0, 1]), r"'folds' has no meaning"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
