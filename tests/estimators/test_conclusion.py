"""Standard errors, t intervals, p-values, and when λ is 0."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.conclusion import (
    Weighting,
    conclude,
    effective_labels,
    interval_and_test,
    satterthwaite,
    settle_lam,
    upper_quantile,
    upper_tail,
)
from ftrect_ray.estimators.diagnostics import Facts
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.spread import Spread

quick = settings(deadline=None, max_examples=25, derandomize=True)


def diagonal(answers, cross, labeled, unlabeled, freedom=49, other=99):
    return Spread(*(np.diag(np.array(x, dtype=float)) for x in (answers, cross, labeled, unlabeled)), freedom, other)


GOOD = diagonal([4.0], [3.0], [3.0], [1.0])


def concluded(value, spread, weighting, names=None, fitted=1, **options):
    chosen = Settings.of(options)
    Y = np.arange(12.0)
    labeled, _ = checked(Y, Y + np.sin(Y), np.arange(30.0), chosen)
    value = np.array(value, dtype=float)
    facts = Facts(labeled, 30, 2.0, np.ones((12, len(value))), np.zeros(len(value)))
    return conclude(value, spread, weighting, chosen, fitted=fitted, target="t", names=names, facts=facts)


# ------------------------------------------------------------------------------------------- λ


def test_lam_is_tuned_and_spends_a_degree_of_freedom():
    found = settle_lam(Settings(), GOOD, 30, 1)
    assert (found.lam, found.spent, found.notes) == (0.75, 1, ())
    assert settle_lam(Settings(), diagonal([4.0], [-3.0], [3.0], [1.0]), 30, 1).lam == 0
    assert settle_lam(Settings(), diagonal([4.0], [-3.0], [3.0], [1.0]), 30, 1).spent == 0


@pytest.mark.parametrize("lam", ["tuned", "per-coordinate", "crossfit"])
@pytest.mark.parametrize("m", [0, 1])
def test_hardly_any_unlabelled_rows(lam, m):
    found = settle_lam(Settings(lam=lam), GOOD, m, 1)
    assert (found.lam, found.spent) == (0.0, 0)
    assert found.notes == (f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate",)


def test_two_unlabelled_rows_are_enough():
    assert settle_lam(Settings(), GOOD, 2, 1).lam == 0.75
    assert settle_lam(Settings(lam=0.4), GOOD, 2, 1).lam == 0.4
    assert settle_lam(Settings(lam=0.0), GOOD, 0, 1).lam == 0.0
    with pytest.raises(InputError) as caught:
        settle_lam(Settings(lam=0.4), GOOD, 1, 1)
    assert str(caught.value) == (
        "'lam' must be 0 or 'tuned' with fewer than 2 unlabelled rows; got 0.4. — add unlabelled rows"
    )


@pytest.mark.parametrize(("freedom", "fitted", "tuned"), [(3, 1, True), (2, 1, False), (5, 3, True), (4, 3, False)])
def test_labels_enough_to_tune(freedom, fitted, tuned):
    sharp = diagonal([4.0], [4.0], [4.0], [0.0], freedom=freedom)
    found = settle_lam(Settings(), sharp, 30, fitted)
    assert (found.lam > 0) == tuned
    note = "too few labels to tune λ: this is the classical estimate"
    assert found.notes == (() if tuned else (note,))


def test_one_lam_a_coordinate_given():
    spread = diagonal([4, 4], [3, 3], [3, 3], [1, 1])
    assert settle_lam(Settings.of({"lam": [0.1, 0.2]}), spread, 30, 1).lam.tolist() == [0.1, 0.2]
    with pytest.raises(InputError) as caught:
        settle_lam(Settings.of({"lam": [0.1, 0.2, 0.3]}), spread, 30, 1)
    assert str(caught.value) == "'lam' must have one entry a coordinate (2); got 3."


def test_each_coordinate_falls_back_alone():
    spread = diagonal([4, 4, 4], [3, -1, 0.01], [3, 3, 3], [1, 1, 1])
    found = settle_lam(Settings(lam="per-coordinate"), spread, 30, 1)
    assert found.lam.tolist() == [0.75, 0.0, 0.0]
    assert found.spent.tolist() == [1, 0, 0]
    kept = settle_lam(Settings.of({"lam": "per-coordinate", "lam_range": (0.2, 1)}), spread, 30, 1)
    assert kept.lam.tolist() == [0.75, 0.2, 0.2]


@pytest.mark.parametrize("freedom", [5, 19, 49, 199])
@pytest.mark.parametrize("lam", ["tuned", "per-coordinate"])
def test_lam_is_zero_exactly_where_it_would_lengthen_the_interval(freedom, lam):
    """t_{ν−1}·√(ν/(ν − 2)·(1 − ρ²)) against t_ν: the control variate is known, ρ² the share that it explains."""
    ratio = stats.t.ppf(0.975, freedom) / stats.t.ppf(0.975, freedom - 1)
    edge = 1 - ratio**2 * (freedom - 2) / freedom
    for share, used in ((edge * 0.999, False), (edge * 1.001, True)):
        found = settle_lam(Settings(lam=lam), diagonal([1.0], [share], [share], [0.0], freedom, 0), 30, 1)
        assert np.any(np.asarray(found.lam) > 0) == used


def test_no_interval_grows_by_more_than_two_percent():
    gains = diagonal([4, 1], [3, 0.02], [3, 0.2], [1, 0.1], freedom=19)
    assert settle_lam(Settings(), gains, 30, 1).lam == 0.0
    more = diagonal([4, 1], [3, 0.1], [3, 0.1], [1, 0.1], freedom=199)
    lam = settle_lam(Settings(), more, 30, 1).lam
    assert lam > 0
    sides = [concluded([0, 0], more, w, names=("a", "b")).std_error for w in (Weighting(0.0, 0), Weighting(lam, 1))]
    assert (sides[1] <= 1.02 * sides[0]).all()
    assert settle_lam(Settings.of({"lam_range": (0.1, 1)}), gains, 30, 1).lam > 0


# ------------------------------------------------------------------------------------------- standard errors and df


def test_the_price_of_a_tuned_lam():
    given = concluded([1.0], GOOD, Weighting(0.75, 0))
    tuned = concluded([1.0], GOOD, Weighting(0.75, 1))
    labeled, unlabeled = 4 - 2 * 0.75 * 3 + 0.75**2 * 3, 0.75**2
    assert given.std_error == pytest.approx(np.sqrt(labeled + unlabeled), rel=1e-14)
    dear = labeled * 49 / 47
    assert tuned.std_error == pytest.approx(np.sqrt(dear + unlabeled), rel=1e-14)
    assert given.df == pytest.approx((labeled + unlabeled) ** 2 / (labeled**2 / 49 + unlabeled**2 / 99), rel=1e-12)
    assert tuned.df == pytest.approx((dear + unlabeled) ** 2 / (dear**2 / 48 + unlabeled**2 / 99), rel=1e-12)
    assert given.effective_n == pytest.approx(12 * 4 / (labeled + unlabeled))


def test_each_coordinate_pays_for_itself():
    spread = diagonal([4, 4], [3, 3], [3, 3], [1, 1])
    found = concluded([1, 1], spread, Weighting(np.array([0.75, 0.0]), np.array([1, 0])), names=("a", "b"))
    assert found.std_error[0] == concluded([1.0], GOOD, Weighting(0.75, 1)).std_error
    assert found.std_error[1] == 2.0
    assert found.df[1] == pytest.approx(49, rel=1e-14)


def test_further_fitted_parameters_take_degrees_of_freedom():
    alone = diagonal([4.0], [0.0], [0.0], [0.0], freedom=9, other=0)
    for fitted, df in ((1, 9), (4, 6), (20, 1)):
        assert concluded([1.0], alone, Weighting(0.0, 0), fitted=fitted).df == df


def test_satterthwaite_by_hand():
    v1, v2 = np.array([2.0, 0.0, 3.0, 0.0]), np.array([1.0, 5.0, 0.0, 0.0])
    found = satterthwaite(v1, v2, np.array([4.0, 4.0, 4.0, 4.0]), 10)
    np.testing.assert_allclose(found, [9 / (4 / 4 + 1 / 10), 10, 4, 4], rtol=1e-14)


def test_effective_labels():
    found = effective_labels(10, np.array([4.0, 4.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 2.0]))
    assert found.tolist() == [40.0, np.inf, 10.0, 0.0]
    of_forty = effective_labels(10, np.array([4.0, 4.0, 0.0]), np.array([1.0, 0.0, 0.0]), rows=40)
    for n, ratio in zip(of_forty, (1 / 4, 0, 1), strict=True):
        assert 1 / n - 1 / 40 == pytest.approx(ratio * (1 / 10 - 1 / 40))


def test_a_scalar_comes_as_floats_and_a_vector_as_arrays():
    scalar = concluded([1.0], GOOD, Weighting(np.array([0.75]), np.array([1])))
    kinds = [scalar.value, scalar.std_error, *scalar.interval, scalar.lam, scalar.df, scalar.p_value]
    assert all(isinstance(x, float) for x in kinds)
    vector = concluded([1.0], GOOD, Weighting(0.75, 1), names=("a",))
    assert all(x.shape == (1,) for x in (vector.value, vector.std_error, *vector.interval, vector.df, vector.p_value))
    assert (vector.target, vector.n, vector.m, vector.names) == ("t", 12, 30, ("a",))


def test_what_the_estimate_reports_of_its_settings():
    found = concluded([1.0], GOOD, Weighting(0.0, 0, ("told",)), alpha=0.1, alternative="larger", null=0.5)
    assert (found.alpha, found.alternative, found.null, found.lam) == (0.1, "larger", 0.5, 0.0)
    assert found.warnings[0] == "told"
    assert "unlabelled" not in {check["name"] for check in found.diagnostics["checks"]}  # predictions are not used


# ------------------------------------------------------------------------------------------- interval and test


@pytest.mark.parametrize("alternative", ["two-sided", "larger", "smaller"])
@pytest.mark.parametrize("null", [0.0, 0.4])
def test_the_t_test(alternative, null):
    x = np.random.default_rng(0).normal(0.3, 1, 15)
    name = {"two-sided": "two-sided", "larger": "greater", "smaller": "less"}[alternative]
    theirs = stats.ttest_1samp(x, null, alternative=name)
    low, high = theirs.confidence_interval(0.9)
    error = np.array([x.std(ddof=1) / np.sqrt(15)])
    chosen = Settings(alpha=0.1, alternative=alternative, null=null)
    mine = interval_and_test(np.array([x.mean()]), error, np.array([14.0]), chosen)
    np.testing.assert_allclose(np.ravel(mine), [low, high, theirs.pvalue], rtol=1e-12)


@pytest.mark.parametrize("df", [1.0, 3.7, 200.0, np.inf])
def test_quantiles_and_tails_of_t_and_normal(df):
    law = stats.norm if np.isinf(df) else stats.t(df)
    for tail in (0.4, 0.025, 1e-6):
        assert upper_quantile(tail, np.array([df]))[0] == pytest.approx(law.isf(tail), rel=1e-10)
        assert upper_tail(np.array([law.isf(tail)]), np.array([df]))[0] == pytest.approx(tail, rel=1e-9)


def test_normal_quantiles_if_wished():
    found = concluded([1.0], GOOD, Weighting(0.75, 1), quantiles="normal")
    assert found.df == np.inf
    assert found.interval[1] == pytest.approx(1 + stats.norm.ppf(0.975) * found.std_error, rel=1e-12)
    assert found.std_error == concluded([1.0], GOOD, Weighting(0.75, 1)).std_error


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["two-sided", "larger", "smaller"]),
    st.floats(0.001, 0.6),
    st.booleans(),
    st.sampled_from([2.0, 9.5, np.inf]),
)
def test_the_p_value_is_below_alpha_exactly_where_the_null_is_outside(seed, alternative, alpha, simultaneous, df):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3))
    covariance = root @ root.T
    value, null = rng.normal(size=3), 2 * rng.normal(size=3)
    chosen = Settings(alpha=alpha, alternative=alternative, null=null, simultaneous=simultaneous)
    low, high, p = interval_and_test(value, np.sqrt(np.diag(covariance)), np.full(3, df), chosen, covariance)
    np.testing.assert_array_equal(p < alpha, (null < low) | (null > high))
    assert ((p >= 0) & (p <= 1)).all()


def test_a_certain_value_is_tested_too():
    value, zero = np.array([1.0, 1.0]), np.zeros(2)
    for alternative, expected in (("two-sided", [1.0, 0.0]), ("larger", [0.5, 1.0]), ("smaller", [0.5, 0.0])):
        chosen = Settings(alternative=alternative, null=np.array([1.0, 2.0]))
        low, high, p = interval_and_test(value, zero, np.array([9.0, 9.0]), chosen)
        assert p.tolist() == expected
        assert low.tolist() == ([-np.inf] * 2 if alternative == "smaller" else [1.0, 1.0])
        assert high.tolist() == ([np.inf] * 2 if alternative == "larger" else [1.0, 1.0])


def test_a_null_of_another_shape():
    with pytest.raises(InputError) as caught:
        concluded([1.0], GOOD, Weighting(0.0, 0), null=[1.0, 2.0])
    assert str(caught.value) == "'null' must have one entry a coordinate (1); got 2."


def test_simultaneous_intervals_are_wider_and_their_tests_harder():
    spread = diagonal([4, 1], [0, 0], [0, 0], [0, 0], freedom=20)
    alone, joint = (
        concluded([1, 2], spread, Weighting(0.0, 0), names=("a", "b"), simultaneous=flag) for flag in (False, True)
    )
    assert (joint.length > alone.length).all()
    assert (joint.p_value >= alone.p_value).all()
    assert (joint.p_value > alone.p_value).any()
    ratio = joint.length / alone.length
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-12)
    single = [
        concluded([1], diagonal([4], [0], [0], [0]), Weighting(0.0, 0), names=("a",), simultaneous=s)
        for s in (False, True)
    ]
    assert single[0].interval[0].tolist() == single[1].interval[0].tolist()
