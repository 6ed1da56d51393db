"""The rectified mean: identities, ppi_py, statsmodels and survey formulas, and edge cases."""

import json
import warnings as python_warnings
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.means import MeanSums, means_from_sums, rectified_means
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings

with python_warnings.catch_warnings():
    python_warnings.simplefilter("ignore")
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

FOREST = Path(__file__).resolve().parents[3] / "shared" / "data" / "ppi" / "forest_badmodel.npz"
ALTERNATIVES = {"two-sided": "two-sided", "larger": "greater", "smaller": "less"}
LAMS = [0.0, 0.4, 1.0, "tuned", "crossfit", "per-coordinate"]
quick = settings(deadline=None, max_examples=25, derandomize=True)
numbers = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def samples(draw, models=1):
    n, m = draw(st.integers(5, 20)), draw(st.integers(2, 20))
    Y, f = draw(arrays(float, n, elements=numbers)), draw(arrays(float, n, elements=numbers))
    return Y, f, draw(arrays(float, (m, models), elements=numbers))


def sample(seed=0, n=80, m=300):
    rng = np.random.default_rng(seed)
    truth = rng.normal(2, 1, n + m)
    f = 0.5 + 0.8 * truth + rng.normal(0, 0.4, n + m)
    return truth[:n], f[:n], f[n:]


def same(one, other, tolerance=1e-9):
    for name in ("value", "std_error", "lam", "df", "p_value"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=tolerance, abs=tolerance), name
    assert one.interval == pytest.approx(other.interval, rel=tolerance, abs=tolerance)


# ------------------------------------------------------------------------------------------- λ = 0 is classical


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("n", [2, 3, 40])
@pytest.mark.parametrize("m", [0, 1, 7])
def test_lam_zero_is_the_t_test(alternative, n, m):
    Y, f, _ = sample(n=n)
    garbage = 1e6 * f
    found = mean(Y, garbage, -garbage[:1].repeat(m), lam=0.0, alternative=alternative, null=1.5, alpha=0.1)
    theirs = stats.ttest_1samp(Y, 1.5, alternative=ALTERNATIVES[alternative])
    assert found.value == pytest.approx(Y.mean(), rel=1e-14)
    assert found.std_error == pytest.approx(Y.std(ddof=1) / np.sqrt(n), rel=1e-12)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.9)), rel=1e-12)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-12)
    assert found.df == pytest.approx(n - 1, rel=1e-14)
    assert found.effective_n == pytest.approx(n, rel=1e-14)


@quick
@given(samples(), st.sampled_from(list(ALTERNATIVES)), st.sampled_from(LAMS), st.floats(0.01, 0.5), numbers)
def test_p_below_alpha_exactly_where_the_null_is_outside(data, alternative, lam, alpha, null):
    Y, f, unlabeled = data
    found = mean(Y, f, unlabeled, lam=lam, alternative=alternative, alpha=alpha, null=null)
    assert (found.p_value < alpha) == (null < found.interval[0] or null > found.interval[1])
    assert 0 <= found.p_value <= 1


# ------------------------------------------------------------------------------------------- λ


@quick
@given(samples(), st.sampled_from(["tuned", "per-coordinate"]))
def test_a_tuned_interval_is_never_longer_than_the_classical_one(data, lam):
    Y, f, unlabeled = data
    assert mean(Y, f, unlabeled, lam=lam).length <= mean(Y, f, unlabeled, lam=0.0).length * (1 + 1e-9)


@pytest.mark.parametrize("lam", ["tuned", "per-coordinate", "crossfit"])
@pytest.mark.parametrize("n", [20, 50, 200])
def test_a_useless_predictor_costs_at_most_two_percent_in_every_draw(lam, n):
    rng = np.random.default_rng(n)
    for _ in range(60):
        Y, f, unlabeled = rng.normal(size=n), rng.normal(size=n), rng.normal(size=rng.integers(2, 4 * n))
        assert mean(Y, f, unlabeled, lam=lam).length <= 1.02 * mean(Y, f, unlabeled, lam=0.0).length


def test_tuned_lam_is_the_formula_of_the_paper():
    Y, f, unlabeled = sample()
    lam = np.cov(Y, f)[0, 1] / (np.var(f, ddof=1) + len(Y) / len(unlabeled) * np.var(unlabeled, ddof=1))
    assert 0 < lam < 1
    assert mean(Y, f, unlabeled).lam == pytest.approx(lam, rel=1e-12)
    same(mean(Y, f, unlabeled, lam="per-coordinate"), mean(Y, f, unlabeled))
    assert mean(Y, f, unlabeled, lam_range=(0, 0.5)).lam == 0.5
    assert mean(Y, 0.1 * f, 0.1 * unlabeled, lam_range=(0, 20)).lam == pytest.approx(10 * lam, rel=1e-9)
    assert mean(Y, -f, -unlabeled).lam == 0
    assert mean(Y, -f, -unlabeled, lam_range=(0.25, 1)).lam == 0.25


