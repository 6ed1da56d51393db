"""M-estimates of any score: a brute-force sandwich, identities, passes over the data, refusals."""

import pickle
import warnings as python_warnings
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import root

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import roots
from ftrect_ray.estimators.blocks import Block, fold
from ftrect_ray.estimators.crossfit import crossfit_lams
from ftrect_ray.estimators.glm_score import LOGISTIC
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.m_estimate import m_estimate
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.newton import Point, Singular, Unsolved, inverted, solved
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.roots import rectified_root
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.score import ScoreSums, Silent
from ftrect_ray.estimators.settings import Settings

quick = settings(deadline=None, max_examples=25, derandomize=True)


# ---------------------------------------------------------------------------------------- scores to try


def line(theta, X, Y):
    return X * (Y - X @ theta)[:, None]


def line_slope(theta, X, Y):
    return -X[:, :, None] * X[:, None, :]


def odds(theta, X, Y):
    return X * (Y - 1 / (1 + np.exp(-(X @ theta))))[:, None]


def odds_slope(theta, X, Y):
    mu = 1 / (1 + np.exp(-(X @ theta)))
    return -(mu * (1 - mu))[:, None, None] * X[:, :, None] * X[:, None, :]


def robust(theta, X, Y):
    """Location and log scale, smooth and not linear in Y; its Jacobian is not symmetric."""
    z = (Y - theta[0]) * np.exp(-theta[1])
    return np.stack([np.tanh(z), z * np.tanh(z) - 0.5], axis=1)


def robust_slope(theta, X, Y):
    shrink = np.exp(-theta[1])
    z = (Y - theta[0]) * shrink
    bend = 1 - np.tanh(z) ** 2
    first, second = bend, np.tanh(z) + z * bend
    return np.stack([np.stack([-first * shrink, -first * z], 1), np.stack([-second * shrink, -second * z], 1)], 1)


def level(theta, X, Y):
    return Y[:, None] - theta


def level_slope(theta, X, Y):
    return np.full((len(Y), 1, 1), -1.0)


@dataclass
class Data:
    X: np.ndarray
    Y: np.ndarray
    f: np.ndarray
    Xu: np.ndarray
    fu: np.ndarray
    folds: np.ndarray = field(init=False)

    def __post_init__(self):
        self.folds = np.arange(len(self.Y)) % self.fu.shape[1]


def data(seed=0, n=90, m=300, models=1, binary=False):
    rng = np.random.default_rng(seed)
    X, Xu = (np.column_stack([np.ones(rows), rng.normal(size=rows)]) for rows in (n, m))
    signal, other = X @ [0.3, 0.8] + rng.normal(size=n), Xu @ [0.3, 0.8] + rng.normal(size=m)
    bias = 0.3 * np.arange(models)
    f = 0.6 * signal + 0.3 * rng.normal(size=n) + bias[np.arange(n) % models]
    fu = 0.6 * other[:, None] + 0.3 * rng.normal(size=(m, models)) + bias
    return Data(X, (signal > 0) * 1.0 if binary else signal, f, Xu, fu)


SCORES = {
    "line": (line, line_slope, [0.0, 0.0], False),
    "odds": (odds, odds_slope, [0.0, 0.0], True),
    "robust": (robust, robust_slope, [0.0, 0.0], False),
}


def brute(psi, theta0, d, lam, w=None, v=None, folds=None):
    """θ̂ and its covariance straight from the formula, with a Jacobian by complex steps."""
    n, m, models = len(d.Y), *d.fu.shape
    w = np.ones(n) / n if w is None else w / w.sum()
    v = np.ones(m) / m if v is None else v / v.sum()
    share = np.eye(models)[folds] if folds is not None else np.full((n, models), 1 / models)
    mix = w @ share

    def equation(theta):
        imputed = sum(mix[k] * (v @ psi(theta, d.Xu, d.fu[:, k])) for k in range(models))
        return w @ psi(theta, d.X, d.Y) - lam * (w @ psi(theta, d.X, d.f) - imputed)

    theta = root(equation, theta0, tol=1e-13).x
    for _ in range(3):
        steps = np.eye(len(theta)) * 1e-30j
        H = np.stack([equation(theta + step).imag / 1e-30 for step in steps], axis=1)
        theta = theta - np.linalg.solve(H, equation(theta))
    levels = np.stack([v @ psi(theta, d.Xu, d.fu[:, k]) for k in range(models)])
    answers = w[:, None] * (psi(theta, d.X, d.Y) - w @ psi(theta, d.X, d.Y))
    beyond = psi(theta, d.X, d.f) - share @ levels
    predicted = w[:, None] * (beyond - w @ beyond)
    scores = sum(mix[k] * psi(theta, d.Xu, d.fu[:, k]) for k in range(models))
    imputed = v[:, None] * (scores - v @ scores)
    middle = n * np.cov((answers - lam * predicted).T)
    if lam:
        middle = middle + lam**2 * m * np.cov(imputed.T)
    bread = np.linalg.inv(H)
    return theta, bread @ middle @ bread.T


