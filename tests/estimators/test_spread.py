"""Covariances of influences: strata, clusters, one table, shared clusters, a finite population."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.moments import totals_of
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.spread import Spread, spread

quick = settings(deadline=None, max_examples=25, derandomize=True)
D = 2


def case(seed, n=24, m=60, mine=None, theirs=None, **options):
    """Influences of a sample: those of labels sum to 0, as they do for every estimator but Horvitz–Thompson's."""
    rng = np.random.default_rng(seed)
    options |= {"sample": Sample(**(mine or {})), "sample_unlabeled": Sample(**(theirs or {}))}
    labeled, unlabeled = checked(rng.normal(size=n), rng.normal(size=n), rng.normal(size=m), Settings.of(options))
    a, p = rng.normal(size=(n, D)), rng.normal(size=(n, D))
    a, p, u = a - a.mean(axis=0), p - p.mean(axis=0), rng.normal(size=(m, D))
    block = unlabeled.whole
    return labeled, a, p, u, totals_of(u, block.strata, block.clusters)


def units(z, strata, clusters):
    """{stratum: {unit: total}}."""
    found: dict = {}
    for i in range(len(z)):
        stratum = "all" if strata is None else strata[i]
        unit = ("row", i) if clusters is None else clusters[i]
        members = found.setdefault(stratum, {})
        members[unit] = members.get(unit, 0) + z[i]
    return found


def brute(z, strata=None, clusters=None, keep=None):
    total = 0
    for stratum, members in units(z, strata, clusters).items():
        sums = np.array(list(members.values()))
        part = len(sums) * np.cov(sums.T)
        total = total + (part if keep is None else keep[stratum] * part)
    return total


def estimate_covariance(found: Spread, lam):
    labeled, unlabeled = found.at(lam)
    return labeled + unlabeled


LAMS = [0.0, 0.6, 1.0, np.array([0.2, 0.9])]


# ------------------------------------------------------------------------------------------- two samples


@quick
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.sampled_from(range(4)))
def test_two_samples_are_independent(seed, stratified, clustered, which):
    lam = LAMS[which]
    names, others = np.arange(24) // 2, 100 + np.arange(60) // 4
    mine = {"strata": names % 3 if stratified else None, "clusters": names if clustered else None}
    theirs = {"strata": others % 2 if stratified else None, "clusters": others if clustered else None}
    labeled, a, p, u, imputed = case(seed, mine=mine, theirs=theirs)
    found = spread(labeled, a, p, imputed)
    expected = brute(a - p * lam, mine["strata"], mine["clusters"])
    unlabeled = brute(u * lam, theirs["strata"], theirs["clusters"])
    np.testing.assert_allclose(found.at(lam)[0], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.at(lam)[1], unlabeled, rtol=1e-9, atol=1e-12)
    assert found.freedom == (12 if clustered else 24) - (3 if stratified else 1)
    assert found.freedom_unlabeled == (15 if clustered else 60) - (2 if stratified else 1)


