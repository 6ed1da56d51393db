"""Rectified least squares: statsmodels, ppi_py, the formulas by hand, identities, coverage, refusals."""

import json
import tracemalloc
import warnings as python_warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.blocks import InMemory
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.ols import ols, rectified_ols
from ftrect_ray.estimators.regression import design_pair, refuse_singular
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings

with python_warnings.catch_warnings():
    python_warnings.simplefilter("ignore")
    from ppi_py import ppi_ols_ci, ppi_ols_pointestimate

WAYS = [0.0, 0.35, 1.0, "tuned", "per-coordinate", "crossfit"]


def sample(seed=0, n=60, m=200, d=2):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n + m), rng.normal(size=(n + m, d))])
    Y = X @ np.arange(1, d + 2) + (1 + 0.5 * X[:, 1] ** 2) * rng.normal(size=n + m)
    f = 0.3 + 0.8 * Y - 0.4 * X[:, 1] + rng.normal(0, 0.5, n + m)
    return X[:n], Y[:n], f[:n], X[n:], f[n:]


def classical(X, Y, **options):
    return ols(X, Y, Y, X[:0], Y[:0], **options)


def same(one, other, tolerance=1e-9):
    for name in ("value", "std_error", "lam", "df", "effective_n", "p_value"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(np.ravel(one.interval), np.ravel(other.interval), rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------- references


def test_classical_is_statsmodels_hc0_with_ddof_1():
    X, Y, *_ = sample()
    reference = sm.OLS(Y, X).fit()
    estimate = classical(X, Y, alpha=0.1, null=[1.0, 2.0, 2.5])
    np.testing.assert_allclose(estimate.value, reference.params, rtol=1e-12)
    np.testing.assert_allclose(estimate.std_error, reference.HC0_se * np.sqrt(60 / 59), rtol=1e-12)
    assert (estimate.df == 57).all()
    reach = t.ppf(0.95, 57) * estimate.std_error
    np.testing.assert_allclose(estimate.interval, [estimate.value - reach, estimate.value + reach], rtol=1e-10)
    score = np.abs(estimate.value - [1.0, 2.0, 2.5]) / estimate.std_error
    np.testing.assert_allclose(estimate.p_value, 2 * t.sf(score, 57), rtol=1e-9)
    assert (estimate.target, estimate.lam, estimate.n, estimate.m) == ("ols", 0.0, 60, 0)


def test_weights_are_statsmodels_wls():
    X, Y, *_ = sample(1)
    weights = np.random.default_rng(1).uniform(0.2, 4, 60)
    reference = sm.WLS(Y, X, weights=weights).fit(cov_type="HC0")
    estimate = classical(X, Y, sample=Sample(weights=weights), sample_unlabeled=Sample(weights=weights[:0]))
    np.testing.assert_allclose(estimate.value, reference.params, rtol=1e-12)
    np.testing.assert_allclose(estimate.std_error, reference.bse * np.sqrt(60 / 59), rtol=1e-12)


def test_clusters_are_statsmodels_clusters():
    X, Y, *_ = sample(2)
    clusters = np.random.default_rng(2).integers(0, 15, 60)
    reference = sm.OLS(Y, X).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    estimate = classical(X, Y, sample=Sample(clusters=clusters), sample_unlabeled=Sample(clusters=clusters[:0]))
    units = len(np.unique(clusters))
    np.testing.assert_allclose(estimate.std_error, reference.bse * np.sqrt(units / (units - 1)), rtol=1e-12)
    assert (estimate.df == units - 3).all()


@pytest.mark.parametrize("lam", [0.0, 0.35, 1.0])
def test_point_agrees_with_ppi_py(lam):
    data = sample(5)
    np.testing.assert_allclose(ols(*data, lam=lam).value, ppi_ols_pointestimate(*data, lam=lam), rtol=1e-11)


def regression(X, y, w):
    """Weighted least squares of y on X by lstsq, and (Σ w x x')⁻¹."""
    root = np.sqrt(w)[:, None]
    return np.linalg.lstsq(X * root, y * root[:, 0], rcond=None)[0], np.linalg.inv((X * root).T @ (X * root))


def spread_of_sum(rows, strata=None, clusters=None, keep=1.0):
    """Σ_h n_h/(n_h − 1)·Σ (z − z̄_h)(z − z̄_h)' over the units of each stratum."""
    strata = np.zeros(len(rows)) if strata is None else strata
    total = 0.0
    for stratum in np.unique(strata):
        units = rows[strata == stratum]
        if clusters is not None:
            names = clusters[strata == stratum]
            units = np.array([units[names == name].sum(axis=0) for name in np.unique(names)])
        off = units - units.mean(axis=0)
        total = total + keep * len(units) / (len(units) - 1) * off.T @ off
    return total


@pytest.mark.parametrize("lam", [0.35, np.array([0.2, 0.9, 0.5])])
@pytest.mark.parametrize("design", ["plain", "weights", "strata", "clusters", "probabilities", "finite"])
@pytest.mark.parametrize("folds", [False, True])
def test_formulas_by_hand(design, folds, lam):
    n, m = 60, 200
    X, Y, f, X_unlabeled, f_unlabeled = sample(9)
    rng = np.random.default_rng(9)
    w, v, chance = rng.uniform(0.2, 4, n), rng.uniform(0.2, 4, m), rng.uniform(0.1, 1, n)
    strata, strata_unlabeled = rng.integers(0, 3, n), rng.integers(0, 3, m)
    clusters, clusters_unlabeled = rng.integers(0, 15, n), rng.integers(20, 50, m)
    models = np.column_stack([f_unlabeled, 0.7 * f_unlabeled + X_unlabeled[:, 1] + rng.normal(size=m)])
    fold = clusters % 2
    options = {
        "plain": {},
        "weights": {"sample": Sample(weights=w), "sample_unlabeled": Sample(weights=v)},
        "strata": {"sample": Sample(strata=strata), "sample_unlabeled": Sample(strata=strata_unlabeled)},
        "clusters": {"sample": Sample(clusters=clusters), "sample_unlabeled": Sample(clusters=clusters_unlabeled)},
        "probabilities": {
            "sample": Sample(weights=w, probabilities=chance),
            "sample_unlabeled": Sample(weights=v),
        },
        "finite": {"population": "finite"},
    }[design]
    estimate = ols(X, Y, f, X_unlabeled, models, lam=lam, folds=fold if folds else None, **options)

    base = w if design in ("weights", "probabilities") else np.ones(n)
    other = v if design in ("weights", "probabilities") else np.ones(m)
    row = base / chance if design == "probabilities" else base
    joined = design in ("probabilities", "finite")
    if joined:  # the labelled rows are part of the imputed regression, predicted by their own model
        everyone, weight = np.vstack([X_unlabeled, X]), np.append(other, base)
        predictions = np.vstack([models, np.column_stack([f, f])])
    else:
        everyone, weight, predictions = X_unlabeled, other, models
    gammas, bread = np.array([regression(everyone, column, weight)[0] for column in predictions.T]), None
    bread = regression(everyone, predictions[:, 0], weight)[1]
    mix = np.array([row[fold == k].sum() for k in (0, 1)]) / row.sum() if folds else np.array([0.5, 0.5])
    own = gammas[fold] if folds else np.broadcast_to(gammas.mean(axis=0), (n, 3))
    g = f - np.sum(X * own, axis=1)
    beta, bread_labeled = regression(X, Y, row)
    delta = regression(X, g, row)[0]
    A = (row * (Y - X @ beta))[:, None] * X @ bread_labeled
    B = (row * (g - X @ delta))[:, None] * X @ bread_labeled
    U = (weight * (predictions @ mix - everyone @ (mix @ gammas)))[:, None] * everyone @ bread

    np.testing.assert_allclose(estimate.value, beta - lam * delta, rtol=1e-10)
    if design == "probabilities":
        lift = np.sqrt(n / (n - 1) * (n + m - 1) / (n + m))  # labels are centred among labels
        covariance = spread_of_sum(np.vstack([lift * (A - lam * B) + lam * U[m:], lam * U[:m]]))
    elif design == "finite":
        covariance = spread_of_sum(A - lam * B, keep=1 - n / (n + m))
    else:
        kind = {"strata": (strata, None), "clusters": (None, clusters)}.get(design, (None, None))
        kind_unlabeled = {"strata": (strata_unlabeled, None), "clusters": (None, clusters_unlabeled)}
        covariance = spread_of_sum(A - lam * B, *kind)
        covariance = covariance + spread_of_sum(lam * U, *kind_unlabeled.get(design, (None, None)))
    np.testing.assert_allclose(estimate.std_error, np.sqrt(np.diag(covariance)), rtol=1e-9)


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


@pytest.mark.parametrize("lam", ["tuned", "per-coordinate", "crossfit"])
def test_intervals_cover(lam):
    rng = np.random.default_rng(3)
    held = np.zeros(3)
    for _ in range(300):
        X = np.column_stack([np.ones(900), rng.normal(size=900), rng.integers(0, 2, 900)])
        Y = X @ [1.0, 2.0, -1.0] + rng.normal(size=900)
        f = Y + 0.7 * rng.normal(size=900) + X[:, 1]
        low, high = ols(X[:150], Y[:150], f[:150], X[150:], f[150:], lam=lam, alpha=0.1).interval
        held += (low <= [1.0, 2.0, -1.0]) & (high >= [1.0, 2.0, -1.0])
    assert (np.abs(held / 300 - 0.9) <= 3 * np.sqrt(0.09 / 300)).all()


# ------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("lam", WAYS)
@pytest.mark.parametrize("design", ["plain", "weights", "strata", "clusters", "probabilities", "finite"])
def test_ones_alone_are_the_mean(design, lam):
    _, Y, f, _, f_unlabeled = sample()
    rng = np.random.default_rng(8)
    w, v = rng.uniform(0.2, 4, 60), rng.uniform(0.2, 4, 200)
    groups = (np.arange(60) % 12, np.arange(200) % 40)
    options = {
        "plain": {},
        "weights": {"sample": Sample(weights=w), "sample_unlabeled": Sample(weights=v)},
        "strata": {"sample": Sample(strata=groups[0] % 3), "sample_unlabeled": Sample(strata=groups[1] % 3)},
        "clusters": {"sample": Sample(clusters=groups[0]), "sample_unlabeled": Sample(clusters=groups[1])},
        "probabilities": {"sample": Sample(probabilities=rng.uniform(0.1, 1, 60))},
        "finite": {"population": "finite"},
    }[design]
    models = np.column_stack([f_unlabeled, f_unlabeled**2 / 5])
    for folds in (None, np.arange(60) % 2):
        regression = ols(np.ones(60), Y, f, np.ones(200), models, lam=lam, folds=folds, **options)
        same(regression, mean(Y, f, models, lam=lam, folds=folds, **options), 1e-11)


def test_perfect_predictor_gives_the_regression_of_the_unlabelled_sample():
    X, Y, _, X_unlabeled, f_unlabeled = sample(n=50, m=4000)
    estimate = ols(X, Y, Y, X_unlabeled, f_unlabeled, lam=1.0)
    whole = classical(X_unlabeled, f_unlabeled)
    np.testing.assert_allclose(estimate.value, whole.value, atol=1e-12)
    np.testing.assert_allclose(estimate.std_error, whole.std_error, rtol=1e-10)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from(WAYS[:5]), st.booleans())
def test_equal_models_are_one_model(seed, models, lam, with_folds):
    X, Y, f, X_unlabeled, f_unlabeled = sample(seed, 20, 30)
    folds = np.arange(20) % models if with_folds else None
    several = ols(X, Y, f, X_unlabeled, np.tile(f_unlabeled[:, None], models), lam=lam, folds=folds)
    same(several, ols(X, Y, f, X_unlabeled, f_unlabeled, lam=lam), 1e-8)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from(WAYS[1:]))