def test_standard_error_and_df_of_a_tuned_lam():
    """The labelled variance times ν/(ν − 2), ν = n − 1 (Cochran 1977, §12.6); df by Satterthwaite."""
    Y, f, unlabeled = sample(n=12)
    found = mean(Y, f, unlabeled)
    labeled = np.var(Y - found.lam * f, ddof=1) / 12 * 11 / 9
    rest = found.lam**2 * np.var(unlabeled, ddof=1) / 300
    assert found.std_error == pytest.approx(np.sqrt(labeled + rest), rel=1e-12)
    df = (labeled + rest) ** 2 / (labeled**2 / 10 + rest**2 / 299)
    assert found.df == pytest.approx(df, rel=1e-12)
    reach = stats.t.ppf(0.975, df) * found.std_error
    assert found.interval == pytest.approx((found.value - reach, found.value + reach), rel=1e-12)
    assert mean(Y, f, unlabeled, quantiles="normal").length == pytest.approx(2 * 1.959964 * found.std_error, rel=1e-6)


def test_perfect_predictor_gives_the_variance_of_the_unlabelled_sample():
    rng = np.random.default_rng(1)
    Y, unlabeled = rng.normal(size=50), rng.normal(size=4000)
    estimate = mean(Y, Y, unlabeled, lam=1.0)
    assert estimate.value == pytest.approx(unlabeled.mean(), abs=1e-12)
    assert estimate.std_error == pytest.approx(np.std(unlabeled, ddof=1) / np.sqrt(4000), rel=1e-12)
    assert estimate.df == pytest.approx(3999)
    assert estimate.effective_n == pytest.approx(np.var(Y, ddof=1) / estimate.std_error**2)


# ------------------------------------------------------------------------------------------- models


@quick
@given(samples(), st.integers(2, 5), st.booleans(), st.sampled_from([0.0, 0.4, 1.0, "tuned"]))
def test_equal_models_are_one_model(data, models, with_folds, lam):
    Y, f, unlabeled = data
    models = min(models, len(Y))
    folds = np.arange(len(Y)) % models if with_folds else None
    one = mean(Y, f, unlabeled, lam=lam)
    same(mean(Y, f, np.repeat(unlabeled, models, axis=1), lam=lam, folds=folds), one, 1e-6)


@quick
@given(samples(models=3), st.sampled_from([0.4, 1.0, "tuned", "crossfit"]), numbers)
def test_constant_bias_of_one_folds_model_costs_nothing(data, lam, bias):
    Y, f, unlabeled = data
    folds = np.arange(len(Y)) % 3
    biased = mean(Y, f + bias * (folds == 1), unlabeled + bias * np.array([0, 1, 0]), lam=lam, folds=folds)
    same(biased, mean(Y, f, unlabeled, lam=lam, folds=folds), 1e-6)


def test_cross_fitted_value_weighs_models_by_their_folds():
    Y, f, _ = sample(n=10)
    unlabeled = np.random.default_rng(3).normal(size=(7, 2))
    folds = np.array([0] * 3 + [1] * 7)
    by_hand = np.mean(Y - f) + 0.3 * unlabeled[:, 0].mean() + 0.7 * unlabeled[:, 1].mean()
    found = mean(Y, f, unlabeled, lam=1.0, folds=folds)
    assert found.value == pytest.approx(by_hand, abs=1e-12)
    rectifier = Y - f + unlabeled.mean(axis=0)[folds]
    variance = np.var(rectifier, ddof=1) / 10 + np.var(unlabeled @ [0.3, 0.7], ddof=1) / 7
    assert found.std_error == pytest.approx(np.sqrt(variance), rel=1e-12)
    plain = np.mean(Y - f) + unlabeled.mean()
    assert mean(Y, f, unlabeled, lam=1.0).value == pytest.approx(plain, abs=1e-12)


def test_rotation_measures_each_row_from_the_models_that_did_not_see_it():
    Y, _, _ = sample(n=6)
    rng = np.random.default_rng(4)
    every, unlabeled = rng.normal(size=(6, 3)), rng.normal(size=(9, 3))
    mask = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1]], dtype=bool)
    level = unlabeled.mean(axis=0)
    by_hand = np.mean([y - f[k].mean() + level[k].mean() for y, f, k in zip(Y, every, mask, strict=True)])
    assert mean(Y, every, unlabeled, lam=1.0, folds=mask).value == pytest.approx(by_hand, abs=1e-12)


