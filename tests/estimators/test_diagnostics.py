"""When to say no: every check in every state, at its margin, with its text and its remedy."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from ftrect_ray.estimators.checks import FEW_LABELS, OUTSIDE_SHARE, SLOPE_MARGIN
from ftrect_ray.estimators.diagnostics import (
    Accuracy,
    Facts,
    compare,
    document,
    mixture_variance,
    sample_variance,
)
from ftrect_ray.estimators.glm import logistic
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.moments import Moments
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.quantile import quantile
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings


def diagnosed(
    Y,
    f=None,
    *,
    m=1000,
    prediction=None,
    influence=None,
    control=0.0,
    error=1.0,
    control_error=1.0,
    alpha=0.05,
    used=True,
    notes=(),
    weights=None,
):
    Y = np.asarray(Y, dtype=float)
    f = Y if f is None else np.asarray(f, dtype=float)
    labeled, _ = checked(Y, f, [0.0, 1.0], Settings(sample=Sample(weights=weights)))
    influence = np.zeros(len(Y)) if influence is None else np.asarray(influence, dtype=float)
    facts = Facts(labeled, m, prediction, influence[:, None], np.atleast_1d(np.asarray(control, dtype=float)))
    accuracy = Accuracy(np.atleast_1d(error), np.atleast_1d(control_error), alpha, used)
    return compare(facts, accuracy, notes)


def check(name, *arguments, **options):
    found = [one for one in diagnosed(*arguments, **options)["checks"] if one["name"] == name]
    assert len(found) <= 1
    if found:
        assert found[0]["remedy"]
        assert found[0]["margin"]
    return found[0] if found else None


def told(one):
    return one["state"], one["text"]


RAMP = np.arange(40.0)


# ------------------------------------------------------------------------------------------- the whole


def test_the_numbers_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=80)
    f = 0.8 * Y + rng.normal(0, 0.4, 80)
    unlabeled = rng.normal(size=300)
    found = mean(Y, f, unlabeled).diagnostics
    assert found["calibration_slope"] == pytest.approx(np.cov(Y, f)[0, 1] / np.var(f, ddof=1), rel=1e-12)
    assert found["r2"] == pytest.approx(1 - np.var(Y - f, ddof=1) / np.var(Y, ddof=1), rel=1e-12)
    assert found["variance_prediction"] == pytest.approx(np.var(unlabeled, ddof=1), rel=1e-12)
    assert found["residual_variance"] == pytest.approx(np.var(Y - f, ddof=1), rel=1e-12)
    assert (found["state"], found["warnings"]) == ("PASS", [])
    names = [one["name"] for one in found["checks"]]
    expected = "labels variation collapse calibration r2 range unlabelled balance influence coverage"
    assert names == expected.split()
    assert all(one["state"] == "PASS" and one["text"] and one["remedy"] and one["margin"] for one in found["checks"])
    alone = mean(Y, f, [], lam=0.0).diagnostics
    assert alone["variance_prediction"] == pytest.approx(np.var(f, ddof=1), rel=1e-12)


def test_the_state_is_the_worst_and_the_texts_are_warnings():
    assert diagnosed(RAMP)["state"] == "PASS"
    warned = diagnosed(RAMP, m=40)
    assert (warned["state"], warned["warnings"]) == (
        "WARN",
        ["40 unlabelled rows for 40 labels: predictions can save little"],
    )
    refused = diagnosed(RAMP, m=40, control=9.0)
    assert refused["state"] == "REFUSE"
    assert len(refused["warnings"]) == 2
    noted = diagnosed(RAMP, notes=("a note",))
    assert (noted["state"], noted["warnings"]) == ("WARN", ["a note"])


def test_the_estimate_carries_the_state():
    Y = np.random.default_rng(1).normal(size=50)
    assert mean(Y, Y, np.random.default_rng(2).normal(size=200)).state == "PASS"
    assert mean(Y, Y, np.random.default_rng(2).normal(size=20)).state == "WARN"
    assert mean(Y, Y, 5 + np.random.default_rng(2).normal(size=200)).state == "REFUSE"
    assert document([])["state"] == "PASS"


# ------------------------------------------------------------------------------------------- answers


def test_few_labels():
    assert FEW_LABELS == 30
    assert told(check("labels", RAMP[:30])) == ("PASS", "30 labels")
    few = check("labels", RAMP[:29])
    assert told(few) == ("WARN", "only 29 labels: the interval is rough below 30")
    assert (few["value"], few["margin"], few["remedy"]) == (29, "at least 30", "label more rows, or use the bootstrap")


def test_constant_labels():
    assert told(check("variation", RAMP)) == ("PASS", "the labels vary")
    found = check("variation", np.full(40, 2.5), RAMP)
    assert told(found) == (
        "WARN",
        "all labels equal 2.5: the width of the interval says nothing about rarer answers",
    )
    assert found["value"] == 0


def test_constant_labels_of_several_columns():
    one = np.array([[1.0, 0.0]] * 9)
    for Y, state in ((one, "WARN"), (np.vstack([one, [[0.0, 1.0]]]), "PASS")):
        labeled = checked(Y[:, 0], Y[:, 0], [0.0, 1.0], Settings())[0]
        wide = type(labeled)(Y, Y, None, 1, labeled.share, labeled.drawn, False)
        facts = Facts(wide, 9, None, np.zeros((len(Y), 2)), np.zeros(2))
        found = compare(facts, Accuracy(np.zeros(2), np.ones(2), 0.05, False))["checks"][1]
        assert found["state"] == state
    assert found["text"] == "the labels vary"


# ------------------------------------------------------------------------------------------- the model


def test_collapse():
    variance = float(np.var(RAMP, ddof=1))
    assert check("collapse", RAMP, prediction=1.0001e-4 * variance)["state"] == "PASS"
    found = check("collapse", RAMP, prediction=0.9999e-4 * variance)
    assert told(found) == (
        "WARN",
        "the predictions hardly vary (variance 0.014, labels 1.4e+02): the model has collapsed",
    )
    assert found["margin"] == "above 0.0001 of the labels' variance"
    assert check("calibration", RAMP, prediction=0.5e-4 * variance) is None
    constant = check("collapse", RAMP, np.ones(40), prediction=0.0)
    assert told(constant) == ("WARN", "the predictions are constant: the model adds nothing to the labels")
    assert check("r2", RAMP, np.ones(40), prediction=0.0) is None
    assert check("collapse", np.ones(40), RAMP) is None


@pytest.mark.parametrize(
    ("slope", "state", "text"),
    [
        (1.0, "PASS", "1.00"),
        (1.499, "PASS", "1.50"),
        (1.501, "WARN", "1.50, far from 1"),
        (0.501, "PASS", "0.50"),
        (0.499, "WARN", "0.50, far from 1"),
        (-1.0, "WARN", "-1.00, far from 1"),
    ],
)
def test_calibration(slope, state, text):
    assert SLOPE_MARGIN == 0.5
    found = check("calibration", slope * RAMP, RAMP)
    assert told(found) == (state, f"the calibration slope Cov(Y, f)/Var f is {text}")
    assert found["value"] == pytest.approx(slope)
    assert found["margin"] == "within 0.5 of 1"


def test_r2():
    assert told(check("r2", RAMP, RAMP)) == ("PASS", "R² is 1.00")
    Y = np.tile([1.0, -1.0], 20)
    assert told(check("r2", Y, 1.99 * Y)) == ("PASS", "R² is 0.02")
    assert told(check("r2", Y, 2.01 * Y)) == ("WARN", "the model predicts worse than the mean label (R² = -0.02)")
    assert told(check("r2", Y, 2 * Y)) == ("PASS", "R² is 0.00")


def test_range():
    assert OUTSIDE_SHARE == 0.1
    inside = np.clip(RAMP, 1, 38)
    four, five = inside.copy(), inside.copy()
    four[:4], five[:5] = [-1, -1, 40, 40], [-1, -1, 40, 40, 40]
    assert told(check("range", RAMP, four)) == ("PASS", "the predictions lie in the range of the labels")
    found = check("range", RAMP, five)
    assert told(found) == ("WARN", "12 % of the predictions lie outside the range of the labels, 0 to 39")
    assert (found["value"], found["margin"]) == (0.125, "at most 10 %")
    assert check("range", RAMP[:30], RAMP[:30])["value"] == 0.0  # the ends are inside
    assert check("range", RAMP[:29], RAMP[:29]) is None


# ------------------------------------------------------------------------------------------- both samples


def test_unlabelled_rows():
    assert told(check("unlabelled", RAMP, m=41)) == ("PASS", "41 unlabelled rows for 40 labels")
    found = check("unlabelled", RAMP, m=40)
    assert told(found) == ("WARN", "40 unlabelled rows for 40 labels: predictions can save little")
    assert check("unlabelled", RAMP, m=40, used=False) is None


@pytest.mark.parametrize(
    ("n", "score", "state"),
    [
        (40, 2.99, "PASS"),  # distance = score·√(1/n + 1/m)
        (40, 3.01, "WARN"),
        (40, 4.99, "WARN"),
        (40, 5.01, "REFUSE"),
        (40, -5.01, "REFUSE"),
        (2000, 3.5, "PASS"),  # sure, but near: 0.096 sd
        (2000, 3.7, "WARN"),  # 0.101 sd
        (2000, 9.1, "WARN"),  # 0.249 sd
        (2000, 9.2, "REFUSE"),  # 0.252 sd
    ],
)
def test_balance(n, score, state):
    Y = np.arange(float(n))
    m = 4000
    found = check("balance", Y, m=m, control=0.3 * score, control_error=0.3)
    assert found["state"] == state
    distance = abs(score) * np.sqrt(1 / n + 1 / m)
    assert found["value"] == pytest.approx(distance)
    assert found["margin"] == "0.1 sd or 3 standard errors"
    text = "labelled and unlabelled rows look alike to the model"
    if state != "PASS":
        text = (
            f"predictions of labelled and unlabelled rows differ by {distance:.2f} standard deviations "
            f"({abs(score):.1f} standard errors): the labels are no random sample of these rows"
        )
    assert found["text"] == text
    assert check("balance", Y, m=m, control=0.3 * score, control_error=0.3, used=False) is None


def test_balance_of_constants_that_differ():
    Y = np.random.default_rng(3).normal(size=40)
    assert mean(Y, np.ones(40), np.full(90, 2.0), lam=1.0).state == "REFUSE"
    alike = mean(Y, np.full(40, 0.1), np.full(90, 0.1), lam=1.0)
    assert next(one for one in alike.diagnostics["checks"] if one["name"] == "balance")["state"] == "PASS"


def test_balance_without_unlabelled_rows():
    assert check("balance", RAMP, m=0, control=0.1)["state"] == "PASS"


@pytest.mark.parametrize(("speaking", "state"), [(20, "PASS"), (19, "WARN"), (4, "WARN"), (3, "REFUSE")])
def test_weights(speaking, state):
    found = check("weights", RAMP, weights=np.arange(40) < speaking)
    assert found["state"] == state
    assert found["value"] == pytest.approx(speaking)
    assert found["text"] == f"the weights leave {speaking} of 40 labels' worth of information (Kish)"
    assert found["margin"] == "at least 0.5 of the labels"


def test_weights_that_are_equal_are_none():
    assert check("weights", RAMP, weights=np.full(40, 3.0)) is None
    kish = check("weights", RAMP, weights=RAMP + 1)["value"]
    assert kish == pytest.approx(820**2 / sum(k * k for k in range(1, 41)))


def one_outlier(share, n=40):
    """Influences of which row 7 has ``share`` of the sum of squared deviations."""
    z = np.tile([1.0, -1.0], n // 2)
    lo, hi = 0.0, 1e4
    for _ in range(200):
        z[7] = (lo + hi) / 2
        squares = (z - z.mean()) ** 2
        lo, hi = (z[7], hi) if squares[7] / squares.sum() < share else (lo, z[7])
    return z


@pytest.mark.parametrize(("share", "state"), [(0.249, "PASS"), (0.251, "WARN"), (0.499, "WARN"), (0.501, "REFUSE")])
def test_influence(share, state):
    found = check("influence", RAMP, influence=one_outlier(share))
    assert found["state"] == state
    assert found["value"] == pytest.approx(share, rel=1e-6)
    assert found["text"] == f"labelled row 8 of {len(RAMP)} alone carries {100 * share:.0f} % of the variance"
    assert found["margin"] == "at most 25 %"


def test_influence_needs_labels_and_variation():
    assert check("influence", RAMP[:29], influence=one_outlier(0.3)[:29]) is None
    assert check("influence", RAMP[:30], influence=one_outlier(0.3, 30)) is not None
    assert check("influence", RAMP, influence=np.ones(40)) is None


# ------------------------------------------------------------------------------------------- expected coverage


def hall(Y, alpha=0.05):
    """Hall (1992, §2.3) for a mean, with plug-in skewness and kurtosis; the t quantile has mended the rest."""
    n, z = len(Y), stats.norm.isf(alpha / 2)
    u = (Y - Y.mean()) / Y.std(ddof=1)
    skew, kurtosis = np.mean(u**3), np.mean(u**4) - 3 * np.mean(u**2) ** 2
    change = kurtosis / 12 * (z**2 - 3) - skew**2 / 18 * (z**4 + 2 * z**2 - 3)
    return 1 - alpha + 2 * z * stats.norm.pdf(z) * change / n


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_expected_coverage_is_halls(alpha):
    Y = np.random.default_rng(4).exponential(size=50)
    found = mean(Y, Y, [], lam=0.0, alpha=alpha).diagnostics["checks"][-1]
    assert found["name"] == "coverage"
    assert found["value"] == pytest.approx(hall(Y, alpha), rel=1e-9)


def simulated(draw, truth, n, repetitions=20_000):
    Y = draw(np.random.default_rng(5), (repetitions, n))
    error = Y.std(axis=1, ddof=1) / np.sqrt(n)
    return np.mean(np.abs(Y.mean(axis=1) - truth) <= stats.t.isf(0.025, n - 1) * error)


@pytest.mark.parametrize(
    ("draw", "truth", "n"),
    [
        (lambda rng, size: rng.exponential(size=size), 1.0, 50),
        (lambda rng, size: (rng.uniform(size=size) < 0.05).astype(float), 0.05, 200),
        (lambda rng, size: rng.normal(size=size), 0.0, 50),
    ],
)
def test_expected_coverage_is_that_of_a_simulation(draw, truth, n):
    rng = np.random.default_rng(6)
    expected = []
    for _ in range(300):
        Y = draw(rng, n)
        expected.append(mean(Y, Y, [], lam=0.0).diagnostics["checks"][-1]["value"])
    assert np.mean(expected) == pytest.approx(simulated(draw, truth, n), abs=0.015)


@pytest.mark.parametrize(
    ("shortfall", "state"), [(0.0099, "PASS"), (0.0101, "WARN"), (0.0499, "WARN"), (0.0501, "REFUSE")]
)
def test_coverage_at_its_margins(shortfall, state):
    z = np.random.default_rng(7).exponential(size=40)
    z = (z - z.mean()) / np.sqrt(np.sum((z - z.mean()) ** 2))
    lo, hi = 0.1, 10.0
    for _ in range(200):  # the smaller the stated error, the larger skewness and kurtosis look
        error = (lo + hi) / 2
        short = 0.95 - check("coverage", RAMP, influence=z, error=error)["value"]
        lo, hi = (error, hi) if short > shortfall else (lo, error)
    found = check("coverage", RAMP, influence=z, error=error)
    assert found["state"] == state
    expected = 100 * (0.95 - shortfall)
    if state == "PASS":
        assert found["text"] == f"the interval's expected coverage is {expected:.1f} %"
    else:
        assert found["text"] == f"the labels are so skewed that a 95 % interval holds about {expected:.1f} %"
    assert found["margin"] == "at most 1 points below the level"
    assert found["remedy"] == "label more rows, or use the studentised bootstrap"


def test_coverage_where_nothing_varies():
    assert check("coverage", RAMP, influence=RAMP, error=0.0) is None


def test_expected_coverage_stays_a_probability():
    z = np.r_[np.zeros(39), 1.0]
    assert check("coverage", RAMP, influence=z, error=1e-3)["value"] == 0.0


# ------------------------------------------------------------------------------------------- variances


def test_variances():
    Y = np.random.default_rng(8).normal(size=(30, 2))
    assert sample_variance(Y[:, 0]) == pytest.approx(np.var(Y[:, 0], ddof=1), rel=1e-13)
    assert sample_variance(Y) == pytest.approx(np.var(Y, axis=0, ddof=1).sum(), rel=1e-13)
    assert sample_variance(np.full(9, 0.1)) == 0.0
    mixed = mixture_variance(Moments.of(Y), np.array([0.3, 0.7]))
    assert mixed == pytest.approx(np.var(Y @ [0.3, 0.7], ddof=1), rel=1e-13)
    assert mixture_variance(Moments.of(Y[:1]), np.array([0.3, 0.7])) is None
    assert mixture_variance(Moments.of(Y[:2]), np.array([0.3, 0.7])) > 0


# ------------------------------------------------------------------------------------------- sampling units


def found(name, estimate):
    return next(check for check in estimate.diagnostics["checks"] if check["name"] == name)


def test_strata_are_centred_before_skewness_is_judged():
    rng = np.random.default_rng(8)
    strata = np.repeat(np.arange(30), 4)
    Y = 100.0 * strata**2 + rng.normal(size=120)
    estimate = mean(Y, Y, np.zeros(0), lam=0.0, sample=Sample(strata=strata))
    assert found("coverage", estimate)["value"] == pytest.approx(0.95, abs=0.004)
    assert found("influence", estimate)["state"] == "PASS"
    plain = mean(Y, Y, np.zeros(0), lam=0.0)
    assert found("coverage", plain)["value"] < found("coverage", estimate)["value"]


def test_the_largest_cluster_is_named():
    rng = np.random.default_rng(9)
    clusters = np.repeat([f"school {i}" for i in range(40)], 3)
    Y = rng.normal(size=120) + 30.0 * (clusters == "school 7")
    check = found("influence", mean(Y, Y, np.zeros(0), lam=0.0, sample=Sample(clusters=clusters)))
    assert check["state"] == "REFUSE"
    assert check["text"].startswith("cluster 'school 7' alone carries 9")


@pytest.mark.parametrize(
    ("ones", "n", "state"),
    [(4, 400, "REFUSE"), (5, 400, "WARN"), (99, 600, "WARN"), (100, 600, "PASS"), (40, 200, "PASS")],
)
@pytest.mark.parametrize("flip", [False, True])
def test_rare_answers(ones, n, state, flip):
    Y = np.zeros(n)
    Y[:ones] = 7.5
    Y = 7.5 - Y if flip else Y
    check = found("rare", mean(Y, Y, np.zeros(0), lam=0.0))
    assert (check["state"], check["value"]) == (state, ones)
    assert check["margin"] == "at least 100, or 20 % of the labels"
    if state == "PASS":
        assert check["text"] == f"{ones} of {n} labels have the rarer answer"
    else:
        sentence = (
            f"only {ones} of {n} labels have the rarer answer: the interval holds somewhat less often than it says"
        )
        assert check["text"] == sentence


def test_only_two_valued_answers_can_be_rare():
    Y = np.zeros(300)
    Y[:3] = [1, 2, 3]
    names = [check["name"] for check in mean(Y, Y, np.zeros(0), lam=0.0).diagnostics["checks"]]
    assert "rare" not in names
    constant = mean(np.ones(40), np.ones(40), np.zeros(0), lam=0.0)
    assert "rare" not in [check["name"] for check in constant.diagnostics["checks"]]


@pytest.mark.parametrize(("answered", "state"), [(1.0, "PASS"), (0.8, "WARN"), (0.5, "REFUSE")])
def test_chosen_rows_without_an_answer_are_missed(answered: float, state: str) -> None:
    """Labels that were there before count 1; the others stand for all rows, if all of them answer."""
    rng, N = np.random.default_rng(3), 4000
    f = rng.normal(size=N)
    Y = f + rng.normal(size=N)
    chance = np.clip(0.05 + 0.2 * np.abs(f), 0, 1)
    chance[:100] = 1
    chosen = rng.random(N) < chance
    labelled = chosen & ((chance == 1) | (rng.random(N) < answered))
    sample = Sample(probabilities=chance[labelled])
    x = np.column_stack([np.ones(N), rng.normal(size=N)])
    one = found("represented", mean(Y[labelled], f[labelled], f[~labelled], sample=sample))
    assert one["state"] == state
    assert one["value"] == pytest.approx(np.sum(1 / chance[labelled]) / N)
    for estimate in (
        quantile(Y[labelled], f[labelled], f[~labelled], 0.5, sample=sample),
        ols(x[labelled], Y[labelled], f[labelled], x[~labelled], f[~labelled], sample=sample),
        logistic(x[labelled], Y[labelled] > 0, ndtr(f[labelled]), x[~labelled], ndtr(f[~labelled]), sample=sample),
    ):
        assert found("represented", estimate)["value"] == pytest.approx(one["value"])
    if state != "PASS":
        assert "of 4000 rows: chosen rows have no answer" in one["text"]
    mended = np.where(chance < 1, chance * answered, 1.0)[labelled]
    again = mean(Y[labelled], f[labelled], f[~labelled], sample=Sample(probabilities=mended))
    assert found("represented", again)["state"] == "PASS"  # as the remedy says
    assert again.interval[0] < Y.mean() < again.interval[1]


def test_representation_is_seldom_doubted_where_all_answer() -> None:
    states, N = [], 500
    for seed in range(300):
        rng = np.random.default_rng(seed)
        chance = rng.uniform(0.05, 0.6, N)
        labelled = rng.random(N) < chance
        Y = rng.normal(size=N)
        estimate = mean(Y[labelled], Y[labelled], Y[~labelled], sample=Sample(probabilities=chance[labelled]))
        states.append(found("represented", estimate)["state"])
    assert states.count("PASS") >= 297


def test_the_variation_is_the_variance():
    Y = np.array([1.0, 2.0, 4.0, 9.0])
    assert found("variation", mean(Y, Y, np.zeros(0), lam=0.0))["value"] == pytest.approx(np.var(Y, ddof=1))


def test_checks_and_warnings_serialise():
    estimate = mean(np.arange(40.0), np.ones(40), np.ones(90))
    told = estimate.to_dict()["diagnostics"]
    assert told["checks"] == estimate.diagnostics["checks"]
    assert told["warnings"] == estimate.warnings
    assert found("collapse", estimate)["value"] == 0.0
