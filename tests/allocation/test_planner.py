"""The planner: METHOD's tables, the theorem on cross-fitting, choices and refusals."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ftrect_ray.allocation import ScalingLaw, feasibility, labels_for_half_width, optimal_split, plan
from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import mean

WINE, WINE_VARIANCE, WINE_TEXTS = ScalingLaw(16.86, 0.553, 2.754), 9.57, 15000
EMOBANK, EMOBANK_VARIANCE = ScalingLaw(0.287, 0.297, 0.042), 0.1216
FOLDS = {f"crossfit-{k}" for k in range(2, 11)}
laws = st.builds(ScalingLaw, st.floats(0.01, 100), st.floats(0.05, 2), st.floats(0, 10))


@pytest.mark.parametrize(
    ("budget", "percent"),
    [(300, (40, 59, 61, 62)), (500, (45, 61, 63, 63)), (700, (48, 61, 63, 63)), (1000, (49, 61, 62, 62))],
)
def test_published_savings(budget, percent):
    """The 15,000 texts hold the labelled ones. METHOD's numbers are of λ = 1; the best λ adds half a point at most."""
    texts = WINE_TEXTS - budget
    made = plan(WINE, labels=budget, unlabeled=texts, variance=WINE_VARIANCE, folds=(2, 5, 10))
    for name, published in zip(("split", "crossfit-2", "crossfit-5", "crossfit-10"), percent, strict=True):
        rows = budget - made[name].n_finetune if name == "split" else budget
        left = WINE.variance(made[name].n_finetune)
        full = 1 - (left / rows + (WINE_VARIANCE - left) / texts) / (WINE_VARIANCE / budget)
        assert round(100 * full) == published
        assert full < made[name].saved < full + 0.005


@pytest.mark.parametrize("texts", [60, 200, 1000])
def test_the_plan_prices_the_estimator_that_runs(texts):
    """Calibrated predictions of known R², few texts and many: the tuned estimate's variance over 4,000 studies."""
    rng, n, left = np.random.default_rng(1), 200, 0.4
    f = np.sqrt(1 - left) * rng.normal(size=(4000, n + texts))
    y = f[:, :n] + np.sqrt(left) * rng.normal(size=(4000, n))
    found = [mean(answers, own[:n], own[n:]).value for answers, own in zip(y, f, strict=True)]
    made = plan(ScalingLaw(1e-9, 1.0, left), labels=n, unlabeled=texts, variance=1.0, rectify_variance=left)
    assert np.var(found) == pytest.approx(made["rectify-only"].variance, rel=3 * np.sqrt(2 / 4000))


def test_emobank_cross_fitted_in_five_folds_wins_from_94_labels():
    saved = {n: plan(EMOBANK, labels=n, variance=EMOBANK_VARIANCE)["crossfit-5"].saved for n in range(80, 110)}
    assert [n for n, share in saved.items() if share > 0] == list(range(94, 110))


def test_emobank_single_split_wins_from_about_1204_labels():
    saved = [n for n in range(1100, 1300) if plan(EMOBANK, labels=n, variance=EMOBANK_VARIANCE)["split"].saved > 0]
    assert saved[0] == pytest.approx(1204, abs=5)


@settings(deadline=None)
@given(laws, st.integers(30, 3000), st.integers(100, 100_000), st.floats(0.05, 2), st.booleans())
def test_a_model_that_saves_less_than_a_hundredth_is_not_chosen(law, n, texts, given_, untrained):
    """Neither as the best one, nor as one that is nearly as good as the best."""
    sigma2 = 1.2 * law.variance(n)
    made = plan(law, labels=n, unlabeled=texts, variance=sigma2, rectify_variance=given_ * sigma2, untrained=untrained)
    for most in (0, 1, 2, None):
        chosen = made.choose(max_finetunes=most)
        assert chosen.name == "classical" or chosen.saved >= 0.01


@settings(deadline=None)
@given(laws, st.integers(30, 3000), st.integers(2, 10))
def test_theorem_cross_fitting_beats_every_single_split(law, n, folds):
    """K ≥ 1 + α: s* ≤ αn/(1 + α) ≤ (K − 1)n/K, the law falls, and 1/n < 1/(n − s)."""
    assume(folds >= 1 + law.alpha)
    made = plan(law, labels=n, folds=(folds,), minimum=1)
    every = law.variance(np.arange(1, n - 1)) / (n - np.arange(1, n - 1))
    assert made[f"crossfit-{folds}"].variance < every.min() * (1 + 1e-12)
    assert made["split"].variance == pytest.approx(every.min(), rel=1e-9)


