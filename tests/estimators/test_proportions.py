"""Shares of categories: the means of their indicators, ppi_py, statsmodels, and edge cases."""

import warnings as python_warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.proportions import proportions
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Bootstrap
from ftrect_ray.estimators.simultaneous import joint_quantile

with python_warnings.catch_warnings():
    python_warnings.simplefilter("ignore")
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

NAMES = np.array(["NA", "None", "x"])
quick = settings(deadline=None, max_examples=25, derandomize=True)


def sample(seed=0, n=60, m=300, models=1, right=0.7):
    rng = np.random.default_rng(seed)
    truth = rng.choice(NAMES, n + m, p=[0.5, 0.3, 0.2])
    f = np.where(rng.random((n + m, models)) < right, truth[:, None], rng.choice(NAMES, (n + m, models)))
    return truth[:n], f[:n, 0], f[n:]


def one_hot(values):
    return (np.asarray(values)[..., None] == NAMES).astype(float)


def same(one, other, tolerance=1e-12):
    for field in ("value", "std_error", "effective_n", "df", "p_value"):
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.interval, other.interval, rtol=tolerance, atol=tolerance)


def options(kind, n=60, m=300):
    rng = np.random.default_rng(5)
    if kind == "weights":
        return {"sample": Sample(weights=rng.random(n)), "sample_unlabeled": Sample(weights=rng.random(m))}
    if kind == "clusters":
        return {"sample": Sample(clusters=np.arange(n) // 3), "sample_unlabeled": Sample(clusters=np.arange(m) // 5)}
    if kind == "probabilities":
        return {"sample": Sample(probabilities=rng.uniform(0.1, 0.9, n))}
    return {"finite": {"population": "finite"}, "plain": {}}[kind]


# ------------------------------------------------------------------------------- d means, one by one


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["plain", "weights", "clusters", "probabilities", "finite"])
def test_each_share_is_a_mean(lam, kind):
    Y, f, unlabeled = sample()
    found = proportions(Y, f, unlabeled, lam=lam, null=0.3, alternative="larger", **options(kind))
    assert found.names == ("NA", "None", "x")
    assert found.target == "proportions"
    assert (found.n, found.m) == (60, 300)
    for j, name in enumerate(NAMES):
        alone = mean(name == Y, f == name, unlabeled == name, lam=lam, null=0.3, alternative="larger", **options(kind))
        for field in ("value", "std_error", "effective_n", "df", "p_value"):
            assert getattr(found, field)[j] == pytest.approx(getattr(alone, field), rel=1e-12), field
        assert found.interval[0][j] == pytest.approx(alone.interval[0], rel=1e-12)


@pytest.mark.parametrize("lam", [0.7, "tuned"])
def test_each_cross_fitted_share_is_a_mean(lam):
    Y, f, unlabeled = sample(models=3)
    fold = np.arange(60) % 3
    found = proportions(Y, f, unlabeled, lam=lam, folds=fold)
    for j, name in enumerate(NAMES):
        alone = mean(name == Y, f == name, unlabeled == name, lam=found.lam, folds=fold)
        assert found.value[j] == pytest.approx(alone.value, rel=1e-12)
        if lam == 0.7:
            assert found.std_error[j] == pytest.approx(alone.std_error, rel=1e-12)


@pytest.mark.parametrize("lam", [0.3, "tuned", "per-coordinate", "crossfit"])
@pytest.mark.parametrize("models", [1, 2])
def test_categories_and_their_indicators_as_probabilities_are_the_same(lam, models):
    Y, f, unlabeled = sample(models=models)
    fold = np.arange(60) % models
    by_name = proportions(Y, f, unlabeled, lam=lam, folds=fold)
    by_column = proportions(Y, one_hot(f), one_hot(unlabeled), categories=NAMES, lam=lam, folds=fold)
    same(by_name, by_column)
    assert by_name.diagnostics == by_column.diagnostics
    if models == 1:
        same(by_name, proportions(Y, f, unlabeled[:, 0], lam=lam))
        same(by_name, proportions(Y, one_hot(f), one_hot(unlabeled[:, 0]), categories=NAMES, lam=lam))


@pytest.mark.parametrize("population", ["finite", "infinite"])
def test_the_bootstrap_of_categories_is_that_of_their_indicators(population):
    Y, f, unlabeled = sample(m=90)
    extra = {"population": population, "bootstrap": Bootstrap(replications=99), "lam": 0.8, "alpha": 0.1}
    by_name = proportions(Y, f, unlabeled, **extra)
    by_column = proportions(Y, one_hot(f), one_hot(unlabeled), categories=NAMES, **extra)
    np.testing.assert_allclose(by_name.interval, by_column.interval, rtol=1e-12)
    np.testing.assert_allclose(
        by_name.length, proportions(Y, f, unlabeled, **{**extra, "bootstrap": None}).length, rtol=0.4
    )


def test_ppi_py_on_probabilities_that_do_not_sum_to_one():
    Y, _, _ = sample(1)
    rng = np.random.default_rng(2)
    f, unlabeled = 0.6 * one_hot(Y) + rng.random((60, 3)), rng.random((300, 3))
    found = proportions(Y, f, unlabeled, categories=NAMES, lam=0.8, alpha=0.1, quantiles="normal")
    for j, name in enumerate(NAMES):
        labels = (name == Y).astype(float)
        value = ppi_mean_pointestimate(labels, f[:, j], unlabeled[:, j], lam=0.8)
        low, high = ppi_mean_ci(labels, f[:, j], unlabeled[:, j], alpha=0.1, lam=0.8)
        assert found.value[j] == pytest.approx(value[0], abs=1e-10)
        # ppi_py divides by n and m where a variance has n − 1 and m − 1
        parts = np.var(labels - 0.8 * f[:, j]) / 60, 0.64 * np.var(unlabeled[:, j]) / 300
        ours = np.sqrt((parts[0] * 60 / 59 + parts[1] * 300 / 299) / sum(parts))
        assert found.length[j] == pytest.approx((high - low)[0] * ours, rel=1e-8)


def test_statsmodels_normal_interval_without_a_model():
    Y, f, unlabeled = sample(3)
    found = proportions(Y, f, unlabeled, lam=0.0, quantiles="normal")
    for j, name in enumerate(NAMES):
        low, high = proportion_confint(np.sum(name == Y), 60, alpha=0.05, method="normal")
        assert found.value[j] == pytest.approx(np.mean(name == Y), abs=1e-14)
        assert found.length[j] == pytest.approx((high - low) * np.sqrt(60 / 59), rel=1e-10)


# ------------------------------------------------------------------------------------------- identities


def test_shares_sum_to_one_with_one_lam_and_need_not_with_several():
    Y, f, unlabeled = sample(4)
    for lam in (0.0, 0.5, 1.0, "tuned", "crossfit"):
        assert proportions(Y, f, unlabeled, lam=lam).value.sum() == pytest.approx(1, abs=1e-12)
    several = proportions(Y, f, unlabeled, lam="per-coordinate")
    assert several.lam.shape == (3,)
    assert abs(several.value.sum() - 1) > 1e-5


@quick
@given(st.integers(0, 10**6), st.permutations(range(3)))
def test_order_of_rows_and_of_categories_does_not_matter(seed, order):
    Y, f, unlabeled = sample(seed, n=12, m=20)
    rng = np.random.default_rng(seed)
    rows, others = rng.permutation(12), rng.permutation(20)
    one = proportions(Y, f, unlabeled, categories=NAMES)
    two = proportions(Y[rows], f[rows], unlabeled[others], categories=NAMES[order])
    assert two.names == tuple(NAMES[order])
    for field in ("value", "std_error", "effective_n"):
        np.testing.assert_allclose(getattr(one, field)[order], getattr(two, field), rtol=1e-9, atol=1e-12)


@quick
@given(st.integers(0, 10**6), st.integers(2, 4), st.booleans())
def test_equal_models_are_one_model(seed, models, with_folds):
    Y, f, unlabeled = sample(seed, n=12, m=20)
    fold = np.arange(12) % models if with_folds else None
    same(proportions(Y, f, unlabeled), proportions(Y, f, np.repeat(unlabeled, models, axis=1), folds=fold), 1e-9)


def test_two_categories_mirror_each_other():
    rng = np.random.default_rng(6)
    Y, f, unlabeled = rng.random(50) < 0.3, rng.random(50) < 0.5, rng.random(99) < 0.4
    found = proportions(Y, f, unlabeled)
    assert found.names == ("False", "True")
    assert found.value[0] == pytest.approx(1 - found.value[1], abs=1e-14)
    assert found.std_error[0] == pytest.approx(found.std_error[1], rel=1e-12)


def test_whole_numbers_are_named_without_a_point():
    assert proportions([1.0, 2.0, 10.0], [1, 2, 2], []).names == ("1", "2", "10")


def test_one_column_of_interest_and_joint_intervals():
    Y, f, unlabeled = sample(7)
    everything, joint = proportions(Y, f, unlabeled), proportions(Y, f, unlabeled, simultaneous=True)
    chosen = proportions(Y, f, unlabeled, coefficients=["x"], lam=everything.lam)
    assert chosen.names == ("x",)
    assert chosen.value[0] == pytest.approx(everything.value[2], rel=1e-12)
    assert (joint.length > everything.length * 1.1).all()
    assert (joint.length < everything.length * 1.3).all()
    classical = proportions(Y, f, unlabeled, lam=0.0, simultaneous=True)
    reach = joint_quantile(np.cov(one_hot(Y).T) / 60, 59.0, 0.05, 2)
    np.testing.assert_allclose(classical.length, 2 * reach * classical.std_error, rtol=1e-7)


# ------------------------------------------------------------------------------------------- edges and errors


def test_without_unlabelled_rows_it_is_the_share_of_the_answers():
    found = proportions(["a", "b", "a", "a"], ["a", "a", "b", "b"], [])
    assert found.value.tolist() == [0.75, 0.25]
    assert found.lam == 0
    assert found.std_error[0] == pytest.approx(np.sqrt(0.75 * 0.25 / 3))


def test_a_category_that_nobody_answered_is_said():
    Y, f, unlabeled = sample(8)
    text = "nobody answered 'y', 'z': the interval says nothing about how rare that is"
    found = proportions(Y, f, unlabeled, categories=["y", *NAMES, "z"])
    assert found.value[[0, 4]].tolist() == [0, 0]
    assert text in found.warnings
    assert found.state == "WARN"
    check = found.diagnostics["checks"][-1]
    assert (check["name"], check["state"], check["value"]) == ("answered", "WARN", 0.0)
    assert check["margin"] == "at least 1 answer a category"
    assert check["remedy"] == "label more rows, or merge rare categories"
    answered = proportions(Y, f, unlabeled, categories=["y", *NAMES, "z"], coefficients=["x", "NA"])
    check = answered.diagnostics["checks"][-1]
    assert (check["state"], check["text"]) == ("PASS", "every category was answered")
    assert check["value"] == min(np.sum(Y == "x"), np.sum(Y == "NA"))
    assert answered.diagnostics["r2"] == found.diagnostics["r2"]


def test_one_category_alone():
    found = proportions(["a", "a"], ["a", "a"], ["a", "a", "a"])
    assert (found.value.tolist(), found.std_error.tolist()) == ([1.0], [0.0])
    found = proportions(["a", "a"], [[0.5], [0.7]], [[0.5], [0.5], [0.7]], categories=["a"], lam=1.0)
    assert found.value[0] == pytest.approx(1 - 0.6 + 1.7 / 3)


@pytest.mark.parametrize(
    ("arguments", "extra", "message"),
    [
        ((["a"], ["a"], ["a"]), {}, r"'Y' must have at least 2 rows; got 1\."),
        ((["a", None], ["a", "a"], ["a"]), {}, r"'Y' must name a category in every row; got None at position 1\."),
        ((["a", "b"], ["a", None], ["a"]), {}, r"'Yhat' must name a category in every row; got None at position 1\."),
        ((["a", "b"], ["a", "b"], [["a", None]]), {}, r"'Yhat_unlabeled' must name a category in every row"),
        ((["a", "b"], ["a", "b"], "a"), {}, r"'Yhat_unlabeled' must have 1 or 2 dimension\(s\); got shape \(\)\."),
        ((["a", "b"], ["a"], ["a"]), {}, r"'Yhat' must have as many rows as 'Y' \(2\); got 1\."),
        ((["a", "b"], [0, 1], [0, 1]), {}, r"'Yhat' must hold text as 'Y' does; got numbers\."),
        ((["a", "b"], ["a", "b"], [0, 1]), {}, r"'Yhat_unlabeled' must hold text as 'Y' does; got numbers\."),
        (
            (["a", "c"], [[1, 0], [0, 1]], [[1, 0]]),
            {"categories": ["a", "b"]},
            r"'Y' holds 'c', which is not among 'categories'",
        ),
        (
            ([0, 1], [[1, 0], [0, 1]], [[1, 0]]),
            {"categories": ["a", "b"]},
            r"'Y' must hold text as 'categories' does; got numbers\.",
        ),
        (([0, 1], [0.3, 0.7], [0.5]), {}, r"'Yhat' must hold text, whole numbers or yes/no; got 0.3 at position 0"),
        ((["a", "b"], ["a", "c"], ["a"]), {"categories": ["a", "b"]}, r"'Yhat' holds 'c', which is not among 'cat"),
        ((["a", "b"], ["a", "a"], ["c"]), {"categories": ["a", "b"]}, r"'Yhat_unlabeled' holds 'c', which is not"),
        ((["a", "c"], ["a", "a"], ["a"]), {"categories": ["a", "b"]}, r"'Y' holds 'c', which is not among 'categ"),
        ((["a", "b"], [[1, 0], [0, 1]], [[1, 0]]), {}, r"'categories' must be given with probabilities"),
        (
            (["a", "b"], [[1, 0], [0, 1]], [[1, 0, 0]]),
            {"categories": ["a", "b"]},
            r"'Yhat_unlabeled' must have one column a category \(2\); got 3\.",
        ),
        (
            (["a", "b"], [[1], [0]], [[1, 0]]),
            {"categories": ["a", "b"]},
            r"'Yhat' must have one column a category \(2\); got 1\.",
        ),
        (
            (["a", "b"], [[1, 0], [float("nan"), 1]], [[1, 0]]),
            {"categories": ["a", "b"]},
            r"'Yhat' must be finite; got nan at position \(1, 0\)\.",
        ),
        (
            (["a", "b"], [[1, 0], [0, 1]], [0.3]),
            {"categories": ["a", "b"]},
            r"'Yhat_unlabeled' must have 2 or 3 dimension\(s\); got shape \(1,\)\.",
        ),
    ],
)
def test_errors(arguments, extra, message):
    with pytest.raises(InputError, match=message):
        proportions(*arguments, **extra)


def coverage(repetitions, seed, **options):
    """Share of simulations in which each interval (d,), and all of them (1,), hold the truth."""
    rng = np.random.default_rng(seed)
    truth = np.array([0.5, 0.3, 0.2])
    hits = []
    for _ in range(repetitions):
        labels = rng.choice(3, 150 + 600, p=truth)
        f = np.where(rng.random(750) < 0.7, labels, rng.integers(0, 3, 750))
        low, high = proportions(labels[:150], f[:150], f[150:], alpha=0.1, **options).interval
        hits.append((low <= truth) & (truth <= high))
    return np.mean(hits, axis=0), np.mean(np.all(hits, axis=1))


@pytest.mark.parametrize("lam", [1.0, "tuned", "per-coordinate"])
def test_intervals_cover_one_by_one(lam):
    single, together = coverage(1000, 9, lam=lam)
    np.testing.assert_allclose(single, 0.9, atol=3 * np.sqrt(0.09 / 1000))
    assert together < 0.9 - 3 * np.sqrt(0.09 / 1000)


def test_joint_intervals_cover_together():
    _, together = coverage(150, 10, simultaneous=True)
    assert together == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / 150))
