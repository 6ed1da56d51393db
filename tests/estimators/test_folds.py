"""Folds and rotations: balance, whole clusters, and the average of the rotated splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.folds import draw_folds, rotation, whole_numbers
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.samples import Sample

quick = settings(deadline=None, max_examples=50, derandomize=True)


def spans(fold, folds, rows=slice(None)):
    counts = np.bincount(fold[rows], minlength=folds)
    return counts.max() - counts.min()


@quick
@given(st.integers(2, 60), st.integers(2, 7), st.integers(0, 1000))
def test_rows_are_dealt_evenly(n, folds, seed):
    if folds > n:
        with pytest.raises(InputError, match="'folds' must be at least 2"):
            draw_folds(n, folds, seed)
        return
    fold = draw_folds(n, folds, seed)
    assert fold.shape == (n,)
    assert fold.dtype == np.int64
    assert spans(fold, folds) <= 1
    np.testing.assert_array_equal(fold, draw_folds(n, folds, seed))


@quick
@given(st.integers(7, 60), st.integers(2, 7), st.integers(1, 5), st.integers(0, 1000))
def test_strata_are_dealt_evenly_each_and_together(n, folds, strata, seed):
    names = np.random.default_rng(seed).integers(0, strata, n)
    fold = draw_folds(n, folds, seed, strata=names)
    assert spans(fold, folds) <= 1
    for name in np.unique(names):
        assert spans(fold, folds, names == name) <= 1


@quick
@given(st.integers(0, 1000), st.integers(2, 5), st.booleans())
def test_clusters_stay_whole_and_folds_balance_within_the_largest(seed, folds, with_strata):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 20)
    clusters = np.repeat([f"c{k}" for k in range(20)], sizes)
    strata = np.repeat(np.arange(20) % 3, sizes) if with_strata else None
    shuffle = rng.permutation(len(clusters))
    clusters = clusters[shuffle]
    strata = None if strata is None else strata[shuffle]
    fold = draw_folds(len(clusters), folds, seed, clusters=clusters, strata=strata)
    for name in np.unique(clusters):
        assert len(np.unique(fold[clusters == name])) == 1
    assert set(fold.tolist()) == set(range(folds))
    for name in [None] if strata is None else np.unique(strata):
        rows = np.ones(len(fold), dtype=bool) if name is None else strata == name
        assert spans(fold, folds, rows) <= np.unique(clusters[rows], return_counts=True)[1].max()


def test_large_clusters_go_first_so_that_small_ones_can_fill_up():
    clusters = np.repeat(np.arange(7), [6, 1, 1, 1, 1, 1, 1])
    for seed in range(10):
        assert np.bincount(draw_folds(12, 2, seed, clusters=clusters)).tolist() == [6, 6]


def test_seeds_differ_and_every_row_meets_every_fold_alike():
    draws = np.array([draw_folds(10, 3, seed) for seed in range(600)])
    shares = np.array([(draws == k).mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(shares.sum(axis=1), [4, 3, 3])
    np.testing.assert_allclose(shares[0], 0.4, atol=4 * np.sqrt(0.24 / 600))
    together = np.mean(draws[:, 0] == draws[:, 1])
    assert together == pytest.approx((6 + 3 + 3) / 45, abs=4 * np.sqrt(0.2 / 600))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (5, 1, 0),
            {},
            InputError,
            r"'folds' must be at least 2 and at most the number of sampling units \(5\); got 1",
        ),
        ((5, 6, 0), {}, InputError, r"at most the number of sampling units \(5\); got 6\."),
        ((4, 3, 0), {"clusters": [1, 1, 2, 2]}, InputError, r"at most the number of sampling units \(2\); got 3\."),
        ((4, 2, 0), {"clusters": [1, 2]}, InputError, r"'clusters' must have one entry a row \(4\); got shape \(2,\)"),
        ((4, 2, 0), {"strata": [1, 2]}, InputError, r"'strata' must have one entry a row \(4\); got shape \(2,\)"),
        (
            (2, 2, 0),
            {"clusters": [1, 1], "strata": ["a", "b"]},
            StatisticalRefusal,
            r"cluster '1' lies in more than one stratum",
        ),
    ],
)
def test_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        draw_folds(*arguments, **options)


def test_folds_of_clusters_are_accepted_by_an_estimator():
    clusters = np.arange(40) // 4
    fold = draw_folds(40, 3, 1, clusters=clusters)
    rng = np.random.default_rng(0)
    mean(rng.random(40), rng.random(40), rng.random((90, 3)), folds=fold, sample=Sample(clusters=clusters))


# ------------------------------------------------------------------------------------------- rotation


def test_the_mask_by_its_definition():
    fold, q, train = np.array([0, 1, 2, 3, 4, 4, 0]), 5, 2
    mask = rotation(fold, train)
    assert mask.shape == (7, q)
    assert mask.dtype == bool
    for i, own in enumerate(fold):
        for r in range(q):
            assert mask[i, r] == (own not in [(r + step) % q for step in range(train)])
    assert (mask.sum(axis=1) == q - train).all()


@pytest.mark.parametrize("train", [1, 2, 3])
def test_a_rotation_is_the_average_of_its_splits(train):
    rng = np.random.default_rng(2)
    n, m, q = 40, 90, 4
    Y, f, unlabeled = rng.normal(size=n), rng.normal(size=(n, q)), rng.normal(size=(m, q))
    fold = draw_folds(n, q, 3)
    mask = rotation(fold, train)
    for lam in (0.3, 1.0):
        splits = [mean(Y[mask[:, r]], f[mask[:, r], r], unlabeled[:, r], lam=lam).value for r in range(q)]
        assert mean(Y, f, unlabeled, folds=mask, lam=lam).value == pytest.approx(np.mean(splits), rel=1e-12)


def test_training_on_all_but_one_fold_is_cross_fitting():
    rng = np.random.default_rng(4)
    n, m, q = 41, 90, 4
    Y, f, unlabeled = rng.normal(size=n), rng.normal(size=(n, q)), rng.normal(size=(m, q))
    fold = draw_folds(n, q, 3)
    rotated = mean(Y, f, unlabeled, folds=rotation(fold, q - 1))
    crossed = mean(Y, f, unlabeled, folds=(fold + 1) % q)
    assert rotated.to_dict() == crossed.to_dict()


@pytest.mark.parametrize(
    ("fold", "train", "message"),
    [
        ([0, 1, 2], 0, r"'train' must be at least 1 and less than the number of folds \(3\); got 0\."),
        ([0, 1, 2], 3, r"'train' must be at least 1 and less than the number of folds \(3\); got 3\."),
        ([0, 0], 1, r"less than the number of folds \(1\); got 1\."),
        ([0, 2], 1, r"'fold' must hold each of 0, 1, … up to the largest; got \[0.0, 2.0\]\."),
        ([1, 2], 1, r"'fold' must hold each of 0, 1"),
        ([-1, 0], 1, r"'fold' must hold each of 0, 1"),
        ([0.0, 0.5, 1.0], 1, r"'fold' must hold each of 0, 1"),
        ([], 1, r"'fold' must hold each of 0, 1, … up to the largest; got \[\]\."),
    ],
)
def test_rotation_errors(fold, train, message):
    with pytest.raises(InputError, match=message):
        rotation(fold, train)


def test_whole_numbers_are_integers():
    found = whole_numbers("batches", [1.0, 0.0, 1.0])
    assert found.tolist() == [1, 0, 1]
    assert found.dtype.kind == "i"


def ridge(X, Y, penalty=5.0):
    slope = np.linalg.solve(X.T @ X + penalty * np.eye(X.shape[1]), X.T @ (Y - Y.mean()))
    return lambda new: Y.mean() + new @ slope


@pytest.mark.parametrize("train", [2, 3])
def test_rotated_fine_tunes_cover(train):
    rng = np.random.default_rng(5)
    repetitions, n, m, q, hits = 1000, 120, 600, 4, 0
    truth = np.linspace(1, 0, 6)
    for repetition in range(repetitions):
        X, U = rng.normal(size=(n, 6)), rng.normal(size=(m, 6))
        Y = 1 + X @ truth + rng.normal(size=n)
        mask = rotation(draw_folds(n, q, repetition), train)
        models = [ridge(X[~mask[:, r]], Y[~mask[:, r]]) for r in range(q)]
        f, unlabeled = (np.column_stack([model(new) for model in models]) for new in (X, U))
        low, high = mean(Y, f, unlabeled, folds=mask, alpha=0.1).interval
        hits += low <= 1 <= high
    assert hits / repetitions == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / repetitions))