def run(name, d, **options):
    psi, jacobian, theta0, _ = SCORES[name]
    return m_estimate(psi, jacobian, theta0, d.Y, d.f, d.fu, X=d.X, X_unlabeled=d.Xu, **options)


def same(one, other, tolerance=1e-10):
    for part in ("value", "std_error", "lam", "effective_n", "df"):
        np.testing.assert_allclose(getattr(one, part), getattr(other, part), rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------------------------- independent references


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", SCORES)
def test_root_and_sandwich_are_those_of_the_formula(name, lam):
    d = data(1, binary=SCORES[name][3])
    theta, covariance = brute(SCORES[name][0], SCORES[name][2], d, lam)
    est = run(name, d, lam=lam)
    np.testing.assert_allclose(est.value, theta, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)
    assert est.target == "m-estimate"
    assert est.names == ("x0", "x1")
    assert est.n == 90
    assert est.m == 300


@pytest.mark.parametrize("name", SCORES)
def test_cross_fitted_predictions_are_measured_from_their_own_model(name):
    d = data(2, models=3, binary=SCORES[name][3])
    theta, covariance = brute(SCORES[name][0], SCORES[name][2], d, 0.8, folds=d.folds)
    est = run(name, d, lam=0.8, folds=d.folds)
    np.testing.assert_allclose(est.value, theta, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)


def test_models_without_folds_weigh_alike():
    d = data(3, models=2)
    theta, covariance = brute(robust, [0.0, 0.0], d, 0.6)
    est = run("robust", d, lam=0.6)
    np.testing.assert_allclose(est.value, theta, rtol=1e-10)
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)


@pytest.mark.parametrize("name", SCORES)
def test_weights(name):
    d = data(4, models=2, binary=SCORES[name][3])
    rng = np.random.default_rng(5)
    w, v = rng.uniform(0.5, 3, 90), rng.uniform(0.5, 3, 300)
    theta, covariance = brute(SCORES[name][0], SCORES[name][2], d, 0.7, w, v, d.folds)
    est = run(name, d, lam=0.7, folds=d.folds, sample=Sample(weights=w), sample_unlabeled=Sample(weights=v))
    np.testing.assert_allclose(est.value, theta, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)


def test_two_lams_give_the_coordinates_of_two_roots():
    d = data(6)
    est = run("robust", d, lam=[0.3, 0.9])
    low, high = run("robust", d, lam=0.3), run("robust", d, lam=0.9)
    np.testing.assert_allclose(est.value, [low.value[0], high.value[1]], rtol=1e-12)
    np.testing.assert_allclose(est.std_error, [low.std_error[0], high.std_error[1]], rtol=0.01)
    np.testing.assert_array_equal(est.lam, [0.3, 0.9])
    same(run("robust", d, lam=[0.4, 0.4]), run("robust", d, lam=0.4), 0)


def test_lam_per_coordinate_is_the_one_tuned_for_it_alone():
    d = data(7)
    est = run("line", d, lam="per-coordinate")
    for j in (0, 1):
        alone = run("line", d, coefficients=[j])
        assert est.lam[j] == pytest.approx(alone.lam, rel=1e-12)
        assert est.value[j] == pytest.approx(alone.value[0], rel=1e-10)
    assert est.lam[0] != est.lam[1]


def test_per_coordinate_spread_is_taken_where_the_roots_meet():
    """Coordinate j's bread is that of its own λ, the scores are those at the assembled θ."""
    d, lams = data(6), [0.3, 0.9]
    est = run("robust", d, lam=lams)
    scores = [robust(est.value, None, z) for z in (d.Y, d.f, d.fu[:, 0])]
    slopes = [robust_slope(est.value, None, z).mean(axis=0) for z in (d.Y, d.f, d.fu[:, 0])]
    for j, lam in enumerate(lams):
        bread = np.linalg.inv(slopes[0] - lam * (slopes[1] - slopes[2]))[j]
        variance = bread @ (np.cov((scores[0] - lam * scores[1]).T) / 90 + lam**2 * np.cov(scores[2].T) / 300) @ bread
        assert est.std_error[j] == pytest.approx(np.sqrt(variance), rel=1e-8)