# ------------------------------------------------------------------------------------------- equivariance


@quick
@given(samples(models=2), st.sampled_from([0.0, 0.7, "tuned"]), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(data, lam, random):
    Y, f, unlabeled = data
    folds = np.arange(len(Y)) % 2
    rows, texts = np.arange(len(Y)), np.arange(len(unlabeled))
    random.shuffle(rows)
    random.shuffle(texts)
    shuffled = mean(Y[rows], f[rows], unlabeled[texts], lam=lam, folds=folds[rows])
    same(shuffled, mean(Y, f, unlabeled, lam=lam, folds=folds), 1e-7)


@quick
@given(samples(), st.sampled_from([0.0, 0.7, 1.0, "tuned"]), st.integers(-50, 50), st.sampled_from([0.01, 3.0, 1000.0]))
def test_shift_and_scale(data, lam, shift, scale):
    Y, f, unlabeled = data
    one = mean(Y, f, unlabeled, lam=lam)
    moved = mean(shift + scale * Y, shift + scale * f, shift + scale * unlabeled, lam=lam)
    assert moved.value == pytest.approx(shift + scale * one.value, rel=1e-6, abs=1e-6 * scale)
    assert moved.std_error == pytest.approx(scale * one.std_error, rel=1e-5, abs=1e-6 * scale)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lam", [1.0, "tuned"])
def test_a_level_of_a_billion_costs_no_digits(lam, weighted):
    """Deviations are multiples of 1/4, so that the shift itself is exact; 200,000 rows are several blocks."""
    rng = np.random.default_rng(0)
    Y, noise, unlabeled = (np.round(4 * rng.normal(size=size)) / 4 for size in (500, 500, 200_000))
    options = {"lam": lam}
    if weighted:
        options |= {
            "sample": Sample(weights=rng.uniform(1, 2, 500)),
            "sample_unlabeled": Sample(weights=rng.uniform(1, 2, 200_000)),
        }
    near = mean(Y, Y + noise, unlabeled, **options)
    far = mean(Y + 1e9, Y + noise + 1e9, unlabeled + 1e9, **options)
    assert far.value - 1e9 == pytest.approx(near.value, abs=3e-7)
    assert far.std_error == pytest.approx(near.std_error, rel=1e-9)
    assert far.lam == pytest.approx(near.lam, rel=1e-9)


# ------------------------------------------------------------------------------------------- ppi_py


def ppi_interval(Y, f, unlabeled, alpha, lam):
    """ppi_py divides both variances by N and takes z; its interval is rebuilt with N − 1 and t."""
    low, high = ppi_mean_ci(Y, f, unlabeled, alpha=alpha, lam=lam)
    n, m = len(Y), len(unlabeled)
    theirs = np.var(Y - lam * f) / n + lam**2 * np.var(unlabeled) / m
    first, second = np.var(Y - lam * f) / (n - 1), lam**2 * np.var(unlabeled) / (m - 1)
    df = (first + second) ** 2 / (first**2 / (n - 1) + second**2 / (m - 1))
    middle, reach = (low + high) / 2, (high - low) / 2
    reach = reach * np.sqrt((first + second) / theirs) * stats.t.ppf(1 - alpha / 2, df) / stats.norm.ppf(1 - alpha / 2)
    return float(np.squeeze(middle - reach)), float(np.squeeze(middle + reach))


@pytest.mark.parametrize("lam", [0.0, 0.35, 1.0])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_agrees_with_ppi_py(lam, alpha):
    Y, f, unlabeled = sample(5)
    estimate = mean(Y, f, unlabeled, lam=lam, alpha=alpha)
    assert estimate.value == pytest.approx(np.squeeze(ppi_mean_pointestimate(Y, f, unlabeled, lam=lam)), abs=1e-10)
    assert estimate.interval == pytest.approx(ppi_interval(Y, f, unlabeled, alpha, lam), abs=1e-10)


@pytest.mark.skipif(not FOREST.exists(), reason="forest_badmodel.npz is not here")
def test_a_bad_model_on_real_data_is_recognised():
    data = np.load(FOREST)
    Y, f = data["Y"], data["Yhat"].astype(float)
    rows = np.random.default_rng(0).permutation(len(Y))
    labelled, rest = rows[:200], rows[200:]
    estimate = mean(Y[labelled], f[labelled], f[rest])
    classical = mean(Y[labelled], f[labelled], f[rest], lam=0.0)
    assert estimate.value == pytest.approx(Y.mean(), abs=3 * estimate.std_error)
    assert estimate.std_error <= classical.std_error
    given = mean(Y[labelled], f[labelled], f[rest], lam=0.8)
    assert given.interval == pytest.approx(ppi_interval(Y[labelled], f[labelled], f[rest], 0.05, 0.8), abs=1e-10)


# ------------------------------------------------------------------------------------------- samples as they are


def weighted_mean_error(Y, w, strata=None, clusters=None):
    """R's survey::svymean: z = w(y − ȳ_w)/Σw, summed in clusters, n_h/(n_h − 1)·Σ(z − z̄_h)²; written by loops."""
    z = w * (Y - w @ Y / w.sum()) / w.sum()
    strata = np.zeros(len(Y), dtype=int) if strata is None else strata
    clusters = np.arange(len(Y)) if clusters is None else clusters
    total = 0.0
    for h in np.unique(strata):
        sums = [z[(strata == h) & (clusters == c)].sum() for c in np.unique(clusters[strata == h])]
        total += len(sums) * np.var(sums, ddof=1)
    return np.sqrt(total)


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
def test_the_weighted_mean_of_survey_sampling(stratified, clustered):
    Y, f, unlabeled = sample(n=60)
    rng = np.random.default_rng(6)
    w, clusters = rng.uniform(0.5, 3, 60), rng.permutation(np.arange(60) % 12)
    known = {"strata": clusters % 3 if stratified else None, "clusters": clusters if clustered else None}
    found = mean(Y, f, unlabeled, lam=0.0, sample=Sample(weights=w, **known))
    assert found.value == pytest.approx(np.average(Y, weights=w), rel=1e-13)
    assert found.std_error == pytest.approx(weighted_mean_error(Y, w, **known), rel=1e-11)
    assert found.df == pytest.approx((12 if clustered else 60) - (3 if stratified else 1), rel=1e-13)


@pytest.mark.parametrize("clustered", [False, True])
def test_statsmodels_weighted_least_squares(clustered):
    Y, f, unlabeled = sample(n=60)
    rng = np.random.default_rng(7)
    w, clusters = rng.uniform(0.5, 3, 60), np.arange(60) // 5
    kind = {"cov_type": "cluster", "cov_kwds": {"groups": clusters}} if clustered else {"cov_type": "HC0"}
    theirs = sm.WLS(Y, np.ones(60), weights=w).fit(**kind)
    found = mean(Y, f, unlabeled, lam=0.0, sample=Sample(weights=w, clusters=clusters if clustered else None))
    assert found.value == pytest.approx(theirs.params[0], rel=1e-12)
    # the cluster covariance of statsmodels has G/(G − 1)·(n − 1)/(n − 1) already, HC0 has no factor
    factor = 1.0 if clustered else np.sqrt(60 / 59)
    assert found.std_error == pytest.approx(factor * theirs.bse[0], rel=1e-10)


@pytest.mark.parametrize("lam", LAMS)
def test_equal_weights_are_none_and_their_scale_is_free(lam):
    Y, f, unlabeled = sample()
    plain = mean(Y, f, unlabeled, lam=lam)
    rng = np.random.default_rng(8)
    for value in (1.0, 1e-6, 1e6):
        sides = {"sample": Sample(weights=np.full(80, value)), "sample_unlabeled": Sample(weights=np.full(300, 3.0))}
        same(mean(Y, f, unlabeled, lam=lam, **sides), plain, 1e-10)
    w, v = rng.uniform(size=80), rng.uniform(size=300)
    one, two = (
        mean(Y, f, unlabeled, lam=lam, sample=Sample(weights=a * w), sample_unlabeled=Sample(weights=b * v))
        for a, b in ((1, 1), (1e4, 1e-4))
    )
    same(one, two, 1e-10)
    ratio = mean(Y, f, unlabeled, lam=lam, sample=Sample(density_ratio=w), sample_unlabeled=Sample(density_ratio=v))
    same(one, ratio, 1e-12)


@pytest.mark.parametrize("lam", LAMS)
def test_one_stratum_and_clusters_of_one_row_are_none(lam):
    Y, f, unlabeled = sample()
    plain = mean(Y, f, unlabeled, lam=lam)
    strata = {"sample": Sample(strata=["a"] * 80), "sample_unlabeled": Sample(strata=["a"] * 300)}
    same(mean(Y, f, unlabeled, lam=lam, **strata), plain, 1e-10)
    clusters = {"sample": Sample(clusters=np.arange(80)), "sample_unlabeled": Sample(clusters=100 + np.arange(300))}
    same(mean(Y, f, unlabeled, lam=lam, **clusters), plain, 1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0, "tuned"])
