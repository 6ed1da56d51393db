"""Moments that merge: against brute force, in every order, at every level."""

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators.moments import ONE_STRATUM, ClusterTotals, Moments, moments_of, totals_of

quick = settings(deadline=None, max_examples=25, derandomize=True)


def survey_covariance(z, strata=None, clusters=None, rates=None):
    """Σ_h (1 − f_h)·n_h/(n_h − 1)·Σ_u (z_u − z̄_h)(z_u − z̄_h)' over totals of units (Binder 1983), by loops."""
    strata = ["all"] * len(z) if strata is None else list(strata)
    clusters = range(len(z)) if clusters is None else clusters
    units: dict = {}
    for row, stratum, cluster in zip(z, strata, clusters, strict=True):
        units.setdefault(stratum, {}).setdefault(cluster, np.zeros(z.shape[1]))
        units[stratum][cluster] = units[stratum][cluster] + row
    total = np.zeros((z.shape[1], z.shape[1]))
    for stratum, members in units.items():
        sums = np.array(list(members.values()))
        off = sums - sums.mean(axis=0)
        keep = 1 if rates is None else 1 - rates[stratum]
        total += keep * len(sums) / (len(sums) - 1) * sum(np.outer(o, o) for o in off)
    return total


def same(one, two, rel=1e-10):
    np.testing.assert_array_equal(one.strata, two.strata)
    np.testing.assert_array_equal(one.count, two.count)
    np.testing.assert_allclose(one.mean, two.mean, rtol=rel, atol=1e-12)
    np.testing.assert_allclose(one.comoment, two.comoment, rtol=rel, atol=1e-10)


def merged(parts):
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


# ------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("width", [1, 3])
def test_one_stratum_is_the_sample_covariance(width):
    z = np.random.default_rng(0).normal(3, 2, (40, width))
    moments = Moments.of(z)
    assert moments.strata is ONE_STRATUM
    assert moments.count.tolist() == [40]
    assert (moments.units, moments.freedom) == (40, 39)
    np.testing.assert_allclose(moments.mean[0], z.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.total, z.sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance(), 40 * np.atleast_2d(np.cov(z.T)), rtol=1e-12)


@quick
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans(), st.integers(1, 3))
def test_parts_merge_to_the_whole_in_any_order(seed, parts, stratified, width):
    rng = np.random.default_rng(seed)
    z = rng.normal(5, 3, (60, width))
    strata = rng.integers(0, 4, 60) if stratified else None
    cut = rng.integers(0, parts, 60)
    pieces = [Moments.of(z[cut == k], None if strata is None else strata[cut == k]) for k in range(parts)]
    whole = Moments.of(z, strata)
    same(merged(pieces), whole)
    same(merged([pieces[k] for k in rng.permutation(parts)]), whole)


def test_strata_that_only_one_part_has_are_kept():
    one = Moments.of(np.array([[1.0], [3.0]]), np.array(["b", "b"]))
    two = Moments.of(np.array([[2.0], [4.0], [5.0]]), np.array(["a", "a", "c"]))
    both = one.merge(two)
    assert both.strata.tolist() == ["a", "b", "c"]
    assert both.count.tolist() == [2, 2, 1]
    assert both.mean.tolist() == [[3.0], [2.0], [5.0]]
    assert both.comoment.tolist() == [[[2.0]], [[2.0]], [[0.0]]]
    assert both.count_in(np.array(["c", "x", "a"])).tolist() == [1, 0, 2]
    assert both.freedom == 2
    assert both.total.tolist() == [15.0]


def test_an_empty_part_changes_nothing():
    z = np.array([[1.0, 2.0], [4.0, 1.0], [2.0, 2.0]])
    for strata in (None, np.array([3, 3, 3])):
        some = Moments.of(z, strata)
        none = Moments.of(z[:0], None if strata is None else strata[:0])
        same(some.merge(none), some)
        same(none.merge(some), some)
        assert none.units == 0
        assert none.freedom == 0
        np.testing.assert_array_equal(none.covariance(), np.zeros((2, 2)))


def test_one_stratum_of_the_users_is_none():
    z = np.random.default_rng(1).normal(size=(9, 2))
    np.testing.assert_allclose(
        Moments.of(z, np.full(9, "x")).covariance(), Moments.of(z).covariance(), rtol=1e-12, atol=1e-14
    )


@quick
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_covariance_is_the_survey_formula(seed, stratified, clustered):
    rng = np.random.default_rng(seed)
    z = rng.normal(1, 2, (80, 2))
    clusters = rng.permutation(np.arange(80) % 16)
    strata = clusters % 3 if stratified else None
    totals = totals_of(z, strata, clusters if clustered else None)
    expected = survey_covariance(z, strata, clusters if clustered else None)
    np.testing.assert_allclose(moments_of(totals).covariance(), expected, rtol=1e-10, atol=1e-11)
    assert moments_of(totals).freedom == (16 if clustered else 80) - (3 if stratified else 1)


def test_finite_population_correction_of_each_stratum():
    z = np.random.default_rng(2).normal(size=(12, 1))
    strata = np.array([0, 1, 2] * 4)
    rates = np.array([0.25, 1.0, 0.5])
    found = Moments.of(z, strata).covariance(keep=1 - rates)
    np.testing.assert_allclose(found, survey_covariance(z, strata, rates=rates), rtol=1e-12)