def test_linear_bias_of_one_folds_model_costs_nothing(seed, lam):
    X, Y, f, X_unlabeled, f_unlabeled = sample(seed, 20, 30)
    folds = np.arange(20) % 2
    bias = np.array([3.0, -1.0, 2.0])
    models = np.column_stack([f_unlabeled, f_unlabeled])
    biased = np.column_stack([f_unlabeled, f_unlabeled + X_unlabeled @ bias])
    with_bias = ols(X, Y, f + (folds == 1) * (X @ bias), X_unlabeled, biased, lam=lam, folds=folds)
    same(with_bias, ols(X, Y, f, X_unlabeled, models, lam=lam, folds=folds), 1e-8)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from(WAYS[:5]))
def test_order_of_rows_and_equivariance(seed, lam):
    X, Y, f, X_unlabeled, f_unlabeled = sample(seed, 20, 30)
    rows = np.random.default_rng(seed).permutation(20)
    one = ols(X, Y, f, X_unlabeled, f_unlabeled, lam=lam)
    same(ols(X[rows], Y[rows], f[rows], X_unlabeled[::-1], f_unlabeled[::-1], lam=lam), one, 1e-8)
    shift = np.array([1.0, -2.0, 5.0])
    moved = ols(X, 3 * Y + X @ shift, 3 * f + X @ shift, X_unlabeled, 3 * f_unlabeled + X_unlabeled @ shift, lam=lam)
    np.testing.assert_allclose(moved.value, 3 * one.value + shift, atol=1e-8)
    np.testing.assert_allclose(moved.std_error, 3 * one.std_error, rtol=1e-7)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.4, 1.0]))
