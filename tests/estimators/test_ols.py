"""Rectified least squares: identities, statsmodels, ppi_py, refusals."""

import json
import warnings as python_warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import classical_ols, mean, naive_ols, ols

with python_warnings.catch_warnings():
    python_warnings.simplefilter("ignore")
    from ppi_py import ppi_ols_ci, ppi_ols_pointestimate


def sample(seed=0, n=60, m=200, d=2):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n + m), rng.normal(size=(n + m, d))])
    Y = X @ np.arange(1, d + 2) + (1 + 0.5 * X[:, 1] ** 2) * rng.normal(size=n + m)
    f = 0.3 + 0.8 * Y - 0.4 * X[:, 1] + rng.normal(0, 0.5, n + m)
    return X[:n], Y[:n], f[:n], X[n:], f[n:]


def same(one, other, tolerance=1e-9):
    np.testing.assert_allclose(one.value, other.value, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.std_error, other.std_error, rtol=tolerance, atol=tolerance)
    assert one.lam == pytest.approx(other.lam, abs=tolerance)


# ------------------------------------------------------------------------------------------- references


def test_classical_is_statsmodels_hc0_with_ddof_1():
    X, Y, *_ = sample()
    reference = sm.OLS(Y, X).fit()
    estimate = classical_ols(X, Y)
    np.testing.assert_allclose(estimate.value, reference.params, atol=1e-12)
    np.testing.assert_allclose(estimate.std_error, reference.HC0_se * np.sqrt(60 / 59), rtol=1e-12)
    same(ols(*sample(), lam=0), estimate)


@pytest.mark.parametrize("lam", [0.0, 0.35, 1.0])
def test_point_agrees_with_ppi_py(lam):
    data = sample(5)
    np.testing.assert_allclose(ols(*data, lam=lam).value, ppi_ols_pointestimate(*data, lam=lam), atol=1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.35, 1.0])
def test_interval_agrees_with_ppi_py_where_its_variance_is_that_of_its_point(lam):
    """ppi_py takes residuals of predictions at θ̂. Moving predictions by x'(γ̂ − θ̂), γ̂ their own regression on
    the unlabelled rows, changes no point estimate and makes θ̂ their regression: there both must agree."""
    X, Y, f, X_unlabeled, f_unlabeled = sample(6)
    theta = ppi_ols_pointestimate(X, Y, f, X_unlabeled, f_unlabeled, lam=lam)
    shift = np.linalg.lstsq(X_unlabeled, f_unlabeled, rcond=None)[0] - theta
    # the labelled residuals keep what OLS(X, f) and OLS(X̃, f̃) differ by, as in our scores
    data = (X, Y, f - X @ shift, X_unlabeled, f_unlabeled - X_unlabeled @ shift)
    low, high = ppi_ols_ci(*data, alpha=0.1, lam=lam)
    for arguments in (data, sample(6)):
        estimate = ols(*arguments, alpha=0.1, lam=lam)
        np.testing.assert_allclose(estimate.interval[0], low, atol=1e-9)
        np.testing.assert_allclose(estimate.interval[1], high, atol=1e-9)


def test_standard_error_is_that_of_the_estimate_where_predictions_are_biased_linearly():
    """The reason to leave ppi_py's variance: it is several times the true one here, and ours is right."""
    rng = np.random.default_rng(0)
    values, ours, theirs = [], [], []
    for repetition in range(300):
        X = np.column_stack([np.ones(1200), rng.normal(size=1200)])
        noise = rng.normal(size=1200)
        Y, f = X @ [1, 2] + noise, 0.8 * X[:, 1] + 0.9 * noise + 0.2 * rng.normal(size=1200)
        data = (X[:200], Y[:200], f[:200], X[200:], f[200:])
        estimate = ols(*data, lam=1.0)
        values.append(estimate.value)
        ours.append(estimate.std_error)
        if repetition < 10:
            low, high = ppi_ols_ci(*data, alpha=0.05, lam=1.0)
            theirs.append((high - low) / (2 * 1.959964))
    spread = np.std(values, axis=0, ddof=1)
    np.testing.assert_allclose(np.mean(ours, axis=0), spread, rtol=3 / np.sqrt(2 * 300))
    assert (np.mean(theirs, axis=0) > 2 * spread).all()


