"""The multinomial logit: statsmodels, the general M-estimate, logistic regression as J = 1, layouts, refusals."""

import warnings as python_warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.glm import logistic
from ftrect_ray.estimators.m_estimate import m_estimate
from ftrect_ray.estimators.multinomial import multinomial
from ftrect_ray.estimators.multinomial_score import MultinomialLogit
from ftrect_ray.estimators.samples import Sample

quick = settings(deadline=None, max_examples=25, derandomize=True)


def chances(utilities):
    """(b, J + 1), the outside option first."""
    odds = np.exp(np.column_stack([np.zeros(len(utilities)), utilities]))
    return odds / odds.sum(axis=1, keepdims=True)


def draws(rng, chances):
    return (rng.uniform(size=(len(chances), 1)) > np.cumsum(chances, axis=1)).sum(axis=1)


def noisy(rng, Y, J, right=0.7):
    return np.where(rng.uniform(size=len(Y)) < right, Y, rng.integers(0, J + 1, len(Y)))


def by_features(seed=0, n=200, m=600, J=2, models=1):
    """(X, Y, f, X̃, f̃), X (·, 2)."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n + m), rng.normal(size=n + m)])
    Y = draws(rng, chances(X @ np.linspace(-0.5, 0.6, 2 * J).reshape(2, J)))
    fu = np.column_stack([noisy(rng, Y[n:], J) for _ in range(models)])
    return X[:n], Y[:n], noisy(rng, Y[:n], J), X[n:], fu


def by_attributes(seed=0, n=200, m=600, J=3, models=1):
    """(X, Y, f, X̃, f̃), X (·, J, 2)."""
    rng = np.random.default_rng(seed)
    X = rng.normal([0.5, 0.0], 1.0, (n + m, J, 2))
    Y = draws(rng, chances(X @ [0.8, -0.5]))
    fu = np.column_stack([noisy(rng, Y[n:], J) for _ in range(models)])
    return X[:n], Y[:n], noisy(rng, Y[:n], J), X[n:], fu


def softened(f, J, sure=0.8):
    """Probabilities (·, J + 1) that favour the option f (·,)."""
    return (1 - sure) / (J + 1) + sure * np.eye(J + 1)[f]


def psi_attributes(theta, X, Y):
    p = chances(X @ theta)[:, 1:]
    return np.einsum("bjd,bj->bd", X, (Y[:, None] == np.arange(1, X.shape[1] + 1)) - p)


def jacobian_attributes(theta, X, Y):
    p = chances(X @ theta)[:, 1:]
    middle = np.einsum("bjd,bj->bd", X, p)
    return middle[:, :, None] * middle[:, None, :] - np.einsum("bj,bjd,bje->bde", p, X, X)


def psi_features(theta, X, Y):
    J = len(theta) // X.shape[1]
    p = chances(X @ theta.reshape(J, -1).T)[:, 1:]
    return np.einsum("bj,bd->bjd", (Y[:, None] == np.arange(1, J + 1)) - p, X).reshape(len(X), -1)


def jacobian_features(theta, X, Y):
    J = len(theta) // X.shape[1]
    p = chances(X @ theta.reshape(J, -1).T)[:, 1:]
    weights = p[:, :, None] * p[:, None, :] - p[:, :, None] * np.eye(J)
    return np.einsum("bjl,bd,be->bjdle", weights, X, X).reshape(len(X), len(theta), len(theta))


def general(X, Y, f, Xu, fu, **options):
    psi, jacobian, d = (
        (psi_attributes, jacobian_attributes, X.shape[2])
        if X.ndim == 3
        else (psi_features, jacobian_features, X.shape[1] * Y.max())
    )
    return m_estimate(psi, jacobian, np.zeros(d), Y, f, fu, X=X, X_unlabeled=Xu, **options)


def same(one, other, tolerance=1e-10):
    for part in ("value", "std_error", "lam", "effective_n", "df"):
        np.testing.assert_allclose(getattr(one, part), getattr(other, part), rtol=tolerance, atol=tolerance)


LAYOUTS = pytest.mark.parametrize("layout", [by_features, by_attributes])


# --------------------------------------------------------------------------------- independent references


@pytest.mark.parametrize("J", [1, 2, 4])
def test_lam_zero_is_statsmodels_mnlogit(J):
    X, Y, f, Xu, fu = by_features(J, n=300, J=J)
    reference = sm.MNLogit(Y, X).fit(disp=0, method="newton", tol=1e-14, cov_type="HC0")
    est = multinomial(X, Y, f, Xu, fu, lam=0.0)
    np.testing.assert_allclose(est.value, reference.params.T.ravel(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(est.std_error, reference.bse.T.ravel() * np.sqrt(300 / 299), rtol=1e-8)
    assert est.names == tuple(f"{j}:x{k}" for j in range(1, J + 1) for k in range(2))
    assert est.target == "multinomial"
    np.testing.assert_array_equal(est.df, 300 - 2 * J)


@LAYOUTS
@pytest.mark.parametrize("lam", [0.0, 0.6, "tuned", "per-coordinate", "crossfit"])
def test_the_general_m_estimate(layout, lam):
    arrays = layout(3, models=3)
    same(multinomial(*arrays, lam=lam), general(*arrays, lam=lam))
    options = {"lam": lam, "folds": np.arange(200) % 3}
    same(multinomial(*arrays, **options), general(*arrays, **options))


@LAYOUTS
def test_the_general_m_estimate_with_samples(layout):
    arrays = layout(4)
    rng = np.random.default_rng(4)
    w, v, pi = rng.uniform(1, 2, 200), rng.uniform(1, 2, 600), rng.uniform(0.1, 0.9, 200)
    clusters, others = np.arange(200) // 3, 20 + np.arange(600) // 5
    for options in (
        {"sample": Sample(weights=w, clusters=clusters), "sample_unlabeled": Sample(weights=v, clusters=others)},
        {"sample": Sample(probabilities=pi), "lam": 0.8},
        {"sample": Sample(probabilities=pi, total="known"), "lam": 0.8},
        {"population": "finite"},
    ):
        est = multinomial(*arrays, **options)
        same(est, general(*arrays, **options))
        assert est.lam > 0


@pytest.mark.parametrize("lam", [0.0, 1.0, "tuned"])
def test_one_option_is_logistic_regression(lam):
    X, Y, f, Xu, fu = by_features(5, J=1)
    reference = logistic(X, Y, f, Xu, fu, lam=lam)
    same(multinomial(X, Y, f, Xu, fu, lam=lam), reference)
    same(multinomial(X[:, None, :], Y, f, Xu[:, None, :], fu, lam=lam), reference)
    chance, chance_unlabelled = softened(f, 1), softened(fu[:, 0], 1)
    reference = logistic(X, Y, chance[:, 1], Xu, chance_unlabelled[:, 1], lam=lam)
    same(multinomial(X, Y, chance, Xu, chance_unlabelled, lam=lam), reference)
    sample = Sample(probabilities=np.linspace(0.2, 0.6, 200))
    one = multinomial(X[:, None, :], Y, f, Xu[:, None, :], fu, lam=lam, sample=sample)
    same(one, logistic(X, Y, f, Xu, fu, lam=lam, sample=sample))


def test_features_are_attributes_beside_zeros():
    """x of option j in the j-th place of d = J·p columns."""
    X, Y, f, Xu, fu = by_features(6, J=2)

    def spread_out(X):
        wide = np.zeros((len(X), 2, 4))
        wide[:, 0, :2], wide[:, 1, 2:] = X, X
        return wide

    one, other = multinomial(X, Y, f, Xu, fu), multinomial(spread_out(X), Y, f, spread_out(Xu), fu)
    same(one, other)
    assert other.names == ("x0", "x1", "x2", "x3")


@LAYOUTS
def test_probabilities_solve_their_own_equation(layout):
    X, Y, f, Xu, fu = layout(7)
    J = Y.max()
    chance, chance_unlabelled = softened(f, J), softened(fu[:, 0], J)
    est = multinomial(X, Y, chance, Xu, chance_unlabelled, lam=0.7)

    def score(X, answers):
        if X.ndim == 3:
            return np.einsum("bjd,bj->bd", X, answers[:, 1:] - chances(X @ est.value)[:, 1:])
        p = chances(X @ est.value.reshape(J, -1).T)
        return np.einsum("bj,bd->bjd", answers[:, 1:] - p[:, 1:], X).reshape(len(X), -1)

    labelled = score(X, np.eye(J + 1)[Y]) - 0.7 * score(X, chance)
    unlabelled = 0.7 * score(Xu, chance_unlabelled)
    np.testing.assert_allclose(labelled.mean(axis=0) + unlabelled.mean(axis=0), 0, atol=1e-14)
    jacobian = jacobian_attributes if X.ndim == 3 else jacobian_features
    bread = np.linalg.inv(0.3 * jacobian(est.value, X, Y).mean(0) + 0.7 * jacobian(est.value, Xu, fu).mean(0))
    covariance = bread @ (np.cov(labelled.T) / 200 + np.cov(unlabelled.T) / 600) @ bread
    np.testing.assert_allclose(est.std_error, np.sqrt(np.diag(covariance)), rtol=1e-8)


# ------------------------------------------------------------------------------------- layouts, identities


@LAYOUTS
def test_certain_probabilities_are_choices(layout):
    X, Y, f, Xu, fu = layout(8, models=3)
    J, folds = Y.max(), np.arange(200) % 3
    layers = np.moveaxis(np.eye(J + 1)[fu], 1, 2)
    assert layers.shape == (600, J + 1, 3)
    same(multinomial(X, Y, np.eye(J + 1)[f], Xu, layers, folds=folds), multinomial(X, Y, f, Xu, fu, folds=folds))
    one = multinomial(X, Y, f, Xu, fu[:, 0])
    same(one, multinomial(X, Y, f, Xu, fu[:, :1]))
    same(one, multinomial(X, Y, np.eye(J + 1)[f], Xu, np.eye(J + 1)[fu[:, 0]]))
    same(one, multinomial(X, Y, np.eye(J + 1)[f], Xu, np.eye(J + 1)[fu[:, 0]][:, :, None]))


def test_as_many_models_as_columns_of_probabilities_is_no_riddle():
    """(m, 3) are three models' choices where Yhat (n,) are choices, and probabilities of 0, 1, 2 where it is (n, 3)."""
    X, Y, f, Xu, fu = by_features(9, models=3)
    assert multinomial(X, Y, f, Xu, fu, lam=1.0).value.shape == (4,)
    chance = softened(fu[:, 0], 2)
    assert multinomial(X, Y, softened(f, 2), Xu, chance, lam=1.0).value.shape == (4,)
    with pytest.raises(InputError, match="'Yhat_unlabeled' must hold options, whole numbers from 0 to 2"):
        multinomial(X, Y, f, Xu, chance)
    with pytest.raises(InputError, match="'Yhat_unlabeled' must sum to 1 over the options"):
        multinomial(X, Y, softened(f, 2), Xu, fu)