def test_other_columns_of_the_same_span(seed, lam):
    data = sample(seed, 20, 30)
    X, Y, f, X_unlabeled, f_unlabeled = data
    matrix = np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 3.0], [0.0, 0.0, 2.0]])
    one, other = ols(*data, lam=lam), ols(X @ matrix, Y, f, X_unlabeled @ matrix, f_unlabeled, lam=lam)
    np.testing.assert_allclose(matrix @ other.value, one.value, atol=1e-9)
    np.testing.assert_allclose(other.std_error[2] * 2, one.std_error[2], rtol=1e-9)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from(["tuned", "per-coordinate"]))
def test_tuned_intervals_are_no_longer(seed, lam):
    data = sample(seed, 20, 30)
    tuned, without = ols(*data, lam=lam), ols(*data, lam=0.0)
    assert np.sum(tuned.length**2) <= np.sum(without.length**2)
    assert np.all(tuned.length <= 1.02 * without.length)


def test_tuned_lam_is_the_closed_form():
    X, Y, f, X_unlabeled, f_unlabeled = sample(11)
    ones, many = np.ones(60), np.ones(200)
    (beta, bread), (gamma, bread_unlabeled) = regression(X, Y, ones), regression(X_unlabeled, f_unlabeled, many)
    A = (Y - X @ beta)[:, None] * X @ bread
    B = (f - X @ regression(X, f, ones)[0])[:, None] * X @ bread
    U = (f_unlabeled - X_unlabeled @ gamma)[:, None] * X_unlabeled @ bread_unlabeled
    cross, bend = 60 / 59 * A.T @ B, spread_of_sum(B) + spread_of_sum(U)
    data = (X, Y, f, X_unlabeled, f_unlabeled)
    assert ols(*data).lam == pytest.approx(np.trace(cross) / np.trace(bend), rel=1e-9)
    assert 0 < ols(*data).lam < 1
    np.testing.assert_allclose(ols(*data, lam="per-coordinate").lam, np.diag(cross) / np.diag(bend), rtol=1e-9)
    assert ols(*data, coefficients=["x1"]).lam == pytest.approx(cross[1, 1] / bend[1, 1], rel=1e-9)