@pytest.mark.parametrize("side", ["mine", "theirs"])
def test_clusters_of_one_sample_alone(side):
    clusters = {"mine": np.arange(24) // 3, "theirs": np.arange(60) // 3}
    labeled, a, p, u, imputed = case(9, **{side: {"clusters": clusters[side]}})
    found = spread(labeled, a, p, imputed)
    np.testing.assert_allclose(found.answers, brute(a, None, clusters["mine"] if side == "mine" else None), rtol=1e-9)
    expected = brute(u, None, clusters["theirs"] if side == "theirs" else None)
    np.testing.assert_allclose(found.unlabeled, expected, rtol=1e-9)


@pytest.mark.parametrize("m", [0, 1])
def test_fewer_than_two_unlabelled_rows_say_nothing_of_their_spread(m):
    labeled, a, p, _, imputed = case(0, m=m)
    found = spread(labeled, a, p, imputed)
    assert (found.unlabeled == 0).all()
    assert found.freedom_unlabeled == 0
    assert found.freedom == 23
    assert spread(*case(0, m=2)[:3], case(0, m=2)[4]).freedom_unlabeled == 1


def test_some_coordinates():
    labeled, a, p, _, imputed = case(1)
    one = spread(labeled, a, p, imputed)
    direct = spread(labeled, a[:, 1:], p[:, 1:], imputed.times(np.eye(2)[:, 1:]))
    for name in ("answers", "cross", "labeled", "unlabeled"):
        np.testing.assert_allclose(getattr(one, name)[1:, 1:], getattr(direct, name), rtol=1e-12)
    assert (one.freedom, one.freedom_unlabeled) == (23, 59)


def test_a_lonely_stratum_of_either_sample_is_named():
    labeled, a, p, _, imputed = case(2, mine={"strata": ["x"] * 23 + ["y"]})
    with pytest.raises(StatisticalRefusal, match="stratum 'y' has one sampling unit"):
        spread(labeled, a, p, imputed)
    labeled, a, p, _, imputed = case(2, theirs={"strata": ["x"] * 59 + ["z"]})
    with pytest.raises(StatisticalRefusal, match="stratum 'z' has one sampling unit"):
        spread(labeled, a, p, imputed)


# ------------------------------------------------------------------------------------------- finite population


def test_finite_population_corrects_each_stratum():
    strata, others = np.arange(24) % 2, np.arange(60) % 3 // 2
    labeled, a, p, _, imputed = case(3, mine={"strata": strata}, theirs={"strata": others}, population="finite")
    keep = {0: 1 - 12 / (12 + 40), 1: 1 - 12 / (12 + 20)}
    found = spread(labeled, a, p, imputed, p)
    np.testing.assert_allclose(estimate_covariance(found, 0.7), brute(a - 0.7 * p, strata, keep=keep), rtol=1e-9)
    assert (found.unlabeled == 0).all()
    assert (found.freedom, found.freedom_unlabeled) == (22, 0)


def test_strata_whose_rates_are_not_known_are_a_defect():
    strata = np.arange(24) % 2
    labeled, a, p, _, _ = case(3, m=0, mine={"strata": strata}, theirs={"strata": []}, population="finite")
    for sizes, right in (((30, 30), True), ((20, 40), False)):
        others = totals_of(np.ones((60, D)), np.repeat([0, 1], sizes))
        if right:
            assert spread(labeled, a, p, others, p).freedom == 22
            continue
        with pytest.raises(
            ValueError, match="^labels do not count N_h/n_h: at_their_rates must see all unlabelled rows"
        ):
            spread(labeled, a, p, others, p)


def test_a_census_knows():
    labeled, a, p, _, imputed = case(4, m=0, population="finite")
    assert (spread(labeled, a, p, imputed, p).answers == 0).all()


# ------------------------------------------------------------------------------------------- one table


def lifted(a, p, own, u, lam, mine, others, mine_clusters, other_clusters):
    """Σ over all units of a stratum, what labels say being centred and lifted among the n_h units that have labels."""
    total = 0
    said = units(np.hstack([a, p]), mine, mine_clusters)
    shares = units(own, mine, mine_clusters)
    rest = units(u, others, other_clusters)
    for stratum in set(said) | set(rest):
        here = said.get(stratum, {})
        sums = np.array(list(here.values()))
        keys = list(here)
        everyone = {key: np.zeros(D) for key in keys}
        extra = {("u", *key) if isinstance(key, tuple) else key: z for key, z in rest.get(stratum, {}).items()}
        for key in extra:
            everyone.setdefault(key, np.zeros(D))
        N, n = len(everyone), len(keys)
        sums = (sums - sums.mean(axis=0)) * np.sqrt(n / (n - 1) * (N - 1) / N)
        for key, z in zip(keys, sums, strict=True):
            everyone[key] = everyone[key] + z[:D] - lam * (z[D:] - shares[stratum][key])
        for key, z in extra.items():
            everyone[key] = everyone[key] + lam * z
        total = total + N * np.cov(np.array(list(everyone.values())).T)
    return total


@quick
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(range(4)))
def test_rows_of_one_table(seed, stratified, which):
    lam = LAMS[which]
    strata, others = (np.arange(24) % 3, np.arange(60) % 3) if stratified else (None, None)
    probabilities = np.full(24, 24 / 84)
    labeled, a, p, u, imputed = case(
        seed, mine={"strata": strata, "probabilities": probabilities}, theirs={"strata": others}
    )
    own = np.random.default_rng(seed + 1).normal(size=(24, D))
    found = spread(labeled, a, p, imputed, own)
    expected = lifted(a, p, own, u, lam, strata, others, None, None)
    np.testing.assert_allclose(estimate_covariance(found, lam), expected, rtol=1e-9, atol=1e-12)
    assert (found.freedom, found.freedom_unlabeled) == (24 - (3 if stratified else 1), 0)
    assert (found.unlabeled == 0).all()
    np.testing.assert_allclose(found.answers, brute(a, strata), rtol=1e-9)


