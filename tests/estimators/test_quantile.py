"""The rectified quantile: the full grid by brute force, identities, ppi_py, ties, designs, refusals, passes."""

import warnings as python_warnings
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.blocks import fold
from ftrect_ray.estimators.cdf_cells import Cells
from ftrect_ray.estimators.cdf_counts import ImputedCounts, Ordered, columns, square
from ftrect_ray.estimators.cdf_curve import LabeledShares, RectifiedCdf
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.quantile import classical_point, quantile, rectified_quantile
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings

with python_warnings.catch_warnings():
    python_warnings.simplefilter("ignore")
    from ppi_py.ppi import _rectified_cdf, ppi_quantile_pointestimate

EXAMPLES = settings(deadline=None, max_examples=25, derandomize=True)
MANY = settings(deadline=None, max_examples=60, derandomize=True)
SLACK = 1e-12


def sample(seed=0, n=80, m=300):
    rng = np.random.default_rng(seed)
    truth = rng.normal(2, 1, n + m)
    f = 0.5 + 0.8 * truth + rng.normal(0, 0.4, n + m)
    return truth[:n], f[:n], f[n:]


@dataclass
class FullGrid:
    """The estimator on the grid of all values, from its definition: nothing is left out, nothing is clever."""

    Y: np.ndarray
    f: np.ndarray
    U: np.ndarray  # (m, K)
    q: float
    lam: float
    folds: np.ndarray
    w: np.ndarray
    wu: np.ndarray
    ratio: np.ndarray
    inflation: float = 1.0

    def __post_init__(self):
        self.n, self.m = len(self.Y), len(self.U)
        self.h, self.hu = self.w / self.w.sum(), self.wu / self.wu.sum()
        self.omega = np.array([np.sum((self.h * self.ratio)[self.folds == k]) for k in range(self.U.shape[1])])
        everything = np.concatenate([self.Y, self.f, self.U.ravel()]) if self.lam else self.Y
        self.grid = np.unique(everything)
        self.cdf = np.sort([self.level(t) for t in self.grid])
        self.error = np.sqrt([self.inflation * self.variance(t) for t in self.grid])

    def level(self, t):
        control = self.h @ (self.ratio * (self.f <= t)) - self.hu @ ((t >= self.U) @ self.omega)
        return self.h @ (t >= self.Y) - self.lam * control

    def variance(self, t, q=None, ddof=0):
        y, p = t >= self.Y, (self.f <= t).astype(float)
        own = (self.hu @ (t >= self.U))[self.folds]
        q = self.q if q is None else q
        h_below, h_above = self.h * y, self.h * ~y
        p_below, p_above = p, p
        if h_below.sum() == 0:
            h_below, p_below = self.h, np.zeros(self.n)
        if h_above.sum() == 0:
            h_above, p_above = self.h, np.ones(self.n)
        first = second = 0.0
        for share, heft, hits, i in ((q, h_below, p_below, 1), (1 - q, h_above, p_above, 0)):
            residual = i - self.lam * self.ratio * (hits - own)
            first += share * (heft @ residual) / heft.sum()
            second += share * (heft @ residual**2) / heft.sum()
        variance = (second - first**2) / (self.n - ddof)
        if self.lam:
            u = (t >= self.U) @ self.omega
            variance += self.lam**2 * (self.hu @ u**2 - (self.hu @ u) ** 2) / (self.m - 1)
        return max(variance, 0.0)

    def kept(self, z):
        """The interval at critical value z, as a former version computed it."""
        before = np.r_[0, self.cdf[:-1]]
        error_before = np.r_[np.sqrt(self.inflation * self.q * (1 - self.q) / self.n), self.error[:-1]]
        reaches = self.cdf >= self.q - z * self.error - SLACK
        not_above = before <= self.q + z * error_before + SLACK
        return self.grid[np.argmax(reaches)], self.grid[len(self.grid) - 1 - np.argmax(not_above[::-1])]

    @property
    def value(self):
        return self.grid[np.argmax(self.cdf >= self.q - SLACK)]


