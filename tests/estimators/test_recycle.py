"""Recycling: inverse variance, its exact numbers, and where it cannot be done."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.classical import classical_mean, classical_ols, classical_proportions
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.naive import naive_mean
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.proportions import proportions
from ftrect_ray.estimators.quantile import quantile
from ftrect_ray.estimators.recycle import recycle
from ftrect_ray.estimators.settings import Bootstrap

quick = settings(deadline=None, max_examples=25, derandomize=True)
UNWEIGHTED = "one part has variance 0: the parts are weighted by their numbers of labels"


def parts(seed=0, s=40, r=60, m=500, **options):
    rng = np.random.default_rng(seed)
    Y = rng.normal(3, 2, s + r + m)
    f = Y + rng.normal(size=s + r + m)
    return classical_mean(Y[:s], **options), mean(Y[s : s + r], f[s : s + r], f[s + r :], **options)


def pooled(classical, rectified):
    """Standard error of the classical part with the variance of one label pooled over both."""
    s, r = classical.n, rectified.n
    one_label = s * classical.std_error**2, rectified.effective_n * rectified.std_error**2
    return np.sqrt((s * one_label[0] + r * one_label[1]) / (s + r) / s)


@quick
@given(st.integers(0, 10**6))
def test_weights_are_inverse_variances(seed):
    classical, rectified = parts(seed)
    combined = recycle(classical, rectified)
    w1, w2 = pooled(classical, rectified) ** -2, rectified.std_error**-2
    assert combined.value == pytest.approx((w1 * classical.value + w2 * rectified.value) / (w1 + w2))
    assert combined.std_error == pytest.approx((w1 + w2) ** -0.5)
    assert (combined.n, combined.m) == (100, 500)
    assert combined.lam == rectified.lam
    assert combined.std_error < min(pooled(classical, rectified), rectified.std_error)
    one_label = rectified.effective_n * rectified.std_error**2
    assert combined.effective_n == pytest.approx(one_label / combined.std_error**2)
    assert isinstance(combined.value, float)


@pytest.mark.parametrize("alternative", ["two-sided", "larger", "smaller"])
def test_interval_and_test_by_hand(alternative):
    classical, rectified = parts(1, s=8, alternative=alternative, null=2.5, alpha=0.1)
    combined = recycle(classical, rectified)
    v1, v2 = pooled(classical, rectified) ** 2, rectified.std_error**2
    a, b = (v2 / (v1 + v2)) ** 2 * v1, (v1 / (v1 + v2)) ** 2 * v2
    df = (a + b) ** 2 / (a**2 / 7 + b**2 / rectified.df)
    t = stats.t(df)
    score = (combined.value - 2.5) / combined.std_error
    reach = t.ppf(0.95 if alternative == "two-sided" else 0.9) * combined.std_error
    low = -np.inf if alternative == "smaller" else combined.value - reach
    high = np.inf if alternative == "larger" else combined.value + reach
    p_value = {"two-sided": 2 * t.sf(abs(score)), "larger": t.sf(score), "smaller": t.cdf(score)}[alternative]
    assert combined.df == pytest.approx(df, rel=1e-10)
    assert combined.interval == pytest.approx((low, high), rel=1e-10)
    assert combined.p_value == pytest.approx(p_value, rel=1e-8)
    assert (combined.alternative, combined.null, combined.alpha) == (alternative, 2.5, 0.1)


def test_normal_quantiles_stay_normal():
    combined = recycle(*parts(2, quantiles="normal"))
    assert combined.df == np.inf
    assert combined.length == pytest.approx(2 * stats.norm.ppf(0.975) * combined.std_error)


def test_coverage_of_the_combination():
    hits, repetitions = 0, 2000
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
    weights = np.array([pooled(classical, rectified) ** -2, rectified.std_error**-2])
    np.testing.assert_allclose(combined.std_error, weights.sum(axis=0) ** -0.5)
    values = np.array([classical.value, rectified.value])
    np.testing.assert_allclose(combined.value, np.average(values, axis=0, weights=weights))
    assert combined.names == ("one", "x")
    assert combined.target == "ols"
    assert combined.df.shape == combined.p_value.shape == combined.effective_n.shape == (2,)


def test_a_coefficient_without_variance_does_not_change_the_others():
    Y, f, unlabeled = ["a", "b", "a", "a", "b"], ["a", "a", "a", "b", "b"], ["a", "b", "b"]
    names = ["a", "b", "c"]
    classical = classical_proportions(["a", "b", "b", "a"], categories=names)
    rectified = proportions(Y, f, unlabeled, categories=names, lam=0.5)
    combined = recycle(classical, rectified)
    with np.errstate(invalid="ignore"):
        weights = np.array([pooled(classical, rectified), rectified.std_error])[:, :2] ** -2
    values = np.array([classical.value, rectified.value])[:, :2]
    np.testing.assert_allclose(combined.value[:2], np.average(values, axis=0, weights=weights))
    assert (combined.value[2], combined.std_error[2]) == (0, 0)
    assert combined.warnings[0] == UNWEIGHTED


def test_constant_answers_in_one_part_do_not_take_all_the_weight():
    classical, rectified = parts()
    constant = classical_mean(np.full(40, 1.0))
    combined = recycle(constant, rectified)
    w1, w2 = pooled(constant, rectified) ** -2, rectified.std_error**-2
    assert combined.value == pytest.approx((w1 * 1.0 + w2 * rectified.value) / (w1 + w2))
    assert UNWEIGHTED not in combined.warnings
    still = recycle(constant, mean(np.full(60, 2.0), np.full(60, 2.0), np.ones(100)))
    assert (still.value, still.std_error) == (pytest.approx(1.6), 0)
    assert still.warnings[0] == UNWEIGHTED
    combined = recycle(classical, mean(np.ones(60), np.ones(60), np.ones(100)))
    assert combined.value == pytest.approx(0.4 * classical.value + 0.6)
    assert UNWEIGHTED not in recycle(*parts()).warnings


def test_rare_answers_cover_better_than_by_each_parts_own_variance():
    """5 % of 200 labels, 60 of them fine-tuning: Wald intervals hold 92.5 %, by the parts' own variances 90 %."""
    rng = np.random.default_rng(7)
    hits, repetitions = 0, 1500
    for _ in range(repetitions):
        Y, noise = (rng.random(2200) < 0.05).astype(float), rng.normal(0, 0.2, 2200)
        rectified = mean(Y[60:200], (Y + noise)[60:200], (Y + noise)[200:])
        low, high = recycle(classical_mean(Y[:60]), rectified).interval
        hits += low <= 0.05 <= high
    assert hits / repetitions > 0.91


