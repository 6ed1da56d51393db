"""The rectified mean: identities, ppi_py, and edge cases."""

import json
import warnings as python_warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ftrect_ray.errors import InputError
from ftrect_ray.estimators import classical_mean, mean, naive_mean

with python_warnings.catch_warnings():
    python_warnings.simplefilter("ignore")
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

FOREST = Path(__file__).resolve().parents[3] / "shared" / "data" / "ppi" / "forest_badmodel.npz"
numbers = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def samples(draw, models=1):
    n, m = draw(st.integers(4, 20)), draw(st.integers(2, 20))
    Y, f = draw(arrays(float, n, elements=numbers)), draw(arrays(float, n, elements=numbers))
    return Y, f, draw(arrays(float, (m, models), elements=numbers))


def sample(seed=0, n=80, m=300):
    rng = np.random.default_rng(seed)
    truth = rng.normal(2, 1, n + m)
    f = 0.5 + 0.8 * truth + rng.normal(0, 0.4, n + m)
    return truth[:n], f[:n], f[n:]


def same(one, other, tolerance=1e-9):
    for a, b in ((one.value, other.value), (one.std_error, other.std_error), (one.lam, other.lam)):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)


# ------------------------------------------------------------------------------------------- identities


@settings(deadline=None)
@given(samples())
def test_lam_zero_is_classical(data):
    Y, f, unlabeled = data
    same(mean(Y, f, unlabeled, lam=0.0), classical_mean(Y))


@settings(deadline=None)
@given(samples())
def test_tuned_never_has_a_larger_variance_than_classical(data):
    Y, f, unlabeled = data
    assert mean(Y, f, unlabeled).std_error <= classical_mean(Y).std_error * (1 + 1e-9)


@settings(deadline=None)
@given(samples())
def test_tuned_lam_minimises_the_variance(data):
    Y, f, unlabeled = data
    best = mean(Y, f, unlabeled).std_error
    for lam in np.linspace(0, 1, 21):
        assert best <= mean(Y, f, unlabeled, lam=lam).std_error * (1 + 1e-9) + 1e-9


def test_perfect_predictor_gives_the_interval_of_the_unlabelled_sample():
    rng = np.random.default_rng(1)
    Y, unlabeled = rng.normal(size=50), rng.normal(size=4000)
    estimate, whole = mean(Y, Y, unlabeled, lam=1.0), classical_mean(unlabeled)
    assert estimate.value == pytest.approx(whole.value, abs=1e-12)
    assert estimate.std_error == pytest.approx(whole.std_error, rel=1e-12)
    assert estimate.effective_n == pytest.approx(np.var(Y, ddof=1) / whole.std_error**2)


@settings(deadline=None)
@given(samples(), st.integers(2, 5), st.booleans(), st.sampled_from([0.0, 0.4, 1.0, "tuned"]))
def test_equal_models_are_one_model(data, models, with_folds, lam):
    Y, f, unlabeled = data
    models = min(models, len(Y))
    folds = np.arange(len(Y)) % models if with_folds else None
    one = mean(Y, f, unlabeled, lam=lam)
    same(mean(Y, f, np.repeat(unlabeled, models, axis=1), lam=lam, folds=folds), one, 1e-6)


@settings(deadline=None)
@given(samples(models=3), st.sampled_from([0.4, 1.0, "tuned"]), numbers)
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
    assert mean(Y, f, unlabeled, lam=1.0, folds=folds).value == pytest.approx(by_hand, abs=1e-12)
    plain = np.mean(Y - f) + unlabeled.mean()
    assert mean(Y, f, unlabeled, lam=1.0).value == pytest.approx(plain, abs=1e-12)


