"""Logistic and Poisson regression: statsmodels, ppi_py, DSL's worked example, the general M-estimate, refusals."""

import warnings as python_warnings
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import root

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.glm import logistic, poisson
from ftrect_ray.estimators.m_estimate import m_estimate
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Bootstrap

with python_warnings.catch_warnings():
    python_warnings.simplefilter("ignore")
    from ppi_py import ppi_logistic_pointestimate, ppi_poisson_pointestimate

PPI_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ppi"
quick = settings(deadline=None, max_examples=25, derandomize=True)

MEANS = {"logistic": lambda eta: 1 / (1 + np.exp(-eta)), "poisson": np.exp}
BENDS = {"logistic": lambda mu: mu * (1 - mu), "poisson": lambda mu: mu}
FUNCTIONS = {"logistic": logistic, "poisson": poisson}
PEERS = {"logistic": ppi_logistic_pointestimate, "poisson": ppi_poisson_pointestimate}
both = pytest.mark.parametrize("family", ["logistic", "poisson"])


def data(family, seed=0, n=150, m=600, models=1, d=3):
    """Features, answers and predictions: (X, Y, f, X̃, f̃)."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n + m), rng.normal(size=(n + m, d - 1))])
    mu = MEANS[family](X @ np.linspace(0.2, -0.6, d))
    Y = rng.binomial(1, mu) * 1.0 if family == "logistic" else rng.poisson(mu) * 1.0
    f = 0.5 * mu + 0.4 * Y + 0.05 + 0.1 * rng.normal(size=n + m)
    bias = 0.1 * np.arange(models)
    fu = f[n:, None] + bias + 0.05 * rng.normal(size=(m, models))
    return X[:n], Y[:n], f[:n] + bias[np.arange(n) % models], X[n:], fu


def general(family, X, Y, f, Xu, fu, **options):
    """The same by :func:`m_estimate`."""

    def psi(theta, X, Y):
        return X * (Y - MEANS[family](X @ theta))[:, None]

    def jacobian(theta, X, Y):
        return -BENDS[family](MEANS[family](X @ theta))[:, None, None] * X[:, :, None] * X[:, None, :]

    return m_estimate(psi, jacobian, np.zeros(X.shape[1]), Y, f, fu, X=X, X_unlabeled=Xu, **options)


def same(one, other, tolerance=1e-10):
    for part in ("value", "std_error", "lam", "effective_n", "df", "p_value"):
        np.testing.assert_allclose(getattr(one, part), getattr(other, part), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.interval, other.interval, rtol=tolerance, atol=tolerance)


def peer(family, X, Y, **fit):
    model = {"logistic": sm.Logit, "poisson": sm.Poisson}[family](Y, X)
    return model.fit(disp=0, method="newton", tol=1e-14, **fit)


# --------------------------------------------------------------------------------- independent references


@both
def test_lam_zero_is_maximum_likelihood_with_hc0(family):
    X, Y, f, Xu, fu = data(family)
    reference = peer(family, X, Y, cov_type="HC0")
    est = FUNCTIONS[family](X, Y, f, Xu, fu, lam=0.0)
    np.testing.assert_allclose(est.value, reference.params, rtol=1e-10)
    np.testing.assert_allclose(est.std_error, reference.bse * np.sqrt(150 / 149), rtol=1e-8)
    np.testing.assert_array_equal(est.df, 147)
    np.testing.assert_allclose(est.effective_n, 150)
    assert est.target == family
    assert est.names == ("x0", "x1", "x2")


@both
def test_lam_zero_with_clusters(family):
    X, Y, f, Xu, fu = data(family, 1)
    clusters = np.arange(150) // 4
    reference = peer(family, X, Y, cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    sample = {"sample": Sample(clusters=clusters), "sample_unlabeled": Sample(clusters=1000 + np.arange(600))}
    est = FUNCTIONS[family](X, Y, f, Xu, fu, lam=0.0, **sample)
    np.testing.assert_allclose(est.value, reference.params, rtol=1e-10)
    np.testing.assert_allclose(est.std_error, reference.bse * np.sqrt(38 / 37), rtol=1e-8)


@both
def test_lam_zero_with_weights(family):
    X, Y, f, Xu, fu = data(family, 2)
    w = np.random.default_rng(2).uniform(0.5, 3, 150)
    kind = {"logistic": sm.families.Binomial, "poisson": sm.families.Poisson}[family]()
    reference = sm.GLM(Y, X, family=kind, var_weights=w).fit(tol=1e-14, maxiter=100, cov_type="HC0")
    est = FUNCTIONS[family](X, Y, f, Xu, fu, lam=0.0, sample=Sample(weights=w))
    np.testing.assert_allclose(est.value, reference.params, rtol=1e-9)
    mu = MEANS[family](X @ est.value)
    scores = X * (w * (Y - mu))[:, None]
    bread = np.linalg.inv((X.T * (w * BENDS[family](mu))) @ X)
    covariance = bread @ (150 * np.cov(scores.T)) @ bread
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)
    np.testing.assert_allclose(est.std_error, reference.bse * np.sqrt(150 / 149), rtol=1e-8)


@both
@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_ppi_py(family, lam):
    """Its optimiser stops early; our root solves its own estimating equation."""
    X, Y, f, Xu, fu = data(family, 3)
    est = FUNCTIONS[family](X, Y, f, Xu, fu, lam=lam)
    reference = PEERS[family](X, Y, f, Xu, fu[:, 0], lam=lam)
    mean = MEANS[family]

    def gradient(theta):
        imputed = Xu.T @ (mean(Xu @ theta) - fu[:, 0]) / 600
        return lam * imputed - lam * X.T @ (mean(X @ theta) - f) / 150 + X.T @ (mean(X @ theta) - Y) / 150

    assert np.abs(gradient(est.value)).max() < 1e-13
    assert np.abs(gradient(est.value)).max() <= np.abs(gradient(reference)).max()
    np.testing.assert_allclose(est.value, reference, atol=1e-5)


@both
@pytest.mark.parametrize("lam", ["tuned", 0.4, "per-coordinate", "crossfit", [0.2, 0.5, 1.0], 0.0])
@pytest.mark.parametrize("folds", [False, True])
def test_the_general_m_estimate(family, lam, folds):
    arrays = data(family, 4, models=3)
    options = {"lam": lam, "alternative": "larger", "null": 0.1}
    if folds:
        options["folds"] = np.arange(150) % 3
    one, other = FUNCTIONS[family](*arrays, **options), general(family, *arrays, **options)
    same(one, other)
    assert one.diagnostics["variance_prediction"] == pytest.approx(other.diagnostics["variance_prediction"])
    assert one.state == other.state


@both
def test_the_general_m_estimate_with_samples(family):
    arrays = data(family, 5, models=2)
    rng = np.random.default_rng(5)
    w, v, pi = rng.uniform(1, 2, 150), rng.uniform(1, 2, 600), rng.uniform(0.1, 0.9, 150)
    clusters, others = np.arange(150) // 3, 20 + np.arange(600) // 5
    for options in (
        {"sample": Sample(weights=w, clusters=clusters), "sample_unlabeled": Sample(weights=v, clusters=others)},
        {"sample": Sample(strata=clusters // 10), "sample_unlabeled": Sample(strata=others // 40)},
        {"sample": Sample(probabilities=pi), "lam": 0.8},
        {"sample": Sample(probabilities=pi, total="known"), "lam": 0.8},
        {"population": "finite", "lam": 0.8},
    ):
        est = FUNCTIONS[family](*arrays, **options)
        same(est, general(family, *arrays, **options))
        assert est.lam > 0


def pseudo_outcome_logit(Z, y, f, labelled, pi):
    """Design-based supervised learning (Egami et al. 2023): logit of f + R/π·(Y − f), sandwich over all rows."""
    N, known = len(f), np.where(labelled, y, 0.0)
    outcome = f + labelled / pi * (known - f)

    def mu(b):
        return 1 / (1 + np.exp(-Z @ b))

    def moment(b):
        return Z.T @ (outcome - mu(b)) / N

    b = root(moment, np.zeros(Z.shape[1]), jac=lambda b: -(Z.T * (mu(b) * (1 - mu(b)))) @ Z / N, tol=1e-14).x
    bread = np.linalg.inv((Z.T * (mu(b) * (1 - mu(b)))) @ Z)
    scores = Z * (outcome - mu(b))[:, None]
    return b, np.sqrt(np.diag(bread @ scores.T @ scores @ bread))


def test_worked_example_of_dsl():
    pyreadr = pytest.importorskip("pyreadr")
    path = PPI_DATA / "dsl_PanChen.rdata"
    if not path.exists():
        pytest.skip("the data of DSL's worked example are not here")
    table = pyreadr.read_r(str(path))["PanChen"]
    names = ["SendOrNot", "prefecWrong", "connect2b", "prevalence", "regionj", "groupIssue"]
    Z = np.column_stack([np.ones(len(table)), table[names].to_numpy(float)])
    y, f = table["countyWrong"].to_numpy(float), table["pred_countyWrong"].to_numpy(float)
    labelled = ~np.isnan(y)
    assert (labelled.sum(), len(y)) == (500, 1412)
    pi = np.full(1412, 500 / 1412)
    b, error = pseudo_outcome_logit(Z, y, f, labelled, pi)
    est = logistic(
        Z[labelled],
        y[labelled],
        f[labelled],
        Z[~labelled],
        f[~labelled],
        names=["one", *names],
        lam=1.0,
        sample=Sample(probabilities=pi[labelled], total="known"),
        quantiles="normal",
    )
    np.testing.assert_allclose(est.value, b, rtol=1e-9)
    np.testing.assert_allclose(est.std_error, error * np.sqrt(1412 / 1411), rtol=1e-9)
    np.testing.assert_allclose(est.interval[1] - est.value, 1.959963984540054 * est.std_error, rtol=1e-12)


def test_dsl_with_unequal_probabilities():
    X, Y, f, _, _ = data("logistic", 6, n=700, m=10)
    rng = np.random.default_rng(6)
    pi = np.clip(0.1 + 0.5 * Y + 0.1 * X[:, 1], 0.05, 0.95)
    labelled = rng.uniform(size=700) < pi
    b, error = pseudo_outcome_logit(X, Y, f, labelled, pi)
    sample = Sample(probabilities=pi[labelled], total="known")
    est = logistic(X[labelled], Y[labelled], f[labelled], X[~labelled], f[~labelled], lam=1.0, sample=sample)
    np.testing.assert_allclose(est.value, b, rtol=1e-9)
    np.testing.assert_allclose(est.std_error, error * np.sqrt(700 / 699), rtol=1e-9)


# --------------------------------------------------------------------------------------------- identities


@quick
@given(st.integers(0, 10**6), st.sampled_from(["logistic", "poisson"]))
def test_lam_zero_needs_no_predictions(seed, family):
    X, Y, f, Xu, fu = data(family, seed, n=80, m=30)
    one = FUNCTIONS[family](X, Y, f, Xu, fu, lam=0.0)
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        same(one, FUNCTIONS[family](X, Y, -1e90 * f, Xu * 1e6, 1e90 * fu, lam=0.0), 0)
        same(one, FUNCTIONS[family](X, Y, f, Xu[:0], fu[:0], lam=0.0), 0)


@quick
@given(st.integers(0, 10**6), st.sampled_from(["logistic", "poisson"]))
def test_units_order_and_equal_models(seed, family):
    X, Y, f, Xu, fu = data(family, seed, n=100, m=300)
    function, rng = FUNCTIONS[family], np.random.default_rng(seed)
    one = function(X, Y, f, Xu, fu, lam="per-coordinate")
    i, j, c = rng.permutation(100), rng.permutation(300), np.array([1.0, 1e-3, -1e3])
    same(function(X[i], Y[i], f[i], Xu[j], fu[j], lam="per-coordinate"), one, 1e-8)
    same(function(X, Y, f, Xu, np.repeat(fu, 2, axis=1), lam="per-coordinate", folds=np.arange(100) % 2), one, 1e-8)
    scaled = function(X * c, Y, f, Xu * c, fu, lam="per-coordinate")
    np.testing.assert_allclose(scaled.value * c, one.value, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(scaled.std_error * np.abs(c), one.std_error, rtol=1e-8)


@quick
@given(st.integers(0, 10**6), st.sampled_from(["logistic", "poisson"]))
def test_tuned_is_never_much_longer_than_classical(seed, family):
    X, Y, f, Xu, fu = data(family, seed, n=100, m=300)
    tuned, classical = (FUNCTIONS[family](X, Y, f, Xu, fu, lam=lam) for lam in ("tuned", 0.0))
    assert (tuned.std_error <= classical.std_error * 1.1).all()
    useless = np.random.default_rng(seed).normal(size=400)
    idle = FUNCTIONS[family](X, Y, useless[:100], Xu, useless[100:])
    assert (idle.std_error <= classical.std_error * 1.1).all()


def test_a_perfect_predictor_gives_the_regression_of_the_unlabelled_rows():
    X, Y, _, Xu, _ = data("poisson", 7)
    truth = np.random.default_rng(7).poisson(np.exp(Xu @ [0.2, -0.2, -0.6])) * 1.0
    est = poisson(X, Y, Y, Xu, truth, lam=1.0)
    reference = peer("poisson", Xu, truth, cov_type="HC0")
    np.testing.assert_allclose(est.value, reference.params, rtol=1e-9)
    np.testing.assert_allclose(est.std_error, reference.bse * np.sqrt(600 / 599), rtol=1e-8)


def test_one_column_without_a_second_dimension():
    X, Y, f, Xu, fu = data("logistic", 8)
    same(logistic(X[:, 1], Y, f, Xu[:, 1], fu), logistic(X[:, 1:2], Y, f, Xu[:, 1:2], fu), 0)


def test_coefficients_by_name_tune_lam_for_themselves():
    X, Y, f, Xu, fu = data("poisson", 9)
    est = poisson(X, Y, f, Xu, fu, names=["one", "age", "size"], coefficients=["size"])
    assert est.names == ("size",)
    assert est.lam == poisson(X, Y, f, Xu, fu, lam="per-coordinate").lam[2]
    with pytest.raises(InputError, match="there is no coefficient 'sise'"):
        poisson(X, Y, f, Xu, fu, names=["one", "age", "size"], coefficients=["sise"])


def test_bootstrap_and_simultaneous_intervals():
    X, Y, f, Xu, fu = data("logistic", 10)
    plain = logistic(X, Y, f, Xu, fu)
    wide = logistic(X, Y, f, Xu, fu, simultaneous=True)
    assert (wide.interval[1] > plain.interval[1]).all()
    boot = logistic(X, Y, f, Xu, fu, bootstrap=Bootstrap(replications=99, seed=1))
    np.testing.assert_array_equal(boot.value, plain.value)
    np.testing.assert_allclose(boot.length, plain.length, rtol=0.5)


def test_large_counts_and_wide_columns():
    """exp overflows on the way; what is found solves the equation."""
    rng = np.random.default_rng(11)
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    Y = rng.poisson(3, 60) * 1e6
    for scale in (1e-6, 1e3):
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("error")
            est = poisson(X * [1, scale], Y, Y, X * [1, scale], Y, lam=0.5)
        reference = sm.GLM(Y, X, family=sm.families.Poisson()).fit(tol=1e-14)
        np.testing.assert_allclose(est.value * [1, scale], reference.params, rtol=1e-9)


# ------------------------------------------------------------------------------------------------ refusals


def refused(kind, text, function, *arguments, **options):
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        with pytest.raises(kind) as error:
            function(*arguments, **options)
    assert str(error.value) == text


def test_answers_that_the_regression_cannot_have():
    X, Y, f, Xu, fu = data("logistic", 12)
    Y[[3, 7]] = 2, 0.5
    text = "'Y' must be 0 or 1; got 2 at position 3 (2 such rows). — recode the answers, or drop those rows"
    refused(InputError, text, logistic, X, Y, f, Xu, fu)
    Y[3] = -0.5
    text = "'Y' must not be negative; got -0.5 at position 3 (1 such rows). — recode the answers, or drop those rows"
    refused(InputError, text, poisson, X, Y, f, Xu, fu)


def test_separated_answers():
    X, _, f, Xu, fu = data("logistic", 13, n=60)
    refused(
        StatisticalRefusal,
        "the answers are separated: the columns, 'b' above all, tell 60 of 60 answers with certainty, and coefficients "
        "grow without bound (labelled rows) — drop column 'b', or label more rows",
        logistic,
        X * [1, 100, 1],
        (X[:, 2] > 0) * 1.0,
        f,
        Xu,
        fu,
        names=["one", "a", "b"],
    )


@both
def test_answers_separated_in_part(family):
    X, Y, f, Xu, fu = data(family, 14, n=60)
    X[:, 2] = 3.0 * (np.arange(60) < 5)
    Y[:5] = 0
    refused(
        StatisticalRefusal,
        "the answers are separated: the columns, 'x2' above all, tell 5 of 60 answers with certainty, and coefficients "
        "grow without bound (labelled rows) — drop column 'x2', or label more rows",
        FUNCTIONS[family],
        X,
        Y,
        f,
        Xu,
        fu,
    )


def test_equal_answers():
    X, _, f, Xu, fu = data("logistic", 15, n=60)
    for value in (0, 1):
        text = f"all 60 answers are equal ({value}): there is no estimate (labelled rows) — label more rows"
        refused(StatisticalRefusal, text, logistic, X, np.full(60, value), f, Xu, fu)
    text = "all 60 answers are equal (0): there is no estimate (labelled rows) — label more rows"
    refused(StatisticalRefusal, text, poisson, X, np.zeros(60), f, Xu, fu)
    est = poisson(X, np.full(60, 3.0), f, Xu, fu)
    np.testing.assert_allclose(est.value, [np.log(3), 0, 0], atol=1e-12)
    assert (est.std_error < 1e-12).all()
    assert est.warnings[0].startswith("all labels equal 3")


@both
def test_collinear_columns_and_too_few_rows(family):
    X, Y, f, Xu, fu = data(family, 16, n=60)
    twice, twice_unlabelled = np.column_stack([X, X[:, 1] - X[:, 0]]), np.column_stack([Xu, Xu[:, 1]])
    text = "X'X is singular: drop column 'd' (labelled rows)"
    refused(StatisticalRefusal, text, FUNCTIONS[family], twice, Y, f, twice_unlabelled, fu, names=list("abcd"))
    with pytest.raises(StatisticalRefusal, match="3 rows cannot carry 3 coefficients"):
        FUNCTIONS[family](X[:3], Y[:3], f[:3], Xu, fu)
    weights = np.append(np.ones(3), np.zeros(57))
    with pytest.raises(StatisticalRefusal, match="3 rows cannot carry 3 coefficients"):
        FUNCTIONS[family](X, Y, f, Xu, fu, sample=Sample(weights=weights))
    refused(
        StatisticalRefusal,
        "the rectified equation cannot be solved with lam=1: the Jacobian is singular at 'c' — take a smaller 'lam' "
        "(0 is the classical estimate); check that predictions and answers are on one scale",
        FUNCTIONS[family],
        X,
        Y,
        f,
        np.column_stack([Xu[:, :2], Xu[:, 1]]),
        fu,
        lam=1.0,
        names=list("abc"),
    )


@pytest.mark.parametrize("lam", ["tuned", 0.5])
def test_means_that_overflow(lam):
    X, Y, f, Xu, fu = data("poisson", 17, n=60, m=100)
    Xu[:, 1] = np.where(np.arange(100) < 4, 1e9, 0.1) * -np.sign(poisson(X, Y, f, Xu, fu, lam=0.0).value[1]) * -1
    refused(
        StatisticalRefusal,
        "the scores of the predictions are not finite, or too large, in 0 of 60 labelled and 4 of 100 unlabelled rows "
        "— check the predictions, and that 'X_unlabeled' has the units of 'X'; lam=0 does without predictions",
        poisson,
        X,
        Y,
        f,
        Xu,
        fu,
        lam=lam,
    )


@both
def test_shapes(family):
    X, Y, f, Xu, fu = data(family, 18, n=60)
    function = FUNCTIONS[family]
    for arguments, text in (
        ((X[:-1], Y, f, Xu, fu), "'X' must have shape (60, 3); got (59, 3)."),
        ((X, Y, f, Xu[:, :2], fu), "'X_unlabeled' must have shape (600, 3); got (600, 2)."),
        ((X, Y, f[:-1], Xu, fu), "'Yhat' must have as many rows as 'Y' (60); got 59."),
        ((X, Y[:1], f, Xu, fu), "'Y' must have at least 2 rows; got 1. — a variance needs two answers"),
    ):
        refused(InputError, text, function, *arguments)
    with pytest.raises(InputError, match="'names' must have one name a column"):
        function(X, Y, f, Xu, fu, names=["a"])


# ---------------------------------------------------------------------------------------------- coverage


@both
def test_intervals_cover(family):
    """n = 150, informative and biased predictions: within three Monte-Carlo errors of 90 %, every coefficient."""
    truth, replications = np.linspace(0.2, -0.6, 3), 300
    hits = np.zeros(3)
    for seed in range(replications):
        est = FUNCTIONS[family](*data(family, 1000 + seed, m=500), alpha=0.1)
        hits += (est.interval[0] <= truth) & (truth <= est.interval[1])
    assert (np.abs(hits / replications - 0.9) <= 3 * np.sqrt(0.09 / replications)).all()