def test_crossfit_weights_every_row_by_the_lam_of_its_part(monkeypatch):
    d, found = data(8, models=3, binary=True), []

    def recorded(*arguments):
        found.append(crossfit_lams(*arguments))
        return found[-1]

    monkeypatch.setattr(roots, "crossfit_lams", recorded)
    est = run("odds", d, lam="crossfit", folds=d.folds)
    lams = found[0].rows
    assert len(np.unique(lams)) == 3
    assert est.lam == pytest.approx(lams.mean(), rel=1e-12)
    value = odds(est.value, d.X, d.Y).mean(axis=0)
    for k in range(3):
        own = d.folds == k
        imputed = odds(est.value, d.Xu, d.fu[:, k]).mean(axis=0)
        value = value - lams[own][0] * np.sum(odds(est.value, d.X, d.f)[own] - imputed, axis=0) / 90
    np.testing.assert_allclose(value, 0, atol=1e-12)


# ------------------------------------------------------------------- the other estimators are special cases


@quick
@given(st.integers(0, 10**6), st.sampled_from(["tuned", 0.0, 0.5, 1.0]))
def test_the_mean_is_the_root_of_its_deviations(seed, lam):
    d = data(seed, n=25, m=40, models=2)
    for options in (
        {},
        {"folds": d.folds},
        {"sample": Sample(strata=np.arange(25) // 10), "sample_unlabeled": Sample(strata=np.arange(40) // 20)},
        {"sample": Sample(clusters=np.arange(25) // 2), "sample_unlabeled": Sample(clusters=100 + np.arange(40) // 3)},
        {"sample": Sample(probabilities=0.2 + 0.7 * np.arange(25) / 25)},
        {"population": "finite"},
    ):
        one = m_estimate(level, level_slope, [0.0], d.Y, d.f, d.fu, lam=lam, **options)
        other = mean(d.Y, d.f, d.fu, lam=lam, **options)
        assert one.value[0] == pytest.approx(other.value, rel=1e-10, abs=1e-10)
        assert one.std_error[0] == pytest.approx(other.std_error, rel=1e-10)
        assert one.lam == pytest.approx(other.lam, rel=1e-9, abs=1e-9)
        assert one.df[0] == pytest.approx(other.df, rel=1e-8)
        assert one.effective_n[0] == pytest.approx(other.effective_n, rel=1e-8)
        assert one.state == other.state


@pytest.mark.parametrize("lam", ["tuned", "crossfit", 0.7])
def test_the_mean_with_row_lams(lam):
    d = data(10, models=3)
    one = m_estimate(level, level_slope, [5.0], d.Y, d.f, d.fu, lam=lam, folds=d.folds)
    other = mean(d.Y, d.f, d.fu, lam=lam, folds=d.folds)
    assert one.value[0] == pytest.approx(other.value, rel=1e-10)
    assert one.std_error[0] == pytest.approx(other.std_error, rel=1e-10)
    assert one.lam == pytest.approx(other.lam, rel=1e-10)
    assert one.diagnostics["variance_prediction"] == pytest.approx(other.diagnostics["variance_prediction"], rel=1e-10)


def test_least_squares_where_both_designs_have_the_same_moments():
    d = data(11, n=60, m=180, models=2)
    d.Xu = np.tile(d.X, (3, 1))
    for lam in (0.0, 0.5, 1.0):
        one, other = run("line", d, lam=lam), ols(d.X, d.Y, d.f, d.Xu, d.fu, lam=lam)
        np.testing.assert_allclose(one.value, other.value, rtol=1e-10)
        if lam == 0:
            np.testing.assert_allclose(one.std_error, other.std_error, rtol=1e-10)


# --------------------------------------------------------------------------------------------- identities


@quick
@given(st.integers(0, 10**6), st.sampled_from(sorted(SCORES)), st.integers(0, 30))
def test_lam_zero_is_classical_whatever_the_predictions(seed, name, m):
    d = data(seed, n=60, m=m + 1, binary=SCORES[name][3])
    garbage = Data(d.X, d.Y, np.full(60, -1e90), d.Xu[:m] * 1e6, np.full((m, 1), 1e90))
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        one, other = run(name, d, lam=0.0), run(name, garbage, lam=0.0)
    np.testing.assert_array_equal(one.value, other.value)
    np.testing.assert_array_equal(one.std_error, other.std_error)
    np.testing.assert_array_equal(one.interval, other.interval)
    theta, covariance = brute(SCORES[name][0], one.value, d, 0.0)
    np.testing.assert_allclose(one.value, theta, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)


@quick
@given(st.integers(0, 10**6), st.sampled_from(sorted(SCORES)))
def test_equal_models_are_one(seed, name):
    d = data(seed, models=1, binary=SCORES[name][3])
    many = Data(d.X, d.Y, d.f, d.Xu, np.repeat(d.fu, 3, axis=1))
    one = run(name, d)
    same(run(name, many), one, 1e-8)
    same(run(name, many, folds=many.folds), one, 1e-8)


@quick
@given(st.integers(0, 10**6), st.sampled_from(sorted(SCORES)))
def test_order_of_rows_and_equal_weights_do_not_matter(seed, name):
    d = data(seed, binary=SCORES[name][3])
    rng = np.random.default_rng(seed)
    i, j = rng.permutation(90), rng.permutation(300)
    one = run(name, d)
    same(run(name, Data(d.X[i], d.Y[i], d.f[i], d.Xu[j], d.fu[j])), one, 1e-8)
    same(run(name, d, sample=Sample(weights=np.full(90, 3.0)), sample_unlabeled=Sample(weights=np.full(300, 7.0))), one)
    same(run(name, d, sample=Sample(strata=np.zeros(90)), sample_unlabeled=Sample(strata=np.zeros(300))), one)
    same(
        run(name, d, sample=Sample(clusters=np.arange(90)), sample_unlabeled=Sample(clusters=-1 - np.arange(300))), one
    )


def test_a_perfect_predictor_with_lam_one_gives_the_root_of_all_rows_imputed():
    d = data(12)
    d.f = d.Y.copy()
    est = run("robust", d, lam=1.0)
    np.testing.assert_allclose(robust(est.value, None, d.fu[:, 0]).mean(axis=0), 0, atol=1e-13)
    scores = robust(est.value, None, d.fu[:, 0])
    bread = np.linalg.inv(robust_slope(est.value, None, d.fu[:, 0]).mean(axis=0))
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(bread @ np.cov(scores.T) @ bread.T) / 300), rtol=1e-8)


def test_units_of_the_parameters_do_not_matter():
    d = data(13, binary=True)
    one = run("odds", d, lam="per-coordinate")
    c = np.array([1e-5, 1e4])
    d.X, d.Xu = d.X * c, d.Xu * c
    other = run("odds", d, lam="per-coordinate")
    np.testing.assert_allclose(other.value * c, one.value, rtol=1e-9)
    np.testing.assert_allclose(other.std_error * c, one.std_error, rtol=1e-9)


def test_a_multiple_of_the_score_has_the_same_root_and_error():
    d = data(14)
    one = run("robust", d, lam=0.5)
    other = m_estimate(
        lambda *a: -1e6 * robust(*a), lambda *a: -1e6 * robust_slope(*a), [0.0, 0.0], d.Y, d.f, d.fu, lam=0.5
    )
    same(one, other, 1e-9)


def test_finite_population_lessens_the_variance_by_the_sampled_share():
    d = data(15, n=80, m=120)
    est = run("robust", d, lam=1.0, population="finite")
    everyone = np.concatenate([d.f, d.fu[:, 0]])
    value = robust(est.value, None, d.Y).mean(0) - robust(est.value, None, d.f).mean(0)
    np.testing.assert_allclose(value + robust(est.value, None, everyone).mean(axis=0), 0, atol=1e-13)
    residual = robust(est.value, None, d.Y) - robust(est.value, None, d.f)
    slope = sum(
        sign * robust_slope(est.value, None, z).mean(axis=0) for sign, z in ((1, d.Y), (-1, d.f), (1, everyone))
    )
    bread = np.linalg.inv(slope)
    covariance = bread @ (np.cov(residual.T) / 80 * (1 - 80 / 200)) @ bread.T
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)


@pytest.mark.parametrize("total", ["known", "estimated"])
def test_selection_probabilities(total):
    d = data(16, n=80, m=200)
    pi = np.linspace(0.1, 0.6, 80)
    est = run("robust", d, lam=0.6, sample=Sample(probabilities=pi, total=total), quantiles="normal")
    everyone = np.concatenate([d.f, d.fu[:, 0]])
    share = 1 / pi / (280 if total == "known" else np.sum(1 / pi))
    centre = 0.0 if total == "known" else 1.0
    at = partial(robust, est.value, None)
    control = share @ at(d.f) - np.mean(at(everyone), axis=0)
    np.testing.assert_allclose(share @ at(d.Y) - 0.6 * control, 0, atol=1e-13)
    slope = np.tensordot(share, robust_slope(est.value, None, d.Y) - 0.6 * robust_slope(est.value, None, d.f), axes=1)
    slope = slope + 0.6 * robust_slope(est.value, None, everyone).mean(axis=0)
    middle = centre * np.mean(at(everyone), axis=0)
    labels = share[:, None] * (at(d.Y) - centre * (share @ at(d.Y)))
    predicted = share[:, None] * (at(d.f) - centre * (share @ at(d.f)))
    lift = 1.0 if total == "known" else np.sqrt(80 / 79 * 279 / 280)  # labels vary over 80 rows, not over 280
    own = lift * (labels - 0.6 * predicted) + 0.6 * (at(d.f) - middle) / 280
    rows = np.vstack([own, 0.6 * (at(d.fu[:, 0]) - middle) / 280])
    bread = np.linalg.inv(slope)
    covariance = bread @ (280 * np.cov(rows.T)) @ bread.T
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)