def test_coefficients_are_those_wished():
    data = sample(4)
    whole, some = ols(*data, lam=0.6, names="abc"), ols(*data, lam=0.6, names="abc", coefficients=["c", "a"])
    assert some.names == ("c", "a")
    np.testing.assert_array_equal(some.value, whole.value[[2, 0]])
    np.testing.assert_array_equal(some.std_error, whole.std_error[[2, 0]])
    np.testing.assert_array_equal(some.df, whole.df[[2, 0]])


def test_degrees_of_freedom():
    data = sample(7, n=40, m=100_000)
    assert (ols(*data, lam=0.0).df == 37).all()
    tuned = ols(*data)
    assert tuned.lam > 0
    np.testing.assert_allclose(tuned.df, 36, rtol=0.02)


def test_columns_far_from_zero_keep_their_digits():
    rng = np.random.default_rng(4)
    X = np.column_stack([rng.integers(-(2**20), 2**20, (300, 2)) / 2**18, np.ones(300)])
    Y = X @ [1.0, 2.0, 3.0] + rng.normal(size=300)
    f = Y + rng.normal(size=300)
    far = X + np.array([1e9, -1e9, 0.0])
    one = ols(X[:80], Y[:80], f[:80], X[80:], f[80:])
    other = ols(far[:80], Y[:80], f[:80], far[80:], f[80:], coefficients=[0, 1])
    near = ols(X[:80], Y[:80], f[:80], X[80:], f[80:], coefficients=[0, 1])
    same(other, near, 1e-8)
    assert one.names == ("x0", "x1", "x2")