@settings(deadline=None)
@given(laws, st.integers(30, 2000), st.floats(0.1, 50), st.integers(0, 20000), st.integers(0, 200))
def test_every_number_follows_its_formula(law, n, variance, texts, spent):
    made = plan(law, labels=n, unlabeled=texts, variance=variance, spent=spent, rectify_variance=0.5 * variance)

    def rectified(v, rows):
        v = min(v, variance)
        return v / rows + (variance - v) / (texts + rows)

    assert made["classical"].variance == pytest.approx(variance / n)
    assert made["rectify-only"].variance == pytest.approx(rectified(0.5 * variance, n))
    for k in (2, 5):
        if n < 10 * k:
            assert made[f"crossfit-{k}"].unavailable == f"{n} labels are too few for {k} folds of 10"
            continue
        assert made[f"crossfit-{k}"].variance == pytest.approx(rectified(law.variance((k - 1) * n / k), n))
        assert made[f"crossfit-{k}"].saved >= -1e-12
    least, split = max(spent, 10), "split-after-pilots" if spent else "split"
    if least > n - 10:
        told = f"{n} labels leave fewer than 10 to rectify after {least} for training"
        assert made["recycle"].unavailable == told
        assert made[split].variance is None
        return
    sizes = range(least, n - 9)
    splits = np.array([rectified(law.variance(s), n - s) for s in sizes])
    assert made[split].variance == pytest.approx(splits.min(), rel=1e-6)
    assert made[split].n_finetune >= least
    recycled = 1 / (np.array(sizes) / variance + 1 / splits)
    assert made["recycle"].variance == pytest.approx(recycled.min(), rel=1e-6)
    assert made["recycle"].variance <= made[split].variance


def test_recycling_is_three_to_twenty_four_percent_below_the_best_split():
    for law, variance, n in (
        (WINE, WINE_VARIANCE, 300),
        (WINE, WINE_VARIANCE, 1000),
        (EMOBANK, EMOBANK_VARIANCE, 2000),
    ):
        made = plan(law, labels=n, variance=variance)
        assert 0.03 < 1 - made["recycle"].variance / made["split"].variance < 0.24


def test_split_is_optimal_split():
    made = plan(WINE, labels=500, unlabeled=4500, variance=WINE_VARIANCE)["split"]
    split = optimal_split(WINE, 500, 4500, variance=WINE_VARIANCE)
    assert made.n_finetune == split.n_finetune
    assert made.variance == pytest.approx(split.variance)


def test_interval_length_follows_alpha():
    made = plan(WINE, labels=500, variance=WINE_VARIANCE, alpha=0.1)["classical"]
    assert made.interval_length == pytest.approx(2 * 1.6448536 * np.sqrt(WINE_VARIANCE / 500), rel=1e-7)
    assert made.std_error == pytest.approx(np.sqrt(WINE_VARIANCE / 500))


# ------------------------------------------------------------------------------------------- choices


def test_choice_obeys_the_cap():
    made = plan(WINE, labels=500, unlabeled=14500, variance=WINE_VARIANCE, folds=(2, 5), spent=100)
    assert made.choose().name == "crossfit-5"
    assert made.choose(max_finetunes=2).name == "crossfit-2"
    assert made.choose(max_finetunes=1).name == "recycle"
    assert (
        made.choose(max_finetunes=1, available=["split", "split-after-pilots", "classical"]).name
        == "split-after-pilots"
    )
    assert made.choose(max_finetunes=0).name == "classical"
    assert made.choose(max_finetunes=0).note == "do not fine-tune: no fine-tune is allowed or possible"
    note = made.choose(max_finetunes=2).note
    assert note.startswith("smallest predicted variance with at most 2 fine-tunes, 0.007501; next recycle, 0.0")
    assert note.endswith("61 % of the labels saved")


def test_split_may_be_chosen_where_nothing_was_spent():
    assert plan(WINE, labels=500, variance=WINE_VARIANCE).choose(available=["classical", "split"]).name == "split"


def test_do_not_fine_tune():
    chosen = plan(EMOBANK, labels=80, variance=EMOBANK_VARIANCE, spent=50).choose()
    assert chosen.name == "classical"
    told = "do not fine-tune: sequential would have variance 0.00152 against 0.00152; no split beats the mean: "
    assert chosen.note == told + "b/σ² = 0.345 is not below -0.217; a model of 70 labels leaves 101 % of the variance"
    verdict = feasibility(EMOBANK, 80, EMOBANK_VARIANCE)
    assert (round(verdict.left, 3), round(verdict.right, 3)) == (0.345, -0.217)


def test_why_not_without_a_feasibility_condition():
    """Where a split is feasible, but no fine-tune is allowed, the condition is not the reason."""
    assert plan(WINE, labels=500, variance=WINE_VARIANCE).choose(0).note == (
        "do not fine-tune: no fine-tune is allowed or possible"
    )


def test_given_predictions_may_be_best():
    made = plan(WINE, labels=300, unlabeled=14700, variance=WINE_VARIANCE, rectify_variance=2.0)
    assert made.choose().name == "rectify-only"
    assert made.choose().note.startswith("do not fine-tune: sequential would have variance 0.007464")


def test_without_the_variance_of_the_answers():
    made = plan(WINE, labels=300)
    assert made["classical"].unavailable == "the variance of the answers is not given"
    assert made["crossfit-2"].variance == pytest.approx(WINE.variance(150) / 300)
    assert made["crossfit-2"].saved is None
    assert made.choose(1).name == "split"


