"""Measured curves, and the law as a curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import isotonic_regression

from ftrect_ray.allocation import DrawnLaw, MeasuredCurve, ScalingLaw, fit_scaling_law
from ftrect_ray.allocation.curves import measured_curve, never_rising

NONE = np.empty((0, 3))


@settings(deadline=None)
@given(arrays(float, (3, 6), elements=st.floats(0, 100)), arrays(float, 6, elements=st.floats(0.1, 10)))
def test_never_rising_is_isotonic_regression(levels, weights):
    found = never_rising(levels, weights)
    for row, expected in zip(found, levels, strict=True):
        reference = isotonic_regression(expected, weights=weights, increasing=False).x
        np.testing.assert_allclose(row, reference, atol=1e-9)


def test_between_beyond_and_below():
    curve = MeasuredCurve(np.array([50.0, 100.0, 400.0]), np.array([4.0, 3.0, 2.0]), NONE)
    assert curve.variance(100) == 3.0
    assert curve.variance(200) == pytest.approx(2.5)
    assert curve.variance(10_000) == 2.0
    assert np.isnan(curve.variance(49))
    np.testing.assert_allclose(curve.variance(np.array([[50.0, 200.0]])), [[4.0, 2.5]])
    assert (curve.smallest, curve.holds_beyond, curve.falls) == (50.0, 400.0, True)
    assert curve.to_dict() == {"kind": "measured", "sizes": [50, 100, 400], "variances": [4, 3, 2]}


def test_one_size():
    curve = MeasuredCurve(np.array([80.0]), np.array([2.0]), np.array([[1.9], [2.2]]))
    assert curve.variance(500) == 2.0
    assert not curve.falls
    np.testing.assert_allclose(curve.draws_at(np.array([80.0, 90.0])), [[1.9, 1.9], [2.2, 2.2]])


@settings(deadline=None)
@given(st.floats(0.1, 50), st.floats(0.05, 2), st.floats(0, 10), st.floats(50, 5000))
def test_no_more_is_promised_than_a_law_keeps(a, alpha, b, s):
    """A law is convex in log s, so it lies below the lines between its own values, and below the last one."""
    law, sizes = ScalingLaw(a, alpha, b), np.array([50.0, 120.0, 500.0, 1000.0])
    curve = MeasuredCurve(sizes, law.variance(sizes), NONE)
    assert curve.variance(s) >= law.variance(s) * (1 - 1e-12)


def test_draws_have_the_shape_of_what_is_asked():
    law = DrawnLaw(ScalingLaw(10, 0.5, 2), np.array([[10, 0.5, 2.0], [8, 0.4, 1.0]]))
    found = law.draws_at(np.array([[50.0, 100.0, 200.0]]))
    assert found.shape == (2, 1, 3)
    assert found[1, 0, 2] == pytest.approx(8 * 200**-0.4 + 1)
    assert DrawnLaw(ScalingLaw(1, 1, 0)).draws_at(np.array([5.0])).shape == (0, 1)
    levels = MeasuredCurve(np.array([50.0, 200.0]), np.array([4.0, 3.0]), np.array([[5.0, 3.0]]))
    np.testing.assert_allclose(levels.draws_at(np.array([[100.0], [500.0]])), [[[4.0], [3.0]]])


def test_repeated_sizes_are_averaged_by_weight():
    s, v, w = np.array([50, 50, 100.0]), np.array([4.0, 2.0, 1.0]), np.array([0.6, 0.2, 0.2])
    curve = measured_curve(s, v, w, replicates=np.array([[4.0, 4.0, 2.0]]))
    np.testing.assert_allclose(curve.levels, [3.5, 1.0])
    np.testing.assert_allclose(curve.draws, [[4.0, 2.0]])


def test_what_a_fit_trusts():
    s = np.repeat([50, 100, 200, 400], 2)
    v = ScalingLaw(16.86, 0.553, 2.754).variance(s) * (1 + 0.01 * np.random.default_rng(0).normal(size=8))
    good = fit_scaling_law(s, v)
    assert good.status == "identified"
    assert good.curve.to_dict() == {"kind": "law", **good.law.to_dict()}
    assert good.curve.draws_at(np.array([100.0])).shape == (400, 1)
    for sizes, variances in (([50, 100], [3.0, 2.0]), ([80, 80, 80], [2.0, 2.5, 3.0]), ([50, 100, 200], [2, 2, 2.0])):
        assert isinstance(fit_scaling_law(sizes, variances).curve, MeasuredCurve)


def test_the_doubt_of_measured_levels():
    rng = np.random.default_rng(3)
    s = np.repeat([50, 100, 200], 8)
    flat = fit_scaling_law(s, 3 * (1 + 0.1 * rng.normal(size=24)))
    assert flat.status == "flat"
    low, high = np.percentile(flat.curve.draws_at(np.array([100.0])), [2.5, 97.5])
    assert low < 3.0 < high
    assert high - low < 1.0
    assert len(fit_scaling_law([50, 100, 200], [2.0, 2.2, 2.6]).curve.draws_at(np.array([60.0]))) == 0