# ------------------------------------------------------------------------------------------- identities


def test_perfect_predictor_gives_the_regression_of_the_unlabelled_sample():
    X, Y, _, X_unlabeled, f_unlabeled = sample(n=50, m=4000)
    estimate = ols(X, Y, Y, X_unlabeled, f_unlabeled, lam=1.0)
    # labelled part: OLS(X, 0) = 0; what is left of its variance is the linear part, not Y − f
    np.testing.assert_allclose(estimate.value, classical_ols(X_unlabeled, f_unlabeled).value, atol=1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, "tuned"])
def test_ones_alone_are_the_mean(lam):
    _, Y, f, _, f_unlabeled = sample()
    models = np.column_stack([f_unlabeled, f_unlabeled**2 / 5])
    folds = np.arange(60) % 2
    regression = ols(np.ones(60), Y, f, np.ones(200), models, lam=lam, folds=folds)
    plain = mean(Y, f, models, lam=lam, folds=folds)
    assert regression.value[0] == pytest.approx(plain.value, abs=1e-12)
    assert regression.std_error[0] == pytest.approx(plain.std_error, rel=1e-10)
    assert regression.effective_n[0] == pytest.approx(plain.effective_n)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([0.0, 0.5, 1.0, "tuned"]), st.booleans())
def test_equal_models_are_one_model(seed, models, lam, with_folds):
    X, Y, f, X_unlabeled, f_unlabeled = sample(seed, 20, 30)
    folds = np.arange(20) % models if with_folds else None
    several = ols(X, Y, f, X_unlabeled, np.tile(f_unlabeled[:, None], models), lam=lam, folds=folds)
    same(several, ols(X, Y, f, X_unlabeled, f_unlabeled, lam=lam), 1e-8)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, "tuned"]))
def test_linear_bias_of_one_folds_model_costs_nothing(seed, lam):
    X, Y, f, X_unlabeled, f_unlabeled = sample(seed, 20, 30)
    folds = np.arange(20) % 2
    bias = np.array([3.0, -1.0, 2.0])
    models = np.column_stack([f_unlabeled, f_unlabeled])
    biased = np.column_stack([f_unlabeled, f_unlabeled + X_unlabeled @ bias])
    with_bias = ols(X, Y, f + (folds == 1) * (X @ bias), X_unlabeled, biased, lam=lam, folds=folds)
    same(with_bias, ols(X, Y, f, X_unlabeled, models, lam=lam, folds=folds), 1e-8)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, "tuned"]))
def test_order_of_rows_and_equivariance(seed, lam):
    X, Y, f, X_unlabeled, f_unlabeled = sample(seed, 20, 30)
    rows = np.random.default_rng(seed).permutation(20)
    one = ols(X, Y, f, X_unlabeled, f_unlabeled, lam=lam)
    same(ols(X[rows], Y[rows], f[rows], X_unlabeled[::-1], f_unlabeled[::-1], lam=lam), one, 1e-8)
    shift = np.array([1.0, -2.0, 5.0])
    moved = ols(X, 3 * Y + X @ shift, 3 * f + X @ shift, X_unlabeled, 3 * f_unlabeled + X_unlabeled @ shift, lam=lam)
    np.testing.assert_allclose(moved.value, 3 * one.value + shift, atol=1e-8)
    np.testing.assert_allclose(moved.std_error, 3 * one.std_error, rtol=1e-7)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_tuned_lam_minimises_the_trace(seed):
    data = sample(seed, 20, 30)
    tuned = ols(*data)
    grid = [np.sum(ols(*data, lam=lam).std_error ** 2) for lam in np.linspace(0.01, 1, 34)]
    if tuned.lam > 0:
        assert np.sum(tuned.std_error**2) <= min(grid) * (1 + 1e-9)


