"""The answers alone: every target at λ = 0, statsmodels and SciPy, and options that have no meaning."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.classical import (
    classical_difference,
    classical_logistic,
    classical_mean,
    classical_multinomial,
    classical_ols,
    classical_poisson,
    classical_proportions,
    classical_quantile,
)
from ftrect_ray.estimators.difference import difference
from ftrect_ray.estimators.glm import logistic, poisson
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.multinomial import multinomial
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.proportions import proportions
from ftrect_ray.estimators.quantile import quantile
from ftrect_ray.estimators.samples import Sample

RNG = np.random.default_rng(0)
N, M = 60, 90
X, X_UNLABELED = (np.column_stack([np.ones(rows), RNG.normal(size=rows)]) for rows in (N, M))
Y = 1 + X[:, 1] + RNG.standard_t(5, size=N)
YES = (RNG.random(N) < 0.5).astype(float)
COUNT = RNG.poisson(np.exp(0.5 + 0.5 * X[:, 1])).astype(float)
CHOICE = RNG.integers(0, 3, N)
NAMES = RNG.choice(["a", "b"], N)
GARBAGE, OTHER = RNG.normal(size=N) * 50, RNG.normal(size=M) * 50
WEIGHTS = Sample(weights=RNG.uniform(0.5, 2, N))
CLUSTERS = Sample(clusters=np.arange(N) // 2)

CASES = {
    "mean": (lambda **o: classical_mean(Y, **o), lambda **o: mean(Y, GARBAGE, OTHER, **o)),
    "proportions": (
        lambda **o: classical_proportions(NAMES, **o),
        lambda **o: proportions(NAMES, NAMES[::-1], NAMES, **o),
    ),
    "quantile 0.3": (lambda **o: classical_quantile(Y, 0.3, **o), lambda **o: quantile(Y, GARBAGE, OTHER, 0.3, **o)),
    "ols": (lambda **o: classical_ols(X, Y, **o), lambda **o: ols(X, Y, GARBAGE, X_UNLABELED, OTHER, **o)),
    "logistic": (
        lambda **o: classical_logistic(X, YES, **o),
        lambda **o: logistic(X, YES, GARBAGE, X_UNLABELED, OTHER, **o),
    ),
    "poisson": (
        lambda **o: classical_poisson(X, COUNT, **o),
        lambda **o: poisson(X, COUNT, GARBAGE, X_UNLABELED, OTHER, **o),
    ),
    "multinomial": (
        lambda **o: classical_multinomial(X, CHOICE, **o),
        lambda **o: multinomial(X, CHOICE, CHOICE[::-1], X_UNLABELED, np.arange(M) % 3, **o),
    ),
}
OPTIONS = [
    {},
    {"alpha": 0.1, "alternative": "larger", "null": 0.2, "quantiles": "normal"},
    {"sample": WEIGHTS},
    {"sample": CLUSTERS, "alternative": "smaller"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target", list(CASES))
def test_it_is_the_target_at_lam_zero_whatever_the_predictions(target, options):
    classical, rectified = CASES[target]
    found, expected = classical(**options), rectified(lam=0.0, **options)
    for field in ("value", "std_error", "interval", "df", "p_value", "effective_n", "null", "alpha"):
        np.testing.assert_allclose(
            np.asarray(getattr(found, field), dtype=float),
            np.asarray(getattr(expected, field), dtype=float),
            rtol=1e-10,
            atol=1e-12,
        )
    assert (found.target, found.names, found.n, found.m) == (target, expected.names, N, 0)
    assert np.all(found.lam == 0)
    assert np.allclose(found.effective_n, N)


@pytest.mark.parametrize("target", list(CASES))
def test_diagnostics_speak_of_answers_only(target):
    classical, rectified = CASES[target]
    found, full = classical(sample=WEIGHTS), rectified(lam=0.0, sample=WEIGHTS)
    names = [check["name"] for check in found.diagnostics["checks"]]
    assert set(names) <= {"labels", "variation", "answered", "weights", "rare", "influence", "coverage"}
    assert {"labels", "variation", "weights"} <= set(names)
    expected = [check for check in full.diagnostics["checks"] if check["name"] in names]
    for one, two in zip(found.diagnostics["checks"], expected, strict=True):
        assert (one["name"], one["state"], one["text"]) == (two["name"], two["state"], two["text"])
    for number in ("calibration_slope", "r2", "variance_prediction", "residual_variance"):
        assert found.diagnostics[number] is None


def test_few_labels_are_said_and_the_state_follows():
    found = classical_mean([1.0, 2.0, 4.0])
    assert found.warnings == ["only 3 labels: the interval is rough below 30"]
    assert found.state == "WARN"
    assert classical_mean(np.arange(60.0)).state == "PASS"


# ------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("alternative", ["two-sided", "larger", "smaller"])
def test_the_mean_is_the_t_test(alternative):
    reference = stats.ttest_1samp(
        Y, 0.7, alternative=alternative.replace("larger", "greater").replace("smaller", "less")
    )
    found = classical_mean(Y, null=0.7, alternative=alternative, alpha=0.1)
    assert found.interval == pytest.approx(tuple(reference.confidence_interval(0.9)), rel=1e-10)
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)


@pytest.mark.parametrize("paired", [False, True])
def test_the_difference_is_scipys(paired):
    other = Y[::-1] * 2 + 1
    test = stats.ttest_rel(Y, other) if paired else stats.ttest_ind(Y, other, equal_var=False)
    found = classical_difference(Y, other, paired=paired)
    assert found.interval == pytest.approx(tuple(test.confidence_interval()), rel=1e-10)
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-9)
    assert found.target == "difference"
    assert found.diagnostics["checks"][0]["text"] == ("60 labels" if paired else "first: 60 labels")
    assert all(check["name"] != "r2" for check in found.diagnostics["checks"])


def test_each_group_has_its_own_sample():
    other = Y[:20] + 1
    weights = Sample(weights=np.arange(1.0, 21))
    found = classical_difference(Y, other, sample=WEIGHTS, sample_other=weights, alpha=0.2)
    expected = difference(Y, Y, [], other, other, [], sample=WEIGHTS, sample_other=weights, lam=0.0, alpha=0.2)
    assert found.interval == expected.interval


@pytest.mark.parametrize(
    ("found", "fit"),
    [
        (lambda: classical_ols(X, Y, names=["one", "x"]), lambda: sm.OLS(Y, X).fit(cov_type="HC0")),
        (lambda: classical_logistic(X, YES, names=["one", "x"]), lambda: sm.Logit(YES, X).fit(cov_type="HC0", disp=0)),
        (
            lambda: classical_poisson(X, COUNT, names=["one", "x"]),
            lambda: sm.Poisson(COUNT, X).fit(cov_type="HC0", disp=0, method="newton", tol=1e-12),
        ),
    ],
)
def test_statsmodels(found, fit):
    estimate, reference = found(), fit()
    np.testing.assert_allclose(estimate.value, reference.params, rtol=1e-8)
    np.testing.assert_allclose(estimate.std_error, reference.bse * np.sqrt(N / (N - 1)), rtol=1e-8)
    assert estimate.names == ("one", "x")
    np.testing.assert_allclose(estimate.df, N - 2)


def test_multinomial_of_statsmodels():
    found = classical_multinomial(X, CHOICE, names=["one", "x"])
    reference = sm.MNLogit(CHOICE, X).fit(disp=0, method="newton", tol=1e-12)
    np.testing.assert_allclose(found.value, np.asarray(reference.params).T.ravel(), rtol=1e-7)
    assert found.names == ("1:one", "1:x", "2:one", "2:x")


def test_attributes_of_options():
    attributes = RNG.normal(size=(N, 2, 1))
    found = classical_multinomial(attributes, CHOICE, names=["price"])
    expected = multinomial(attributes, CHOICE, CHOICE, attributes, CHOICE, names=["price"], lam=0.0)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-10)


def test_quantile_by_default_is_the_median():
    assert classical_quantile(Y).value == np.sort(Y)[29]
    assert classical_quantile(Y).target == "quantile 0.5"


def test_categories_in_the_given_order():
    found = classical_proportions(["b", "a", "b", "b"], categories=["b", "a", "c"])
    assert found.names == ("b", "a", "c")
    assert found.value.tolist() == [0.75, 0.25, 0]
    assert "nobody answered 'c': the interval says nothing about how rare that is" in found.warnings


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lam", 0.0),
        ("lam_range", (0, 1)),
        ("folds", np.zeros(N)),
        ("sample_unlabeled", Sample()),
        ("population", "finite"),
    ],
)
def test_options_of_a_model_are_refused(option, value):
    for classical in (*(case[0] for case in CASES.values()), lambda **o: classical_difference(Y, Y, **o)):
        with pytest.raises(InputError, match=f"'{option}' has no meaning without a model. — drop '{option}'"):
            classical(**{option: value})
    assert classical_mean(Y, **{option: None}).lam == 0


def test_known_totals_need_the_table():
    probabilities = np.full(N, 0.5)
    with pytest.raises(
        InputError, match=r"'sample.total' cannot be 'known' here: the table's other rows are missing\. —"
    ):
        classical_mean(Y, sample=Sample(probabilities=probabilities, total="known"))
    hajek = classical_mean(Y, sample=Sample(probabilities=probabilities))
    assert hajek.value == pytest.approx(Y.mean())


def test_other_errors_pass_through():
    with pytest.raises(InputError, match=r"'Y' must have at least 2 rows; got 1\."):
        classical_mean([1.0])
    with pytest.raises(InputError, match=r"there is no option 'alhpa'\. — did you mean 'alpha'\?"):
        classical_mean(Y, alhpa=0.1)
    with pytest.raises(InputError, match=r"'X' must have shape \(60, 1\); got \(3, 1\)\."):
        classical_ols([1.0, 2.0, 3.0], Y)
    with pytest.raises(InputError, match=r"'X' must have 1 or 2 or 3 dimension\(s\); got shape \(\)\."):
        classical_ols(1.0, Y)


# ------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng: classical_mean(rng.normal(2, 1, 12), alpha=0.1), 2.0),
        (lambda rng: classical_proportions(rng.random(200) < 0.3, alpha=0.1), np.array([0.7, 0.3])),
        (lambda rng: classical_difference(rng.normal(1, 1, 9), rng.normal(0, 3, 14), alpha=0.1), 1.0),
        (lambda rng: classical_quantile(rng.normal(size=200), 0.4, alpha=0.1), stats.norm.ppf(0.4)),
    ],
)
def test_intervals_cover(draw, truth):
    rng, repetitions = np.random.default_rng(1), 1000
    intervals = np.array([draw(rng).interval for _ in range(repetitions)])
    hits = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]), axis=0)
    np.testing.assert_allclose(hits, 0.9, atol=3 * np.sqrt(0.09 / repetitions))


@pytest.mark.parametrize("kind", ["ols", "logistic", "poisson"])
def test_intervals_of_coefficients_cover(kind):
    rng, repetitions, truth = np.random.default_rng(2), 500, np.array([0.5, 0.4])
    hits = np.zeros(2)
    for _ in range(repetitions):
        design = np.column_stack([np.ones(150), rng.normal(size=150)])
        eta = design @ truth
        low, high = {
            "ols": lambda X, eta: classical_ols(X, eta + rng.normal(size=150) * (1 + X[:, 1] ** 2), alpha=0.1),
            "logistic": lambda X, eta: classical_logistic(X, rng.random(150) < 1 / (1 + np.exp(-eta)), alpha=0.1),
            "poisson": lambda X, eta: classical_poisson(X, rng.poisson(np.exp(eta)), alpha=0.1),
        }[kind](design, eta).interval
        hits += (low <= truth) & (truth <= high)
    np.testing.assert_allclose(hits / repetitions, 0.9, atol=3 * np.sqrt(0.09 / repetitions))
