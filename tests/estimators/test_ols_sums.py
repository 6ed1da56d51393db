"""Least squares from mergeable sums: the same as in memory, in any order, for columns of any size."""

from functools import partial, reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators.blocks import Block, InMemory
from ftrect_ray.estimators.labeled import checked
from ftrect_ray.estimators.least_squares import LeastSquares
from ftrect_ray.estimators.ols import rectified_ols
from ftrect_ray.estimators.ols_sums import OlsSums, ols_from_sums
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.whitening import Whitening

NAMES = ("one", "a", "b")
NUMBERS = ("value", "std_error", "lam", "df", "effective_n", "p_value", "interval")


def rows(seed, N, level=0.0, scale=1.0, ones=0):
    """N rows of three columns, one of them constant, an answer and two models' predictions."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(N, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]])
    X = np.insert(level + scale * Z, ones, 1.0, axis=1)
    Y = Z @ [1.0, -2.0] + (1 + 0.3 * Z[:, 0] ** 2) * rng.normal(size=N)
    F = level + np.column_stack([0.8 * Y + rng.normal(size=N), Y + Z[:, 1] + rng.normal(size=N)])
    return X, Y + level, F, rng


def both_samples(X, Y, F, n, options):
    folds = np.arange(n) % 2 if "folds" not in options else options["folds"]
    checked_options = Settings.of({**options, "folds": folds})
    own = F[np.arange(n), folds]
    labeled, unlabeled = checked(Y[:n], own, F[n:], checked_options, X[:n], X[n:])
    return labeled, unlabeled, checked_options


def parts(unlabeled, size):
    whole = unlabeled.whole
    return [OlsSums.of(whole.rows(slice(start, start + size))) for start in range(0, len(whole), size)]


def merged(sums):
    return reduce(OlsSums.merge, sums)


def same(one, other, tolerance=1e-10):
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=tolerance, atol=1e-15)
    assert one.diagnostics["variance_prediction"] == pytest.approx(other.diagnostics["variance_prediction"])
    assert (one.n, one.m, one.names, one.target) == (other.n, other.m, other.names, other.target)


def options_of(design, n, m, rng):
    w, v = rng.uniform(0.2, 4, n), rng.uniform(0.2, 4, m)
    w[:2] = v[:5] = 0.0
    clusters, clusters_unlabeled = np.arange(n) % 20, rng.integers(0, 60, m)
    return {
        "plain": {},
        "weights": {"sample": Sample(weights=w), "sample_unlabeled": Sample(weights=v)},
        "strata": {"sample": Sample(strata=np.arange(n) % 3), "sample_unlabeled": Sample(strata=np.arange(m) % 3)},
        "clusters": {
            "sample": Sample(weights=w, clusters=clusters, strata=clusters % 2),
            "sample_unlabeled": Sample(weights=v, clusters=clusters_unlabeled, strata=clusters_unlabeled % 2),
            "folds": clusters % 2,
        },
        "probabilities": {
            "sample": Sample(weights=w, probabilities=rng.uniform(0.1, 1, n)),
            "sample_unlabeled": Sample(weights=v),
        },
        "finite": {"population": "finite"},
    }[design]


@pytest.mark.parametrize("design", ["plain", "weights", "strata", "clusters", "probabilities", "finite"])
@pytest.mark.parametrize(("level", "scale", "ones"), [(0, 1, 0), (0, 1e-7, 1), (20, 1, 2), (1e3, 1, 0), (1e9, 1, 2)])
def test_one_pass_is_two_passes(design, level, scale, ones):
    X, Y, F, rng = rows(0, 560, level, scale, ones)
    options = options_of(design, 60, 500, rng)
    for lam in (0.0, 0.6, "tuned", "per-coordinate", "crossfit"):
        labeled, unlabeled, checked_options = both_samples(X, Y, F, 60, {**options, "lam": lam})
        reference = rectified_ols(labeled, unlabeled, checked_options, NAMES)
        sums = merged(parts(unlabeled, 90))
        same(ols_from_sums(labeled, sums, checked_options, NAMES), reference)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.randoms(use_true_random=False), st.sampled_from([0.0, 1e3, 1e9]), st.sampled_from([7, 40, 333]))
def test_order_of_blocks_does_not_matter(random, level, size):
    X, Y, F, _ = rows(1, 460, level)
    labeled, unlabeled, checked_options = both_samples(X, Y, F, 60, {})
    sums = parts(unlabeled, size)
    one = ols_from_sums(labeled, merged(sums), checked_options, NAMES)
    random.shuffle(sums)
    cut = random.randint(1, len(sums) - 1)
    same(ols_from_sums(labeled, merged(sums[:cut]).merge(merged(sums[cut:])), checked_options, NAMES), one)


@pytest.mark.parametrize("level", [0.0, 1e9])
@pytest.mark.parametrize("back", [False, True])
def test_first_rows_unlike_the_others(level, back):
    """A column constant in some blocks and another one 0 in them, as in sorted tables, whichever comes first."""
    X, Y, F, _ = rows(2, 660, level)
    X[60:360, 1], X[60:360, 2] = X[60, 1], 0.0
    labeled, unlabeled, checked_options = both_samples(X, Y, F, 60, {})
    reference = rectified_ols(labeled, unlabeled, checked_options, NAMES)
    sums = parts(unlabeled, 50)
    same(ols_from_sums(labeled, merged(sums[::-1] if back else sums), checked_options, NAMES), reference)


def test_empty_blocks_and_blocks_of_one_row():
    X, Y, F, _ = rows(3, 100)
    labeled, unlabeled, checked_options = both_samples(X, Y, F, 60, {})
    reference = rectified_ols(labeled, unlabeled, checked_options, NAMES)
    none = OlsSums.of(unlabeled.whole.rows(slice(0, 0)))
    sums = [none, *parts(unlabeled, 1), none]
    same(ols_from_sums(labeled, merged(sums), checked_options, NAMES), reference)
    classical = ols_from_sums(labeled, none.merge(none), checked_options, NAMES)
    assert classical.lam == 0
    assert classical.m == 0


@pytest.mark.parametrize("level", [0.0, 1e9])
def test_blocks_of_weight_0(level):
    X, Y, F, rng = rows(12, 460, level)
    w, v = rng.uniform(0.2, 4, 60), rng.uniform(0.2, 4, 400)
    v[:100] = v[-100:] = 0.0
    options = {"sample": Sample(weights=w), "sample_unlabeled": Sample(weights=v)}
    labeled, unlabeled, checked_options = both_samples(X, Y, F, 60, options)
    reference = rectified_ols(labeled, unlabeled, checked_options, NAMES)
    sums = merged(parts(unlabeled, 50))
    same(ols_from_sums(labeled, sums, checked_options, NAMES), reference)
    assert sums.fit.rows == 200


def test_large_blocks_are_cut():
    X, _, F, _ = rows(4, 40_000)
    block = Block(F, X)
    whole, cut = OlsSums.of(block), merged(parts(InMemory(block), 1000))
    assert whole.fit.rows == cut.fit.rows == whole.values.units == 40_000
    np.testing.assert_allclose(whole.fit.coefficients, cut.fit.coefficients, rtol=1e-12)
    np.testing.assert_allclose(whole.products.total, cut.products.total, rtol=1e-9)


@pytest.mark.parametrize("level", [0.0, 1e9])
def test_collinear_columns_are_named_from_sums(level):
    X, Y, F, _ = rows(5, 460, level)
    for change, column in ((lambda X: X[:, 0] * 7, "b"), (lambda X: X[:, 1] * 2 - 3 * X[:, 0], "b")):
        tied = X.copy()
        tied[60:, 2] = change(X)[60:]
        labeled, unlabeled, checked_options = both_samples(tied, Y, F, 60, {})
        with pytest.raises(StatisticalRefusal) as caught:
            ols_from_sums(labeled, merged(parts(unlabeled, 40)), checked_options, NAMES)
        assert caught.value.what == f"X'X is singular: drop column '{column}'"
        assert caught.value.where == "unlabelled rows"
    labeled, unlabeled, checked_options = both_samples(X, Y, F, 60, {})
    with pytest.raises(StatisticalRefusal, match="3 rows cannot carry 3 coefficients"):
        ols_from_sums(labeled, OlsSums.of(unlabeled.whole.rows(slice(0, 3))), checked_options, NAMES)


# ------------------------------------------------------------------------------------------- normal equations


@pytest.mark.parametrize(("level", "whitened"), [(0.0, False), (10.0, False), (100.0, True), (1e9, True)])
@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_are_those_of_lstsq(level, whitened, weighted):
    X, _, F, rng = rows(6, 300, level)
    w = rng.uniform(0.5, 2, 300) if weighted else None
    block = Block(F, X, w)
    fit = LeastSquares.of(block)
    root = np.ones(300) if w is None else np.sqrt(w)
    near = X - level * (np.arange(3) > 0)  # the same span
    expected = np.linalg.lstsq(near * root[:, None], (F - level) * root[:, None], rcond=None)[0].T
    np.testing.assert_allclose(fit.coefficients[:, 1:], expected[:, 1:], rtol=1e-6 if level == 1e9 else 1e-10)
    assert (fit.whitening != Whitening.none(5)) is whitened
    assert fit.rows == 300
    z = fit.whitening.columns(block)
    scaled = z * root
    np.testing.assert_allclose(fit.gram, scaled[:3] @ scaled.T, rtol=1e-12, atol=1e-12)
    if level < 1e3:
        data = np.hstack([X, F]) * root[:, None]
        np.testing.assert_allclose(fit.root.T @ fit.root[:, :3], data.T @ data[:, :3], rtol=1e-9)
        np.testing.assert_allclose(z.T, np.hstack([X, F]) @ fit.whitening.matrix, atol=1e-9)
        bread = np.linalg.inv((X * root[:, None]).T @ (X * root[:, None]))
        residual = (F[:, 0] - X @ fit.coefficients[0])[:, None]
        np.testing.assert_allclose(z[:3].T * residual @ fit.to_coefficients, X * residual @ bread, atol=1e-9)


@pytest.mark.parametrize(("one", "other"), [(0.0, 0.0), (0.0, 1e3), (1e3, 0.0), (1e3, 1.2e3), (1e9, 1e9)])
def test_merged_least_squares_are_those_of_all_rows(one, other):
    blocks = [Block(F, X) for X, _, F, _ in (rows(7, 80, one), rows(8, 90, other))]
    together = blocks[0].__class__(np.vstack([b.F for b in blocks]), np.vstack([b.X for b in blocks]))
    fit, whole = LeastSquares.of(blocks[0]).merge(LeastSquares.of(blocks[1])), LeastSquares.of(together)
    np.testing.assert_allclose(fit.coefficients, whole.coefficients, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.abs(fit.root), np.abs(whole.root), rtol=1e-6, atol=1e-6)
    assert fit.rows == whole.rows == 170
    z = fit.whitening.columns(together)
    np.testing.assert_allclose(fit.gram, z[:3] @ z.T, rtol=1e-8, atol=1e-7)


def test_whitened_like_other_rows():
    X, _, F, _ = rows(9, 400, 1e4)
    near, far = Block(F[:200], X[:200]), Block(F[200:] * 1e4, X[200:] * [1, 1, 1e-4])
    like = LeastSquares.of(near).whitening
    kept = LeastSquares.of(Block(F[200:], X[200:]), like)
    assert kept.whitening is like
    plain = LeastSquares.of(Block(F[200:], X[200:]))
    np.testing.assert_allclose(kept.coefficients, plain.coefficients, rtol=1e-8)
    np.testing.assert_allclose(np.abs(kept.root), np.abs(plain.root), rtol=1e-6)
    assert LeastSquares.of(far, like).whitening != like


def test_centring_takes_the_first_constant_column_that_is_not_0():
    X, _, F, _ = rows(10, 50, 1e6)
    X = np.column_stack([np.zeros(50), X[:, 1], np.full(50, 2.0), np.ones(50)])
    whitening = LeastSquares.of(Block(F, X)).whitening
    assert whitening.constant == 2
    np.testing.assert_allclose(whitening.centre, [0, 5e5, 0, 0.5, 5e5, 5e5], rtol=1e-4)
    assert LeastSquares.of(Block(F, X[:, :2])).whitening.constant == -1


def test_sums_are_picklable_functions_of_blocks():
    X, Y, F, _ = rows(11, 200)
    labeled, unlabeled, checked_options = both_samples(X, Y, F, 60, {})
    one = ols_from_sums(labeled, unlabeled.fold(OlsSums.of), checked_options, NAMES)
    same(one, partial(rectified_ols, names=NAMES)(labeled, unlabeled, checked_options))