def test_units_far_apart_are_not_collinear():
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    scale = np.array([1.0, 1e8, 1e-8])
    large = ols(X * scale, Y, f, X_unlabeled * scale, f_unlabeled, lam=0.5)
    small = ols(X, Y, f, X_unlabeled, f_unlabeled, lam=0.5)
    np.testing.assert_allclose(large.value * scale, small.value, rtol=1e-11)
    np.testing.assert_allclose(large.std_error * scale, small.std_error, rtol=1e-11)


class Counting(InMemory):
    """The unlabelled rows, with a note of every pass."""

    passes = 0

    def fold(self, summarise):
        Counting.passes += 1
        return super().fold(summarise)


@pytest.mark.parametrize(("lam", "passes"), [("tuned", 2), (0.5, 2), ("per-coordinate", 2), ("crossfit", 3)])
def test_passes_over_the_unlabelled_rows(lam, passes):
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    options = Settings.of({"lam": lam})
    labeled, unlabeled = checked(Y, f, f_unlabeled, options, X, X_unlabeled)
    Counting.passes = 0
    rectified_ols(labeled, Counting(unlabeled.whole), options, ("a", "b", "c"))
    assert Counting.passes == passes


def test_memory_is_that_of_some_blocks():
    data = sample(m=200_000, d=9)
    tracemalloc.start()
    ols(*data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * sum(part.nbytes for part in data)


# ------------------------------------------------------------------------------------------- refusals and edges


@pytest.mark.parametrize(
    ("columns", "dropped"),
    [
        (lambda X: np.column_stack([X, X[:, 1] + 2 * X[:, 2]]), "x3"),
        (lambda X: np.column_stack([X, np.full(len(X), 7.0)]), "x3"),
        (lambda X: np.column_stack([X[:, :2], np.zeros(len(X)), X[:, 2]]), "x2"),
        (lambda X: np.column_stack([X, 1e6 * X[:, 1]]), "x3"),
        (lambda X: np.column_stack([X, X[:, 1] + 1e-11 * X[:, 2] ** 2]), "x3"),
    ],
)
def test_collinear_columns_are_named(columns, dropped):
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    with pytest.raises(StatisticalRefusal) as caught:
        ols(columns(X), Y, f, columns(X_unlabeled), f_unlabeled)
    assert caught.value.what == f"X'X is singular: drop column '{dropped}'"
    assert caught.value.where == "labelled rows"
    assert caught.value.exit_code == 4
    spread = np.random.default_rng(0).normal(size=(60, columns(X).shape[1]))
    with pytest.raises(StatisticalRefusal) as caught:
        ols(spread, Y, f, columns(X_unlabeled), f_unlabeled)
    assert caught.value.what == f"X'X is singular: drop column '{dropped}'"
    assert caught.value.where == "unlabelled rows"


def test_nearly_collinear_columns_are_not_refused():
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    with_near = [np.column_stack([x, x[:, 1] + 1e-8 * x[:, 2] ** 2]) for x in (X, X_unlabeled)]
    estimate = ols(with_near[0], Y, f, with_near[1], f_unlabeled, lam=0.5)
    stretched = [np.column_stack([x, x[:, 2] ** 2]) for x in (X, X_unlabeled)]
    plain = ols(stretched[0], Y, f, stretched[1], f_unlabeled, lam=0.5)
    assert estimate.value[3] * 1e-8 == pytest.approx(plain.value[3], rel=1e-5)
    assert estimate.std_error[3] * 1e-8 == pytest.approx(plain.std_error[3], rel=1e-5)


def test_collinear_column_has_its_given_name():
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    X_unlabeled = X_unlabeled.copy()
    X_unlabeled[:, 2] = 4.0
    names = ["one", "income", "age"]
    with pytest.raises(StatisticalRefusal, match=r"drop column 'age' \(unlabelled rows\)"):
        ols(X, Y, f, X_unlabeled, f_unlabeled, names=names)
    without = ols(X, Y, f, X_unlabeled, f_unlabeled, names=names, lam=0.0)
    np.testing.assert_array_equal(without.value, classical(X, Y).value)
    np.testing.assert_array_equal(without.std_error, classical(X, Y).std_error)


def test_too_few_rows_are_refused():
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    with pytest.raises(StatisticalRefusal) as caught:
        ols(X[:3], Y[:3], f[:3], X_unlabeled, f_unlabeled)
    assert str(caught.value) == (
        "3 rows cannot carry 3 coefficients with a standard error (labelled rows) — drop columns or add rows"
    )
    with pytest.raises(StatisticalRefusal) as caught:
        ols(X, Y, f, X_unlabeled[:3], f_unlabeled[:3])
    assert caught.value.what == "3 rows cannot carry 3 coefficients with a standard error"
    assert caught.value.where == "unlabelled rows"
    assert ols(X[:4], Y[:4], f[:4], X_unlabeled, f_unlabeled, lam=0.0).n == 4
    assert ols(X, Y, f, X_unlabeled[:4], f_unlabeled[:4], lam=0.5).m == 4
    assert ols(X, Y, f, X_unlabeled[:2], f_unlabeled[:2], population="finite").m == 2


def test_rows_of_weight_0_do_not_count():
    X, Y, *_ = sample()
    weights = np.r_[np.ones(3), np.zeros(57)]
    with pytest.raises(StatisticalRefusal, match="3 rows cannot carry 3 coefficients"):
        classical(X, Y, sample=Sample(weights=weights))
    with pytest.raises(StatisticalRefusal, match="3 rows cannot carry 3 coefficients") as caught:
        ols(X, Y, Y, X, Y, sample_unlabeled=Sample(weights=weights))
    assert caught.value.where == "unlabelled rows"


@pytest.mark.parametrize("m", [0, 1])
def test_without_unlabelled_rows_it_is_classical(m):
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    estimate = ols(X, Y, f, X_unlabeled[:m], f_unlabeled[:m])
    same(estimate, classical(X, Y), 1e-12)
    assert f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate" in estimate.warnings
    with pytest.raises(InputError, match="'lam' must be 0 or 'tuned' with fewer than 2 unlabelled rows; got 0.5"):
        ols(X, Y, f, X_unlabeled[:m], f_unlabeled[:m], lam=0.5)


def test_lam_0_heeds_no_prediction():
    X, Y, f, X_unlabeled, _ = sample()
    rubbish = ols(X, Y, 1e50 * f, X_unlabeled, np.full(200, 1e90), lam=0.0)
    np.testing.assert_array_equal(rubbish.value, classical(X, Y).value)
    np.testing.assert_array_equal(rubbish.std_error, classical(X, Y).std_error)


def test_constant_labels_and_constant_predictions():
    X, Y, _, X_unlabeled, _ = sample()
    flat = ols(X, np.full(60, 0.1), X[:, 1], X_unlabeled, X_unlabeled[:, 1])
    np.testing.assert_allclose(flat.value, [0.1, 0, 0], atol=1e-15)
    assert (flat.std_error == 0).all()
    assert any("all labels equal" in text for text in flat.warnings)
    constant = ols(X, Y, np.full(60, 0.1), X_unlabeled, np.full(200, 0.1))
    assert constant.lam == 0
    np.testing.assert_array_equal(constant.value, classical(X, Y).value)
    np.testing.assert_array_equal(constant.std_error, classical(X, Y).std_error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, U: (X[:5], U), "'X' must have shape (60, 3); got (5, 3)."),
        (lambda X, U: (X, U[:, :2]), "'X_unlabeled' must have shape (200, 3); got (200, 2)."),
        (lambda X, U: (X * [1, np.nan, 1], U), "'X' must be finite; got nan at position (0, 1) (60 such values)."),
        (lambda X, U: (X, U + 1j), "'X_unlabeled' must hold real numbers; got complex128."),
        (lambda X, U: (X[:, :0], U[:, :0]), "'X' must have at least one column."),
        (lambda X, U: (X[None], U), "'X' must have 1 or 2 dimension(s); got shape (1, 60, 3)."),
    ],
)
def test_bad_designs(change, message):
    X, Y, f, X_unlabeled, f_unlabeled = sample()
    X, X_unlabeled = change(X, X_unlabeled)
    with pytest.raises(InputError) as caught:
        ols(X, Y, f, X_unlabeled, f_unlabeled)
    assert caught.value.what == message