def drawn_case(seed, models, weighted, spread=6):
    """Small samples with many ties."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(8, 40)), int(rng.integers(2, 60))
    step = rng.choice([0.5, 1.0, 0.01])
    Y = np.round(rng.normal(0, spread * step, n) / step) * step
    f = np.round((Y + rng.normal(0, 3 * step, n)) / step) * step
    U = np.round(rng.normal(rng.normal(), spread * step, (m, models)) / step) * step
    folds = rng.permutation(np.arange(n) % models)
    w, wu = (rng.integers(0, 4, size) + (np.arange(size) < 2) for size in (n, m)) if weighted else (None, None)
    return Y, f, U, folds, w, wu


def inflation_of(share, whole, point):
    """What the design, and a tuned λ, add to the variance that simple random samples give."""
    simple = whole.variance(point, whole.h @ (point >= whole.Y), ddof=1)
    return share.std_error**2 / simple if simple > 1e-15 else 1.0


def z_of(estimate, alpha, sides=2):
    return stats.t.isf(alpha / sides, estimate.df)


@MANY
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0, "tuned"]), st.integers(1, 3), st.booleans())
def test_equals_the_full_grid(seed, lam, models, weighted):
    Y, f, U, folds, w, wu = drawn_case(seed, models, weighted)
    rng = np.random.default_rng(seed)
    q, alpha, null = rng.uniform(0.3, 0.7), rng.choice([0.1, 0.3, 0.5]), rng.choice(np.r_[Y, U.ravel(), rng.normal()])
    options = {"folds": folds, "alpha": alpha, "null": null, "lam": lam}
    if weighted:
        options |= {"sample": Sample(weights=w), "sample_unlabeled": Sample(weights=wu)}
    try:
        est = quantile(Y, f, U, q, **options)
    except StatisticalRefusal:
        return
    ones = np.ones(len(Y)), np.ones(len(U))
    whole = FullGrid(Y, f, U, q, est.lam, folds, *((w, wu) if weighted else ones), ones[0])
    point = classical_point(Y, whole.w, q)
    share = mean(point >= Y, f <= point, point >= U, **{**options, "null": 0})
    inflation = inflation_of(share, whole, point)
    assert (est.lam, est.df, est.effective_n) == (share.lam, share.df, share.effective_n)
    if lam != "tuned" and not weighted and models == 1:
        assert inflation == pytest.approx(1)
    whole = FullGrid(Y, f, U, q, est.lam, folds, whole.w, whole.wu, ones[0], inflation)
    low, high = whole.kept(z_of(est, alpha))
    assert est.value == whole.value
    assert est.interval == (low, high)
    assert est.std_error == pytest.approx((high - low) / 2 / z_of(est, alpha), rel=1e-12)
    assert est.p_value == pytest.approx(two_sided(whole, null, est.df), rel=1e-9, abs=1e-300)
    assert_p_value_inverts(whole, est, null)


def assert_p_value_inverts(whole, est, null):
    for step in (1e-6, -1e-6):
        level = est.p_value + step
        if not 0 < level < 1:
            continue
        low, high = whole.kept(z_of(est, level))
        tail = np.sqrt(whole.inflation * whole.q * (1 - whole.q) / whole.n)
        if min(whole.q, 1 - whole.q) <= z_of(est, level) * tail:  # no bounded interval at this level
            continue
        assert (low <= null <= high) == (step < 0)


@EXAMPLES
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.6, 1.0]), st.sampled_from(["larger", "smaller"]))
def test_one_sided_equals_the_full_grid(seed, lam, alternative):
    Y, f, U, folds, _, _ = drawn_case(seed, 2, False)
    rng = np.random.default_rng(seed)
    q, alpha, null = rng.uniform(0.3, 0.7), rng.choice([0.05, 0.2, 0.6]), rng.choice(np.r_[Y, f, 100.0, -100.0])
    try:
        est = quantile(Y, f, U, q, folds=folds, lam=lam, alpha=alpha, alternative=alternative, null=null)
    except StatisticalRefusal:
        return
    ones = np.ones(len(Y))
    point = classical_point(Y, ones, q)
    whole = FullGrid(Y, f, U, q, lam, folds, ones, np.ones(len(U)), ones)
    share = mean(point >= Y, f <= point, point >= U, folds=folds, lam=lam)
    simple = whole.variance(point, np.mean(point >= Y), ddof=1)
    whole = FullGrid(
        Y, f, U, q, lam, folds, ones, whole.wu, ones, share.std_error**2 / simple if simple > 1e-15 else 1.0
    )
    z = z_of(est, alpha, 1)
    low, high = whole.kept(z)
    if alternative == "larger":
        assert est.interval == (low, np.inf)
        assert est.std_error == pytest.approx((est.value - low) / z, rel=1e-12)
        score = critical_scores(whole, null)[0]
    else:
        assert est.interval == (-np.inf, high)
        assert est.std_error == pytest.approx((high - est.value) / z, rel=1e-12)
        score = critical_scores(whole, null)[1]
    assert est.p_value == pytest.approx(stats.t.sf(score, est.df), rel=1e-9, abs=1e-300)
    assert est.value == whole.value


def critical_scores(whole, null):
    """Smallest critical values at which the lower and the upper end reach the null hypothesis."""
    tail = np.sqrt(whole.inflation * whole.q * (1 - whole.q) / whole.n)
    points = np.r_[-np.inf, whole.grid]
    cdf, error = np.r_[0.0, whole.cdf], np.r_[tail, whole.error]
    distance = whole.q - cdf - SLACK
    scores = np.divide(distance, error, out=np.copysign(np.inf, distance), where=error > 0)
    following = np.r_[whole.grid, np.inf]
    return (
        min(s for s, t in zip(scores, points, strict=True) if t <= null),
        min(-s for s, t in zip(scores, following, strict=True) if t >= null),
    )


def two_sided(whole, null, df):
    return min(1.0, 2 * stats.t.sf(max(critical_scores(whole, null)), df))


@EXAMPLES
@given(st.integers(0, 10**6), st.sampled_from([0.4, 1.0, "tuned"]), st.booleans(), st.integers(1, 2))
def test_rows_of_a_table_equal_the_full_grid(seed, lam, finite, models):
    """A finite population, or known probabilities: the labelled rows are part of the imputed ones."""
    Y, f, U, folds, w, wu = drawn_case(seed, models, True)
    pi = np.random.default_rng(seed).uniform(0.2, 0.9, len(Y))
    null = np.random.default_rng(seed + 1).choice(np.r_[Y, U[:, 0], 0.3])
    options = {"folds": folds, "lam": lam, "alpha": 0.3}
    if finite:
        options |= {"population": "finite"}
        w, wu, own = np.ones(len(Y)), np.ones(len(U)), np.ones(len(Y))
    else:
        side = Sample(weights=w, probabilities=pi, total=["estimated", "known"][seed % 2])
        options |= {"sample": side, "sample_unlabeled": Sample(weights=wu)}
        w, own = w / pi, w
    est = quantile(Y, f, U, 0.45, null=null, **options)
    point = classical_point(Y, w, 0.45)
    if not finite:
        options["sample"] = Sample(weights=side.weights, probabilities=pi)
    share = mean(point >= Y, f <= point, point >= U, **options)
    union = np.vstack([U, np.repeat(f[:, None], models, axis=1)])
    ones = np.ones(len(Y))
    whole = partial(FullGrid, Y, f, union, 0.45, est.lam, folds, w, np.concatenate([wu, own]), ones)
    whole = whole(inflation_of(share, whole(), point))
    assert (est.lam, est.df, est.m, est.n) == (share.lam, share.df, len(U), len(Y))
    assert est.value == whole.value
    assert est.interval == whole.kept(z_of(est, 0.3))
    assert est.p_value == pytest.approx(two_sided(whole, null, est.df), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("seed", range(8))
def test_cross_fitted_lam_equals_the_full_grid(seed):
    Y, f, unlabeled = sample(seed, n=63, m=150)
    f, unlabeled = np.round(f, 1), np.round(unlabeled, 1)
    null = np.quantile(Y, 0.3)
    est = quantile(Y, f, unlabeled, 0.4, lam="crossfit", alpha=0.1, null=null)
    point, part = classical_point(Y, np.ones(63), 0.4), np.arange(63) % 5
    y, p = (point >= Y).astype(float), (f <= point).astype(float)
    lams = np.zeros(63)
    for k in range(5):
        rest = part != k
        cov = np.cov(y[rest], p[rest])
        lams[part == k] = np.clip(cov[0, 1] / (cov[1, 1] + 63 / 150 * np.var(unlabeled <= point, ddof=1)), 0, 1)
    assert est.lam == pytest.approx(lams.mean(), rel=1e-12)
    folds, ones = np.zeros(63, dtype=int), np.ones(63)
    whole = partial(FullGrid, Y, f, unlabeled[:, None], 0.4, lams.mean(), folds, ones, np.ones(150), lams / lams.mean())
    whole = whole(inflation_of(mean(y, p, unlabeled <= point, lam="crossfit"), whole(), point))
    assert est.value == whole.value
    assert est.interval == whole.kept(z_of(est, 0.1))
    assert est.p_value == pytest.approx(two_sided(whole, null, est.df), rel=1e-9)


@EXAMPLES
@given(st.lists(st.integers(0, 9), min_size=60, max_size=90), st.floats(0.1, 0.9))
def test_lam_zero_is_the_sample_quantile(Y, q):
    garbage = np.where(np.arange(len(Y)) % 2, 1e90, -3.0)
    estimate = quantile(Y, garbage, [], q, lam=0, quantiles="normal")
    assert estimate == quantile(Y, garbage, [1e80, 2.0, 4.0], q, lam=0, quantiles="normal") or estimate.m == 0
    assert estimate.interval == quantile(Y, garbage, [1e80, 2.0, 4.0], q, lam=0, quantiles="normal").interval
    assert estimate.value in (np.quantile(Y, q - 1e-9, method="inverted_cdf"), np.quantile(Y, q, method="inverted_cdf"))


@pytest.mark.parametrize("q", [0.2, 0.5, 0.77])
def test_classical_interval_is_the_one_of_order_statistics(q):
    """Inverting the binomial score test by hand: t is kept while |F̂ − q| ≤ z·sqrt(q(1 − q)/n) on its side."""
    Y = np.sort(sample(n=101)[0])
    for quantiles, z in (("normal", stats.norm.isf(0.025)), ("t", stats.t.isf(0.025, 100))):
        reach = z * np.sqrt(q * (1 - q) / 101)
        est = quantile(Y, Y, [], q, lam=0, quantiles=quantiles)
        low, high = Y[int(np.ceil(101 * (q - reach))) - 1], Y[int(np.floor(101 * (q + reach)))]
        assert est.interval == (low, high)
        assert est.std_error == pytest.approx((high - low) / 2 / z, rel=1e-12)
        assert est.df == (np.inf if quantiles == "normal" else pytest.approx(100))
        assert est.effective_n == pytest.approx(101)


def test_classical_p_value_is_that_of_the_sign_test():
    Y = np.arange(1.0, 41.0)
    est = quantile(Y, Y, [], null=10.5, lam=0, quantiles="normal")
    assert est.p_value == pytest.approx(2 * stats.norm.sf((0.5 - 0.25) / np.sqrt(0.25 / 40)), rel=1e-9)
    at_a_point = quantile(Y, Y, [], null=31.0, lam=0, quantiles="normal")  # P(Y < 31) = 0.75
    assert at_a_point.p_value == pytest.approx(2 * stats.norm.sf(0.25 / np.sqrt(0.25 / 40)), rel=1e-9)
    for far in (-5.0, 1000.0):
        est = quantile(Y, Y, [], null=far, lam=0, quantiles="normal", alternative="two-sided")
        assert est.p_value == pytest.approx(2 * stats.norm.sf(0.5 / np.sqrt(0.25 / 40)), rel=1e-9)
    assert quantile(Y, Y, [], null=20.5, lam=0).p_value == pytest.approx(1, abs=1e-9)
    assert (est.null, est.alternative, est.target) == (1000.0, "two-sided", "quantile 0.5")


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


def test_perfect_predictor_gives_the_interval_of_the_unlabelled_sample():
    rng = np.random.default_rng(1)
    Y, unlabeled = rng.normal(size=100), rng.normal(size=5000)
    estimate, whole = quantile(Y, Y, unlabeled, 0.5, lam=1.0), quantile(unlabeled, unlabeled, [], 0.5, lam=0)
    assert estimate.value == pytest.approx(whole.value, abs=0.01)
    assert estimate.length == pytest.approx(whole.length, rel=0.05)
    assert estimate.effective_n == pytest.approx(5000, rel=0.02)


@EXAMPLES
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1.0, "tuned"]), st.integers(2, 4), st.booleans())
def test_equal_models_are_one_model(seed, lam, models, folds):
    Y, f, unlabeled = sample(seed, n=30, m=40)
    one = quantile(Y, f, unlabeled, 0.4, lam=lam)
    index = {"folds": np.arange(30) % models} if folds else {}
    several = quantile(Y, f, np.tile(unlabeled[:, None], models), 0.4, lam=lam, **index)
    assert several.value == one.value
    assert several.interval == one.interval
    assert several.lam == pytest.approx(one.lam)
    assert several.p_value == pytest.approx(one.p_value)


@EXAMPLES
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, "tuned"]))
def test_monotone_changes_of_scale_and_order_of_rows(seed, lam):
    Y, f, unlabeled = sample(seed, n=40, m=60)
    one = quantile(Y, f, unlabeled, 0.6, lam=lam, null=1.9)
    rows = np.random.default_rng(seed).permutation(40)
    moved = quantile(np.exp(Y[rows]), np.exp(f[rows]), np.exp(unlabeled[::-1]), 0.6, lam=lam, null=np.exp(1.9))
    assert moved.value == pytest.approx(np.exp(one.value), rel=1e-14)
    assert moved.interval == pytest.approx((np.exp(one.interval[0]), np.exp(one.interval[1])), rel=1e-14)
    assert moved.p_value == pytest.approx(one.p_value, rel=1e-9)


@pytest.mark.parametrize("lam", [0.0, 0.7, "tuned", "crossfit", "per-coordinate"])
@pytest.mark.parametrize("design", ["weights", "stratum", "clusters", "density ratio"])
def test_designs_that_are_simple_samples(design, lam):
    Y, f, unlabeled = (np.round(part, 1) for part in sample(5, n=60, m=150))
    sides = [
        {
            "weights": Sample(weights=np.full(rows, 2.5)),
            "stratum": Sample(strata=np.full(rows, "all")),
            "clusters": Sample(clusters=np.arange(rows) + first),
            "density ratio": Sample(density_ratio=np.full(rows, 0.1)),
        }[design]
        for rows, first in ((60, 0), (150, 60))
    ]
    plain = quantile(Y, f, unlabeled, 0.3, lam=lam, null=1.5)
    same = quantile(Y, f, unlabeled, 0.3, lam=lam, null=1.5, sample=sides[0], sample_unlabeled=sides[1])
    assert (same.value, same.interval) == (plain.value, plain.interval)
    for field in ("lam", "df", "p_value", "std_error", "effective_n"):
        assert getattr(same, field) == pytest.approx(getattr(plain, field), rel=1e-8)


def test_per_coordinate_is_tuned():
    data = sample(2)
    assert quantile(*data, lam="per-coordinate").to_dict() == quantile(*data, lam="tuned").to_dict()
    assert 0.1 < quantile(*data).lam < 1
    assert quantile(*data, lam_range=(0, 0.25)).lam == 0.25


def test_repeated_rows_in_clusters_are_worth_one():
    """Every row four times, as clusters: the point stays, the interval is that of the rows once, up to n/(n − 1)."""
    Y, f, unlabeled = sample(9, n=200, m=2000)
    once = quantile(Y, f, unlabeled, lam=0.6)
    names, others = np.repeat(np.arange(200), 4), np.repeat(np.arange(200, 2200), 4)
    often = quantile(
        *(np.repeat(part, 4) for part in (Y, f, unlabeled)),
        lam=0.6,
        sample=Sample(clusters=names),
        sample_unlabeled=Sample(clusters=others),
    )
    assert often.value == once.value
    assert often.length == pytest.approx(once.length, rel=0.02)
    assert often.df == pytest.approx(once.df)
    naive = quantile(*(np.repeat(part, 4) for part in (Y, f, unlabeled)), lam=0.6)
    assert naive.length < 0.7 * once.length


def test_strata_that_explain_the_answers_shorten_the_interval():
    rng = np.random.default_rng(3)
    strata = np.arange(400) % 4
    Y = strata + rng.normal(0, 0.3, 400)
    f, unlabeled = Y + rng.normal(0, 1, 400), rng.normal(size=500)
    plain, stratified = (
        quantile(Y, f, unlabeled, 0.5, lam=0, **side) for side in ({}, {"sample": Sample(strata=strata)})
    )
    assert stratified.value == plain.value
    assert stratified.length < 0.6 * plain.length
    assert stratified.df == pytest.approx(396)


@dataclass
class Shuffled:
    """Blocks of seven rows, in another order at every fold."""

    blocks: list
    rng: np.random.Generator
    folds: int = 0

    def fold(self, summarise):
        self.folds += 1
        return fold(iter([self.blocks[i] for i in self.rng.permutation(len(self.blocks))]), summarise)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("lam", "passes"), [("tuned", 2), (1.0, 2), (0.0, 1)])
def test_two_passes_in_any_order(lam, passes, weighted):
    Y, f, unlabeled = sample(4, n=90, m=700)
    models = np.column_stack([unlabeled, unlabeled + 0.1])
    side = {"sample_unlabeled": Sample(weights=np.random.default_rng(0).uniform(size=700))} if weighted else {}
    options = Settings.of({"lam": lam, "folds": np.arange(90) % 2, "null": 1.8, **side})
    labeled, memory = checked(Y, f, models, options)
    blocks = [memory.whole.rows(slice(start, start + 7)) for start in range(0, 700, 7)]
    whole = rectified_quantile(labeled, memory, options, 0.35)
    for seed in range(3):
        stream = Shuffled(blocks, np.random.default_rng(seed))
        parts = rectified_quantile(labeled, stream, options, 0.35)
        assert stream.folds == passes
        assert (parts.value, parts.interval) == (whole.value, whole.interval)
        for field in ("std_error", "p_value", "lam", "df", "effective_n"):
            assert getattr(parts, field) == pytest.approx(getattr(whole, field), rel=1e-12)


def test_second_pass_fetches_few_rows():
    Y, f, unlabeled = sample(6, n=1000, m=20_000)
    options = Settings.of({"lam": 0.8})
    labeled, memory = checked(Y, f, unlabeled, options)
    stream, fetched = Shuffled([memory.whole], np.random.default_rng(0)), []
    whole = stream.fold

    def watched(summarise):
        summary = whole(summarise)
        if hasattr(summary, "joined"):
            fetched.append(len(summary.joined()))
        return summary

    stream.fold = watched
    rectified_quantile(labeled, stream, options, 0.5)
    assert len(fetched) == 1
    assert 0 < fetched[0] < 2000


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


@pytest.mark.parametrize("level", [1.7, -1e6, 1e6])
def test_constant_predictions_are_classical(level):
    Y, _, _ = sample()
    estimate = quantile(Y, np.full(80, level), np.full(300, level))
    assert estimate.interval == quantile(Y, Y, [], lam=0).interval
    assert estimate.lam == 0
    assert "the predictions are constant: the model adds nothing to the labels" in estimate.warnings


@pytest.mark.parametrize("m", [0, 1])
def test_too_few_unlabelled_rows(m):
    Y, f, unlabeled = sample()
    estimate = quantile(Y, f, unlabeled[:m])
    assert estimate.interval == quantile(Y, f, unlabeled, lam=0).interval
    assert estimate.lam == 0
    assert f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate" in estimate.warnings
    with pytest.raises(InputError, match="'lam' must be 0 or 'tuned' with fewer than 2 unlabelled rows; got 0.5"):
        quantile(Y, f, unlabeled[:m], lam=0.5)


def test_fewer_unlabelled_rows_than_labels():
    Y, f, unlabeled = sample(m=10)
    estimate = quantile(Y, f, unlabeled, lam=1.0)
    assert estimate.interval[0] < estimate.value < estimate.interval[1]
    assert estimate.length > quantile(Y, f, unlabeled, lam=0).length
    assert any(text.startswith("10 unlabelled rows for 80 labels") for text in estimate.warnings)


def test_all_rows_of_a_finite_population_labelled():
    Y = np.arange(50.0)
    estimate = quantile(Y, Y, [], 0.3, population="finite")
    assert estimate.value == 14.0  # F̂(14) = 0.3: exact, and every t up to the next value has P(Y < t) ≤ 0.3
    assert estimate.interval == (14.0, 15.0)


@pytest.mark.parametrize("q", [0, 1, 1.2, -1, float("nan"), "half"])
def test_q_outside_its_range(q):
    with pytest.raises(InputError, match=r"'q' must be in \(0, 1\); got "):
        quantile([1.0, 2.0], [1.0, 2.0], [1.0], q)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(InputError, match="'Yhat_unlabeled' must be finite; got .* at position 1"):
        quantile([1.0, 2.0], [1.0, 2.0], [1.0, bad])


def test_too_few_labels_for_an_interval_are_refused():
    normal = {"quantiles": "normal", "lam": 0}
    for options, needed in ((normal, 4), ({"lam": 0}, 7)):
        with pytest.raises(StatisticalRefusal) as caught:
            quantile([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], **options)
        assert caught.value.what == "2 labels give the 0.5-quantile no bounded 95 % interval"
        assert caught.value.mend == f"use at least {needed} labels, or a quantile nearer the middle"
        with pytest.raises(StatisticalRefusal):
            quantile(np.arange(needed - 1), np.arange(needed - 1), [], **options)
        assert quantile(np.arange(needed), np.arange(needed), [], **options).interval == (0, needed - 1)
    for q in (0.01, 0.99):
        with pytest.raises(StatisticalRefusal, match="use at least 381 labels"):
            quantile(np.arange(380.0), np.arange(380.0), [], q, **normal)
        assert np.isfinite(quantile(np.arange(381.0), np.arange(381.0), [], q, **normal).interval).all()
    with pytest.raises(StatisticalRefusal, match="the 1e-300-quantile no bounded 95 % .* 3841458"):
        quantile([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], 1e-300, **normal)


def test_a_one_sided_interval_needs_its_own_end_only():
    Y = np.arange(20.0)
    upper = quantile(Y, Y, [], 0.1, lam=0, alternative="smaller")
    assert upper.interval == (-np.inf, 4.0)  # F̂(3) = 0.2 is below 0.1 + 1.73·sqrt(0.09/20) = 0.216, F̂(4) is not
    with pytest.raises(StatisticalRefusal) as caught:
        quantile(Y, Y, [], 0.1, lam=0, alternative="larger")
    assert caught.value.mend == "use at least 27 labels, or a quantile nearer the middle"
    assert quantile(np.arange(27.0), np.arange(27.0), [], 0.1, lam=0, alternative="larger").interval == (0.0, np.inf)
    with pytest.raises(StatisticalRefusal):
        quantile(np.arange(26.0), np.arange(26.0), [], 0.1, lam=0, alternative="larger")
    assert np.isnan(quantile(Y, Y, [], 0.5, lam=0, alpha=0.5, alternative="larger").std_error)


def test_null_of_another_shape():
    with pytest.raises(InputError, match=r"'null' must have one entry a coordinate \(1\); got 2"):
        quantile(*sample(), null=[1.0, 2.0])


def test_classical_point():
    Y, ones = np.array([3.0, 1.0, 2.0, 2.0]), np.ones(4)
    assert classical_point(Y, ones, 0.3) == 1.0
    assert classical_point(Y, ones, 0.6) == 2.0
    assert classical_point(Y, ones, 0.99) == 2.0  # at the largest answer the share is 1 and has no variance
    assert classical_point(Y, np.array([1.0, 0.0, 1.0, 1.0]), 0.01) == 2.0  # nor at 1, where it is 0
    assert classical_point(np.full(3, 7.0), np.ones(3), 0.5) == 7.0


LOW = np.arange(11) / 10


def undecided(null_cell, alternative="two-sided", low=LOW, errors=(0.1, 0.1), not_anchored=()):
    """Open cells for q = 0.5 and critical value 1, where F̂ rises by 0.05 within cells and by 0.05 between them."""
    anchored = ~np.isin(np.arange(11), (0, *not_anchored))
    cells = Cells(low, np.minimum(LOW + 0.05, 1.0), *(np.full(11, e) for e in errors), anchored)
    test = SimpleNamespace(q=0.5, critical=1.0, settings=SimpleNamespace(alternative=alternative))
    return np.flatnonzero(cells.undecided(test, null_cell)).tolist()


def test_undecided_cells():
    assert undecided(2) == [1, 2, 4, 5, 6, 7]
    assert undecided(2, "larger") == [1, 2, 4, 5, 6]
    assert undecided(2, "smaller") == [1, 2, 5, 6, 7]
    assert undecided(9) == [4, 5, 6, 7, 8, 9]
    assert undecided(9, "larger") == [4, 5, 6, 8, 9]
    assert undecided(10, errors=(0.05, 0.2)) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert undecided(1, "smaller", errors=(0.05, 0.2)) == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_undecided_cells_end_at_an_observed_point():
    assert undecided(2, not_anchored=(7,)) == [1, 2, 4, 5, 6, 7, 8]
    assert undecided(2, "larger", not_anchored=(6,)) == [1, 2, 4, 5, 6, 7]
    assert undecided(9, "larger", not_anchored=(8, 7)) == [4, 5, 6, 7, 8, 9]


def test_undecided_cells_include_what_sorting_mixes():
    falls = LOW.copy()
    falls[9] = 0.84  # cell 8 reaches 0.85
    assert undecided(2, low=falls) == [1, 2, 4, 5, 6, 7]
    assert undecided(10, "larger", low=falls) == [4, 5, 6, 8, 9, 10]
    falls[8] = 0.74  # cell 7 reaches 0.75
    assert undecided(2, low=falls) == [1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("models", [1, 2])
def test_error_bounds_hold_within_cells(models):
    Y, f, U, folds, _, _ = drawn_case(12, models, False)
    ones, ratio = np.ones(len(Y)), np.where(np.arange(len(Y)) % 3, 1.2, 0.6) if models > 1 else np.ones(len(Y))
    whole = FullGrid(Y, f, U, 0.4, 0.8, folds, ones, np.ones(len(U)), ratio)
    labeled, memory = checked(Y, f, U, Settings.of({"folds": folds}))
    knots = np.unique(np.r_[Y, f])
    counts = ImputedCounts.of(memory.whole, knots)
    cdf = RectifiedCdf(LabeledShares.of(labeled, knots, ratio), 0.8, labeled.mixed(ratio), len(Y), len(U), 2.0)
    cells = Cells.of(cdf, counts, knots, 0.4)
    place = np.searchsorted(knots, whole.grid, "right")
    level = np.array([whole.level(t) for t in whole.grid])
    assert (cells.low[place] <= level + SLACK).all()
    assert (level <= cells.high[place] + SLACK).all()
    error = np.sqrt(2) * whole.error
    assert (cells.error_low[place] <= error + SLACK).all()
    assert (error <= cells.error_high[place] + SLACK).all()
    assert cells.anchored.tolist() == [False] + [True] * len(knots)
    still = (counts.start == counts.end).all(axis=1)[place]
    assert still.any()
    np.testing.assert_allclose(cells.error_low[place][still], error[still], rtol=1e-9)
    np.testing.assert_allclose(cells.error_high[place][still], error[still], rtol=1e-9)
    np.testing.assert_allclose(cdf.error(place, shares_at(memory.whole.F, whole.grid), 0.4), error, rtol=1e-9)
    point = int(place[len(place) // 2])
    expected = whole.variance(knots[point - 1], whole.h @ (knots[point - 1] >= Y), ddof=1)
    assert cdf.plug_in(point, counts.start[point]) == pytest.approx(expected, rel=1e-9)


def shares_at(F, points):
    return np.column_stack([[np.mean(t >= column) for t in points] for column in columns(F)])


def test_counts_of_ties():
    ordered = Ordered.of(np.array([2.0, 1.0, 2.0, 5.0]), np.array([1.0, 2.0, 4.0, 8.0]))
    below, up_to = ordered.around(np.array([0.0, 1.0, 1.5, 2.0, 5.0, 6.0]))
    assert below.tolist() == [0, 0, 2, 2, 7, 15]
    assert up_to.tolist() == [0, 2, 2, 7, 15, 15]
    assert ordered.up_to(np.array([2.0])).tolist() == [7]
    assert Ordered.of(np.array([2.0, 1.0, 3.0]), None, 1.0, 3.0).values.tolist() == [1, 2]


def test_square_of_a_mixture():
    F, weights = np.random.default_rng(0).normal(size=(50, 3)), np.array([0.2, 0.5, 0.3])
    below = np.column_stack([column <= 0.1 for column in columns(F)])
    np.testing.assert_allclose(below @ square(weights), ((F <= 0.1) @ weights) ** 2, rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, "tuned", "crossfit"])
def test_coverage(lam):
    """Of the continuous median, within three Monte-Carlo errors, two-sided; ties and discreteness only widen it."""
    rng, runs = np.random.default_rng(8), 300
    misses = 0
    for _ in range(runs):
        truth = rng.exponential(size=360)
        f = truth + rng.normal(0, 0.4, 360)
        low, high = quantile(truth[:60], f[:60], f[60:], 0.5, lam=lam, alpha=0.1).interval
        misses += not low <= np.log(2) <= high
    assert abs(misses / runs - 0.1) < 3 * np.sqrt(0.1 * 0.9 / runs)


def test_coverage_of_weighted_clusters():
    """Families of three, of which large ones are drawn more often; the weights mend it."""
    rng, runs, misses = np.random.default_rng(5), 300, 0
    for _ in range(runs):
        shared = np.repeat(rng.normal(size=60), 3)
        Y = shared + 0.3 * rng.normal(size=180)
        f = Y + rng.normal(0, 0.5, 180)
        labeled = np.arange(180) < 90
        weights = np.repeat(rng.uniform(0.5, 2, 60), 3)
        names = np.repeat(np.arange(60), 3)
        sides = [Sample(weights=weights[part], clusters=names[part]) for part in (labeled, ~labeled)]
        est = quantile(Y[labeled], f[labeled], f[~labeled], 0.4, sample=sides[0], sample_unlabeled=sides[1], alpha=0.1)
        truth = stats.norm.ppf(0.4, scale=np.sqrt(1.09))
        misses += not est.interval[0] <= truth <= est.interval[1]
    assert abs(misses / runs - 0.1) < 3 * np.sqrt(0.1 * 0.9 / runs)
