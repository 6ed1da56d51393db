"""The stop rule of FTR EC.2."""

from __future__ import annotations

import numpy as np
import pytest

from ftrect_ray.allocation import ScalingLaw, fit_scaling_law, next_size, s_star
from ftrect_ray.errors import InputError

WINE = ScalingLaw(16.86, 0.553, 2.754)
RAMP = [25, 50, 75, 100, 150, 200, 300]


def walk(law: ScalingLaw, labels: int, ramp: list[int] = RAMP, noise: float = 0.0, seed: int = 0) -> list[int]:
    rng, measured = np.random.default_rng(seed), {}
    while (size := next_size(ramp, measured, 60, labels)) is not None:
        measured[size] = [law.variance(size) * (1 + noise * rng.normal())]
    return list(measured)


@pytest.mark.parametrize("labels", [240, 400, 560, 800, 3000])
def test_it_stops_at_the_first_size_that_reaches_s_star(labels):
    tried, wished = walk(WINE, labels), s_star(WINE, labels)
    assert tried == RAMP[: max(3, 1 + int(np.searchsorted(RAMP, wished)))]


def test_three_sizes_are_tried_before_it_may_stop():
    assert s_star(WINE, 60) < 25
    assert walk(WINE, 60) == [25, 50]  # the third would leave nothing to rectify
    assert walk(WINE, 100) == [25, 50, 75]
    assert walk(WINE, 100, ramp=[50, 60]) == [50, 60]


def test_flat_and_rising_curves_stop_after_three():
    assert walk(ScalingLaw(1e-9, 0.5, 3.0), 5000) == [25, 50, 75]
    measured = {25: [3.0], 50: [3.4], 75: [3.9]}
    assert next_size(RAMP, measured, 60, 5000) is None


def test_never_beyond_the_list_nor_the_labels():
    assert walk(WINE, 100_000) == RAMP
    assert walk(ScalingLaw(50, 1.5, 0), 152) == [25, 50, 75, 100]  # s* = 91.2
    assert walk(ScalingLaw(50, 2, 0), 130, ramp=[25, 50, 70, 200]) == [25, 50, 70]


def test_failed_sizes_are_tried_and_tell_nothing():
    assert next_size(RAMP, {25: [5.6], 50: []}, None, 500) == 75
    law = {size: [WINE.variance(size)] for size in (25, 75)}
    assert next_size(RAMP, {**law, 50: []}, None, 60_000) == 100
    assert next_size(RAMP, {**law, 50: [], 100: [WINE.variance(100)]}, {25: 60, 75: 60, 100: 60}, 500) is None
    assert next_size([25, 50], {25: [], 50: []}, None, 500) is None


def test_it_is_the_weighted_fit_of_all_repetitions():
    rng = np.random.default_rng(1)
    measured = {size: list(WINE.variance(size) * (1 + 0.1 * rng.normal(size=3))) for size in (25, 50, 75, 100)}
    counts = {25: 500, 50: 60, 75: 60, 100: 60}
    flat = np.array([(s, v, counts[s]) for s, values in measured.items() for v in values]).T
    fit = fit_scaling_law(flat[0], flat[1], counts=flat[2], bootstrap=0)
    for labels in (100, 300, 500, 700, 1000, 5000):
        assert (next_size(RAMP, measured, counts, labels) is None) == (s_star(fit.law, labels) <= 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([50, 25], {}, None, 500), "'sizes' must rise; got ['50', '25']."),
        (([], {}, None, 500), "'sizes' must rise; got []."),
        (([25, 50], {30: [1.0]}, None, 500), "'measured' has size 30, which is not among 'sizes'."),
        (([25, 50], {}, None, 2), "'labels' must be a whole number ≥ 3; got 2."),
        (([25, 50.5], {}, None, 500), "'sizes' must be a whole number ≥ 1; got 50.5."),
        (
            ([1, 2, 3, 4], {1: [1.0], 2: [np.nan], 3: [1.0]}, 50, 500),
            "'variances' must be finite; got nan at position 1.",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError) as caught:
        next_size(*arguments)
    assert caught.value.what == message