@quick
@given(st.integers(0, 10**6), st.sampled_from([by_features, by_attributes]))
def test_lam_zero_equal_models_and_order(seed, layout):
    X, Y, f, Xu, fu = layout(seed, n=150, m=200)
    one = multinomial(X, Y, f, Xu, fu)
    rng = np.random.default_rng(seed)
    i, j = rng.permutation(150), rng.permutation(200)
    same(multinomial(X[i], Y[i], f[i], Xu[j], fu[j]), one, 1e-8)
    same(multinomial(X, Y, f, Xu, np.repeat(fu, 2, axis=1), folds=np.arange(150) % 2), one, 1e-8)
    classical = multinomial(X, Y, f, Xu, fu, lam=0.0)
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        same(multinomial(X, Y, 0 * f, Xu[:0], fu[:0], lam=0.0), classical, 0)
        same(multinomial(X, Y, f, 1e9 * Xu, 0 * fu, lam=0.0), classical, 0)


def test_far_utilities_do_not_overflow():
    X, Y, f, Xu, fu = by_features(10)
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        one = multinomial(X * [1, 1e3], Y, f, Xu * [1, 1e3], fu, lam=0.5)
        far = MultinomialLogit(None).at(np.array([1.0]), np.array([[[900.0], [-900.0]], [[-900.0], [-800.0]]]))
    other = multinomial(X, Y, f, Xu, fu, lam=0.5)
    np.testing.assert_allclose(one.value * [1, 1e3, 1, 1e3], other.value, rtol=1e-8)
    np.testing.assert_array_equal(far.probabilities, [[1, 0], [0, 0]])