def test_integer_weights_are_repeated_rows_of_one_cluster(lam):
    Y, f, unlabeled = sample(n=30, m=50)
    rng = np.random.default_rng(9)
    w, v = rng.integers(1, 5, 30), rng.integers(1, 5, 50)
    weighted = mean(Y, f, unlabeled, lam=lam, sample=Sample(weights=w), sample_unlabeled=Sample(weights=v))
    rows, texts = np.repeat(np.arange(30), w), np.repeat(np.arange(50), v)
    repeated = mean(
        Y[rows],
        f[rows],
        unlabeled[texts],
        lam=lam,
        sample=Sample(clusters=rows),
        sample_unlabeled=Sample(clusters=100 + texts),
    )
    same(weighted, repeated, 1e-10)


@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_weighted_rectifier_by_hand(lam):
    Y, f, unlabeled = sample(n=30, m=50)
    rng = np.random.default_rng(10)
    w, v = rng.uniform(1, 3, 30), rng.uniform(1, 3, 50)
    found = mean(Y, f, unlabeled, lam=lam, sample=Sample(weights=w), sample_unlabeled=Sample(weights=v))
    residual = Y - lam * f
    assert found.value == pytest.approx(np.average(residual, weights=w) + lam * np.average(unlabeled, weights=v))
    first, second = weighted_mean_error(residual, w), weighted_mean_error(lam * unlabeled, v)
    assert found.std_error == pytest.approx(np.hypot(first, second), rel=1e-11)


