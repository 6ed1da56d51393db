"""Fitting the law: exact recovery, an independent optimiser, honest statuses."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from ftrect_ray.allocation import ScalingLaw, fit_scaling_law, s_star, s_star_interval
from ftrect_ray.allocation.fitting import ALPHA_RANGE
from ftrect_ray.errors import InputError

SIZES = np.array([50, 100, 200, 300, 500, 700])
LAWS = [(10.21, 0.21, 1.98), (16.86, 0.553, 2.754), (11.403, 0.261, 2.447), (0.287, 0.297, 0.042), (5.0, 1.2, 0.0)]


@pytest.mark.parametrize("parameters", LAWS)
def test_exact_curves_are_recovered(parameters):
    fit = fit_scaling_law(SIZES, ScalingLaw(*parameters).variance(SIZES))
    np.testing.assert_allclose([fit.law.a, fit.law.alpha, fit.law.b], parameters, rtol=1e-5, atol=1e-6)
    assert fit.status == "identified"
    assert fit.r2 == pytest.approx(1)


def noisy(seed, sizes=SIZES, repeats=3, noise=0.03, parameters=LAWS[1]):
    rng = np.random.default_rng(seed)
    s = np.repeat(sizes, repeats)
    return s, ScalingLaw(*parameters).variance(s) * (1 + noise * rng.normal(size=len(s)))


@pytest.mark.parametrize("seed", range(8))
def test_no_starting_value_of_another_optimiser_does_better(seed):
    s, v = noisy(seed)
    w = np.random.default_rng(seed).uniform(0.5, 2, len(s))
    fit = fit_scaling_law(s, v, weights=w, bootstrap=0)
    ours = np.sum(w * (v - fit.law.variance(s)) ** 2)
    best = min(
        2 * least_squares(
            lambda p: np.sqrt(w) * (v - p[0] * (s / 50) ** -p[1] - p[2]),
            start,
            bounds=([0, ALPHA_RANGE[0], 0], [np.inf, ALPHA_RANGE[1], np.inf]),
            xtol=1e-14, ftol=1e-14, gtol=1e-14,
        ).cost
        for start in ((1, 0.2, 1), (5, 0.5, 3), (1, 1.5, 0.1))
    )  # fmt: skip
    assert ours <= best * (1 + 1e-7)


def test_weights_are_relative():
    s, v = noisy(0)
    w = np.linspace(1, 3, len(s))
    one, other = fit_scaling_law(s, v, weights=w), fit_scaling_law(s, v, weights=100 * w)
    assert one.law.to_dict() == pytest.approx(other.law.to_dict(), rel=1e-6)
    doubled = fit_scaling_law(np.r_[s, s], np.r_[v, v], bootstrap=0)
    assert doubled.law.to_dict() == pytest.approx(
        fit_scaling_law(s, v, weights=np.full(len(s), 2.0)).law.to_dict(), rel=1e-6
    )


@settings(deadline=None, max_examples=30)
@given(st.floats(0.01, 100), st.floats(0.1, 1.5), st.floats(0, 10), st.floats(0.01, 100))
def test_units_of_the_answer(a, alpha, b, unit):
    law = ScalingLaw(a, alpha, b)
    one = fit_scaling_law(SIZES, law.variance(SIZES), bootstrap=0)
    other = fit_scaling_law(SIZES, unit**2 * law.variance(SIZES), bootstrap=0)
    np.testing.assert_allclose(other.law.variance(SIZES), unit**2 * one.law.variance(SIZES), rtol=1e-5)
    assert one.status == other.status


def test_the_same_seed_gives_the_same_intervals():
    s, v = noisy(1)
    assert fit_scaling_law(s, v, seed=3).intervals == fit_scaling_law(s, v, seed=3).intervals
    assert fit_scaling_law(s, v, seed=3).intervals != fit_scaling_law(s, v, seed=4).intervals


def test_intervals_of_s_star_cover():
    truth, hits, repetitions = s_star(ScalingLaw(*LAWS[1]), 500), 0, 80
    for seed in range(repetitions):
        low, high = s_star_interval(fit_scaling_law(*noisy(seed), bootstrap=150), 500)
        hits += low <= truth <= high
    assert hits / repetitions >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / repetitions)


# ------------------------------------------------------------------------------------------- counts, replicates


@pytest.mark.parametrize("seed", range(5))
def test_counts_weigh_by_the_variance_of_a_variance(seed):
    """At the settled fit, no other parameters have a smaller weighted sum with that fit's own weights."""
    s, v = noisy(seed, noise=0.1)
    n = np.random.default_rng(seed).integers(20, 400, len(s))
    law = fit_scaling_law(s, v, counts=n, bootstrap=0).law
    w = (n - 1) / law.variance(s) ** 2
    again = fit_scaling_law(s, v, weights=w, bootstrap=0).law
    np.testing.assert_allclose(again.variance(s), law.variance(s), rtol=2e-4)
    ignorant = fit_scaling_law(s, v, bootstrap=0).law
    assert not np.allclose(ignorant.variance(s), law.variance(s), rtol=1e-3)


