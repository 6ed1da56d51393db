"""The rectified quantile: identities, ppi_py, ties, refusals."""

import warnings as python_warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import classical_quantile, naive_quantile, quantile

with python_warnings.catch_warnings():
    python_warnings.simplefilter("ignore")
    from ppi_py.ppi import _rectified_cdf, ppi_quantile_pointestimate


def sample(seed=0, n=80, m=300):
    rng = np.random.default_rng(seed)
    truth = rng.normal(2, 1, n + m)
    f = 0.5 + 0.8 * truth + rng.normal(0, 0.4, n + m)
    return truth[:n], f[:n], f[n:]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=60, max_size=90), st.floats(0.1, 0.9))
def test_lam_zero_is_the_sample_quantile(Y, q):
    estimate = quantile(Y, Y, [1.0, 2.0], q, lam=0)
    assert estimate.value == classical_quantile(Y, q).value
    assert estimate.value in (np.quantile(Y, q - 1e-9, method="inverted_cdf"), np.quantile(Y, q, method="inverted_cdf"))


@pytest.mark.parametrize("q", [0.2, 0.5, 0.77])
def test_classical_interval_is_the_one_of_order_statistics(q):
    """Inverting the binomial score test by hand: t is kept while |F̂ − q| ≤ z·sqrt(q(1 − q)/n) on its side."""
    Y = np.sort(sample(n=101)[0])
    reach = norm.ppf(0.975) * np.sqrt(q * (1 - q) / 101)
    low = Y[int(np.ceil(101 * (q - reach))) - 1]
    high = Y[int(np.floor(101 * (q + reach)))]
    assert classical_quantile(Y, q).interval == (low, high)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.8])
def test_agrees_with_ppi_py(q):
    """ppi_py knows λ = 1 only and takes the grid point with F̂ nearest to q; we sort F̂ and take the first ≥ q.

    On its own rectified distribution function, our rule gives our answer exactly; where its point has
    F̂ = q, and F̂ is below q before it and nowhere after it, the two points are the same.
    """
    equal = 0
    for seed in range(20):
        Y, f, unlabeled = sample(seed, n=50, m=200)
        grid = np.sort(np.concatenate([Y, f, unlabeled]))
        cdf = _rectified_cdf(Y, f, unlabeled, grid)
        ours = quantile(Y, f, unlabeled, q, lam=1.0).value
        assert ours == grid[np.argmax(np.sort(cdf) >= q - 1e-12)]
        theirs = ppi_quantile_pointestimate(Y, f, unlabeled, q, exact_grid=True)
        at = int(np.flatnonzero(grid == theirs)[0])
        if abs(cdf[at] - q) < 1e-12 and (cdf[:at] < q - 1e-12).all() and (cdf[at:] > q - 1e-12).all():
            assert ours == pytest.approx(theirs, abs=1e-12)
            equal += 1
    assert equal >= 2


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_definition_by_brute_force(lam):
    Y, f, unlabeled = sample(3, n=60, m=90)
    rng = np.random.default_rng(0)
    models = np.stack([unlabeled, unlabeled + rng.normal(size=90)], axis=1)
    folds = np.array([0] * 20 + [1] * 40)
    weights = np.array([1 / 3, 2 / 3])
    q, z = 0.4, norm.ppf(0.95)
    grid = np.unique(np.concatenate([Y, f, models.ravel()])) if lam else np.unique(Y)
    cdf, error = [], []
    for t in grid:
        y, p, u = t >= Y, t >= f, (t >= models) @ weights
        cdf.append(np.mean(y - lam * p.astype(float)) + lam * np.mean(u))
        a = p[y].mean() if y.any() else 0.0
        b = p[~y].mean() if (~y).any() else 1.0
        table = {(1, 1): q * a, (1, 0): q * (1 - a), (0, 1): (1 - q) * b, (0, 0): (1 - q) * (1 - b)}
        first = sum(w * (i - lam * j) for (i, j), w in table.items())
        second = sum(w * (i - lam * j) ** 2 for (i, j), w in table.items())
        error.append(np.sqrt((second - first**2) / 60 + lam**2 * np.var(u, ddof=1) / 90))
    cdf, error = np.sort(cdf), np.array(error)
    kept_low = cdf >= q - z * error
    before, error_before = np.r_[0, cdf[:-1]], np.r_[np.sqrt(q * (1 - q) / 60), error[:-1]]
    kept_high = before <= q + z * error_before
    estimate = quantile(Y, f, models, q, lam=lam, alpha=0.1, folds=folds)
    assert estimate.interval == (grid[kept_low][0], grid[kept_high][-1])
    assert estimate.value == grid[cdf >= q][0]
    assert estimate.std_error == pytest.approx((estimate.interval[1] - estimate.interval[0]) / (2 * z))


