"""Residual variances adjusted for the answers beside them."""

from __future__ import annotations

import numpy as np
import pytest

from ftrect_ray.allocation import adjusted_variances
from ftrect_ray.errors import InputError


@pytest.mark.parametrize("left", [0.2, 0.57, 0.95])
def test_it_is_steadier_by_what_the_answers_tell_and_no_less_right(left):
    rng, rows, repetitions = np.random.default_rng(0), 80, 20_000
    f = np.sqrt(1 - left) * rng.normal(size=(repetitions, rows))
    residual = np.sqrt(left) * rng.normal(size=(repetitions, rows))
    raw, answers = residual.var(axis=1, ddof=1), (f + residual).var(axis=1, ddof=1)
    found = adjusted_variances(raw, answers, 1.0)
    ratio = np.log(found).var() / np.log(raw).var()
    assert ratio == pytest.approx(1 - left**2, rel=0.12)
    assert found.mean() == pytest.approx(left, rel=0.03)
    assert np.mean((found - left) ** 2) < np.mean((raw - left) ** 2)


def test_it_leaves_alone_what_needs_no_adjustment():
    variances = np.array([[0.3, 0.8], [0.5, 1.4]])
    np.testing.assert_allclose(adjusted_variances(variances, 2.0, 2.0), variances)
    np.testing.assert_allclose(
        adjusted_variances(variances, np.array([[1.0], [2.0]]), 3.0)[1], variances[1] * 1.5 ** (variances[1] / 2)
    )
    assert adjusted_variances(4.0, 2.0, 1.0) == pytest.approx(2.0)  # worse than no model: the whole ratio, and no more


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1.0], 1.0, 1.0), "'variances' must be finite numbers ≥ 0; got -1."),
        (([1.0], [0.0], 1.0), "'answer_variances' must be finite numbers > 0; got 0."),
        (([1.0], 1.0, 0.0), "'answer_variance' must be finite numbers > 0; got 0."),
        (([np.nan], 1.0, 1.0), "'variances' must be finite numbers ≥ 0; got nan."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError) as caught:
        adjusted_variances(*arguments)
    assert caught.value.what == message