def test_names():
    X, Y, f, Xu, fu = by_features(11)
    est = multinomial(X, Y, f, Xu, fu, names=["one", "age"], coefficients=["2:age", "1:one"])
    assert est.names == ("2:age", "1:one")
    X, Y, f, Xu, fu = by_attributes(11)
    assert multinomial(X, Y, f, Xu, fu, names=["price", "taste"]).names == ("price", "taste")


# ------------------------------------------------------------------------------------------------ refusals


def refused(kind, text, *arguments, **options):
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        with pytest.raises(kind) as error:
            multinomial(*arguments, **options)
    assert str(error.value) == text


def test_choices_are_checked():
    X, Y, f, Xu, fu = by_attributes(12)
    mend = " — number the options of 'X' from 1, and the outside option 0"
    rule = "must hold options, whole numbers from 0 to 3; got"
    refused(InputError, f"'Y' {rule} 4 at position 0 (200 such values).{mend}", X, Y * 0 + 4, f, Xu, fu)
    refused(InputError, f"'Yhat' {rule} 0.5 at position 0 (200 such values).{mend}", X, Y, f * 0 + 0.5, Xu, fu)
    fu[7, 0] = -1
    refused(InputError, f"'Yhat_unlabeled' {rule} -1 at position (7, 0) (1 such values).{mend}", X, Y, f, Xu, fu)
    Y = np.append(Y[:-1], -1)
    refused(InputError, f"'Y' {rule} -1 at position 199 (1 such values).{mend}", X, Y, f, Xu, fu)