@quick
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(range(4)))
def test_clusters_that_both_samples_share(seed, stratified, which):
    lam = LAMS[which]
    clusters, others = np.arange(24) % 8, np.arange(60) % 20 + 4  # 4…7 are shared
    strata, other_strata = (clusters % 2, others % 2) if stratified else (None, None)
    mine, theirs = {"clusters": clusters, "strata": strata}, {"clusters": others, "strata": other_strata}
    labeled, a, p, u, imputed = case(seed, mine=mine, theirs=theirs)
    found = spread(labeled, a, p, imputed)
    expected = lifted(a, p, np.zeros((24, D)), u, lam, strata, other_strata, clusters, others)
    np.testing.assert_allclose(estimate_covariance(found, lam), expected, rtol=1e-9, atol=1e-12)
    assert found.freedom == 8 - (2 if stratified else 1)
    np.testing.assert_allclose(found.answers, brute(a, strata, clusters), rtol=1e-9)


def test_where_every_cluster_has_both_kinds_of_rows_the_formula_is_the_plain_one():
    clusters, others = np.arange(24) % 6, np.arange(60) % 6
    labeled, a, p, u, imputed = case(5, mine={"clusters": clusters}, theirs={"clusters": others})
    together = brute(np.vstack([a - p, u]), None, np.concatenate([clusters, others]))
    np.testing.assert_allclose(estimate_covariance(spread(labeled, a, p, imputed), 1.0), together, rtol=1e-9)


def test_horvitz_thompson_sums_are_left_as_they_are():
    mine = {"probabilities": np.full(24, 0.3), "total": "known"}
    labeled, a, p, u, imputed = case(6, mine=mine)
    a, p, own = a + 1, p + 0.5, np.ones((24, D))
    found = spread(labeled, a, p, imputed, own)
    everyone = np.vstack([a - 0.7 * (p - own), 0.7 * u])
    np.testing.assert_allclose(estimate_covariance(found, 0.7), 84 * np.cov(everyone.T), rtol=1e-9)
    assert found.freedom == 23


def test_a_stratum_of_the_table_with_one_label_is_named():
    mine = {"strata": [1] * 23 + [2], "probabilities": [0.5] * 24}
    labeled, a, p, _, imputed = case(7, mine=mine, theirs={"strata": [1, 2] * 30})
    with pytest.raises(StatisticalRefusal, match="stratum '2' has one sampling unit"):
        spread(labeled, a, p, imputed, p)


def test_one_table_must_be_known_alike():
    labeled, a, p, u, _ = case(8, mine={"clusters": np.arange(24)})
    with pytest.raises(InputError, match="^'clusters' must be given for the labelled and the unlabelled rows, or for"):
        spread(labeled, a, p, totals_of(u), p)
    shared = totals_of(u, np.zeros(60, dtype=int), np.arange(60))
    with pytest.raises(InputError, match="^'strata' must be given for the labelled and the unlabelled rows, or for"):
        spread(labeled, a, p, shared)