def test_strata_remove_what_lies_between_them():
    strata = np.arange(40) % 2
    Y = 10.0 * strata + np.random.default_rng(11).normal(size=40)
    found = mean(Y, Y * 0, np.zeros(9), lam=0.0, sample=Sample(strata=strata))
    by_hand = np.sqrt(sum(np.var(Y[strata == h], ddof=1) * 20 for h in (0, 1))) / 40
    assert found.std_error == pytest.approx(by_hand, rel=1e-12)


def test_a_stratum_with_one_unit_is_refused_by_name():
    Y, f, unlabeled = sample(n=5)
    with pytest.raises(StatisticalRefusal) as caught:
        mean(Y, f, unlabeled, sample=Sample(strata=["a", "a", "b", "c", "c"]))
    assert str(caught.value) == (
        "stratum 'b' has one sampling unit, so its variance is unknown "
        "— merge it with a stratum like it, or sample more units"
    )


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0, "tuned", "crossfit"])
def test_clusters_that_hold_labelled_and_unlabelled_rows(lam):
    """Every cluster has both: the estimate is a sum over clusters, its variance G/(G − 1)·Σ(u − ū)²."""
    Y, f, unlabeled = sample(n=40, m=120)
    clusters, others = np.arange(40) % 10, np.arange(120) % 10
    found = mean(Y, f, unlabeled, lam=lam, sample=Sample(clusters=clusters), sample_unlabeled=Sample(clusters=others))
    assert found.df == pytest.approx(9 - (lam == "tuned" and found.lam > 0))
    if isinstance(lam, float):
        residual, imputed = (Y - lam * f) / 40, lam * unlabeled / 120
        residual, imputed = residual - residual.mean(), imputed - imputed.mean()
        sums = [residual[clusters == c].sum() + imputed[others == c].sum() for c in range(10)]
        assert found.std_error == pytest.approx(np.sqrt(10 * np.var(sums, ddof=1)), rel=1e-11)


def test_lam_zero_is_classical_where_few_of_the_shared_clusters_are_labelled():
    Y, f, unlabeled = sample(n=12, m=300)
    clusters, others = np.arange(12) // 3, np.arange(300) // 3
    shared = {"sample": Sample(clusters=clusters), "sample_unlabeled": Sample(clusters=others)}
    alone = mean(Y, f, unlabeled, lam=0.0, sample=Sample(clusters=clusters))
    same(mean(Y, f, unlabeled, lam=0.0, **shared), alone, 1e-10)
    assert alone.df == pytest.approx(3)


# ------------------------------------------------------------------------------------------- chosen labels


def table(seed=12, N=400):
    rng = np.random.default_rng(seed)
    truth = rng.normal(2, 1, N)
    f = 0.3 + truth + rng.normal(0, 0.6, N)
    chance = np.clip(0.05 + 0.1 * rng.uniform(size=N) + 0.1 * (f > 2), 0, 1)
    labelled = rng.uniform(size=N) < chance
    return truth[labelled], f[labelled], f[~labelled], chance[labelled]