def test_names_coefficients_and_target():
    d = data(17)
    est = run("line", d, names=["one", "age"], coefficients=["age"], target="my line")
    assert est.names == ("age",)
    assert est.target == "my line"
    assert est.value.shape == (1,)
    both = run("line", d, lam=est.lam, names=["one", "age"])
    assert both.value[1] == pytest.approx(est.value[0], rel=1e-12)


def test_tuned_spends_a_degree_of_freedom_and_each_parameter_one():
    d = data(18, m=2 * 10**4)
    assert run("line", d, lam=0.0).df == pytest.approx([88, 88])
    assert 87 <= run("line", d).df[0] < 87 * 1.05


# ------------------------------------------------------------------------------------------ passes, blocks


@dataclass
class Parts:
    """Blocks of given lengths, counting folds; each summary is pickled, as between processes."""

    whole: Block
    cuts: list
    folds: int = 0

    def fold(self, summarise):
        self.folds += 1
        edges = [0, *self.cuts, len(self.whole)]
        blocks = [self.whole.rows(slice(a, b)) for a, b in pairwise(edges)]
        return fold(iter(blocks), pickle.loads(pickle.dumps(summarise)))


def passes(lam, d, cuts=(), **options):
    chosen = Settings.of({"lam": lam, **options})
    labeled, unlabeled = checked(d.Y, d.f, d.fu, chosen, d.X, d.Xu)
    parts = Parts(unlabeled.whole, list(cuts))
    core = partial(rectified_root, score=LOGISTIC, names=("one", "x"), target="logistic")
    return core(labeled, parts, chosen), parts.folds, core(labeled, unlabeled, chosen)