def test_named_weights_tell_the_noise_that_counts_tell():
    """The doubt is large where the weights are small, whichever way they are given."""
    law, s, n = ScalingLaw(*LAWS[1]), np.repeat([50, 100, 200, 400, 800], 2), np.repeat([2000, 900, 300, 100, 40], 2)
    widths: dict[str, list[np.ndarray]] = {"counts": [], "weights": []}
    for seed in range(20):
        v = law.variance(s) * np.random.default_rng(seed).chisquare(n - 1) / (n - 1)
        for name, said in (("counts", n), ("weights", (n - 1) / law.variance(s) ** 2)):
            draws = fit_scaling_law(s, v, **{name: said}).curve.draws_at(np.array([50.0, 800.0]))
            widths[name].append(np.diff(np.percentile(draws, [2.5, 97.5], axis=0), axis=0)[0])
    counted, named = (np.mean(found, axis=0) for found in widths.values())
    np.testing.assert_allclose(named, counted, rtol=0.15)
    assert counted[1] > 2 * counted[0]


def test_counted_fits_err_less():
    s, n = np.repeat([50, 100, 200, 400], 4), np.tile([20, 40, 80, 800], 4)
    law, errors = ScalingLaw(*LAWS[1]), {True: [], False: []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        v = law.variance(s) * rng.chisquare(n - 1) / (n - 1)
        for counted in errors:
            fit = fit_scaling_law(s, v, counts=n if counted else None, bootstrap=0).law
            errors[counted].append(fit.variance(250) - law.variance(250))
    assert np.mean(np.square(errors[True])) < 0.5 * np.mean(np.square(errors[False]))


def test_three_counted_pilots_have_intervals():
    s, v = np.array([50, 100, 200]), ScalingLaw(*LAWS[1]).variance(np.array([50, 100, 200]))
    assert fit_scaling_law(s, v).intervals["alpha"] is None
    wide, narrow = (fit_scaling_law(s, v, counts=[n] * 3, seed=1) for n in (40, 40_000))
    assert wide.status == "unidentified"
    low, high = narrow.intervals["alpha"]
    assert low < 0.553 < high
    assert high - low < 0.8


def test_replicates_are_the_doubt():
    """Pilots that were measured on the same rows err together: a common factor moves a and b, and leaves α alone."""
    s = SIZES
    v = ScalingLaw(*LAWS[1]).variance(s)
    factor = 1 + 0.1 * np.random.default_rng(0).normal(size=(200, 1))
    fit = fit_scaling_law(s, v, replicates=factor * v)
    assert fit.intervals["alpha"] == pytest.approx((0.553, 0.553), rel=1e-4)
    low, high = fit.intervals["b"]
    assert (low, high) == pytest.approx(2.754 * np.percentile(factor, [2.5, 97.5]), rel=1e-3)
    assert len(fit.draws) == 200
    assert fit.status == "identified"


def test_replicates_tell_a_small_slope_from_noise():
    s, v = np.array([50, 100, 150, 200]), np.array([3.00, 2.93, 2.94, 2.88])
    rng = np.random.default_rng(0)
    common = 1 + 0.1 * rng.normal(size=(300, 1))
    together = v * common * (1 + 0.001 * rng.normal(size=(300, 4)))
    apart = v * (1 + 0.1 * rng.normal(size=(300, 4)))
    assert fit_scaling_law(s, v, replicates=together).status != "flat"
    assert fit_scaling_law(s, v, replicates=apart).status == "flat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": [50, 60]}, "'counts' must have one entry a pilot (3); got 2."),
        ({"counts": [50, 60, 1]}, "'counts' must be ≥ 2; got 1 at position 2."),
        ({"counts": [50] * 3, "weights": [1.0] * 3}, "'counts' and 'weights' cannot both be given: the counts make "),
        ({"replicates": [[3.0, 2.0]] * 4}, "'replicates' must have shape (B, 3) with B ≥ 2; got (4, 2)."),
        ({"replicates": [[3.0, 2.0, 1.0]]}, "'replicates' must have shape (B, 3) with B ≥ 2; got (1, 3)."),
        ({"replicates": [[3.0, 2.0, 1.0], [3.0, -2.0, 1]]}, "'replicates' must be ≥ 0; got -2 at position (1, 1)."),
        (
            {"replicates": [[3.0, 2.0, 1.0], [3.0, np.nan, 1]]},
            "'replicates' must be finite; got nan at position (1, 1)",
        ),
    ],
)
def test_bad_counts_and_replicates(arguments, message):
    with pytest.raises(InputError) as caught:
        fit_scaling_law([50, 100, 200], [3.0, 2.5, 2.2], **arguments)
    assert caught.value.what.startswith(message)


