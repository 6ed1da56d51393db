"""Bootstrap intervals: what is drawn, the pivots by hand, inversion, and coverage where t fails."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.diagnostics import document
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.means import rectified_means
from ftrect_ray.estimators.replicates import FromPopulation, WithReplacement
from ftrect_ray.estimators.resampling import UNUSABLE_SHARE, estimated
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Bootstrap, Settings

quick = settings(deadline=None, max_examples=25, derandomize=True)
FEW = Bootstrap(replications=199)
PERCENTILE = Bootstrap("percentile", 199)


def data(seed=0, n=40, m=100):
    rng = np.random.default_rng(seed)
    Y = rng.exponential(size=n)
    return Y, Y + rng.normal(0, 0.5, n), rng.exponential(size=m) + rng.normal(0, 0.5, m)


def both(Y, f, rest, **options):
    return checked(Y, f, rest, Settings.of(options))


def numbered(n, m, **options):
    """Samples whose answers and predictions are the numbers of their rows."""
    return both(np.arange(float(n)), np.arange(float(n)), 1000 + np.arange(float(m)), **options)


def rows(labeled, unlabeled):
    return labeled.Y.ravel().astype(int), unlabeled.whole.F.ravel().astype(int) - 1000


# ------------------------------------------------------------------------------------------- what is drawn


def test_rows_are_drawn_with_replacement_from_their_own_sample():
    draws = WithReplacement.of(*numbered(30, 50))
    rng = np.random.default_rng(0)
    seen, others = np.zeros(30), np.zeros(50)
    for _ in range(400):
        labeled, unlabeled = draws.draw(rng)
        mine, theirs = rows(labeled, unlabeled)
        assert (len(mine), len(theirs)) == (30, 50)
        assert (labeled.Yhat == labeled.Y).all()
        seen += np.bincount(mine, minlength=30)
        others += np.bincount(theirs, minlength=50)
    for counts in (seen, others):
        assert stats.chisquare(counts).pvalue > 1e-3
        assert counts.min() > 300


def test_strata_keep_their_numbers():
    strata, others = np.repeat([0, 1, 2], [5, 10, 15]), np.repeat([0, 7], [20, 30])
    draws = WithReplacement.of(*numbered(30, 50, sample=Sample(strata=strata), sample_unlabeled=Sample(strata=others)))
    rng = np.random.default_rng(1)
    for _ in range(20):
        labeled, unlabeled = draws.draw(rng)
        mine, theirs = rows(labeled, unlabeled)
        assert np.bincount(strata[mine]).tolist() == [5, 10, 15]
        np.testing.assert_array_equal(labeled.drawn.strata, strata[mine])
        assert np.bincount(others[theirs])[[0, 7]].tolist() == [20, 30]
        np.testing.assert_array_equal(unlabeled.whole.strata, others[theirs])


def test_strata_of_one_sample_do_not_bind_the_other():
    draws = WithReplacement.of(*numbered(4, 500, sample=Sample(strata=[0, 0, 1, 1])))
    _, theirs = rows(*draws.draw(np.random.default_rng(0)))
    assert len(theirs) == 500
    assert len(set(theirs)) > 250


def test_clusters_come_whole_and_anew():
    clusters = np.random.default_rng(2).permutation(np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6]))
    draws = WithReplacement.of(*numbered(21, 30, sample=Sample(clusters=clusters)))
    rng = np.random.default_rng(3)
    for _ in range(30):
        labeled, unlabeled = draws.draw(rng)
        mine, theirs = rows(labeled, unlabeled)
        assert len(theirs) == 30
        names = labeled.drawn.clusters
        assert len(set(names)) == 6
        for name in set(names):
            inside = mine[names == name]
            assert len(set(clusters[inside])) == 1
            np.testing.assert_array_equal(np.sort(inside), np.flatnonzero(clusters == clusters[inside[0]]))


def test_shared_clusters_bring_their_labelled_and_unlabelled_rows():
    clusters, others = np.arange(12) % 4, np.arange(40) % 10  # 0…3 hold labels
    draws = WithReplacement.of(
        *numbered(12, 40, sample=Sample(clusters=clusters), sample_unlabeled=Sample(clusters=others))
    )
    rng = np.random.default_rng(4)
    for _ in range(20):
        labeled, unlabeled = draws.draw(rng)
        mine, theirs = rows(labeled, unlabeled)
        names, their_names = labeled.drawn.clusters, unlabeled.whole.clusters
        assert len(set(names)) == 4
        assert len(set(their_names)) == 10
        assert len(set(their_names) - set(names)) == 6
        for name in set(names):
            (origin,) = set(clusters[mine[names == name]])
            assert set(others[theirs[their_names == name]]) == {origin}
            assert np.count_nonzero(their_names == name) == 4


def test_clusters_of_one_sample_alone_stay_apart():
    labeled, unlabeled = WithReplacement.of(
        *numbered(6, 8, sample=Sample(clusters=[0, 0, 1, 1, 2, 2]), sample_unlabeled=Sample(clusters=np.arange(8) + 10))
    ).draw(np.random.default_rng(5))
    assert not set(labeled.drawn.clusters) & set(unlabeled.whole.clusters)


def test_weights_folds_and_probabilities_go_with_their_rows():
    p = np.linspace(0.1, 0.9, 10)
    labeled, unlabeled = both(
        np.arange(10.0),
        np.arange(10.0),
        np.column_stack([np.arange(6.0), np.arange(6.0)]),
        folds=np.arange(10) % 2,
        sample=Sample(probabilities=p, weights=np.arange(10) + 1.0),
        sample_unlabeled=Sample(weights=np.arange(6) + 1.0),
    )
    drawn, others = WithReplacement.of(labeled, unlabeled).draw(np.random.default_rng(6))
    picked = drawn.Y.ravel().astype(int)
    np.testing.assert_array_equal(drawn.drawn.probabilities, p[picked])
    np.testing.assert_array_equal(drawn.drawn.weights, picked + 1.0)
    np.testing.assert_array_equal(drawn.share, np.eye(2)[picked % 2])
    np.testing.assert_array_equal(others.whole.weights, others.whole.F[:, 0] + 1)


@pytest.mark.parametrize("m", [0, 20, 33])
def test_a_finite_population_is_made_of_the_labelled_rows(m):
    draws = FromPopulation.of(*numbered(10, m, population="finite"), np.random.default_rng(7))
    counts = np.bincount(draws.population, minlength=10)
    assert counts.sum() == 10 + m
    assert counts.max() - counts.min() <= (1 if m % 10 else 0)
    census, nobody = draws.itself()
    assert (census.n, len(nobody.whole)) == (10 + m, 0)
    for seed in range(5):
        labeled, unlabeled = draws.draw(np.random.default_rng(seed))
        everyone = np.concatenate([labeled.Y.ravel(), unlabeled.whole.F.ravel()]).astype(int)
        assert labeled.n == 10
        np.testing.assert_array_equal(np.bincount(everyone, minlength=10), counts)


def test_a_stratified_finite_population_keeps_its_sizes():
    strata, others = np.repeat([3, 5], [4, 6]), np.repeat([3, 5], [20, 6])
    sides = {"sample": Sample(strata=strata), "sample_unlabeled": Sample(strata=others)}
    draws = FromPopulation.of(*numbered(10, 26, population="finite", **sides), np.random.default_rng(8))
    census, _ = draws.itself()
    assert np.bincount(census.drawn.strata)[[3, 5]].tolist() == [24, 12]
    assert census.drawn.probabilities is None
    orders = set()
    for seed in range(5):
        labeled, unlabeled = draws.draw(np.random.default_rng(seed))
        assert np.bincount(labeled.drawn.strata)[[3, 5]].tolist() == [4, 6]
        assert np.bincount(unlabeled.whole.strata)[[3, 5]].tolist() == [20, 6]
        np.testing.assert_allclose(labeled.drawn.probabilities, np.repeat([4 / 24, 6 / 12], [4, 6]))
        orders.add(tuple(labeled.Y.ravel()))
    assert len(orders) == 5


# ------------------------------------------------------------------------------------------- intervals by hand


def replicates(labeled, unlabeled, chosen, seed, count):
    """θ* and se* of replicates, drawn as the module draws them."""
    rng = np.random.default_rng(seed)
    draws = WithReplacement.of(labeled, unlabeled)
    found = [rectified_means(*draws.draw(rng), chosen) for _ in range(count)]
    return np.array([one.value for one in found]), np.array([one.std_error for one in found])


@pytest.mark.parametrize("lam", [0.0, "tuned"])
@pytest.mark.parametrize("alternative", ["two-sided", "larger", "smaller"])
@pytest.mark.parametrize("kind", ["studentised", "percentile"])
def test_ends_and_p_value_are_order_statistics(lam, alternative, kind):
    Y, f, rest = data()
    chosen = Settings.of({"lam": lam, "alpha": 0.1, "alternative": alternative, "null": 1.1})
    labeled, unlabeled = checked(Y, f, rest, chosen)
    plain = rectified_means(labeled, unlabeled, chosen)
    value, error = replicates(labeled, unlabeled, chosen, 3, 199)
    found = estimated(rectified_means, labeled, unlabeled, replace(chosen, bootstrap=Bootstrap(kind, 199, 3)))
    # of 199 order statistics, 0.05·200 = 10 leave fewer than 5 % beyond: the 9th from either end; 10 %: the 19th
    k = 9 if alternative == "two-sided" else 19
    t = (value - plain.value) / error
    if kind == "percentile":
        low, high = np.sort(value)[k - 1], np.sort(value)[-k]
        above, below = np.sum(value <= 1.1), np.sum(value >= 1.1)
    else:
        low, high = plain.value - plain.std_error * np.sort(t)[-k], plain.value - plain.std_error * np.sort(t)[k - 1]
        score = (plain.value - 1.1) / plain.std_error
        above, below = np.sum(t >= score), np.sum(t <= score)
    p = {
        "larger": (1 + above) / 200,
        "smaller": (1 + below) / 200,
        "two-sided": min(1, 2 * (1 + min(above, below)) / 200),
    }[alternative]
    expected = (-np.inf if alternative == "smaller" else low, np.inf if alternative == "larger" else high)
    assert found.interval == pytest.approx(expected, rel=1e-10)
    assert found.p_value == pytest.approx(p, rel=1e-12)
    assert found.df is None
    for name in ("value", "std_error", "lam", "n", "m", "effective_n", "alternative", "null"):
        assert getattr(found, name) == getattr(plain, name)


def classical(labeled, unlabeled, chosen):
    """The mean of the answers, with nothing around it."""
    Y = labeled.Y[:, 0]
    value, error = float(Y.mean()), float(Y.std(ddof=1) / np.sqrt(len(Y)))
    ends = (value - 2 * error, value + 2 * error)
    return Estimate(value, error, ends, chosen.alpha, 0.0, len(Y), 0, None, diagnostics=document([], (), (None,) * 4))


@quick
@given(
    st.integers(0, 1000),
    st.sampled_from(["two-sided", "larger", "smaller"]),
    st.sampled_from(["studentised", "percentile"]),
    st.sampled_from([0.05, 0.07, 0.1, 0.33]),
)
def test_p_below_alpha_exactly_where_the_null_is_outside(seed, alternative, kind, alpha):
    labeled, unlabeled = both(*data(seed, n=20, m=2))
    options = {"alternative": alternative, "bootstrap": Bootstrap(kind, 99), "alpha": alpha}
    low, high = estimated(classical, labeled, unlabeled, Settings(**options)).interval
    ends = [end + shift for end in (low, high) if np.isfinite(end) for shift in (-1e-9, 1e-9)]
    for null in (0.2, 1.0, *ends):
        found = estimated(classical, labeled, unlabeled, Settings(**options, null=null))
        assert found.interval == (low, high)
        assert (found.p_value < alpha) == (null < low or null > high)


def test_the_smallest_p_value_is_one_in_r_plus_one():
    Y, f, rest = data()
    assert mean(Y, f, rest, null=-50, alternative="larger", bootstrap=FEW).p_value == 1 / 200
    assert mean(Y, f, rest, null=-50, bootstrap=FEW).p_value == 2 / 200
    assert mean(Y, f, rest, null=-50, alternative="smaller", bootstrap=FEW).p_value == 1.0


def test_same_seed_same_interval():
    Y, f, rest = data()
    one, two, other = (mean(Y, f, rest, bootstrap=Bootstrap(replications=199, seed=s)).interval for s in (1, 1, 2))
    assert one == two
    assert one != other


def test_shift_and_scale():
    Y, f, rest = data()
    low, high = mean(Y, f, rest, bootstrap=FEW).interval
    moved = mean(3 + 2 * Y, 3 + 2 * f, 3 + 2 * rest, bootstrap=FEW).interval
    assert moved == pytest.approx((3 + 2 * low, 3 + 2 * high), rel=1e-9)


def test_a_symmetric_large_sample_has_the_t_interval():
    rng = np.random.default_rng(9)
    Y, rest = rng.normal(size=400), rng.normal(size=900)
    f = Y + rng.normal(size=400)
    plain = mean(Y, f, rest)
    for kind in ("studentised", "percentile"):
        found = mean(Y, f, rest, bootstrap=Bootstrap(kind, 299))
        np.testing.assert_allclose(found.interval, plain.interval, atol=0.2 * plain.length)


def test_skewed_answers_lengthen_the_side_of_the_tail():
    Y, f, rest = data(1, n=30)
    found = mean(Y, f, rest, lam=0.0, bootstrap=Bootstrap(replications=299))
    plain = mean(Y, f, rest, lam=0.0)
    assert found.interval[1] > plain.interval[1]
    assert found.interval[1] - found.value > found.value - found.interval[0]


# ------------------------------------------------------------------------------------------- vectors


def two_means(labeled, unlabeled, chosen):
    """The mean and twice the mean less one, as a vector target."""
    one = rectified_means(labeled, unlabeled, replace(chosen, null=0.0, simultaneous=False))
    arrays = [np.array([one.value, 2 * one.value - 1]), np.array([one.std_error, 2 * one.std_error])]
    ends = tuple(np.array([end, 2 * end - 1]) for end in one.interval)
    return Estimate(
        *arrays, ends, one.alpha, one.lam, one.n, one.m, None, ("a", "b"), "two", one.diagnostics, df=np.ones(2)
    )


def test_each_coordinate_has_its_own_interval():
    Y, f, rest = data()
    scalar = mean(Y, f, rest, bootstrap=FEW, null=1.0)
    labeled, unlabeled = both(Y, f, rest)
    found = estimated(two_means, labeled, unlabeled, Settings(bootstrap=FEW, null=np.array([1.0, 1.0])))
    for end, alone in zip(found.interval, scalar.interval, strict=True):
        np.testing.assert_allclose(end, [alone, 2 * alone - 1], rtol=1e-12)
    np.testing.assert_allclose(found.p_value, [scalar.p_value] * 2)
    assert found.df is None


def test_simultaneous_intervals_take_the_largest():
    Y, f, rest = data()
    labeled, unlabeled = both(Y, f, rest)
    value, error = replicates(labeled, unlabeled, Settings(), 0, 199)
    plain = rectified_means(labeled, unlabeled, Settings())
    t = (value - plain.value) / error
    found = estimated(two_means, labeled, unlabeled, Settings(bootstrap=FEW, simultaneous=True, null=np.ones(2)))
    reach = np.sort(np.abs(t))[-9] * plain.std_error  # the coordinates are one: max |t| is |t|
    np.testing.assert_allclose(found.interval[0], [plain.value - reach, 2 * (plain.value - reach) - 1], rtol=1e-9)
    np.testing.assert_allclose(found.interval[1], [plain.value + reach, 2 * (plain.value + reach) - 1], rtol=1e-9)
    p = (1 + np.sum(np.abs(t) >= abs(plain.value - 1) / plain.std_error)) / 200
    np.testing.assert_allclose(found.p_value, [p, p])
    larger = Settings(bootstrap=FEW, simultaneous=True, alternative="larger")
    low = estimated(two_means, labeled, unlabeled, larger).interval[0][0]
    assert low == pytest.approx(plain.value - plain.std_error * np.sort(t)[-9], rel=1e-9)
    with pytest.raises(InputError) as caught:
        estimated(two_means, labeled, unlabeled, Settings(bootstrap=PERCENTILE, simultaneous=True))
    assert str(caught.value) == "'simultaneous' goes with the studentised bootstrap, not with 'percentile'."


# ------------------------------------------------------------------------------------------- edges


def test_constant_labels_have_width_zero():
    _, f, rest = data()
    found = mean(np.full(40, 2.5), f, rest, bootstrap=FEW, null=2.0)
    assert found.interval == (2.5, 2.5)
    assert found.p_value < 0.05
    assert mean(np.full(40, 2.5), f, rest, bootstrap=FEW, null=2.5).p_value == 1.0


def test_replicates_without_a_standard_error_are_counted():
    Y = np.r_[np.zeros(36), np.ones(4)]
    found = mean(Y, np.zeros(40), np.zeros(9), lam=0.0, bootstrap=FEW)
    constant = sum(
        not labeled.Y.any()
        for rng in [np.random.default_rng(0)]
        for draws in [WithReplacement.of(*both(Y, np.zeros(40), np.zeros(9)))]
        for labeled, _ in [draws.draw(rng) for _ in range(199)]
    )
    assert 0 < constant <= UNUSABLE_SHARE * 199
    text = f"{constant} of 199 bootstrap replicates were not usable and are left out"
    assert text in found.warnings
    assert found.state == "REFUSE"  # four rare answers
    usable = mean(Y, np.zeros(40), np.zeros(9), lam=0.0, bootstrap=PERCENTILE)
    assert not any("replicates" in warning for warning in usable.warnings)


def test_too_many_replicates_without_a_standard_error():
    Y = np.r_[np.zeros(39), 1.0]
    with pytest.raises(StatisticalRefusal) as caught:
        mean(Y, np.zeros(40), np.zeros(9), lam=0.0, bootstrap=FEW)
    count, _, rest = str(caught.value).partition(" of ")
    assert 0.25 < int(count) / 199 < 0.5  # (39/40)^40 = 36 %
    assert rest == (
        "199 bootstrap replicates have no standard error or no estimate "
        "— label more rows, or take the t interval: drop 'bootstrap'"
    )


def test_two_labels_cannot_be_bootstrapped_and_eight_can():
    with pytest.raises(StatisticalRefusal, match="bootstrap replicates have no standard error"):
        mean([1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], bootstrap=Bootstrap(replications=99))
    Y = np.arange(8.0) ** 2
    assert np.isfinite(mean(Y, Y, np.arange(9.0), bootstrap=Bootstrap(replications=99)).interval).all()


def sometimes(refuse_from):
    calls = []

    def core(labeled, unlabeled, chosen):
        calls.append(0)
        if len(calls) > refuse_from:
            raise StatisticalRefusal("no")
        return classical(labeled, unlabeled, chosen)

    return core


@pytest.mark.parametrize("kind", ["studentised", "percentile"])
def test_refusals_of_the_core_are_counted_at_the_margin(kind):
    labeled, unlabeled = both(*data())
    chosen = Settings(bootstrap=Bootstrap(kind, 200))
    found = estimated(sometimes(191), labeled, unlabeled, chosen)  # 1 estimate, 190 replicates, 10 refused: 5 %
    assert "10 of 200 bootstrap replicates were not usable and are left out" in found.warnings
    with pytest.raises(StatisticalRefusal, match="^11 of 200 bootstrap replicates have no standard error or no est"):
        estimated(sometimes(190), labeled, unlabeled, chosen)
    whole = estimated(sometimes(500), labeled, unlabeled, chosen)
    assert not any("replicates" in warning for warning in whole.warnings)


def test_defects_of_the_core_are_not_swallowed():
    def core(labeled, unlabeled, chosen):
        if len(np.unique(labeled.Y)) < labeled.n:
            raise ValueError("a defect")
        return classical(labeled, unlabeled, chosen)

    with pytest.raises(ValueError, match="a defect"):
        estimated(core, *both(*data()), Settings(bootstrap=FEW))


@pytest.mark.parametrize(("alpha", "alternative"), [(0.01, "two-sided"), (0.005, "larger")])
def test_replications_enough_for_alpha(alpha, alternative):
    samples = both(*data())
    few, enough = (
        Settings(alpha=alpha, alternative=alternative, bootstrap=Bootstrap(replications=r)) for r in (199, 210)
    )
    with pytest.raises(InputError) as caught:
        estimated(classical, *samples, few)
    assert str(caught.value) == f"'bootstrap.replications' must be at least 210 for alpha {alpha:g}; got 199."
    assert np.isfinite(estimated(classical, *samples, enough).interval[0])


def test_the_studentised_interval_is_not_judged_as_a_t_interval():
    Y = np.random.default_rng(0).exponential(size=30) ** 3
    plain = mean(Y, Y, np.zeros(9), lam=0.0)
    assert "coverage" in {one["name"] for one in plain.diagnostics["checks"]}
    found = mean(Y, Y, np.zeros(9), lam=0.0, bootstrap=FEW).diagnostics
    assert [one for one in plain.diagnostics["checks"] if one["name"] != "coverage"] == found["checks"]
    assert found["r2"] == plain.diagnostics["r2"]
    kept = mean(Y, Y, np.zeros(9), lam=0.0, bootstrap=PERCENTILE).diagnostics
    assert kept["checks"] == plain.diagnostics["checks"]


def test_a_finite_population_shrinks_the_interval_and_a_census_is_certain():
    Y, f, rest = data(n=60, m=60)
    plain = mean(Y, f, rest, population="finite")
    found = mean(Y, f, rest, population="finite", bootstrap=FEW)
    np.testing.assert_allclose(found.interval, plain.interval, atol=0.35 * plain.length)
    assert found.length < 0.9 * mean(Y, f, rest, bootstrap=FEW).length
    percentile = mean(Y, f, rest, lam=1.0, population="finite", bootstrap=Bootstrap("percentile", 499)).interval
    exact = 2 * stats.norm.isf(0.025) * np.sqrt(0.5 * np.var(Y - f) / 60 * 120 / 119)
    assert percentile[1] - percentile[0] == pytest.approx(exact, rel=0.15)
    census = mean(Y, f, [], population="finite", bootstrap=Bootstrap(replications=99))
    assert census.interval == (census.value, census.value)


@pytest.mark.parametrize(
    "options",
    [
        {"sample": Sample(weights=np.linspace(1, 3, 40))},
        {"sample": Sample(strata=np.arange(40) % 2), "sample_unlabeled": Sample(strata=np.arange(100) % 2)},
        {"sample": Sample(clusters=np.arange(40) // 2)},
        {"sample": Sample(clusters=np.arange(40) // 2), "sample_unlabeled": Sample(clusters=np.arange(100) // 4)},
        {"sample": Sample(probabilities=np.linspace(0.2, 0.6, 40))},
        {"sample": Sample(probabilities=np.linspace(0.2, 0.6, 40), total="known"), "lam": 1.0},
    ],
)
def test_every_kind_of_sample_has_about_the_t_interval(options):
    rng = np.random.default_rng(10)
    Y, rest = rng.normal(size=40), rng.normal(size=100)
    f = Y + 0.5 * rng.normal(size=40)
    plain = mean(Y, f, rest, **options)
    found = mean(Y, f, rest, bootstrap=FEW, **options)
    np.testing.assert_allclose(found.interval, plain.interval, atol=0.3 * plain.length)


# ------------------------------------------------------------------------------------------- fidelity


def test_it_covers_skewed_answers_better_than_t():
    """Exponential answers, n = 20, level 90 %: t covers 86 %, the studentised bootstrap 90 % within its error."""
    rng = np.random.default_rng(11)
    repetitions, hits = 400, np.zeros(2)
    for r in range(repetitions):
        labeled, unlabeled = both(rng.exponential(size=20), np.zeros(20), np.zeros(2), lam=0.0)
        error = labeled.Y.std(ddof=1) / np.sqrt(20)
        hits[0] += abs(labeled.Y.mean() - 1) <= stats.t.isf(0.05, 19) * error
        chosen = Settings(alpha=0.1, bootstrap=Bootstrap(replications=99, seed=r))
        low, high = estimated(classical, labeled, unlabeled, chosen).interval
        hits[1] += low <= 1 <= high
    coverage = hits / repetitions
    assert abs(coverage[1] - 0.9) <= 3 * np.sqrt(0.09 / repetitions)
    assert coverage[1] > coverage[0]
