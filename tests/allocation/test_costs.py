"""Device-hours, prices, the cheapest design, candidate models, power."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from ftrect_ray.allocation import (
    Compute,
    Prices,
    ScalingLaw,
    cheapest,
    choose_model,
    labels_for_half_width,
    labels_for_power,
    plan,
    plan_models,
    power,
    std_error_of_difference,
)
from ftrect_ray.errors import InputError, StatisticalRefusal

WINE = ScalingLaw(16.86, 0.553, 2.754)
COMPUTE = Compute(train_seconds_per_label=2.0, predict_seconds_per_text=0.01, seconds_per_finetune=30.0)
SHARED = {"unlabeled": 10_000, "variance": 9.57}


def test_device_hours_by_hand():
    made = plan(WINE, labels=400, compute=COMPUTE, rotations=[(1, 4)], rectify_variance=4.0, **SHARED)

    def hours(*sizes: int, rectified: int) -> float:
        return (sum(30 + 2 * s for s in sizes) + 0.01 * (len(sizes) * 10_000 + rectified)) / 3600

    assert made["crossfit-4"].gpu_hours == pytest.approx(hours(*[300] * 4, rectified=400))
    assert made["rotation-1-4"].gpu_hours == pytest.approx(hours(*[100] * 4, rectified=3 * 400))
    s = made["split"].n_finetune
    assert made["split"].gpu_hours == pytest.approx(hours(s, rectified=400 - s))
    first, *_ = sizes = made["sequential"].sizes
    assert made["sequential"].gpu_hours == pytest.approx(hours(*sizes, rectified=400 - first))
    assert made["classical"].gpu_hours == made["rectify-only"].gpu_hours == 0
    asked = plan(WINE, labels=400, compute=COMPUTE, rectify_variance=4.0, untrained=True, prices=Prices(0, 3), **SHARED)
    assert asked["rectify-only"].gpu_hours == pytest.approx(0.01 * 10_400 / 3600)  # one pass, and no training
    assert asked["rectify-only"].price == pytest.approx(3 * asked["rectify-only"].gpu_hours)
    assert asked["rectify-only"].variance == made["rectify-only"].variance


def test_readouts_of_one_backbone_read_the_texts_once():
    frozen = plan(WINE, labels=400, compute=replace(COMPUTE, one_pass=True), **SHARED)
    assert frozen["crossfit-4"].gpu_hours == pytest.approx((4 * (30 + 2 * 300) + 0.01 * (10_000 + 400)) / 3600)
    assert frozen["split"].gpu_hours == plan(WINE, labels=400, compute=COMPUTE, **SHARED)["split"].gpu_hours
    assert frozen["classical"].gpu_hours == 0


def test_prices_by_hand():
    prices = Prices(label=0.5, gpu_hour=3.0)
    made = plan(WINE, labels=400, compute=COMPUTE, prices=prices, **SHARED)
    assert made["classical"].price == 200.0
    assert made["crossfit-3"].price == pytest.approx(200.0 + 3 * made["crossfit-3"].gpu_hours)
    without = plan(WINE, labels=400, prices=prices, **SHARED)
    assert (without["classical"].price, without["crossfit-3"].price) == (200.0, None)
    assert plan(WINE, labels=400, prices=Prices(0.5), **SHARED)["crossfit-3"].price == 200.0
    assert "device-hours" in str(made)
    assert "price" in str(made)
    assert "price" not in str(plan(WINE, labels=400, **SHARED))


def test_what_is_not_allowed_is_no_offer():
    offers = cheapest(WINE, 0.2, prices=Prices(1.0), max_finetunes=2, spent=200, **SHARED)
    assert offers[0].design == "crossfit-2"
    assert {offer.design for offer in offers} == {"classical", "split-after-pilots", "recycle", "crossfit-2"}
    assert "split" in {offer.design for offer in cheapest(WINE, 0.2, prices=Prices(1.0), max_finetunes=2, **SHARED)}


@pytest.mark.parametrize("name", ["split-after-pilots", "recycle"])
def test_labels_that_pilots_spent_make_a_split_dearer(name):
    free, spent = (labels_for_half_width(WINE, 0.2, spent=spent, **SHARED) for spent in (1, 600))
    assert spent[name] > free[name]
    made = plan(WINE, labels=spent[name], spent=600, **SHARED)[name]
    assert made.interval_length / 2 <= 0.2
    assert made.n_finetune == 600
    assert spent["crossfit-2"] == free["crossfit-2"]
    seen = [labels_for_power(WINE, 1.0, spent=spent, **SHARED)[name] for spent in (1, 600)]
    assert seen[0] < seen[1]


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 10), st.floats(0, 1000), st.floats(0.12, 0.6))
def test_the_cheapest_is_the_least_of_all_designs(label, hour, half_width):
    prices = Prices(label, hour)
    offers = cheapest(WINE, half_width, prices=prices, compute=COMPUTE, **SHARED)
    needed = labels_for_half_width(WINE, half_width, **SHARED)
    assert {offer.design: offer.labels for offer in offers} == {k: n for k, n in needed.items() if n is not None}
    for offer in offers:
        made = plan(WINE, labels=offer.labels, compute=COMPUTE, prices=prices, **SHARED)[offer.design]
        assert (offer.price, offer.gpu_hours) == pytest.approx((made.price, made.gpu_hours))
        assert made.interval_length <= 2 * half_width
    assert [offer.price for offer in offers] == sorted(offer.price for offer in offers)


def test_the_cheapest_of_a_finite_population_predicts_fewer_texts_the_more_labels_it_buys():
    given = {"variance": 9.57, "population": "finite"}
    offers = cheapest(WINE, 0.2, prices=Prices(1.0, 1.0), compute=COMPUTE, labels=400, unlabeled=1600, **given)
    for offer in offers:
        made = plan(WINE, labels=offer.labels, unlabeled=2000 - offer.labels, compute=COMPUTE, **given)
        assert offer.gpu_hours == pytest.approx(made[offer.design].gpu_hours)


def test_what_is_dear_is_spared():
    dear_labels = cheapest(WINE, 0.2, prices=Prices(10.0, 1.0), compute=COMPUTE, **SHARED)[0]
    dear_hours = cheapest(WINE, 0.2, prices=Prices(0.01, 100.0), compute=COMPUTE, **SHARED)[0]
    assert (dear_labels.design, dear_hours.design) == ("crossfit-9", "classical")
    assert dear_labels.to_dict()["labels"] == dear_labels.labels


def test_refusals_of_costs():
    with pytest.raises(InputError, match="a price of device-hours needs 'compute'"):
        cheapest(WINE, 0.2, prices=Prices(1.0, 1.0))
    with pytest.raises(InputError, match="'unlabeled' is needed with 'compute'"):
        cheapest(WINE, 0.2, prices=Prices(1.0), compute=COMPUTE)
    with pytest.raises(InputError, match="'unlabeled' is needed with 'compute'"):
        plan(WINE, labels=50, compute=COMPUTE)
    with pytest.raises(StatisticalRefusal, match="no design reaches ± 1e-06 with 10,000,000 labels or fewer"):
        cheapest(WINE, 1e-6, prices=Prices(1.0), variance=9.57)
    with pytest.raises(InputError, match="'gpu_hour' must be a number ≥ 0; got -1"):
        Prices(1.0, -1.0)
    with pytest.raises(InputError, match="'predict_seconds_per_text' must be a number ≥ 0; got nan"):
        Compute(1.0, float("nan"))


# ------------------------------------------------------------------------------------------- candidates


def test_model_and_design_are_chosen_together():
    """The larger model learns faster and ends lower, but not with the few labels of a small budget."""
    laws = {"small": ScalingLaw(4.0, 0.5, 3.4), "large": ScalingLaw(60.0, 0.7, 2.0)}
    chosen = {}
    for labels in (60, 2000):
        plans = plan_models(laws, labels=labels, compute={"large": COMPUTE}, **SHARED)
        assert list(plans) == ["small", "large"]
        assert (plans["small"]["split"].gpu_hours is None, plans["large"]["split"].gpu_hours is None) == (True, False)
        chosen[labels] = choose_model(plans, max_finetunes=2)
        least = min(design.variance for made in plans.values() for design in made.designs if design.finetunes <= 2
                    and design.variance is not None)  # fmt: skip
        assert chosen[labels].design.variance <= 1.01 * least
    assert (chosen[60].candidate, chosen[2000].candidate) == ("small", "large")


def test_a_tie_is_the_first_ones():
    plans = plan_models({"a": WINE, "b": WINE}, labels=300, **SHARED)
    assert choose_model(plans).candidate == "a"
    only = plan_models({"a": WINE, "b": WINE}, labels=300, rectify_variance={"b": 1.0}, **SHARED)
    assert choose_model(only).candidate == "b"
    assert choose_model(only, available=["classical", "rectify-only"]).design.name == "rectify-only"


def test_refusals_of_candidates():
    with pytest.raises(InputError, match="'laws' must name at least one candidate"):
        plan_models({}, labels=50)
    with pytest.raises(InputError, match="'plans' must name at least one candidate"):
        choose_model({})
    with pytest.raises(StatisticalRefusal, match="a: no design can be had: .*; b: no design can be had"):
        choose_model(plan_models({"a": WINE, "b": WINE}, labels=8), available=["split"])


# ------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize(("difference", "alpha"), [(0.5, 0.05), (-1.0, 0.1), (2.0, 0.01)])
def test_power_is_how_often_a_test_rejects(difference, alpha):
    rng, error = np.random.default_rng(0), 0.4
    seen = rng.normal(difference, error, 200_000)
    rejected = np.mean(np.abs(seen) / error > norm.ppf(1 - alpha / 2))
    assert power(difference, error, alpha) == pytest.approx(rejected, abs=3 * np.sqrt(0.25 / 200_000))


def test_the_error_of_a_difference_is_the_classical_one():
    whole = np.sqrt(9.57 / 500)
    assert std_error_of_difference(whole, 0.3) == pytest.approx(np.sqrt(9.57 / 150 + 9.57 / 350))


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_labels_for_power_are_the_fewest(share):
    needed = labels_for_power(WINE, 0.6, power=0.9, share=share, rectify_variance=5.0, **SHARED)
    for name, n in needed.items():
        reached = [
            power(
                0.6,
                std_error_of_difference(plan(WINE, labels=k, rectify_variance=5.0, **SHARED)[name].std_error, share),
            )
            for k in (n, n - 1)
        ]
        assert reached[0] >= 0.9 > reached[1]
    z = 1.959963984540054 + 1.2815515655446004
    assert needed["classical"] == pytest.approx(9.57 / (share * (1 - share)) * (z / 0.6) ** 2, abs=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power(0, 1.0), "'difference' must be a number > 0; got 0."),
        (lambda: power(1.0, 0.0), "'std_error' must be a number > 0; got 0."),
        (lambda: labels_for_power(WINE, 1.0, power=0.04), "'power' must be above 'alpha' (0.05); got 0.04."),
        (lambda: labels_for_power(WINE, 1.0, power=1.0), "'power' must be in (0, 1); got 1."),
        (lambda: labels_for_power(WINE, 1.0, share=0.0), "'share' must be in (0, 1); got 0."),
    ],
)
def test_refusals_of_power(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.what == message