# ------------------------------------------------------------------------------------------- statuses


def test_flat():
    rng = np.random.default_rng(0)
    s = np.repeat([50, 100, 200], 2)
    v = 3 * (1 + 0.01 * rng.normal(size=6))
    fit = fit_scaling_law(s, v)
    assert fit.status == "flat"
    assert fit.reason.endswith("from 50 to 200 labels, no more than noise")
    assert fit.law.variance(1000) == pytest.approx(v.mean(), rel=1e-6)
    assert s_star(fit.law, 1000) < 1
    assert s_star_interval(fit, 1000) is None


def test_equal_variances_have_no_r2():
    fit = fit_scaling_law([50, 100, 200], [2.0, 2.0, 2.0])
    assert fit.status == "flat"
    assert fit.r2 is None


def test_rising():
    fit = fit_scaling_law([50, 100, 200, 400], [2.0, 2.2, 2.4, 2.6])
    assert fit.status == "rising"
    assert fit.reason == "the residual variance rises by 26.1 % from 50 to 400 labels"
    assert fit.law.variance(100) == pytest.approx(2.6, rel=1e-6)


def test_one_size_is_constant():
    fit = fit_scaling_law([80, 80, 80], [2.0, 2.5, 3.0])
    assert fit.status == "unidentified"
    assert fit.reason == "all pilots have 80 labels; how the variance falls with more of them is unknown"
    assert fit.law.variance(300) == pytest.approx(2.5, rel=1e-6)
    assert fit.intervals == {"a": None, "alpha": None, "b": None}


def test_two_sizes_fix_alpha():
    law = ScalingLaw(8, 0.5, 1.5)
    fit = fit_scaling_law([50, 200], law.variance(np.array([50, 200])))
    assert fit.status == "unidentified"
    assert fit.reason == "two sizes cannot tell three parameters; α is fixed at 0.5"
    assert [fit.law.a, fit.law.alpha, fit.law.b] == pytest.approx([8, 0.5, 1.5])
    repeated = fit_scaling_law([50, 50, 200, 200], [2.7, 2.8, 2.0, 2.1])
    assert repeated.intervals["alpha"] == (0.5, 0.5)
    assert repeated.intervals["b"] is not None


