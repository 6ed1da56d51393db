"""Difference of two means: Welch and paired tests of SciPy, the parts, and edge cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators.difference import difference
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Bootstrap

SCIPY = {"two-sided": "two-sided", "larger": "greater", "smaller": "less"}
quick = settings(deadline=None, max_examples=25, derandomize=True)


def group(rng, n, m, level=0.0, noise=0.5, models=1):
    truth = rng.normal(level, 1.5, n + m)
    f = truth[:, None] + rng.normal(0.3, noise, (n + m, models))
    return truth[:n], f[:n, 0], f[n:]


def two_groups(seed=0):
    rng = np.random.default_rng(seed)
    return group(rng, 40, 300, 1.0), group(rng, 25, 200, 0.4, 1.0)


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("alternative", list(SCIPY))
def test_without_a_model_it_is_welch(alternative):
    one, two = two_groups()
    found = difference(*one, *two, lam=0.0, alternative=alternative, alpha=0.1)
    reference = stats.ttest_ind(one[0], two[0], equal_var=False, alternative=SCIPY[alternative])
    close(found.interval, reference.confidence_interval(0.9))
    close([found.p_value, found.df], [reference.pvalue, reference.df])
    close(found.value, one[0].mean() - two[0].mean())
    assert found.alternative == alternative
    assert found.lam.tolist() == [0, 0]
    close(found.effective_n, 65)


@pytest.mark.parametrize("alternative", list(SCIPY))
def test_without_a_model_paired_is_the_paired_t_test(alternative):
    rng = np.random.default_rng(1)
    (Y, f, unlabeled), (Z, g, other) = group(rng, 30, 100), group(rng, 30, 100, -0.5)
    found = difference(Y, f, unlabeled, Z, g, other, paired=True, lam=0.0, alternative=alternative)
    reference = stats.ttest_rel(Y, Z, alternative=SCIPY[alternative])
    close(found.interval, reference.confidence_interval(0.95))
    close([found.p_value, found.df], [reference.pvalue, 29])
    assert found.target == "difference"


def test_a_null_moves_the_test():
    one, two = two_groups()
    found = difference(*one, *two, lam=0.0, null=0.5)
    reference = stats.ttest_ind(one[0] - 0.5, two[0], equal_var=False)
    close(found.p_value, reference.pvalue)
    assert found.null == 0.5


# ------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("lam", [0.6, "tuned", "crossfit"])
def test_means_subtract_and_variances_add(lam):
    one, two = two_groups(2)
    found = difference(*one, *two, lam=lam)
    a, b = mean(*one, lam=lam), mean(*two, lam=lam)
    close(found.value, a.value - b.value)
    close(found.std_error**2, a.std_error**2 + b.std_error**2)
    close(found.lam, [a.lam, b.lam])
    assert (found.n, found.m) == (65, 500)
    worth = np.var(one[0], ddof=1) / 40 + np.var(two[0], ddof=1) / 25
    close(found.effective_n, 65 * worth / found.std_error**2)
    assert found.names is None
    assert isinstance(found.value, float)


def test_degrees_of_freedom_are_satterthwaites_over_all_four_samples():
    (Y, f, u), (Z, g, v) = two_groups(3)
    found = difference(Y, f, u, Z, g, v, lam=1.0)
    parts = [(np.var(a, ddof=1) / len(a), len(a) - 1) for a in (Y - f, u, Z - g, v)]
    total = sum(variance for variance, _ in parts)
    df = total**2 / sum(variance**2 / freedom for variance, freedom in parts)
    close(found.df, df)
    reach = stats.t.ppf(0.975, df) * np.sqrt(total)
    close(found.interval, (found.value - reach, found.value + reach))


def test_a_lam_for_each_group():
    one, two = two_groups(4)
    found = difference(*one, *two, lam=[0.2, 0.9])
    close(found.value, mean(*one, lam=0.2).value - mean(*two, lam=0.9).value)
    assert found.lam.tolist() == [0.2, 0.9]


def test_each_group_has_its_own_sample_and_folds():
    rng = np.random.default_rng(5)
    one, two = group(rng, 40, 300, models=2), group(rng, 30, 200, models=3)
    first = {"sample": Sample(weights=rng.random(40)), "sample_unlabeled": Sample(weights=rng.random(300))}
    second = {"sample": Sample(clusters=np.arange(30) // 3), "sample_unlabeled": Sample(clusters=np.arange(200) // 4)}
    folds, folds_other = np.arange(40) % 2, np.arange(30) // 3 % 3
    found = difference(
        *one,
        *two,
        folds=folds,
        **first,
        folds_other=folds_other,
        sample_other=second["sample"],
        sample_unlabeled_other=second["sample_unlabeled"],
        lam_range=(0, 0.5),
        quantiles="normal",
        alpha=0.2,
    )
    common = {"lam_range": (0, 0.5), "quantiles": "normal", "alpha": 0.2}
    a, b = mean(*one, folds=folds, **first, **common), mean(*two, folds=folds_other, **second, **common)
    close([found.value, found.std_error], [a.value - b.value, np.hypot(a.std_error, b.std_error)])
    assert found.df == np.inf
    close(found.length, 2 * stats.norm.ppf(0.9) * found.std_error)


def test_finite_populations():
    one, two = two_groups(6)
    found = difference(*one, *two, lam=1.0, population="finite")
    a, b = mean(*one, lam=1.0, population="finite"), mean(*two, lam=1.0, population="finite")
    close(found.std_error, np.hypot(a.std_error, b.std_error))


@quick
@given(st.integers(0, 10**6), st.sampled_from(["two-sided", "larger", "smaller"]))
def test_swapping_the_groups_turns_the_sign(seed, alternative):
    one, two = two_groups(seed)
    turned = {"two-sided": "two-sided", "larger": "smaller", "smaller": "larger"}[alternative]
    there, back = difference(*one, *two, alternative=alternative), difference(*two, *one, alternative=turned)
    close(there.value, -back.value)
    close(there.interval, (-back.interval[1], -back.interval[0]))
    close([there.p_value, there.df], [back.p_value, back.df])


@quick
@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-100, 100))
def test_scale_and_common_shift(seed, scale, shift):
    one, two = two_groups(seed)
    plain = difference(*one, *two)
    moved = difference(*(shift + scale * a for a in one), *(shift + scale * a for a in two))
    close(moved.value, scale * plain.value, 1e-8)
    close(moved.interval, np.multiply(scale, plain.interval), 1e-7)


# ------------------------------------------------------------------------------------------- paired


def test_paired_is_the_mean_of_the_differences():
    rng = np.random.default_rng(7)
    (Y, f, u), (Z, g, v) = group(rng, 30, 100, models=2), group(rng, 30, 100, -0.5, models=2)
    fold = np.arange(30) % 2
    found = difference(Y, f, u, Z, g, v, paired=True, folds=fold, alpha=0.1)
    expected = mean(Y - Z, f - g, u - v, folds=fold, alpha=0.1)
    assert {**found.to_dict(), "target": "mean"} == expected.to_dict()
    bootstrap = {"bootstrap": Bootstrap(replications=99), "alpha": 0.1}
    assert (
        difference(Y, f, u, Z, g, v, paired=True, **bootstrap).interval
        == mean(Y - Z, f - g, u - v, **bootstrap).interval
    )


@pytest.mark.parametrize(
    ("changed", "extra", "message"),
    [
        ({3: [1.0]}, {}, r"'Y_other' must have at least 2 rows; got 1\."),
        ({3: [1.0, 2.0, 3.0]}, {}, r"'Y_other' must have the shape of 'Y' with paired=True, \(2,\); got \(3,\)\."),
        ({4: [[1.0], [2.0]]}, {}, r"'Yhat_other' must have the shape of 'Yhat' with paired=True, \(2,\); got \(2, 1\)"),
        ({5: [1.0]}, {}, r"'Yhat_unlabeled_other' must have the shape of 'Yhat_unlabeled' with paired=True"),
        ({1: [1.0, np.nan]}, {}, r"'Yhat' must be finite; got nan at position 1\."),
        ({4: [1.0, np.nan]}, {}, r"'Yhat_other' must be finite; got nan at position 1\."),
        ({2: [np.nan, 1.0, 1.0]}, {}, r"'Yhat_unlabeled' must be finite; got nan at position 0\."),
        ({5: [np.nan, 1.0, 1.0]}, {}, r"'Yhat_unlabeled_other' must be finite; got nan at position 0\."),
        ({}, {"sample_other": Sample()}, r"'sample_other' has no meaning with paired=True: the rows are the same\."),
        ({}, {"sample_unlabeled_other": Sample()}, r"'sample_unlabeled_other' has no meaning with paired=True"),
        ({}, {"folds_other": [0, 0]}, r"'folds_other' has no meaning with paired=True"),
    ],
)
def test_paired_errors(changed, extra, message):
    arguments = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0]] * 2
    for place, value in changed.items():
        arguments[place] = value
    with pytest.raises(InputError, match=message):
        difference(*arguments, paired=True, **extra)


# ------------------------------------------------------------------------------------------- edges and errors


def test_texts_say_which_group():
    one, two = two_groups(8)
    found = difference(*one, two[0], 0 * two[1], [])
    assert found.warnings[0] == ("second: 0 unlabelled row(s) cannot carry predictions: this is the classical estimate")
    assert "second: only 25 labels: the interval is rough below 30" in found.warnings
    assert "second: the predictions are constant: the model adds nothing to the labels" in found.warnings
    assert [text for text in found.warnings if text.startswith("first: ")] == [
        "first: " + t for t in mean(*one).warnings
    ]
    texts = [check["text"] for check in found.diagnostics["checks"]]
    assert texts[0] == "first: 40 labels"
    assert all(text.startswith(("first: ", "second: ")) for text in texts)
    assert found.state == "WARN"
    assert (found.diagnostics["r2"], found.diagnostics["calibration_slope"]) == (None, None)


def test_constant_groups():
    found = difference([1.0] * 3, [1.0] * 3, [1.0] * 4, [3.0] * 3, [3.0] * 3, [3.0] * 4)
    assert (found.value, found.std_error, found.effective_n) == (-2.0, 0.0, 6.0)
    assert (found.interval, found.p_value) == ((-2.0, -2.0), 0.0)
    found = difference([1.0] * 3, [1.0] * 3, [], [3.0, 4.0, 5.0], [0.0] * 3, [])
    close([found.std_error, found.df, found.effective_n], [np.sqrt(1 / 3), 2, 6])


def test_a_group_without_any_variance_left_counts_as_its_labels_do_now():
    found = difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0] * 4, [1.0, 3.0, 8.0], [0.0] * 3, [], lam=[1.0, 0.0])
    assert found.std_error == pytest.approx(np.std([1, 3, 8], ddof=1) / np.sqrt(3))
    assert found.effective_n == pytest.approx(6)


@pytest.mark.parametrize(
    ("one", "two", "cluster"),
    [
        ({"sample": Sample(clusters=["b", "a", "c"])}, {"sample_other": Sample(clusters=["d", "a", "b"])}, "a"),
        (
            {"sample_unlabeled": Sample(clusters=[1, 2, 3, 4])},
            {"sample_unlabeled_other": Sample(clusters=[4, 5, 6, 7])},
            "4",
        ),
        ({"sample": Sample(clusters=[1, 2, 3])}, {"sample_unlabeled_other": Sample(clusters=[3, 5, 6, 7])}, "3"),
    ],
)
def test_a_cluster_in_both_groups(one, two, cluster):
    rows = ([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 5.0])
    with pytest.raises(InputError) as raised:
        difference(*rows, *rows, **one, **two)
    assert str(raised.value) == (
        f"cluster '{cluster}' lies in both groups, so their means are not independent. — "
        "take paired=True where rows pair up, else ols with a column for the group"
    )


def test_errors_say_which_group():
    rows = ([1.0, 2.0], [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(
        InputError, match=r"'Y' must be finite; got nan at position 1\. \(first group\) — drop that row"
    ):
        difference([1.0, np.nan], *rows[1:], *rows)
    with pytest.raises(InputError, match=r"'Yhat' must have as many rows as 'Y' \(2\); got 1\. \(second group\)"):
        difference(*rows, rows[0], [1.0], rows[2])
    with pytest.raises(StatisticalRefusal, match=r"stratum 's' has one sampling unit.*\(second group\) — merge it"):
        difference(*rows, *rows, sample_other=Sample(strata=["s", "t"]))
    with pytest.raises(InputError, match=r"^'bootstrap' goes with paired=True only\. — take the t interval"):
        difference(*rows, *rows, bootstrap=Bootstrap())
    with pytest.raises(InputError, match=r"'lam' must have one entry a group \(2\); got 3\."):
        difference(*rows, *rows, lam=[0.1, 0.2, 0.3])
    with pytest.raises(InputError, match=r"'alpha' must be in \(0, 1\); got 2\."):
        difference(*rows, *rows, alpha=2)
    with pytest.raises(InputError, match=r"'null' must have one entry a coordinate \(1\); got 2\."):
        difference(*rows, *rows, null=[0.0, 1.0])


@pytest.mark.parametrize("lam", [1.0, "tuned"])
@pytest.mark.parametrize("paired", [False, True])
def test_intervals_cover(lam, paired):
    rng = np.random.default_rng(9)
    repetitions, hits = 1200, 0
    for _ in range(repetitions):
        one = group(rng, 60, 400, 1.0)
        two = group(rng, 60, 400, 0.5, 2.0) if paired else group(rng, 35, 100, 0.5, 2.0)
        low, high = difference(*one, *two, lam=lam, paired=paired, alpha=0.1).interval
        hits += low <= 0.5 <= high
    assert hits / repetitions == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / repetitions))
