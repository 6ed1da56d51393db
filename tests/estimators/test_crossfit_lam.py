"""λ tuned on the other labels: by hand, unbiased, never dear."""

import numpy as np
import pytest

from ftrect_ray.estimators.blocks import Block
from ftrect_ray.estimators.crossfit import PARTS, crossfit_lams
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.means import MeanSums
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings


def data(seed=0, n=23, m=90, models=1):
    rng = np.random.default_rng(seed)
    Y = rng.normal(2, 1, n)
    return Y, Y + rng.normal(0, 0.7, n), rng.normal(2, 1.2, (m, models))


def lam_without(part, Y, f, unlabeled_variance, m, own, bounds=(0.0, 1.0)):
    """Cov(Y, f)/(Var f + (n/m) Var f_u) over the rows outside the part."""
    rest, n = part != own, len(Y)
    size = np.count_nonzero(rest)
    a, p = (Y - Y.mean()) / n, f / n
    cov = np.cov(a[rest], p[rest]) * size * (n / size)
    return float(np.clip(cov[0, 1] / (cov[1, 1] + unlabeled_variance / m), *bounds))


def test_the_value_by_hand():
    Y, f, unlabeled = data()
    n, m = len(Y), len(unlabeled)
    part = np.arange(n) % PARTS
    lams = np.array([lam_without(part, Y, f, np.var(unlabeled, ddof=1), m, k) for k in range(PARTS)])
    assert len(set(lams)) == PARTS
    by_row = lams[part]
    by_hand = Y.mean() - np.mean(by_row * (f - unlabeled.mean()))
    found = mean(Y, f, unlabeled, lam="crossfit")
    assert found.value == pytest.approx(by_hand, rel=1e-12)
    assert found.lam == pytest.approx(by_row.mean(), rel=1e-12)
    centred = Y - Y.mean() - by_row * (f - unlabeled.mean() - (f - unlabeled.mean()).mean())
    variance = np.var(centred, ddof=1) / n + by_row.mean() ** 2 * np.var(unlabeled, ddof=1) / m
    assert found.std_error == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_folds_are_the_parts():
    Y, f, unlabeled = data(1, n=24, models=3)
    folds = np.arange(24) // 8
    found = mean(Y, f, unlabeled, folds=folds, lam="crossfit")
    level = unlabeled.mean(axis=0)
    beyond = f - level[folds]
    mix = np.var(unlabeled.mean(axis=1), ddof=1)
    lams = np.array([lam_without(folds, Y, beyond, mix, len(unlabeled), k) for k in range(3)])
    assert found.value == pytest.approx(Y.mean() - np.mean(lams[folds] * beyond), rel=1e-12)
    assert found.lam == pytest.approx(lams.mean(), rel=1e-12)


def rows_of(lam_range=(0.0, 1.0), **sample):
    Y, f, unlabeled = data(2, n=20)
    chosen = Settings(lam="crossfit", lam_range=lam_range, sample=Sample(**sample))
    labeled, _ = checked(Y, f, unlabeled, chosen)
    sums = MeanSums.of(Block(unlabeled))
    weights = labeled.weights / labeled.weights.sum()
    answers, predicted = ((weights * (z - weights @ z))[:, None] for z in (Y, f))
    imputed = sums.influence(labeled.model_weights, sums.level, sums.weight)
    return crossfit_lams(labeled, chosen, answers, predicted, imputed)


def test_clusters_are_not_cut():
    clusters = np.random.default_rng(0).permutation(np.arange(20) // 2)
    found = rows_of(clusters=clusters)
    for name in range(10):
        assert len(set(found.rows[clusters == name])) == 1
    assert len(set(found.rows)) == PARTS


def test_the_mean_lam_is_weighted_like_the_labels_and_spends_nothing():
    weights = np.arange(1.0, 21.0)
    found = rows_of(weights=weights)
    assert found.weighting.lam == pytest.approx(np.average(found.rows, weights=weights), rel=1e-12)
    np.testing.assert_allclose(found.ratio, found.rows / found.weighting.lam, rtol=1e-12)
    assert found.weighting.spent == 0
    assert found.weighting.notes == ()


def test_the_range_is_kept():
    assert set(rows_of((0.25, 0.25)).rows) == {0.25}


def test_lam_that_would_save_nothing_is_zero_everywhere():
    rng = np.random.default_rng(4)
    for _ in range(20):
        Y, f, unlabeled = rng.normal(size=30), rng.normal(size=30), rng.normal(size=100)
        found, classical = mean(Y, f, unlabeled, lam="crossfit"), mean(Y, f, unlabeled, lam=0.0)
        assert found.length <= 1.0001 * classical.length
        if found.lam == 0:
            assert found.value == classical.value
            assert found.std_error == classical.std_error


@pytest.mark.parametrize("constant", [0.1, 3.0])
def test_constant_predictions_are_classical(constant):
    Y, f, unlabeled = data()
    found = mean(Y, np.full_like(f, constant), np.full_like(unlabeled, constant), lam="crossfit")
    assert (found.lam, found.value) == (0.0, mean(Y, f, unlabeled, lam=0.0).value)


@pytest.mark.parametrize("m", [0, 1])
def test_without_unlabelled_rows(m):
    Y, f, unlabeled = data()
    found = mean(Y, f, unlabeled[:m], lam="crossfit")
    assert found.lam == 0
    assert f"{m} unlabelled row(s) cannot carry predictions: this is the classical estimate" in found.warnings


def test_few_labels_and_few_clusters():
    found = mean([1.0, 3.0], [1.0, 2.0], [1.0, 2.0, 3.0], lam="crossfit")
    assert (found.lam, found.value) == (0.0, 2.0)
    few = mean([1, 3, 2, 4], [1, 2, 2, 4], np.arange(9.0), lam="crossfit", sample=Sample(clusters=[0, 0, 1, 1]))
    assert few.lam == 0


def test_one_unlabelled_row_of_a_labelled_table():
    Y, f, unlabeled = data()
    found = mean(Y, f, unlabeled[:1], lam="crossfit", sample=Sample(probabilities=np.full(23, 23 / 24)))
    assert np.isfinite([found.value, found.std_error]).all()
    strata = {"sample": Sample(strata=np.arange(23) % 2), "sample_unlabeled": Sample(strata=[0, 1, 1])}
    assert np.isfinite(mean(Y, f, unlabeled[:3], lam="crossfit", population="finite", **strata).std_error)


def test_unbiased_with_twenty_labels_where_one_tuned_lam_is_not():
    """Y = z², f = z + z²: λ̂ and the control variate are correlated, so a λ tuned on all rows leaves a bias."""
    rng = np.random.default_rng(5)
    n, repetitions = 20, 1200
    values = np.empty((repetitions, 2))
    for r in range(repetitions):
        z, u = rng.exponential(size=n), rng.exponential(size=400)
        for j, lam in enumerate(("crossfit", "tuned")):
            values[r, j] = mean(z**2, z, u, lam=lam, lam_range=(0.0, 20.0)).value
    error = values.std(axis=0) / np.sqrt(repetitions)
    bias = values.mean(axis=0) - 2.0
    assert abs(bias[0]) <= 3 * error[0]
    assert bias[1] < -3 * error[1]