def test_too_few_labels():
    made = plan(WINE, labels=8, variance=WINE_VARIANCE)
    assert made["crossfit-2"].unavailable == "8 labels are too few for 2 folds of 10"
    assert made.choose().name == "classical"
    with pytest.raises(StatisticalRefusal) as caught:
        plan(WINE, labels=8).choose(available=["crossfit-2"])
    assert (
        str(caught.value)
        == "no design can be had: crossfit-2: 8 labels are too few for 2 folds of 10 — label more rows"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": 1}, "'labels' must be a whole number ≥ 2; got 1."),
        ({"labels": 50, "alpha": 1.5}, "'alpha' must be in (0, 1); got 1.5."),
        ({"labels": 50, "folds": (1,)}, "'folds' must be a whole number ≥ 2; got 1."),
        ({"labels": 50, "variance": 0}, "'variance' must be a number > 0; got 0."),
        ({"labels": 50, "unlabeled": -3}, "'unlabeled' must be a whole number ≥ 0; got -3."),
        ({"labels": 50, "spent": -1}, "'spent' must be a whole number ≥ 0; got -1."),
        ({"labels": 50, "rectify_variance": float("inf")}, "'rectify_variance' must be a number > 0; got inf."),
        ({"labels": 50, "unlabeled": 0}, "'variance' is needed where 'unlabeled' is 0."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError) as caught:
        plan(WINE, **arguments)
    assert caught.value.what == message


def test_unknown_design():
    with pytest.raises(InputError, match="unknown design 'recicle' — did you mean 'recycle'?"):
        plan(WINE, labels=300).choose(available=["recicle"])


def test_output():
    made = plan(WINE, labels=300, unlabeled=14700, variance=WINE_VARIANCE, spent=295, folds=(2, 5))
    told = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert [design["name"] for design in told["designs"]][-2:] == ["crossfit-2", "crossfit-5"]
    assert told["law"] == WINE.to_dict()
    lines = str(made).splitlines()
    assert len(lines) == 9
    assert lines[0].split() == ["design", "fine-tunes", "labels/fine-tune", "±", "half", "width", "saved"]
    assert lines[1].split() == ["classical", "0", "0", "0.35006", "0", "%"]
    assert lines[2] == "rectify-only        — no predictions with a known residual variance"
    assert lines[-2].split()[-2:] == ["59", "%"]


# ------------------------------------------------------------------------------------------- wished width


@pytest.mark.parametrize("unlabeled", [None, 15000])
def test_labels_for_half_width_is_the_fewest(unlabeled):
    settings_ = {"unlabeled": unlabeled, "variance": WINE_VARIANCE, "rectify_variance": 5.0}
    needed = labels_for_half_width(WINE, 0.2, **settings_)
    assert set(needed) == {"classical", "rectify-only", "split", "recycle", "sequential"} | FOLDS
    for name, n in needed.items():
        assert plan(WINE, labels=n, **settings_)[name].interval_length <= 0.4
        assert plan(WINE, labels=n - 1, **settings_)[name].interval_length > 0.4
    assert needed["classical"] == int(np.ceil(WINE_VARIANCE * (1.959963985 / 0.2) ** 2))
    assert needed["crossfit-5"] < needed["crossfit-2"] < needed["recycle"] < needed["split"] < needed["classical"]


def test_labels_for_half_width_of_a_finite_population():
    """N is fixed: the plan of n labels and N − n texts, and with few rows a split never gets there."""
    rows, given = 1000, {"variance": WINE_VARIANCE, "rectify_variance": 5.0, "population": "finite"}
    needed = labels_for_half_width(WINE, 0.1, labels=300, unlabeled=700, **given)
    assert needed == labels_for_half_width(WINE, 0.1, labels=800, unlabeled=200, **given)
    for name in ("classical", "rectify-only", "split", "crossfit-2", "crossfit-10"):
        n = needed[name]
        assert plan(WINE, labels=n, unlabeled=rows - n, **given)[name].interval_length <= 0.2
        assert plan(WINE, labels=n - 1, unlabeled=rows - n + 1, **given)[name].interval_length > 0.2
    assert (needed["recycle"], needed["sequential"]) == (None, None)
    exact = labels_for_half_width(WINE, 1e-6, labels=300, unlabeled=700, **given)
    assert (exact["classical"], exact["split"]) == (rows, None)
    with pytest.raises(InputError, match="a finite population needs 'labels'"):
        labels_for_half_width(WINE, 0.1, unlabeled=700, **given)


def test_a_width_that_no_number_of_labels_reaches():
    needed = labels_for_half_width(WINE, 1e-6, variance=WINE_VARIANCE)
    assert set(needed.values()) == {None}
    with pytest.raises(InputError, match="'half_width' must be a number > 0; got 0."):
        labels_for_half_width(WINE, 0)