@quick
@given(st.integers(0, 10**6), st.booleans())
def test_linear_maps_and_shifts(seed, clustered):
    rng = np.random.default_rng(seed)
    z, matrix = rng.normal(size=(20, 3)), rng.normal(size=(3, 2))
    clusters = np.arange(20) // 2 if clustered else None
    np.testing.assert_allclose(
        moments_of(totals_of(z, None, clusters).times(matrix)).covariance(),
        moments_of(totals_of(z @ matrix, None, clusters)).covariance(),
        rtol=1e-9,
    )
    same(Moments.of(z).plus(np.array([1.0, -2.0, 9.0])), Moments.of(z + np.array([1.0, -2.0, 9.0])))


# ------------------------------------------------------------------------------------------- stability


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("level", [0.0, 1e9])
def test_stable_at_a_high_level_in_many_parts(width, level):
    rng = np.random.default_rng(3)
    z = level + rng.normal(size=(20_000, width))
    exact_mean = [math.fsum(column) / len(z) for column in z.T]
    off = z.astype(np.longdouble) - np.array([np.longdouble(math.fsum(c)) / len(z) for c in z.T])
    exact = (off.T @ off).astype(float)
    for cuts in ([0, 20_000], [0, 7, 5000, 5001, 20_000], list(range(0, 20_001, 100))):
        pieces = [Moments.of(z[a:b]) for a, b in pairwise(cuts)]
        whole = merged(pieces)
        np.testing.assert_allclose(whole.mean[0], exact_mean, rtol=1e-15, atol=1e-12)
        np.testing.assert_allclose(whole.comoment[0], exact, rtol=1e-10, atol=2e-6 if level else 1e-9)
        np.testing.assert_allclose(np.diag(whole.comoment[0]), np.diag(exact), rtol=1e-10)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e9 + 0.1])
@pytest.mark.parametrize("width", [1, 2])
def test_equal_numbers_have_variance_exactly_zero(constant, width):
    z = np.full((301, width), constant)
    assert (Moments.of(z).comoment == 0).all()
    assert (merged([Moments.of(z[:7]), Moments.of(z[7:200]), Moments.of(z[200:])]).comoment == 0).all()


def test_a_constant_column_beside_one_that_varies():
    z = np.column_stack([np.full(50, 0.1), np.arange(50.0)])
    comoment = Moments.of(z).comoment[0]
    assert comoment[0].tolist() == [0.0, 0.0]
    assert comoment[1, 0] == 0.0
    assert comoment[1, 1] == pytest.approx(50 * (50**2 - 1) / 12, rel=1e-13)


def test_small_deviations_are_not_rounded_away():
    assert Moments.of(np.array([[1.0], [1.0 + 1e-12]])).comoment[0, 0, 0] > 0
    assert Moments.of(np.array([[1.0, 0.0], [1.0 + 1e-12, 1.0]])).comoment[0, 0, 0] > 0


# ------------------------------------------------------------------------------------------- clusters


@quick
@given(st.integers(0, 10**6), st.booleans())
def test_clusters_may_be_spread_over_parts(seed, stratified):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(50, 2))
    clusters = rng.integers(0, 9, 50)
    strata = np.array(["u", "v"])[clusters % 2] if stratified else None
    cut = rng.integers(0, 4, 50)
    parts = [
        ClusterTotals.of(z[cut == k], clusters[cut == k], None if strata is None else strata[cut == k])
        for k in range(4)
    ]
    whole = ClusterTotals.of(z, clusters, strata)
    together = merged([parts[k] for k in rng.permutation(4)])
    np.testing.assert_array_equal(together.clusters, whole.clusters)
    np.testing.assert_array_equal(together.strata, whole.strata)
    np.testing.assert_allclose(together.totals, whole.totals, atol=1e-12)
    np.testing.assert_allclose(whole.total, z.sum(axis=0), atol=1e-12)
    assert whole.stratified == stratified
    same(together.moments(), whole.moments())


def test_clusters_of_one_row_are_rows():
    z = np.random.default_rng(5).normal(size=(11, 2))
    names = np.random.default_rng(6).permutation(11)
    np.testing.assert_allclose(ClusterTotals.of(z, names).moments().covariance(), Moments.of(z).covariance())


# ------------------------------------------------------------------------------------------- refusals


def refusal(call):
    with pytest.raises(StatisticalRefusal) as caught:
        call()
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_a_stratum_with_one_unit_is_named():
    z, strata = np.ones((5, 1)), np.array(["north", "north", "south", "west", "west"])
    mend = " — merge it with a stratum like it, or sample more units"
    assert refusal(Moments.of(z, strata).covariance) == (
        "stratum 'south' has one sampling unit, so its variance is unknown" + mend
    )
    clusters = np.array([1, 2, 3, 4, 4])
    assert "stratum 'south' has one" in refusal(ClusterTotals.of(z, clusters, strata).moments().covariance)
    assert "stratum '8' has one" in refusal(Moments.of(z[:3], np.array([7, 7, 8])).covariance)


def test_one_unit_without_strata_and_after_a_journey():
    alone = Moments.of(np.ones((1, 1)))
    expected = "one sampling unit has no variance — merge it with a stratum like it, or sample more units"
    assert refusal(alone.covariance) == expected
    assert refusal(pickle.loads(pickle.dumps(alone)).covariance) == expected
    assert not ClusterTotals.of(np.ones((2, 1)), np.array([1, 1])).moments().stratified


def test_a_cluster_in_two_strata_is_named():
    expected = "cluster 'b' lies in more than one stratum — name clusters uniquely across strata"
    z, clusters, strata = np.ones((4, 1)), np.array(["a", "b", "b", "c"]), np.array([1, 1, 2, 2])
    assert refusal(lambda: ClusterTotals.of(z, clusters, strata)) == expected
    one, two = (ClusterTotals.of(z[:2], clusters[rows], strata[rows]) for rows in (slice(0, 2), slice(2, 4)))
    assert refusal(lambda: one.merge(two)) == expected