def test_probabilities_are_checked():
    X, Y, f, Xu, fu = by_attributes(13)
    chance, other = softened(f, 3), softened(fu[:, 0], 3)
    rule = "must have one probability an option, the outside option first (4 columns); got shape"
    mend = " — give predicted options in one dimension less, or label a row of each option"
    refused(InputError, f"'Yhat' {rule} (200, 3).{mend}", X, Y, chance[:, 1:], Xu, other)
    refused(InputError, f"'Yhat_unlabeled' {rule} (600, 3).{mend}", X, Y, chance, Xu, other[:, 1:])
    refused(InputError, f"'Yhat_unlabeled' {rule} (600, 4, 0).{mend}", X, Y, chance, Xu, other[:, :, None][:, :, :0])
    mend = " — the outside option counts too: it is the first column"
    chance[5] += 0.1
    text = f"'Yhat' must sum to 1 over the options; row 5 sums to 1.4 (1 such rows).{mend}"
    refused(InputError, text, X, Y, chance, Xu, other)
    chance[5] -= 0.1
    layers = np.stack([other, other], axis=2)
    layers[[2, 9], 0, 1] -= 0.05
    text = f"'Yhat_unlabeled' must sum to 1 over the options; row 2 sums to 0.95 (2 such rows).{mend}"
    refused(InputError, text, X, Y, chance, Xu, layers)
    layers[[2, 9], 0, 1] += 0.05 + 1e-8
    assert multinomial(X, Y, chance, Xu, layers).value.shape == (2,)


def test_probabilities_of_no_unlabelled_row():
    X, Y, f, Xu, _ = by_features(13, J=3)
    alone = multinomial(X, Y, softened(f, 3), Xu[:0], np.empty((0, 4)), lam=0.0)
    np.testing.assert_array_equal(alone.value, multinomial(X, Y, f, Xu[:0], np.empty(0), lam=0.0).value)


def test_shapes_are_checked():
    X, Y, f, Xu, fu = by_attributes(14)
    for arguments, text in (
        ((X[:-1], Y, f, Xu, fu), "'X' must have shape (200, 3, 2); got (199, 3, 2)."),
        ((X, Y, f, Xu[:, :2], fu), "'X_unlabeled' must have shape (600, 3, 2); got (600, 2, 2)."),
        (
            (X[:, :, :0], Y, f, Xu[:, :, :0], fu),
            "'X' must have at least one option and one attribute; got shape (200, 3, 0).",
        ),
        (
            (X[:, :0], Y, f, Xu[:, :0], fu),
            "'X' must have at least one option and one attribute; got shape (200, 0, 2).",
        ),
        ((X, Y, f, Xu[:, 0], fu), "'X_unlabeled' must have 3 dimension(s); got shape (600, 2)."),
        ((X[:, 0], Y, f, Xu, fu), "'X_unlabeled' must have 1 or 2 dimension(s); got shape (600, 3, 2)."),
        ((X, Y, f, Xu, fu[:, :0]), "'Yhat_unlabeled' must have at least one column."),
        ((X, Y, f, Xu, softened(fu, 3)), "'Yhat_unlabeled' must have 1 or 2 dimension(s); got shape (600, 1, 4)."),
        ((X, Y, softened(f, 3), Xu, fu[:, 0]), "'Yhat_unlabeled' must have 2 or 3 dimension(s); got shape (600,)."),
        ((X, Y, f[:-1], Xu, fu), "'Yhat' must have as many rows as 'Y' (200); got 199."),
    ):
        refused(InputError, text, *arguments)
    X, Y, f, Xu, fu = by_features(14)
    text = (
        "'Y' must hold options 0, 1, …, each of them chosen; got 200 among 200 rows. — number the options without gaps"
    )
    refused(InputError, text, X, np.append(Y[:-1], 200), f, Xu, fu)