# ------------------------------------------------------------------------------------------- refusals and edges


@pytest.mark.parametrize(
    ("columns", "dropped"),
    [
        (lambda X: np.column_stack([X, X[:, 1] + 2 * X[:, 2]]), "x3"),
        (lambda X: np.column_stack([X, np.full(len(X), 7.0)]), "x3"),
        (lambda X: np.column_stack([X[:, :2], np.zeros(len(X)), X[:, 2]]), "x2"),
        (lambda X: np.column_stack([X, 1e6 * X[:, 1]]), "x3"),
    ],
)
def test_collinear_columns_are_named(columns, dropped):
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    with pytest.raises(StatisticalRefusal) as caught:
        ols(columns(X), Y, f, columns(X_unlabeled), f_unlabeled)
    assert caught.value.what == f"X'X is singular: drop column '{dropped}'"
    assert caught.value.where == "labelled rows"
    assert caught.value.exit_code == 4


def test_collinear_column_has_its_given_name():
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    X_unlabeled = X_unlabeled.copy()
    X_unlabeled[:, 2] = 4.0
    with pytest.raises(StatisticalRefusal, match=r"drop column 'age' \(unlabelled rows\)"):
        ols(X, Y, f, X_unlabeled, f_unlabeled, names=["one", "income", "age"])


def test_units_far_apart_are_not_collinear():
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    scale = np.array([1.0, 1e8, 1e-8])
    large = ols(X * scale, Y, f, X_unlabeled * scale, f_unlabeled, lam=0.5)
    np.testing.assert_allclose(large.value * scale, ols(X, Y, f, X_unlabeled, f_unlabeled, lam=0.5).value, rtol=1e-6)


def test_too_few_rows_are_refused():
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    with pytest.raises(StatisticalRefusal, match="3 rows cannot carry 3 coefficients with a standard error"):
        ols(X[:3], Y[:3], f[:3], X_unlabeled, f_unlabeled)


def test_no_unlabelled_rows_is_classical():
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    same(ols(X, Y, f, X_unlabeled[:0], f_unlabeled[:0]), classical_ols(X, Y))


def test_constant_labels_and_constant_predictions():
    X, Y, _, X_unlabeled, _ = sample()
    flat = ols(X, np.full(60, 0.1), X[:, 1], X_unlabeled, X_unlabeled[:, 1])
    np.testing.assert_allclose(flat.value, [0.1, 0, 0], atol=1e-12)
    assert (flat.std_error == 0).all()
    assert any("all labels equal" in text for text in flat.warnings)
    same(ols(X, Y, np.full(60, 0.1), X_unlabeled, np.full(200, 0.1)), classical_ols(X, Y))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, U: (X[:5], U), "'X' must have shape (60, 3); got (5, 3)."),
        (lambda X, U: (X, U[:, :2]), "'X_unlabeled' must have shape (200, 3); got (200, 2)."),
        (lambda X, U: (X * [1, np.nan, 1], U), "'X' must be finite; got nan at position (0, 1)."),
    ],
)
def test_bad_designs(change, message):
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    X, X_unlabeled = change(X, X_unlabeled)
    with pytest.raises(InputError) as caught:
        ols(X, Y, f, X_unlabeled, f_unlabeled)
    assert caught.value.what == message


def test_names_must_fit():
    with pytest.raises(InputError, match=r"'names' must have one name a column \(3\); got 1."):
        ols(*sample(), names=["a"])


def test_result_prints_and_serialises():
    estimate = ols(*sample(), names=["one", "income", "age"])
    told = json.loads(json.dumps(estimate.to_dict(), allow_nan=False))
    assert told["names"] == ["one", "income", "age"]
    assert len(told["value"]) == 3
    assert [len(end) for end in told["interval"]] == [3, 3]
    assert str(estimate).splitlines()[1].startswith("income: ")


def test_naive_ols():
    X, Y, *_ = sample()
    np.testing.assert_allclose(naive_ols(X, Y).value, classical_ols(X, Y).value)
    assert naive_ols(X, Y).n == 0