def test_design_pair():
    X, other, names = design_pair([1, 2, 3], [4.0], 3, 1, None)
    assert (X.shape, other.shape, names) == ((3, 1), (1, 1), ("x0",))
    assert design_pair(np.ones((3, 2)), np.ones((1, 2)), 3, 1, ["a", "b"])[2] == ("a", "b")
    refuse_singular(X, names, "labelled rows")
    with pytest.raises(StatisticalRefusal, match="1 rows cannot carry 1 coefficients"):
        refuse_singular(X, names, "labelled rows", np.array([0.0, 0.0, 2.0]))


def test_names_must_fit():
    with pytest.raises(InputError, match=r"'names' must have one name a column \(3\); got 1."):
        ols(*sample(), names=["a"])
    with pytest.raises(InputError, match="'names' must differ; got 'a' twice."):
        ols(*sample(), names=["a", "b", "a"])


def test_a_regression_has_no_known_total():
    chances = Sample(probabilities=np.full(60, 0.5), total="known")
    with pytest.raises(InputError) as caught:
        ols(*sample(), sample=chances)
    assert str(caught.value) == ("'sample.total' may be 'known' for means only. — leave 'total' out for a regression")


def test_result_prints_and_serialises():
    estimate = ols(*sample(), names=["one", "income", "age"])
    told = json.loads(json.dumps(estimate.to_dict(), allow_nan=False))
    assert told["names"] == ["one", "income", "age"]
    assert len(told["value"]) == 3
    assert [len(end) for end in told["interval"]] == [3, 3]
    assert str(estimate).splitlines()[1].startswith("income: ")