def test_diagnostics_stand_side_by_side():
    classical, rectified = parts(3, s=10)
    combined = recycle(classical, rectified)
    assert combined.warnings[0] == "classical: only 10 labels: the interval is rough below 30"
    assert combined.state == "WARN"
    for key in ("r2", "calibration_slope", "variance_prediction", "residual_variance"):
        assert combined.diagnostics[key] == rectified.diagnostics[key]
    texts = [check["text"] for check in combined.diagnostics["checks"]]
    own = [f"classical: {check['text']}" for check in classical.diagnostics["checks"]]
    assert texts == own + [f"rectified: {check['text']}" for check in rectified.diagnostics["checks"]]
    noted = recycle(classical, mean([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], []))
    assert noted.warnings[0].startswith("rectified: 0 unlabelled row(s) cannot carry predictions")


@pytest.mark.parametrize(
    ("field", "classical", "rectified", "message"),
    [
        ("alpha", {"alpha": 0.1}, {}, "must have the same alpha; got 0.1 and 0.05."),
        ("alternative", {"alternative": "larger"}, {}, "must have the same alternative; got 'larger' and 'two-sided'."),
        ("null", {}, {"null": 1.0}, "must have the same null; got 0.0 and 1.0."),
    ],
)
def test_different_questions_are_not_combined(field, classical, rectified, message):
    one, two = parts(**classical)[0], parts(**rectified)[1]
    with pytest.raises(InputError) as raised:
        recycle(one, two)
    assert str(raised.value) == f"'classical' and 'rectified' {message}"


def test_different_things_are_not_combined():
    classical, rectified = parts()
    with pytest.raises(InputError, match=r"must have the same target; got 'mean' and 'ols'\."):
        recycle(classical, replace(rectified, target="ols"))
    one, two = (classical_proportions(list(names)) for names in ("aab", "aac"))
    with pytest.raises(InputError, match=r"must have the same names; got \('a', 'b'\) and \('a', 'c'\)\."):
        recycle(one, two)


def test_what_has_no_error_of_its_own_is_refused():
    classical, rectified = parts()
    Y = np.arange(20.0)
    median = quantile(Y, Y, Y)
    with pytest.raises(
        InputError, match="^a quantile cannot be recycled. — use the rectified estimate, or cross-fitting"
    ):
        recycle(median, median)
    boot = mean(Y, Y + 1, Y[::2], bootstrap=Bootstrap(replications=99))
    message = "^a bootstrap interval cannot be recycled. — drop 'bootstrap' from both parts"
    for pair in ((classical, boot), (replace(classical, df=None), rectified)):
        with pytest.raises(InputError, match=message):
            recycle(*pair)
    message = "^the model alone cannot be recycled. — give a classical and a rectified estimate"
    for pair in ((classical, naive_mean(Y)), (naive_mean(Y), rectified)):
        with pytest.raises(InputError, match=message):
            recycle(*pair)