def test_horvitz_thompson_is_the_pseudo_outcome_of_dsl():
    """Egami et al. 2023: mean over all N rows of f + (R/π)(Y − f), with the variance of these outcomes."""
    Y, f, rest, p = table()
    N = len(Y) + len(rest)
    pseudo = np.concatenate([f + (Y - f) / p, rest])
    found = mean(Y, f, rest, lam=1.0, sample=Sample(probabilities=p, total="known"))
    assert found.value == pytest.approx(pseudo.mean(), rel=1e-12)
    assert found.std_error == pytest.approx(np.std(pseudo, ddof=1) / np.sqrt(N), rel=1e-11)
    assert found.df == pytest.approx(len(Y) - 1)
    part = mean(Y, f, rest, lam=0.4, sample=Sample(probabilities=p, total="known"))
    pseudo = np.concatenate([0.4 * f + (Y - 0.4 * f) / p, 0.4 * rest])
    assert part.value == pytest.approx(pseudo.mean(), rel=1e-12)
    assert part.std_error == pytest.approx(np.std(pseudo, ddof=1) / np.sqrt(N), rel=1e-11)


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_hajek_is_the_pseudo_outcome_with_estimated_totals(lam):
    Y, f, rest, p = table()
    n, N = len(Y), len(Y) + len(rest)
    w = 1 / p / np.sum(1 / p)
    level = np.concatenate([f, rest]).mean()
    residual = Y - lam * f
    found = mean(Y, f, rest, lam=lam, sample=Sample(probabilities=p))
    assert found.value == pytest.approx(w @ residual + lam * level, rel=1e-12)
    lift = np.sqrt(n / (n - 1) * (N - 1) / N)
    outcomes = np.concatenate([lift * w * (residual - w @ residual) + lam * (f - level) / N, lam * (rest - level) / N])
    assert found.std_error == pytest.approx(np.sqrt(N * np.var(outcomes, ddof=1)), rel=1e-11)
    if lam == 0:
        same(found, mean(Y, f, rest, lam=0.0, sample=Sample(weights=1 / p)), 1e-10)


def test_equal_probabilities_are_a_simple_sample():
    """λ in the table is λ·m/N between the samples: θ̂ is the same, its standard error within 1/n."""
    Y, f, rest = sample(n=60, m=240)
    chosen = mean(Y, f, rest, lam=1.0, sample=Sample(probabilities=np.full(60, 0.2)))
    plain = mean(Y, f, rest, lam=240 / 300)
    assert chosen.value == pytest.approx(plain.value, rel=1e-12)
    assert chosen.std_error == pytest.approx(plain.std_error, rel=1 / 60)
    known = mean(Y, f, rest, lam=1.0, sample=Sample(probabilities=np.full(60, 0.2), total="known"))
    assert known.value == pytest.approx(plain.value, rel=1e-12)


def test_all_rows_labelled_with_probability_one():
    Y, f, _ = sample()
    found = mean(Y, f, [], sample=Sample(probabilities=np.ones(80)))
    assert found.value == pytest.approx(Y.mean(), rel=1e-13)
    assert found.std_error == pytest.approx(Y.std(ddof=1) / np.sqrt(80), rel=1e-12)
    unequal = mean(Y, f, [], sample=Sample(probabilities=np.linspace(0.2, 1, 80)), lam=1.0)
    assert np.isfinite([unequal.value, unequal.std_error]).all()


def test_coverage_of_chosen_labels():
    rng = np.random.default_rng(13)
    hits, repetitions = np.zeros(2), 600
    for _ in range(repetitions):
        truth = rng.normal(size=500)
        f = truth + rng.normal(0, 0.7, 500)
        chance = np.where(f > 0, 0.25, 0.08)
        picked = rng.uniform(size=500) < chance
        for j, total in enumerate(("estimated", "known")):
            known = Sample(probabilities=chance[picked], total=total)
            low, high = mean(truth[picked], f[picked], f[~picked], sample=known, alpha=0.1).interval
            hits[j] += low <= 0 <= high
    assert (np.abs(hits / repetitions - 0.9) <= 3 * np.sqrt(0.09 / repetitions)).all(), hits / repetitions


# ------------------------------------------------------------------------------------------- finite population


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_a_finite_population_by_hand(lam):
    Y, f, rest = sample(n=60, m=90)
    found = mean(Y, f, rest, lam=lam, population="finite")
    everyone = np.concatenate([f, rest])
    assert found.value == pytest.approx(np.mean(Y - lam * f) + lam * everyone.mean(), rel=1e-12)
    variance = (1 - 60 / 150) * np.var(Y - lam * f, ddof=1) / 60
    assert found.std_error == pytest.approx(np.sqrt(variance), rel=1e-12)
    assert found.df == pytest.approx(59)


def test_a_finite_populations_lam_knows_no_unlabelled_variance():
    Y, f, rest = sample(n=60, m=90)
    slope = np.cov(Y, f)[0, 1] / np.var(f, ddof=1)
    assert mean(Y, f, rest, population="finite", lam_range=(0, 9)).lam == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("lam", [0.0, 1.0, "tuned", "crossfit"])