def test_perfect_predictor_gives_the_interval_of_the_unlabelled_sample():
    rng = np.random.default_rng(1)
    Y, unlabeled = rng.normal(size=100), rng.normal(size=5000)
    estimate, whole = quantile(Y, Y, unlabeled, 0.5, lam=1.0), classical_quantile(unlabeled, 0.5)
    assert estimate.value == pytest.approx(whole.value, abs=0.01)
    assert estimate.length == pytest.approx(whole.length, rel=0.05)


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1.0, "tuned"]), st.integers(2, 4))
def test_equal_models_are_one_model(seed, lam, models):
    Y, f, unlabeled = sample(seed, n=30, m=40)
    one = quantile(Y, f, unlabeled, 0.4, lam=lam)
    several = quantile(Y, f, np.tile(unlabeled[:, None], models), 0.4, lam=lam, folds=np.arange(30) % models)
    assert several.value == one.value
    assert several.interval == one.interval
    assert several.lam == pytest.approx(one.lam)


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, "tuned"]))
def test_monotone_changes_of_scale_and_order_of_rows(seed, lam):
    Y, f, unlabeled = sample(seed, n=40, m=60)
    one = quantile(Y, f, unlabeled, 0.6, lam=lam)
    rows = np.random.default_rng(seed).permutation(40)
    moved = quantile(np.exp(Y[rows]), np.exp(f[rows]), np.exp(unlabeled[::-1]), 0.6, lam=lam)
    assert moved.value == pytest.approx(np.exp(one.value), rel=1e-14)
    assert moved.interval == pytest.approx((np.exp(one.interval[0]), np.exp(one.interval[1])), rel=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_point_lies_in_the_interval_even_with_ties(seed):
    rng = np.random.default_rng(seed)
    Y, f, unlabeled = rng.integers(1, 6, 40), rng.integers(1, 6, 40), rng.integers(1, 6, 100)
    for q in (0.25, 0.5, 0.75):
        for lam in (0.0, 1.0, "tuned"):
            estimate = quantile(Y, f, unlabeled, q, lam=lam)
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]


def test_constant_labels_have_width_zero_and_a_warning():
    _, f, unlabeled = sample()
    estimate = quantile(np.full(80, 0.1), f, unlabeled)
    assert estimate.interval == (0.1, 0.1)
    assert estimate.std_error == 0
    assert estimate.lam == 0
    assert any(text.startswith("all labels equal 0.1") for text in estimate.warnings)


def test_constant_predictions_are_classical():
    Y, _, _ = sample()
    estimate = quantile(Y, np.full(80, 1.7), np.full(300, 1.7))
    assert estimate.interval == classical_quantile(Y).interval
    assert estimate.lam == 0
    assert "the predictions are constant: the model adds nothing to the labels" in estimate.warnings


def test_no_unlabelled_rows():
    Y, f, _ = sample()
    assert quantile(Y, f, []).interval == classical_quantile(Y).interval


@pytest.mark.parametrize("q", [0, 1, 1.2, -1, float("nan"), "half"])
def test_q_outside_its_range(q):
    with pytest.raises(InputError, match=r"'q' must be in \(0, 1\); got "):
        quantile([1.0, 2.0], [1.0, 2.0], [1.0], q)


def test_too_few_labels_for_an_interval_are_refused():
    with pytest.raises(StatisticalRefusal) as caught:
        quantile([1.0, 2.0], [1.0, 2.0], [1.0, 2.0])
    assert caught.value.what == "2 labels give the 0.5-quantile no bounded 95 % interval"
    assert caught.value.mend == "use at least 4 labels, or a quantile nearer the middle"
    assert np.isfinite(quantile([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0]).interval).all()
    with pytest.raises(StatisticalRefusal, match="use at least 381 labels"):
        classical_quantile(np.arange(380.0), 0.01)
    assert np.isfinite(classical_quantile(np.arange(381.0), 0.01).interval).all()
    assert np.isfinite(classical_quantile(np.arange(381.0), 0.99).interval).all()


def test_naive_quantile_and_names():
    assert naive_quantile([1.0, 2.0, 3.0, 4.0, 5.0]).value == 3.0
    assert quantile(*sample(), q=0.25).target == "quantile 0.25"
    assert classical_quantile(sample()[0]).diagnostics["r2"] is None
