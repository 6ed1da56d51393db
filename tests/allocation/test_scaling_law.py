"""The law itself."""

import numpy as np
import pytest

from ftrect_ray.allocation import ScalingLaw
from ftrect_ray.errors import InputError


def test_variance_of_a_number_and_of_an_array():
    law = ScalingLaw(16.86, 0.553, 2.754)
    assert law.variance(100) == pytest.approx(16.86 * 100**-0.553 + 2.754)
    np.testing.assert_allclose(law.variance(np.array([50, 100])), [law.variance(50), law.variance(100)])
    assert isinstance(law.variance(100), float)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((0, 0.5, 1), "'a' must be a number > 0; got 0."),
        ((1, -0.5, 1), "'alpha' must be a number > 0; got -0.5."),
        ((1, 0.5, -1e-9), "'b' must be a number ≥ 0; got -1e-09."),
        ((float("nan"), 0.5, 1), "'a' must be a number > 0; got nan."),
        ((1, "0.5", 1), "'alpha' must be a number > 0; got '0.5'."),
    ],
)
def test_parameters_outside_their_range(parameters, message):
    with pytest.raises(InputError) as caught:
        ScalingLaw(*parameters)
    assert str(caught.value) == message


def test_prints_and_serialises():
    law = ScalingLaw(1, 0.5, 0)
    assert law.to_dict() == {"a": 1.0, "alpha": 0.5, "b": 0.0}
    assert str(law) == "v(s) = 1·s^-0.5 + 0"