@settings(deadline=None)
@given(samples(models=2), st.sampled_from([0.0, 0.7, "tuned"]), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(data, lam, random):
    Y, f, unlabeled = data
    folds = np.arange(len(Y)) % 2
    rows, texts = np.arange(len(Y)), np.arange(len(unlabeled))
    random.shuffle(rows)
    random.shuffle(texts)
    shuffled = mean(Y[rows], f[rows], unlabeled[texts], lam=lam, folds=folds[rows])
    same(shuffled, mean(Y, f, unlabeled, lam=lam, folds=folds), 1e-7)


@settings(deadline=None)
@given(samples(), st.sampled_from([0.0, 0.7, 1.0, "tuned"]), st.integers(-50, 50), st.sampled_from([0.01, 3.0, 1000.0]))
def test_shift_and_scale(data, lam, shift, scale):
    Y, f, unlabeled = data
    one = mean(Y, f, unlabeled, lam=lam)
    moved = mean(shift + scale * Y, shift + scale * f, shift + scale * unlabeled, lam=lam)
    assert moved.value == pytest.approx(shift + scale * one.value, rel=1e-6, abs=1e-6 * scale)
    assert moved.std_error == pytest.approx(scale * one.std_error, rel=1e-5, abs=1e-6 * scale)


def test_tuned_lam_is_the_formula_of_the_paper():
    Y, f, unlabeled = sample()
    lam = np.cov(Y, f)[0, 1] / (np.var(f, ddof=1) + len(Y) / len(unlabeled) * np.var(unlabeled, ddof=1))
    assert 0 < lam < 1
    assert mean(Y, f, unlabeled).lam == pytest.approx(lam, rel=1e-12)


# ------------------------------------------------------------------------------------------- ppi_py


def ppi_interval_with_ddof_1(Y, f, unlabeled, alpha, lam):
    """ppi_py divides both variances by N, we divide by N − 1; its interval is rebuilt with ours."""
    low, high = ppi_mean_ci(Y, f, unlabeled, alpha=alpha, lam=lam)
    n, m = len(Y), len(unlabeled)
    theirs = np.var(Y - lam * f) / n + lam**2 * np.var(unlabeled) / m
    ours = np.var(Y - lam * f) / (n - 1) + lam**2 * np.var(unlabeled) / (m - 1)
    middle, reach = (low + high) / 2, (high - low) / 2
    reach = reach * np.sqrt(ours / theirs)
    return float(np.squeeze(middle - reach)), float(np.squeeze(middle + reach))


@pytest.mark.parametrize("lam", [0.0, 0.35, 1.0])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_agrees_with_ppi_py(lam, alpha):
    Y, f, unlabeled = sample(5)
    estimate = mean(Y, f, unlabeled, lam=lam, alpha=alpha)
    assert estimate.value == pytest.approx(np.squeeze(ppi_mean_pointestimate(Y, f, unlabeled, lam=lam)), abs=1e-10)
    assert estimate.interval == pytest.approx(ppi_interval_with_ddof_1(Y, f, unlabeled, alpha, lam), abs=1e-10)


@pytest.mark.skipif(not FOREST.exists(), reason="forest_badmodel.npz is not here")
def test_a_bad_model_on_real_data_is_recognised():
    data = np.load(FOREST)
    Y, f = data["Y"], data["Yhat"].astype(float)
    rows = np.random.default_rng(0).permutation(len(Y))
    labelled, rest = rows[:200], rows[200:]
    estimate = mean(Y[labelled], f[labelled], f[rest])
    assert estimate.value == pytest.approx(Y.mean(), abs=3 * estimate.std_error)
    assert estimate.std_error <= classical_mean(Y[labelled]).std_error
    alone = naive_mean(f)
    assert alone.interval[1] < Y.mean() / 4
    low, high = ppi_interval_with_ddof_1(Y[labelled], f[labelled], f[rest], 0.05, estimate.lam)
    assert estimate.interval == pytest.approx((low, high), abs=1e-10)


# ------------------------------------------------------------------------------------------- edge cases


def test_two_labels_are_enough_and_one_is_not():
    estimate = mean([1.0, 3.0], [1.0, 2.0], [1.0, 2.0, 3.0])
    assert np.isfinite([estimate.value, estimate.std_error]).all()
    assert "only 2 labels: the normal interval is rough below 30" in estimate.warnings
    for Y in ([], [1.0]):
        with pytest.raises(InputError, match=f"'Y' must have at least 2 rows; got {len(Y)}."):
            mean(Y, Y, [1.0, 2.0])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1])
def test_constant_labels_have_width_zero_and_a_warning(constant):
    _, f, unlabeled = sample()
    estimate = mean(np.full(len(f), constant), f, unlabeled)
    assert estimate.std_error == 0
    assert estimate.lam == 0
    assert estimate.value == pytest.approx(constant, rel=1e-15)
    assert any(w.startswith("all labels equal") for w in estimate.warnings)
    assert estimate.diagnostics["r2"] is None


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("constant", [0.0, 0.1, 7.3])
def test_constant_predictions_are_classical_with_a_warning(constant, models):
    Y, _, _ = sample()
    folds = np.arange(len(Y)) % models
    with np.errstate(all="raise"):
        estimate = mean(Y, np.full(len(Y), constant), np.full((301, models), constant), folds=folds)
    same(estimate, classical_mean(Y), 1e-12)
    assert "the predictions are constant: the model adds nothing to the labels" in estimate.warnings
    assert estimate.diagnostics["calibration_slope"] is None


def test_constants_that_differ_between_folds_are_classical_too():
    Y, _, _ = sample()
    folds = np.arange(len(Y)) % 3
    levels = np.array([0.1, 0.7, 1.3])
    estimate = mean(Y, levels[folds], np.tile(levels, (33, 1)), folds=folds)
    same(estimate, classical_mean(Y), 1e-12)