@pytest.mark.parametrize(("lam", "least", "most"), [(0.0, 1, 1), (0.5, 3, 5), (1.0, 4, 6), ("tuned", 4, 6)])
def test_number_of_passes(lam, least, most):
    _, count, _ = passes(lam, data(19, n=200, m=1000, binary=True))
    assert least <= count <= most


def test_a_lam_that_is_not_used_costs_one_pass():
    d = data(20, n=200, m=1000, binary=True)
    d.f = np.random.default_rng(0).normal(size=200)
    d.f -= d.f.mean()
    est, count, _ = passes("tuned", d, lam_range=(0.0, 0.0))
    assert est.lam == 0
    assert count == 1


def test_a_crossfit_lam_costs_one_pass_more():
    d = data(21, n=200, m=1000, models=2, binary=True)
    est, count, _ = passes("crossfit", d, folds=d.folds)
    assert est.lam > 0
    assert count <= 7


def test_two_lams_cost_their_passes_and_one():
    d = data(22, n=200, m=1000, binary=True)
    alone = [passes(lam, d)[1] for lam in (0.3, 0.9)]
    assert passes([0.3, 0.9], d)[1] == sum(alone) - 1 + 1


@pytest.mark.parametrize("lam", ["tuned", 0.7, "crossfit"])
@pytest.mark.parametrize("sampled", [False, True])
def test_blocks_of_any_size_give_the_same(lam, sampled):
    d = data(23, n=150, m=500, models=2, binary=True)
    rng = np.random.default_rng(1)
    options = {"folds": d.folds}
    if sampled:
        w, v = rng.uniform(1, 2, 150), rng.uniform(1, 2, 500)
        clusters = np.arange(150) // 2
        options = {
            "sample": Sample(weights=w, clusters=clusters),
            "sample_unlabeled": Sample(weights=v, clusters=50 + np.arange(500) // 5),
        }
    one, _, other = passes(lam, d, sorted(rng.integers(0, 500, 7).tolist()), **options)
    same(one, other)
    np.testing.assert_allclose(one.interval, other.interval, rtol=1e-10)
    assert one.diagnostics["variance_prediction"] == pytest.approx(other.diagnostics["variance_prediction"], rel=1e-10)


def test_no_root_ends_after_25_passes():
    d = data(24, n=60, m=100, binary=True)
    d.f, d.fu = 1e8 * d.f, 1e8 * np.abs(d.fu)
    chosen = Settings.of({"lam": 1.0})
    labeled, unlabeled = checked(d.Y, d.f, d.fu, chosen, d.X, d.Xu)
    parts = Parts(unlabeled.whole, [])
    with pytest.raises(StatisticalRefusal) as error:
        rectified_root(labeled, parts, chosen, score=LOGISTIC, names=("one", "x"), target="logistic")
    assert str(error.value) == (
        "the rectified equation cannot be solved with lam=1: no root within 25 passes over the unlabelled rows — take "
        "a smaller 'lam' (0 is the classical estimate); check that predictions and answers are on one scale"
    )
    assert 2 <= parts.folds <= 26


# --------------------------------------------------------------------------------------------- bad input


def test_shapes_are_checked():
    d = data(25)
    good = {"X": d.X, "X_unlabeled": d.Xu}

    def call(psi=line, jacobian=line_slope, theta0=(0.0, 0.0), **options):
        return m_estimate(psi, jacobian, theta0, d.Y, d.f, d.fu, **{**good, **options})

    for options, text in (
        ({"psi": 3}, "'psi' must be a function of theta, X and Y; got int."),
        ({"jacobian": None}, "'jacobian' must be a function of theta, X and Y; got NoneType."),
        ({"theta0": []}, "'theta0' must have at least one parameter."),
        ({"theta0": 0.0}, "'theta0' must have 1 dimension(s); got shape ()."),
        ({"psi": lambda t, X, Y: Y}, "'psi' must return shape (90, 2) for 90 rows; got (90,)."),
        ({"jacobian": line}, "'jacobian' must return shape (90, 2, 2) for 90 rows; got (90, 2)."),
        ({"X": None}, "'X' and 'X_unlabeled' must both be given, or neither."),
        ({"X_unlabeled": None}, "'X' and 'X_unlabeled' must both be given, or neither."),
        ({"X": d.X[:-1]}, "'X' must have shape (90, 2); got (89, 2)."),
        ({"X_unlabeled": d.Xu[:, :1]}, "'X_unlabeled' must have shape (300, 2); got (300, 1)."),
        ({"X_unlabeled": d.Xu[:-1]}, "'X_unlabeled' must have shape (300, 2); got (299, 2)."),
        ({"names": ["a"]}, "'names' must have one name a column (2); got 1."),
        ({"lam": [0.5]}, "'lam' must have one entry a coordinate (2); got 1."),
        ({"lamb": 0.5}, "there is no option 'lamb'. — did you mean 'lam'?"),
    ):
        with pytest.raises(InputError) as error:
            call(**options)
        assert str(error.value).startswith(text)


def test_rows_may_hold_matrices():
    d = data(26)
    X, Xu = d.X[:, :, None], d.Xu[:, :, None]
    est = m_estimate(
        lambda t, X, Y: line(t, X[:, :, 0], Y),
        lambda t, X, Y: line_slope(t, X[:, :, 0], Y),
        [0.0, 0.0],
        d.Y,
        d.f,
        d.fu,
        X=X,
        X_unlabeled=Xu,
    )
    same(est, run("line", d))


def log_level(theta, X, Y):
    return np.log(Y)[:, None] - theta


@pytest.mark.parametrize("lam", ["tuned", 0.5])
def test_scores_of_predictions_that_are_not_finite(lam):
    Y, f, fu = np.arange(1.0, 41), np.arange(2.0, 42), np.arange(1.0, 101)
    f[3], fu[[5, 7]] = -1, 0
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        with pytest.raises(StatisticalRefusal) as error:
            m_estimate(log_level, level_slope, [0.0], Y, f, fu, lam=lam)
        est = m_estimate(log_level, level_slope, [0.0], Y, f, fu, lam=0.0)
    assert str(error.value) == (
        "the scores of the predictions are not finite, or too large, in 1 of 40 labelled and 2 of 100 unlabelled rows "
        "— check the predictions, and that 'X_unlabeled' has the units of 'X'; lam=0 does without predictions"
    )
    assert est.value[0] == pytest.approx(np.log(Y).mean())


def test_scores_of_answers_that_are_not_finite():
    Y = np.arange(1.0, 41)
    Y[[4, 9]] = -1
    with pytest.raises(StatisticalRefusal) as error:
        m_estimate(log_level, level_slope, [0.0], Y, Y, Y)
    assert str(error.value) == (
        "'psi' must be finite; it is not at labelled row 4 (2 such rows) for theta = [0.0] — "
        "begin at another 'theta0', or rescale"
    )
    with pytest.raises(
        StatisticalRefusal, match="'jacobian' must be finite; it is not at labelled row 0 .40 such rows"
    ):
        m_estimate(level, lambda t, X, Y: np.full((len(Y), 1, 1), np.nan), [0.0], np.abs(Y), Y, Y)


def test_parameters_that_are_not_determined():
    d = data(27)
    d.X, d.Xu = np.column_stack([d.X, d.X[:, 1] * 2]), np.column_stack([d.Xu, d.Xu[:, 1] * 2])
    with pytest.raises(StatisticalRefusal) as error:
        m_estimate(line, line_slope, np.zeros(3), d.Y, d.f, d.fu, X=d.X, X_unlabeled=d.Xu, names=["a", "b", "c"])
    assert str(error.value) == (
        "the Jacobian is singular: parameter 'c' is not determined (labelled rows) — drop that parameter"
    )


def test_unlabelled_rows_that_do_not_determine_a_parameter():
    d = data(28)
    d.Xu = np.ones_like(d.Xu)
    with pytest.raises(StatisticalRefusal) as error:
        run("line", d, lam=1.0)
    assert str(error.value).startswith(
        "the rectified equation cannot be solved with lam=1: the Jacobian is singular at 'x1' — take a smaller 'lam'"
    )
    assert run("line", d, lam=0.9).std_error.shape == (2,)


def test_a_score_without_a_root():
    with pytest.raises(StatisticalRefusal) as error:
        m_estimate(
            lambda t, X, Y: np.exp(t) + Y[:, None] ** 2,
            lambda t, X, Y: np.exp(t)[:, None] + np.zeros((len(Y), 1, 1)),
            [0.0],
            np.arange(20.0),
            np.arange(20.0),
            np.arange(20.0),
        )
    assert str(error.value).startswith("'psi' has no root that Newton's method finds from 'theta0'; it ended at [")
    assert str(error.value).endswith(
        "(labelled rows) — begin at another 'theta0', and check 'jacobian' against differences of 'psi'"
    )


def test_as_many_parameters_as_rows():
    X = np.column_stack([np.ones(3), np.arange(3.0), np.arange(3.0) ** 2])
    with pytest.raises(StatisticalRefusal) as error:
        m_estimate(
            line, line_slope, np.zeros(3), np.arange(3.0), np.arange(3.0), np.ones(9), X=X, X_unlabeled=np.ones((9, 3))
        )
    assert str(error.value) == (
        "3 rows cannot carry 3 parameters with a standard error (labelled rows) — label more rows"
    )
    est = m_estimate(
        line,
        line_slope,
        np.zeros(2),
        np.arange(3.0),
        np.arange(3.0) ** 2,
        np.ones(9),
        X=X[:, :2],
        X_unlabeled=np.ones((9, 2)),
        lam=0.0,
    )
    np.testing.assert_allclose(est.value, [0, 1], atol=1e-14)


@pytest.mark.parametrize("m", [0, 1])
def test_too_few_unlabelled_rows(m):
    d = data(29, m=2)
    d.Xu, d.fu = d.Xu[:m], d.fu[:m]
    est = run("robust", d)
    assert est.lam == 0
    assert est.warnings[0] == f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate"
    same(est, run("robust", d, lam=0.0), 0)
    with pytest.raises(InputError, match="'lam' must be 0 or 'tuned' with fewer than 2 unlabelled rows; got 0.5"):
        run("robust", d, lam=0.5)


# ------------------------------------------------------------------------------------------------ Newton


def scalar(value, slope):
    def equation(theta, complete):
        return Point(np.array([value(theta[0])]), np.array([[slope(theta[0])]]), np.array([0.1]), True)

    return equation


def test_newton_halves_steps_that_overshoot():
    equation = scalar(np.arctan, lambda t: 1 / (1 + t**2))  # Newton's own steps diverge from 3
    theta, point = solved(equation, np.array([3.0]), equation(np.array([3.0]), True), 30)
    assert abs(theta[0]) < 1e-12
    assert abs(point.value[0]) < 1e-8


def test_newton_doubles_the_share_of_a_step_after_one_that_was_kept():
    tried = []

    def equation(theta, complete):
        tried.append(theta[0])
        return scalar(np.arctan, lambda t: 1 / (1 + t**2))(theta, complete)

    def step(t):
        return -np.arctan(t) * (1 + t**2)

    solved(equation, np.array([3.0]), equation(np.array([3.0]), True), 30)
    quarter = 3 + step(3) / 4
    half = quarter + step(quarter) / 2
    whole = half + step(half)
    expected = [3, 3 + step(3), 3 + step(3) / 2, quarter, half, whole, whole + step(whole)]
    np.testing.assert_allclose(tried[:7], expected, rtol=1e-12)


@pytest.mark.parametrize(("error", "limit"), [(0.0, 3.5e-13), (1e-4, 1.35e-12)])
def test_newton_ends_when_a_step_is_small(error, limit):
    """1e-8 standard errors and 1e-13 (1 + √h·|θ|)/√h, h = 4 and θ = 3."""
    for share, small in ((0.99, True), (1.01, False)):
        counted = []

        def equation(theta, complete, value=4 * share * limit, counted=counted):
            counted.append(theta)
            return Point(np.array([value]), np.array([[4.0]]), np.array([error]), True)

        start = equation(np.array([3.0]), True)
        if small:
            theta, _ = solved(equation, np.array([3.0]), start, 1)
            assert theta[0] == 3 - share * limit
            assert len(counted) == 1
        else:
            with pytest.raises(Unsolved):
                solved(equation, np.array([3.0]), start, 5)
            assert len(counted) == 6


@pytest.mark.parametrize(("size", "near"), [(0.99e-4, True), (1.01e-4, False)])
def test_newton_is_near_the_end_when_a_step_is_small(size, near):
    asked = []

    def equation(theta, complete):
        asked.append(complete)
        return Point(np.array([theta[0] - size]), np.eye(1), np.ones(1), complete)

    theta, _ = solved(equation, np.zeros(1), equation(np.zeros(1), True), 5)
    assert theta[0] == pytest.approx(size, rel=1e-12)
    assert asked[1] is near


def test_newton_steps_back_from_where_there_are_no_numbers():
    def value(t):
        return np.log(t) - 1 if t > 0 else np.nan

    equation = scalar(value, lambda t: 1 / t if t > 0 else np.nan)
    theta, _ = solved(equation, np.array([20.0]), equation(np.array([20.0]), True), 30)
    assert theta[0] == pytest.approx(np.e, rel=1e-13)
    with pytest.raises(Unsolved) as failure:
        solved(equation, np.array([-1.0]), equation(np.array([-1.0]), True), 30)
    assert failure.value.theta[0] == -1
    assert failure.value.column is None


def test_newton_collects_what_the_end_needs_only_near_the_end():
    asked = []

    def equation(theta, complete):
        asked.append(complete)
        return Point(np.exp(theta) - 2, np.diag(np.exp(theta)), np.array([0.1]), complete)

    theta, point = solved(equation, np.array([0.0]), equation(np.array([0.0]), False), 30)
    assert theta[0] == pytest.approx(np.log(2), rel=1e-15)
    assert point.complete
    assert not any(asked[:-1])
    assert asked[-1]


def test_newton_stops_after_the_given_evaluations():
    counted = []

    def equation(theta, complete):
        counted.append(theta)
        return Point(np.exp(theta), np.diag(np.exp(theta)), np.array([0.1]), True)

    start = equation(np.zeros(1), True)
    with pytest.raises(Unsolved):
        solved(equation, np.zeros(1), start, 12)
    assert len(counted) == 13


def test_inverse_heeds_no_units_and_names_the_dependent_column():
    rng = np.random.default_rng(0)
    slope, units = rng.normal(size=(4, 4)), np.array([1e-9, 1.0, 1e6, 1e12])
    np.testing.assert_allclose(inverted(slope * units), np.linalg.inv(slope) / units[:, None], rtol=1e-10)
    np.testing.assert_allclose(inverted(slope * units[:, None]), np.linalg.inv(slope) / units, rtol=1e-10)
    slope[:, 2] = slope[:, 0] - 2 * slope[:, 1]
    with pytest.raises(Singular) as failure:
        inverted(slope * units)
    assert failure.value.column == 2
    slope[:, 1] = 0
    with pytest.raises(Singular) as failure:
        inverted(slope)
    assert failure.value.column == 1


def test_a_silent_score_is_zero():
    silent = Silent(2)
    block = Block(np.full((3, 2), np.nan))
    sums = ScoreSums.of(block, silent, np.zeros(2), np.array([0.5, 0.5]), True)
    np.testing.assert_array_equal(sums.totals, np.zeros((2, 2)))
    np.testing.assert_array_equal(sums.slope, np.zeros((2, 2)))
    assert sums.rows == 3
    assert sums.weight == 3
    assert sums.merge(ScoreSums.of(block, silent, np.zeros(2), np.array([0.5, 0.5]), False)).scores is None


# ---------------------------------------------------------------------------------------------- coverage


def test_intervals_cover():
    """Robust location, n = 120, biased predictions: two-sided within three Monte-Carlo errors of 90 %."""
    rng = np.random.default_rng(7)
    replications, hits = 300, 0
    for _ in range(replications):
        truth = rng.normal(size=120 + 400) ** 3 * 0.3  # symmetric around 0
        f = 0.7 * truth + 0.4 + 0.2 * rng.normal(size=520)
        est = m_estimate(robust, robust_slope, [0.0, 0.0], truth[:120], f[:120], f[120:], alpha=0.1)
        hits += est.interval[0][0] <= 0 <= est.interval[1][0]
    assert abs(hits / replications - 0.9) <= 3 * np.sqrt(0.09 / replications)