def test_options_that_nobody_chose():
    X, Y, f, Xu, fu = by_features(15, J=3)
    mend = " (labelled rows) — number the options without gaps, or label more rows"
    refused(StatisticalRefusal, f"no labelled row chose option 1{mend}", X, np.where(Y == 1, 2, Y), f, Xu, fu)
    refused(StatisticalRefusal, f"no labelled row chose option 0{mend}", X, np.maximum(Y, 1), f, Xu, fu)
    chance, other = softened(f, 3), softened(fu[:, 0], 3)
    refused(StatisticalRefusal, f"no labelled row chose option 3{mend}", X, np.minimum(Y, 2), chance, Xu, other)
    text = "all 200 answers are equal: there is no estimate (labelled rows) — label more rows"
    refused(StatisticalRefusal, text, X, np.full(200, 3), f, Xu, fu)
    text = "all 200 answers are equal (0): there is no estimate (labelled rows) — label more rows"
    refused(StatisticalRefusal, text, X, 0 * Y, 0 * f, Xu, 0 * fu)


def test_separated_choices():
    X, Y, f, Xu, fu = by_features(16)
    text = (
        "the answers are separated: the columns, '1:x1' above all, tell 200 of 200 answers with certainty, and "
        "coefficients grow without bound (labelled rows) — drop column '1:x1', or label more rows"
    )
    refused(StatisticalRefusal, text, X, (X[:, 1] > 0) * 1, 0 * f, Xu, 0 * fu)
    X, Y, f, Xu, fu = by_attributes(16)
    X[:, :, 1] = np.eye(4)[Y][:, 1:]
    inside = np.count_nonzero(Y)
    text = (
        f"the answers are separated: the columns, 'x1' above all, tell {inside} of 200 answers with certainty, and "
        "coefficients grow without bound (labelled rows) — drop column 'x1', or label more rows"
    )
    refused(StatisticalRefusal, text, X, Y, f, Xu, fu)


def test_collinear_columns_and_too_few_rows():
    X, Y, f, Xu, fu = by_features(17)
    text = "X'X is singular: drop column 'x2' (labelled rows)"
    refused(StatisticalRefusal, text, np.column_stack([X, X[:, 1]]), Y, f, np.column_stack([Xu, Xu[:, 1]]), fu)
    few = [np.flatnonzero(j == Y)[0] for j in range(3)] + [np.flatnonzero(Y == 0)[1]]
    text = "4 rows cannot carry 4 coefficients with a standard error (labelled rows) — drop columns or add rows"
    refused(StatisticalRefusal, text, X[few], Y[few], f[few], Xu, fu)
    X, Y, f, Xu, fu = by_attributes(17)
    text = "X'X is singular: drop column 'x2' (labelled rows)"
    wide, wide_unlabelled = (np.concatenate([part, part[:, :, :1]], axis=2) for part in (X, Xu))
    refused(StatisticalRefusal, text, wide, Y, f, wide_unlabelled, fu)


# ---------------------------------------------------------------------------------------------- coverage


def test_intervals_cover():
    """n = 200, choice among three products or none: within three Monte-Carlo errors of 90 %, both coefficients."""
    replications, hits, truth = 250, np.zeros(2), np.array([0.8, -0.5])
    for seed in range(replications):
        est = multinomial(*by_attributes(5000 + seed), alpha=0.1)
        hits += (est.interval[0] <= truth) & (truth <= est.interval[1])
    assert (np.abs(hits / replications - 0.9) <= 3 * np.sqrt(0.09 / replications)).all()