def test_a_census_is_certain(lam):
    Y, f, _ = sample()
    found = mean(Y, f, [], lam=lam, population="finite")
    assert found.value == pytest.approx(Y.mean(), rel=1e-13)
    assert found.std_error == 0
    assert found.length == 0


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_stratified_finite_population_weighs_strata_by_their_size(lam):
    Y, f, rest = sample(n=20, m=100)
    strata, others = np.repeat([0, 1], 10), np.repeat([0, 1], [10, 90])
    found = mean(
        Y, f, rest, lam=lam, population="finite", sample=Sample(strata=strata), sample_unlabeled=Sample(strata=others)
    )
    value, variance = 0.0, 0.0
    for h, size in ((0, 20), (1, 100)):
        residual = (Y - lam * f)[strata == h]
        value += size / 120 * residual.mean()
        variance += (size / 120) ** 2 * (1 - 10 / size) * np.var(residual, ddof=1) / 10
    value += lam * np.concatenate([f, rest]).mean()
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.std_error == pytest.approx(np.sqrt(variance), rel=1e-11)
    assert found.df == pytest.approx(18)


# ------------------------------------------------------------------------------------------- edge cases


def test_two_labels_are_enough_and_one_is_not():
    estimate = mean([1.0, 3.0], [1.0, 2.8], [1.0, 2.0, 3.0])
    assert (estimate.value, estimate.std_error, estimate.lam, estimate.df) == (2.0, 1.0, 0.0, 1.0)
    assert estimate.warnings == [
        "too few labels to tune λ: this is the classical estimate",
        "only 2 labels: the interval is rough below 30",
    ]
    assert np.isfinite(mean([1.0, 3.0], [1.0, 2.0], [1.0, 2.0, 3.0], lam=1.0).interval).all()
    for Y in ([], [1.0]):
        with pytest.raises(InputError, match=f"'Y' must have at least 2 rows; got {len(Y)}."):
            mean(Y, Y, [1.0, 2.0])


@pytest.mark.parametrize(("n", "tunes"), [(3, False), (4, True)])
def test_four_labels_are_needed_to_tune(n, tunes):
    Y = np.array([1.0, 2.0, 4.0, 8.0])[:n]
    rest = np.arange(1000.0) % 9
    estimate = mean(Y, Y, rest)
    assert (estimate.lam > 0) == tunes
    assert ("too few labels to tune λ: this is the classical estimate" in estimate.warnings) == (not tunes)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1])
def test_constant_labels_have_width_zero_and_a_warning(constant):
    _, f, unlabeled = sample()
    estimate = mean(np.full(len(f), constant), f, unlabeled)
    assert (estimate.std_error, estimate.lam) == (0, 0)
    assert estimate.value == pytest.approx(constant, rel=1e-15)
    assert any(w.startswith("all labels equal") for w in estimate.warnings)
    assert estimate.diagnostics["r2"] is None


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("constant", [0.0, 0.1, 7.3])
@pytest.mark.parametrize("lam", LAMS)
def test_constant_predictions_are_classical_with_a_warning(constant, models, lam):
    Y, _, _ = sample()
    folds = np.arange(len(Y)) % models
    with np.errstate(all="raise"):
        estimate = mean(Y, np.full(80, constant), np.full((301, models), constant), folds=folds, lam=lam)
    classical = mean(Y, np.full(80, constant), np.full((301, models), constant), folds=folds, lam=0.0)
    assert estimate.value == pytest.approx(classical.value, rel=1e-13)
    assert estimate.std_error == pytest.approx(classical.std_error, rel=1e-13)
    assert "the predictions are constant: the model adds nothing to the labels" in estimate.warnings
    assert estimate.diagnostics["calibration_slope"] is None


def test_constants_that_differ_between_folds_are_classical_too():
    Y, _, _ = sample()
    folds = np.arange(len(Y)) % 3
    levels = np.array([0.1, 0.7, 1.3])
    estimate = mean(Y, levels[folds], np.tile(levels, (33, 1)), folds=folds)
    same(estimate, mean(Y, levels[folds], np.tile(levels, (33, 1)), folds=folds, lam=0.0), 1e-12)