def test_three_pilots_pass_through_but_do_not_identify():
    fit = fit_scaling_law([50, 100, 200], ScalingLaw(*LAWS[1]).variance(np.array([50, 100, 200])))
    assert fit.status == "unidentified"
    assert fit.reason.startswith("as many parameters as pilots")
    assert fit.law.variance(100) == pytest.approx(ScalingLaw(*LAWS[1]).variance(100), rel=1e-6)


def test_alpha_at_its_bound_is_unidentified():
    fit = fit_scaling_law([50, 100, 200, 400], [9.0, 3.0, 2.99, 2.98])
    assert fit.status == "unidentified"
    assert fit.reason == "α ends at the bound 2 of its range; the law holds from 50 to 400 labels and is a guess beyond"


def test_alpha_towards_0_is_unidentified():
    """A straight line in log s is the limit α → 0; the measured levels are planned with instead."""
    s = np.array([50, 100, 200, 400, 800])
    fit = fit_scaling_law(s, 5 - 0.1 * np.log(s))
    assert fit.status == "unidentified"
    assert fit.reason.startswith("α ends at the bound 0.05 of its range")
    assert fit.curve.variance(800) == pytest.approx(5 - 0.1 * np.log(800))
    assert fit.curve.variance(5000) == fit.curve.variance(800)


def test_b_is_never_below_0():
    s = np.array([50, 100, 200, 400, 800])
    fit = fit_scaling_law(s, 20 * s**-0.5 - 0.5)
    assert fit.law.b == 0
    assert (fit.draws[:, 2] >= 0).all()
    assert (fit.draws[:, 0] > 0).all()


def test_a_law_that_anything_fits_is_unidentified():
    s, v = noisy(2, sizes=np.array([50, 70, 100]), repeats=2, noise=0.06)
    fit = fit_scaling_law(s, v)
    assert fit.status in ("unidentified", "flat")


# ------------------------------------------------------------------------------------------- refusals, output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "'sizes' must have at least one pilot; got 0."),
        (([50, 100], [1.0]), "'sizes', 'variances' and 'weights' must have one length; got 2, 1, 2."),
        (([50, 0], [1.0, 1.0]), "'sizes' must be > 0; got 0 at position 1."),
        (([50, 100], [1.0, -1.0]), "'variances' must be ≥ 0; got -1 at position 1."),
        (([50, 100], [1.0, np.nan]), "'variances' must be finite; got nan at position 1."),
        (([50, 100], [0.0, 0.0]), "'variances' must not all be 0."),
        ((["a", 100], [1.0, 1.0]), "'sizes' must hold numbers only."),
        (([[50, 100]], [1.0, 1.0]), "'sizes' must have 1 dimension; got shape (1, 2)."),
    ],
)
def test_bad_pilots(arguments, message):
    with pytest.raises(InputError) as caught:
        fit_scaling_law(*arguments)
    assert caught.value.what == message


def test_bad_settings():
    with pytest.raises(InputError, match=r"'alpha_range' must be \(low, high\) with 0 < low < high; got \(2, 1\)."):
        fit_scaling_law([50, 100], [2.0, 1.0], alpha_range=(2, 1))
    with pytest.raises(InputError, match="'bootstrap' must be a whole number ≥ 0; got -1."):
        fit_scaling_law([50, 100], [2.0, 1.0], bootstrap=-1)
    with pytest.raises(InputError, match="'weights' must be > 0; got 0 at position 0."):
        fit_scaling_law([50, 100], [2.0, 1.0], weights=[0, 1])


def test_serialises_and_prints():
    fit = fit_scaling_law(*noisy(0))
    told = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    assert told["law"] == fit.law.to_dict()
    assert told["intervals"]["alpha"] == list(fit.intervals["alpha"])
    assert told["status"] == "identified"
    assert len(told["sizes"]) == 18
    assert str(fit).startswith("v(s) = ")