@pytest.mark.parametrize("m", [0, 1])
def test_without_unlabelled_rows(m):
    Y, f, unlabeled = sample()
    tuned = mean(Y, f, unlabeled[:m])
    same(tuned, classical_mean(Y))
    assert f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate" in tuned.warnings
    same(mean(Y, f, unlabeled[:m], lam=0), classical_mean(Y))
    with pytest.raises(InputError, match="'lam' must be 0 or 'tuned' with fewer than 2 unlabelled rows; got 1."):
        mean(Y, f, unlabeled[:m], lam=1.0)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, float("nan"), "5%", None, True])
def test_alpha_outside_its_range(alpha):
    with pytest.raises(InputError, match=r"'alpha' must be in \(0, 1\); got "):
        mean([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], alpha=alpha)


def test_the_message_is_one_exact_line():
    with pytest.raises(InputError) as caught:
        mean([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], alpha=1.5)
    assert str(caught.value) == "'alpha' must be in (0, 1); got 1.5."


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan"), "auto", None, True])
def test_lam_outside_its_range(lam):
    with pytest.raises(InputError, match=r"'lam' must be 'tuned' or a number in \[0, 1\]; got "):
        mean([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], lam=lam)


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


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([0, 1], "'folds' must have as many rows as 'Y' (3); got 2."),
        ([0, 0, 0], "'folds' must hold each of 0..1, one for each column of 'Yhat_unlabeled'; got ['0']."),
        ([0, 1, 2], "'folds' must hold each of 0..1, one for each column of 'Yhat_unlabeled'; got ['0', '1', '2']."),
        (
            [0, 0.5, 1],
            "'folds' must hold each of 0..1, one for each column of 'Yhat_unlabeled'; got ['0', '0.5', '1'].",
        ),
    ],
)
def test_bad_folds(folds, message):
    with pytest.raises(InputError) as caught:
        mean([1, 2, 3], [1, 2, 3], [[1, 2], [3, 4]], folds=folds)
    assert caught.value.what == message


# ------------------------------------------------------------------------------------------- diagnostics


def test_diagnostics_are_those_of_the_definitions():
    Y, f, unlabeled = sample()
    found = mean(Y, f, unlabeled).diagnostics
    assert found["calibration_slope"] == pytest.approx(np.cov(Y, f)[0, 1] / np.var(f, ddof=1))
    assert found["r2"] == pytest.approx(1 - np.var(Y - f, ddof=1) / np.var(Y, ddof=1))
    assert found["variance_prediction"] == pytest.approx(np.var(unlabeled, ddof=1))
    assert found["residual_variance"] == pytest.approx(np.var(Y - f, ddof=1))
    assert found["warnings"] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: 1e-3 * f, "the model has collapsed"),
        (lambda f: 3 * f, "the calibration slope Cov(Y, f)/Var f is 0."),
        (lambda f: -f, "the model predicts worse than the mean label (R² = -"),
        (lambda f: 100 + f, "100 % of the predictions lie outside the range of the labels"),
    ],
)
def test_warnings(change, expected):
    Y, f, unlabeled = sample()
    assert any(expected in text for text in mean(Y, change(f), change(unlabeled)).warnings)


def test_few_texts_are_told():
    Y, f, unlabeled = sample()
    assert "50 unlabelled rows for 80 labels: predictions can save little" in mean(Y, f, unlabeled[:50]).warnings


# ------------------------------------------------------------------------------------------- result


def test_result_prints_and_serialises():
    Y, f, unlabeled = sample()
    estimate = mean(Y, f, unlabeled)
    told = json.loads(json.dumps(estimate.to_dict(), allow_nan=False))
    assert told["value"] == estimate.value
    assert told["interval"] == list(estimate.interval)
    assert told["n"] == 80
    assert told["m"] == 300
    assert told["target"] == "mean"
    assert told["names"] is None
    report = str(estimate)
    assert report.startswith(f"mean: {estimate.value:.6g} (95 % interval")
    assert "80 labelled and 300 unlabelled rows, λ = " in report
    assert "worth" in report


def test_infinite_worth_serialises_as_null():
    estimate = mean([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0, 2.0, 2.0], lam=1.0)
    assert estimate.effective_n == np.inf
    assert estimate.to_dict()["effective_n"] is None


def test_naive_mean_averages_models_and_confesses():
    estimate = naive_mean([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]])
    assert estimate.value == 3.0
    assert estimate.lam is None
    assert estimate.n == 0
    assert estimate.m == 3
    assert estimate.warnings == ["the model alone: its bias is unknown and not in the interval"]
    assert estimate.std_error == pytest.approx(1 / np.sqrt(3))