@pytest.mark.parametrize("m", [0, 1])
@pytest.mark.parametrize("lam", ["tuned", "per-coordinate", "crossfit"])
def test_without_unlabelled_rows(m, lam):
    Y, f, unlabeled = sample()
    classical = mean(Y, f, unlabeled, lam=0.0)
    tuned = mean(Y, f, unlabeled[:m], lam=lam)
    same(tuned, classical, 1e-13)
    assert f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate" in tuned.warnings
    same(mean(Y, f, unlabeled[:m], lam=0), classical, 1e-13)
    with pytest.raises(InputError, match=r"'lam' must be 0 or 'tuned' with fewer than 2 unlabelled rows; got 1\."):
        mean(Y, f, unlabeled[:m], lam=1.0)


@pytest.mark.parametrize("m", [2, 5, 30])
def test_fewer_unlabelled_rows_than_labels(m):
    Y, f, unlabeled = sample()
    found = mean(Y, f, unlabeled[:m])
    assert 0 <= found.lam <= 1
    assert found.length <= mean(Y, f, unlabeled[:m], lam=0.0).length


def test_a_rows_of_weight_zero_does_not_speak():
    Y, f, unlabeled = sample(n=20)
    w = np.r_[np.ones(19), 0.0]
    moved = mean(np.r_[Y[:19], 1e6], f, unlabeled, lam=0.7, sample=Sample(weights=w))
    assert moved.value == pytest.approx(mean(Y[:19], f[:19], unlabeled, lam=0.7).value, rel=1e-12)


def test_the_message_is_one_exact_line():
    with pytest.raises(InputError) as caught:
        mean([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], alpha=1.5)
    assert str(caught.value) == "'alpha' must be in (0, 1); got 1.5."
    with pytest.raises(InputError) as caught:
        mean([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], lambda_=0.5)
    assert str(caught.value) == "there is no option 'lambda_'. — did you mean 'lam'?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, np.nan], [1, 2], [1, 2]), "'Y' must be finite; got nan at position 1."),
        (([1, 2], [-np.inf, 2], [1, 2]), "'Yhat' must be finite; got -inf at position 0."),
        (([1, 2], [1, 2], [[1, 2], [3, np.inf]]), "'Yhat_unlabeled' must be finite; got inf at position (1, 1)."),
        (([1, 2, 3], [1, 2], [1, 2]), "'Yhat' must have as many rows as 'Y' (3); got 2."),
        (([[1], [2]], [1, 2], [1, 2]), "'Y' must have 1 dimension(s); got shape (2, 1)."),
        (([1, "two"], [1, 2], [1, 2]), "'Y' must hold numbers only."),
        (([1, 1e200], [1, 2], [1, 2]), "'Y' must not exceed 1e+100 in size; got 1e+200."),
        (([1, 2], [1, 2], np.empty((3, 0))), "'Yhat_unlabeled' must have at least one column."),
    ],
)
def test_bad_arrays(arguments, message):
    with pytest.raises(InputError) as caught:
        mean(*arguments)
    assert caught.value.what == message


# ------------------------------------------------------------------------------------------- result


def test_result_prints_and_serialises():
    Y, f, unlabeled = sample()
    estimate = mean(Y, f, unlabeled, null=1.0)
    told = json.loads(json.dumps(estimate.to_dict(), allow_nan=False))
    for name in ("value", "std_error", "lam", "n", "m", "target", "names", "p_value", "df", "alternative", "null"):
        assert told[name] == getattr(estimate, name)
    assert (told["n"], told["m"], told["target"], told["names"]) == (80, 300, "mean", None)
    assert told["interval"] == list(estimate.interval)
    assert told["diagnostics"]["state"] == estimate.state == "PASS"
    report = str(estimate)
    assert report.startswith(f"mean: {estimate.value:.6g} (95 % interval")
    assert "80 labelled and 300 unlabelled rows, λ = " in report
    assert "worth" in report
    one_sided = mean(Y, f, unlabeled, alternative="larger")
    assert json.loads(json.dumps(one_sided.to_dict(), allow_nan=False))["interval"][1] is None


def test_infinite_worth_serialises_as_null():
    estimate = mean([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0, 2.0, 2.0], lam=1.0)
    assert estimate.effective_n == np.inf
    assert estimate.to_dict()["effective_n"] is None


@pytest.mark.parametrize("sample", [None, Sample(weights=np.linspace(1, 2, 7))])
def test_rows_may_come_one_by_one(sample):
    """Blocks of a single row say the same as one block."""
    rng = np.random.default_rng(3)
    labeled, whole = checked(
        rng.normal(size=9), rng.normal(size=9), rng.normal(size=7), Settings(sample_unlabeled=sample)
    )
    rows = [MeanSums.of(whole.whole.rows(slice(i, i + 1))) for i in range(7)]
    merged = rows[0]
    for row in rows[1:]:
        merged = merged.merge(row)
    same(means_from_sums(labeled, merged, Settings()), rectified_means(labeled, whole, Settings()), 1e-12)
