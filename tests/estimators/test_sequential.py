"""Sequential rectification: the formula by hand, the forecasts, and learners that cross-fitting cannot bear."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.sequential import sequential
from ftrect_ray.estimators.settings import Bootstrap

quick = settings(deadline=None, max_examples=25, derandomize=True)
NO_LABELS = np.empty(0)


def batches_of(seed=0, sizes=(15, 20, 30), m=200):
    """Answers whose models get better; the first model saw nothing and says 0."""
    rng = np.random.default_rng(seed)
    n, count = sum(sizes), len(sizes)
    truth = rng.normal(2, 1, n + m)
    batch = np.repeat(np.arange(count), sizes)
    f = truth[:, None] + rng.normal(0.5, 1, (n + m, count)) / (1 + np.arange(count))
    f[:, 0] = 0
    order = rng.permutation(n)
    return truth[:n][order], f[:n][order], f[n:], batch[order]


def by_hand(Y, f, unlabeled, batch, variances, lam):
    """Σ ω_l·(mean_l(Y − λf_l) + λ·mean_u f_l), ω_l ∝ n_l/v̂_l."""
    counts = np.bincount(batch)
    terms = [np.mean(Y[batch == k] - lam * f[batch == k, k]) + lam * unlabeled[:, k].mean() for k in range(len(counts))]
    return np.average(terms, weights=counts / np.asarray(variances))


def same(one, two):
    for field in ("value", "std_error", "interval", "lam", "df", "effective_n"):
        assert getattr(one, field) == pytest.approx(getattr(two, field), rel=1e-10)


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.3, 1.0, "tuned"]))
def test_the_value_by_hand(seed, lam):
    Y, f, unlabeled, batch = batches_of(seed)
    variances = [2.0, 1.0, 0.2]
    found = sequential(Y, f, unlabeled, batch, variances=variances, lam=lam)
    assert found.lam > 0
    assert found.value == pytest.approx(by_hand(Y, f, unlabeled, batch, variances, found.lam), rel=1e-10)


@pytest.mark.parametrize("lam", [0.7, "tuned", "crossfit"])
def test_it_is_a_weighted_mean_with_the_batches_as_folds(lam):
    Y, f, unlabeled, batch = batches_of(1)
    variances, weights = np.array([2.0, 1.0, 0.2]), np.random.default_rng(2).uniform(0.5, 1, 65)
    sample = Sample(weights=weights, clusters=np.argsort(np.argsort(batch, kind="stable")))
    found = sequential(Y, f, unlabeled, batch, variances=variances, lam=lam, sample=sample, alpha=0.1)
    expected = mean(
        Y,
        f,
        unlabeled,
        folds=batch,
        lam=lam,
        alpha=0.1,
        sample=Sample(weights=weights / variances[batch], clusters=sample.clusters),
    )
    fields = {**expected.to_dict(), "effective_n": pytest.approx(found.effective_n)}
    assert found.to_dict() == fields
    classical = mean(Y, Y, NO_LABELS, lam=0, sample=sample)
    assert found.effective_n == pytest.approx(65 * classical.std_error**2 / found.std_error**2)


def test_out_of_batch_predictions_may_come_as_one_column_and_forecasts_have_no_scale():
    Y, f, unlabeled, batch = batches_of(3)
    own = f[np.arange(65), batch]
    one = sequential(Y, f, unlabeled, batch, variances=[2.0, 1.0, 0.2])
    same(one, sequential(Y, own, unlabeled, batch, variances=[20.0, 10.0, 2.0]))


# ------------------------------------------------------------------------------------------- forecasts


def test_forecasts_look_at_the_batch_before():
    Y, f, unlabeled, batch = batches_of(4)
    own = f[np.arange(65), batch]

    def var(values, k):
        return np.var(values[batch == k], ddof=1)

    forecasts = [var(Y, 0), var(Y - own, 0), var(Y - own, 1)]
    assert forecasts[1] == forecasts[0]  # the first model says 0
    assert var(Y - own, 1) < var(Y, 1)
    found = sequential(Y, f, unlabeled, batch, lam=0.8)
    same(found, sequential(Y, f, unlabeled, batch, lam=0.8, variances=forecasts))


def test_a_forecast_is_no_larger_than_the_variance_of_the_answers():
    Y, f, unlabeled, batch = batches_of(5)
    f[batch == 1, 1] *= -3
    own = f[np.arange(65), batch]
    variances = [np.var(part[batch == k], ddof=1) for part, k in ((Y, 0), (Y - own, 0), (Y, 1))]
    assert variances[2] < np.var((Y - own)[batch == 1], ddof=1)
    same(sequential(Y, f, unlabeled, batch, lam=0.1), sequential(Y, f, unlabeled, batch, lam=0.1, variances=variances))


def test_the_last_batch_shapes_no_forecast_and_may_hold_one_row():
    Y, f, unlabeled, batch = batches_of(6, sizes=(15, 20, 1))
    found = sequential(Y, f, unlabeled, batch, lam=1.0)
    moved = np.where(batch == 2, Y + 100, Y)
    share = (found.value - sequential(moved, f, unlabeled, batch, lam=1.0).value) / -100
    own = f[np.arange(36), batch]
    weights = [15 / np.var(Y[batch == 0], ddof=1), 20 / np.var((Y - own)[batch == 0], ddof=1)]
    weights.append(1 / np.var((Y - own)[batch == 1], ddof=1))
    assert share == pytest.approx(weights[2] / sum(weights), rel=1e-9)


def test_a_single_batch_is_a_mean():
    Y, f, unlabeled, _ = batches_of(7)
    found = sequential(Y, f[:, 2], unlabeled[:, 2], np.zeros(65))
    expected = mean(Y, f[:, 2], unlabeled[:, 2])
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.interval == pytest.approx(expected.interval, rel=1e-12)


def test_constant_answers_in_a_batch():
    Y, f, unlabeled, batch = batches_of(8)
    Y[batch == 0] = 1.0
    text = "a batch has variance 0: the batches are weighted by their numbers of labels"
    found = sequential(Y, f, unlabeled, batch, lam=1.0)
    assert found.warnings[0] == text
    assert found.state == "WARN"
    assert found.value == pytest.approx(by_hand(Y, f, unlabeled, batch, [1, 1, 1], 1.0), rel=1e-10)
    assert text not in sequential(Y, f, unlabeled, batch, lam=1.0, variances=[1, 1, 1]).warnings


# --------------------------------------------------------------------------------- the classical estimate


@pytest.mark.parametrize("sample", [None, Sample(weights=np.arange(1.0, 66))])
def test_lam_zero_is_the_classical_mean(sample):
    Y, f, unlabeled, batch = batches_of(9)
    found = sequential(Y, f, unlabeled, batch, lam=0.0, sample=sample, null=1.0, alternative="larger")
    expected = mean(Y, Y, NO_LABELS, lam=0.0, sample=sample, null=1.0, alternative="larger")
    for field in ("value", "std_error", "interval", "df", "p_value", "effective_n", "lam"):
        assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-12)
    assert found.m == 200


def test_a_useless_model_gives_the_classical_mean():
    Y, f, unlabeled, batch = batches_of(10)
    rng = np.random.default_rng(0)
    found = sequential(Y, rng.normal(size=f.shape), unlabeled, batch)
    assert found.value == pytest.approx(Y.mean(), rel=1e-12)
    assert found.std_error == pytest.approx(np.std(Y, ddof=1) / np.sqrt(65), rel=1e-12)


def test_bad_forecasts_give_the_classical_mean_where_lam_is_tuned():
    Y, f, unlabeled, batch = batches_of(11)
    bad = [1e-3, 1.0, 1.0]
    assert sequential(Y, f, unlabeled, batch, variances=bad).value == pytest.approx(Y.mean(), rel=1e-12)
    for extra in ({"lam": 1.0}, {"lam_range": (0.5, 1)}):
        found = sequential(Y, f, unlabeled, batch, variances=bad, **extra)
        assert found.lam >= 0.5
        assert found.std_error > np.std(Y, ddof=1) / np.sqrt(65)
        assert found.value == pytest.approx(by_hand(Y, f, unlabeled, batch, bad, found.lam), rel=1e-10)


def test_without_unlabelled_rows():
    Y, f, unlabeled, batch = batches_of(12)
    found = sequential(Y, f, unlabeled[:0], batch)
    assert (found.value, found.lam) == (pytest.approx(Y.mean()), 0.0)
    assert found.warnings[0] == "0 unlabelled row(s) cannot carry predictions: this is the classical estimate"


def test_bootstrap():
    Y, f, unlabeled, batch = batches_of(13)
    plain = sequential(Y, f, unlabeled, batch)
    found = sequential(Y, f, unlabeled, batch, bootstrap=Bootstrap(replications=199))
    assert found.value == plain.value
    assert found.interval != plain.interval
    assert found.length == pytest.approx(plain.length, rel=0.3)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({3: [0, 0, 2, 2]}, {}, r"'batches' must hold each of 0, 1, … up to the largest; got \[0.0, 2.0\]\."),
        ({3: [0, 0, 1]}, {}, r"'batches' must have as many rows as 'Y'; got shapes \(3,\) and \(4,\)\."),
        ({3: [0, 1, 2, 2]}, {}, r"'Yhat_unlabeled' must have one column a batch \(3\); got 2\."),
        ({2: [1.0, 2.0]}, {}, r"'Yhat_unlabeled' must have one column a batch \(2\); got 1\."),
        ({2: [[1.0, 2.0], [1.0]]}, {}, r"'Yhat_unlabeled' must hold numbers only\."),
        ({3: [0, 1, 1, 1]}, {}, r"batch 0 has one row, which has no variance\. — give 'variances'"),
        ({0: [1.0, 2.0, np.nan, 4.0]}, {}, r"'Y' must be finite; got nan at position 2\."),
        ({}, {"variances": [1.0]}, r"'variances' must have one entry a batch \(2\); got 1\."),
        ({}, {"variances": [1.0, 0.0]}, r"'variances' must be above 0; got 0\."),
        ({}, {"variances": [1.0, np.inf]}, r"'variances' must be finite; got inf at position 1\."),
        ({}, {"folds": [0, 0, 1, 1]}, r"'folds' does not go with batches, which are the folds and weigh unequally\."),
        ({}, {"population": "finite"}, r"'population' does not go with batches"),
        ({}, {"sample": Sample(probabilities=[0.5] * 4)}, r"'sample.probabilities' does not go with batches"),
        ({}, {"alpha": 0}, r"'alpha' must be in \(0, 1\); got 0\."),
    ],
)
def test_errors(changed, options, message):
    arguments = [[1.0, 2.0, 3.0, 5.0], [0.0, 0.0, 3.0, 4.0], [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]], [0, 0, 1, 1]]
    for place, value in changed.items():
        arguments[place] = value
    with pytest.raises(InputError, match=message):
        sequential(*arguments, **options)


# ------------------------------------------------------------------------------------------- validity


def nearest_neighbour(X, Y):
    """Interpolates: unstable, and therefore beyond what cross-fitting bears (test_coverage's negative control)."""
    order = np.argsort(X)
    x, y = X[order], Y[order]

    def predict(new):
        right = np.clip(np.searchsorted(x, new), 1, len(x) - 1)
        return y[right - (new - x[right - 1] < x[right] - new)]

    return predict


def line(X, Y):
    slope, level = np.polyfit(X, Y, 1)
    return lambda new: level + slope * new


@pytest.mark.parametrize("lam", [1.0, "tuned"])
@pytest.mark.parametrize("learner", [nearest_neighbour, line])
def test_models_that_train_on_the_batches_before_cover(learner, lam):
    rng = np.random.default_rng(14)
    repetitions, n, m, count = 800, 120, 800, 4
    batch = np.repeat(np.arange(count), n // count)
    errors, lengths, hits = [], [], 0
    for _ in range(repetitions):
        X, U = rng.uniform(-1, 1, n), rng.uniform(-1, 1, m)
        Y = X + rng.exponential(size=n) - 1
        f, unlabeled = np.zeros(n), np.zeros((m, count))
        for k in range(1, count):
            model = learner(X[batch < k], Y[batch < k])
            f[batch == k], unlabeled[:, k] = model(X[batch == k]), model(U)
        found = sequential(Y, f, unlabeled, batch, lam=lam, alpha=0.1)
        errors.append(found.value)
        lengths.append(found.std_error)
        hits += found.interval[0] <= 0 <= found.interval[1]
    assert hits / repetitions == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / repetitions))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(repetitions)
    assert np.mean(lengths) == pytest.approx(np.std(errors), rel=0.08)
