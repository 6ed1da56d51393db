"""Designs beyond the classical table: sequential, rotation, finite populations, doubt, choices; by brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.allocation import MeasuredCurve, ScalingLaw, fit_scaling_law, plan
from ftrect_ray.allocation.fitting import LawFit
from ftrect_ray.errors import InputError

WINE, WINE_VARIANCE = ScalingLaw(16.86, 0.553, 2.754), 9.57
SIZES = np.repeat([50, 100, 200, 400], 2)
laws = st.builds(ScalingLaw, st.floats(0.01, 100), st.floats(0.05, 2), st.floats(0, 10))


def noisy(seed: int, noise: float = 0.03, sizes: np.ndarray = SIZES) -> LawFit:
    rng = np.random.default_rng(seed)
    return fit_scaling_law(sizes, WINE.variance(sizes) * (1 + noise * rng.normal(size=len(sizes))), seed=seed)


def sequential_by_loops(
    law: ScalingLaw, n: int, variance: float, texts: float, zero_shot: float, batches: int
) -> float:
    """Every first batch, one after the other."""
    best, lams = np.inf, np.linspace(0, 1, 2001)
    for first in range(10, n - 10 * (batches - 1) + 1):
        ends = [round(first * (n / first) ** (step / (batches - 1))) for step in range(batches - 1)] + [n]
        rows, lefts, before = [], [], 0
        for batch, end in enumerate(ends):
            lefts.append(min(zero_shot if batch == 0 else law.variance(before), variance))
            rows.append(end - before)
            before = end
        own, left = np.array(rows), np.array(lefts)
        shares = (own / left) / sum(own / left)
        of_labels = [(shares**2 * (variance - (2 * lam - lam**2) * (variance - left)) / own).sum() for lam in lams]
        best = min(best, (of_labels + lams**2 * (shares @ (variance - left)) / texts).min(), variance / n)
    return best


@settings(deadline=None, max_examples=25)
@given(laws, st.integers(20, 150), st.floats(0.1, 50), st.integers(1, 5000), st.integers(3, 6), st.floats(0.1, 2))
def test_sequential_is_the_best_of_all_first_batches(law, n, variance, texts, batches, share):
    given_ = share * variance
    made = plan(law, labels=n, unlabeled=texts, variance=variance, rectify_variance=given_, batches=batches)[
        "sequential"
    ]
    if n - 10 * (batches - 1) < 10:
        assert made.unavailable == f"{n} labels leave fewer than 10 to rectify after 10 for training"
        return
    assert made.variance == pytest.approx(sequential_by_loops(law, n, variance, texts, given_, batches), rel=1e-4)
    assert made.finetunes == len(made.sizes) == batches - 1
    assert list(made.sizes) == sorted(made.sizes)
    assert made.n_finetune == made.sizes[-1] < n


def test_a_perfect_model_leaves_sequential_a_variance_above_none():
    for b in (1e-15, 1e-16, 1e-300):
        made = plan(ScalingLaw(b, 0.5, 0.0), labels=100, variance=1.0)
        assert 0 < made["sequential"].variance < 1e-13
    for texts in (50, 5000):  # Var(f)/m is what is left
        perfect, nearly = (
            plan(ScalingLaw(a, 0.5, 0.0), labels=100, unlabeled=texts, variance=1.0)["sequential"].variance
            for a in (1e-16, 1e-7)
        )
        assert perfect == pytest.approx(nearly, rel=1e-4)


def test_sequential_lies_between_recycling_and_cross_fitting():
    made = plan(WINE, labels=500, unlabeled=14500, variance=WINE_VARIANCE, batches=6)
    assert made["crossfit-5"].variance < made["sequential"].variance < made["recycle"].variance


@settings(deadline=None)
@given(laws, st.integers(40, 2000), st.integers(2, 12), st.integers(1, 11), st.integers(1, 20000))
def test_rotation_is_the_law_at_its_training_labels(law, n, folds, train, texts):
    if train >= folds:
        with pytest.raises(InputError, match=r"'rotations' must be \(p, q\) with p < q"):
            plan(law, labels=n, rotations=[(train, folds)])
        return
    made = plan(law, labels=n, unlabeled=texts, variance=5.0, rotations=[(train, folds)], folds=(folds,))
    turned, left = made[f"rotation-{train}-{folds}"], min(law.variance(train * n / folds), 5.0)
    if n < 10 * folds:
        assert turned.unavailable == f"{n} labels are too few for {folds} folds of 10"
        return
    assert turned.variance == pytest.approx(left / n + (5.0 - left) / (texts + n))
    assert turned.finetunes == folds
    if train == folds - 1:
        assert turned.variance == made[f"crossfit-{folds}"].variance


def test_no_array_of_a_grid_hides_a_better_whole_split():
    law = ScalingLaw(287.0, 0.8, 0.3)
    n, s = 60_000, np.arange(10, 60_000 - 1)
    criterion = law.variance(s) / (n - s)
    made = plan(law, labels=n)["split"]
    assert made.n_finetune == s[np.argmin(criterion)]
    assert made.variance == pytest.approx(criterion.min(), rel=1e-12)


# ------------------------------------------------------------------------------------------- finite population


def test_a_finite_population_takes_its_share_off_and_pays_no_imputed_mean():
    n, m = 500, 4500
    made = plan(WINE, labels=n, unlabeled=m, variance=WINE_VARIANCE, rectify_variance=4.0, population="finite")
    unseen = 1 - n / (n + m)
    assert made["classical"].variance == pytest.approx(unseen * WINE_VARIANCE / n)
    assert made["rectify-only"].variance == pytest.approx(unseen * 4.0 / n)
    assert made["crossfit-5"].variance == pytest.approx(unseen * WINE.variance(400) / n)
    fewer = (1 - made["crossfit-5"].saved) * n  # of a design that needs so few labels the sample mean's precision is
    ratio = WINE.variance(400) / WINE_VARIANCE
    assert ratio * (1 / fewer - 1 / (n + m)) == pytest.approx(1 / n - 1 / (n + m))
    split = made["split"]
    rectifying = n - split.n_finetune
    assert split.variance == pytest.approx((1 - rectifying / (n + m)) * WINE.variance(split.n_finetune) / rectifying)
    for name in ("recycle", "sequential"):
        assert made[name].unavailable == "its labels weigh unequally, which does not go with a finite population"


def test_finite_variances_are_those_of_samples_from_a_table():
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    f = 0.8 * y + 0.3 * rng.normal(size=400)
    slope = np.cov(y, f)[0, 1] / f.var(ddof=1)
    f, left = slope * f, (y - slope * f).var(ddof=1)  # calibrated
    errors = []
    for _ in range(4000):
        rows = rng.choice(400, 100, replace=False)
        errors.append(f.mean() + (y - f)[rows].mean() - y.mean())
    law = ScalingLaw(1e-9, 1.0, left)
    made = plan(law, labels=100, unlabeled=300, variance=y.var(ddof=1), folds=(5,), population="finite")
    assert np.var(errors) == pytest.approx(made["crossfit-5"].variance, rel=4 * np.sqrt(2 / 4000))


@pytest.mark.parametrize("m", [None, 0])
def test_a_finite_population_needs_its_texts(m):
    with pytest.raises(InputError, match="a finite population needs 'unlabeled'"):
        plan(WINE, labels=50, unlabeled=m, variance=1.0, population="finite")
    with pytest.raises(InputError, match="'population' must be 'infinite' or 'finite'; got 'small'"):
        plan(WINE, labels=50, population="small")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- doubt


def test_the_range_is_that_of_the_draws():
    fit = noisy(0)
    made = plan(fit, labels=500, unlabeled=4500, variance=WINE_VARIANCE, folds=(5,), alpha=0.1)["crossfit-5"]
    left = np.minimum([ScalingLaw(*draw).variance(400) for draw in fit.draws.tolist()], WINE_VARIANCE)
    variances = left / 500 + (WINE_VARIANCE - left) / 5000
    lengths = 2 * 1.6448536269514722 * np.sqrt(np.percentile(variances, [2.5, 97.5]))
    assert made.interval_length_range == pytest.approx(tuple(lengths))
    assert lengths[0] < made.interval_length < lengths[1]
    saved = 1 - np.percentile(variances, [97.5, 2.5]) / (WINE_VARIANCE / 500)
    assert made.saved_range == pytest.approx(tuple(saved))


def test_ranges_cover_the_true_lengths():
    truth = plan(WINE, labels=500, unlabeled=4500, variance=WINE_VARIANCE)
    names, repetitions = ("split", "recycle", "sequential", "crossfit-2", "crossfit-5"), 120
    hits = dict.fromkeys(names, 0)
    for seed in range(repetitions):
        made = plan(noisy(seed).curve, labels=500, unlabeled=4500, variance=WINE_VARIANCE, folds=(2, 5))
        for name in names:
            low, high = made[name].interval_length_range
            hits[name] += low <= truth[name].interval_length <= high
    for name in names:
        assert hits[name] / repetitions >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / repetitions), hits


def test_no_doubt_is_told_where_none_is_known():
    made = plan(WINE, labels=500, variance=WINE_VARIANCE, rectify_variance=4.0)
    assert all(design.interval_length_range is None and design.saved_range is None for design in made.designs)
    doubtful = plan(noisy(0), labels=500, variance=WINE_VARIANCE, rectify_variance=4.0)
    known = {design.name for design in doubtful.designs if design.interval_length_range is None}
    assert known == {"classical", "rectify-only"}
    assert "95 % range" in str(doubtful)
    assert "95 % range" not in str(made)


# ------------------------------------------------------------------------------------------- measured levels


def test_an_unidentified_fit_is_planned_from_its_measurements():
    fit = fit_scaling_law([50, 100, 200], WINE.variance(np.array([50, 100, 200])))
    assert fit.status == "unidentified"
    made = plan(fit, labels=500, unlabeled=14500, variance=WINE_VARIANCE)
    assert made.law is None
    assert json.loads(json.dumps(made.to_dict(), allow_nan=False))["curve"]["kind"] == "measured"
    level = WINE.variance(200)
    assert made["crossfit-2"].variance == made["crossfit-10"].variance
    assert made["crossfit-2"].variance == pytest.approx(level / 500 + (WINE_VARIANCE - level) / 15000)
    assert 50 <= made["split"].n_finetune <= 200
    few = plan(fit, labels=80, variance=WINE_VARIANCE)
    assert few["crossfit-2"].unavailable == (
        "its models would have 40 labels; no law is identified and no pilot had fewer than 50"
    )
    assert few["crossfit-5"].variance is not None


def test_beyond_the_largest_pilot_more_labels_are_taken_and_no_gain_is_promised():
    fit = fit_scaling_law([50, 100, 200], WINE.variance(np.array([50, 100, 200])))
    made = plan(fit, labels=500, unlabeled=14500, variance=WINE_VARIANCE)
    assert made.choose(max_finetunes=2).name == "crossfit-2"
    chosen = made.choose()
    assert chosen.name == "crossfit-5"
    assert chosen.note.endswith("; beyond 200 labels nothing was measured, and no gain is promised")


@pytest.mark.parametrize("variances", [(3.0, 3.01, 2.99, 3.0), (3.0, 3.3, 3.6, 4.0)])
def test_flat_and_rising_curves_promise_no_gain_of_larger_fine_tunes(variances):
    fit = fit_scaling_law([50, 100, 200, 400], variances)
    assert fit.status in ("flat", "rising")
    made = plan(fit, labels=600, unlabeled=10_000, variance=5.0)
    assert made["split"].n_finetune == 50
    assert made["crossfit-2"].variance == made["crossfit-10"].variance
    assert made.choose().name == "crossfit-2"
    if fit.status == "rising":
        assert made["crossfit-2"].variance == pytest.approx(4.0 / 600 + 1.0 / 10_600)


def test_a_measured_curve_can_be_given():
    curve = MeasuredCurve(np.array([50.0, 200.0]), np.array([4.0, 3.0]), np.empty((0, 2)))
    assert plan(curve, labels=100, variance=6.0)["crossfit-2"].variance == pytest.approx(0.04)


# ------------------------------------------------------------------------------------------- choice


def test_one_percent_is_not_worth_more_fine_tunes():
    made = plan(WINE, labels=500, unlabeled=14500, variance=WINE_VARIANCE)
    best = min(design.variance for design in made.designs if design.variance is not None)
    chosen = made.choose()
    cheaper = [d for d in made.designs if d.variance is not None and d.finetunes < chosen.finetunes]
    assert chosen.variance <= 1.01 * best
    assert all(design.variance > 1.01 * best for design in cheaper)
    assert chosen.note.startswith("predicted variance 0.007122, within 1 % of the smallest, with fewer fine-tunes; ")


@settings(deadline=None, max_examples=60)
@given(laws, st.integers(30, 3000), st.floats(0.1, 50), st.integers(1, 20000))
def test_the_choice_is_never_predicted_to_lose_to_the_mean(law, n, variance, texts):
    made = plan(law, labels=n, unlabeled=texts, variance=variance)
    assert made.choose().variance <= variance / n * (1 + 1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": 2}, "'batches' must be a whole number ≥ 3; got 2."),
        ({"rotations": [(0, 3)]}, "'rotations' must be a whole number ≥ 1; got 0."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError) as caught:
        plan(WINE, labels=100, **arguments)
    assert caught.value.what == message
