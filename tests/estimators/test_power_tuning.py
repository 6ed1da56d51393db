"""λ: the minimum of the variance, inside its bounds, at no coordinate's cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from ftrect_ray.estimators.power_tuning import LONGER, lam_per_coordinate, tuned_lam
from ftrect_ray.estimators.spread import Spread

quick = settings(deadline=None, max_examples=25, derandomize=True)
UNIT = (0.0, 1.0)


def a_spread(seed, d=3, cross=None):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(40, 2 * d)) @ rng.normal(size=(2 * d, 2 * d))
    cov, u = np.cov(z.T), np.cov(rng.normal(size=(d, 50)))
    return Spread(cov[:d, :d], cov[:d, d:] if cross is None else cross, cov[d:, d:], np.atleast_2d(u), 39, 49)


def one(answers, cross, labeled, unlabeled):
    return Spread(*(np.array([[float(x)]]) for x in (answers, cross, labeled, unlabeled)), 9, 9)


def two(answers, cross, labeled, unlabeled):
    return Spread(*(np.diag(np.array(x, dtype=float)) for x in (answers, cross, labeled, unlabeled)), 9, 9)


def variances(spread, lam):
    return np.diag(sum(spread.at(lam)))


def test_one_coordinate_is_the_formula():
    assert tuned_lam(one(4, 2, 3, 1), UNIT) == 0.5
    assert lam_per_coordinate(one(4, 2, 3, 1), UNIT).tolist() == [0.5]


@quick
@given(st.integers(0, 10**6))
def test_the_tuned_lam_minimises_what_it_may(seed):
    spread = a_spread(seed)
    lam = tuned_lam(spread, UNIT)
    base = variances(spread, 0.0)
    assert (variances(spread, lam) <= LONGER**2 * base * (1 + 1e-9)).all()
    for other in np.linspace(0, 1, 201):
        if (variances(spread, other) <= LONGER**2 * base).all():
            assert variances(spread, lam).sum() <= variances(spread, other).sum() + 1e-9


@quick
@given(st.integers(0, 10**6), st.sampled_from([UNIT, (0.0, 2.0), (0.3, 0.4)]))
def test_each_coordinates_lam_minimises_its_variance(seed, bounds):
    spread = a_spread(seed)
    lams = lam_per_coordinate(spread, bounds)
    for j, lam in enumerate(lams):

        def of(x, j=j):
            return variances(spread, x)[j]

        best = minimize_scalar(of, bounds=bounds, method="bounded", options={"xatol": 1e-9})
        assert of(lam) <= best.fun + 1e-9
        assert bounds[0] <= lam <= bounds[1]


def test_bounds():
    assert tuned_lam(one(9, 3, 2, 0), UNIT) == 1.0
    assert tuned_lam(one(9, 3, 2, 0), (0.0, 1.2)) == 1.2
    assert tuned_lam(one(9, 3, 2, 0), (0.0, 2.0)) == 1.5
    assert tuned_lam(one(9, -3, 2, 0), UNIT) == 0.0
    assert tuned_lam(one(9, -3, 2, 0), (0.25, 1.0)) == 0.25
    assert lam_per_coordinate(two((9, 9), (3, -3), (2, 2), (0, 0)), (0.1, 1.2)).tolist() == [1.2, 0.1]


def test_constant_predictions_take_the_lower_bound():
    for spread in (one(4, 0, 0, 0), two((4, 4), (0, 0), (0, 0), (0, 0))):
        assert tuned_lam(spread, UNIT) == 0.0
        assert tuned_lam(spread, (0.5, 1.0)) == 0.5
        assert (lam_per_coordinate(spread, UNIT) == 0).all()


def test_nobody_pays_more_than_two_percent_for_the_others():
    spread = two((10, 1), (9, 0), (9, 1), (0, 0))  # the second coordinate gains nothing: 1 + λ² ≤ 1.02²
    lam = tuned_lam(spread, UNIT)
    assert lam == pytest.approx(np.sqrt(1.02**2 - 1), rel=1e-12)
    assert np.sqrt(variances(spread, lam)[1]) == pytest.approx(1.02, rel=1e-12)
    assert LONGER == 1.02


def test_the_limit_of_a_coordinate_that_gains_a_little():
    spread = two((10, 1), (9, 0.1), (9, 1), (0, 0.5))
    lam = tuned_lam(spread, UNIT)
    assert np.sqrt(variances(spread, lam)[1]) == pytest.approx(1.02, rel=1e-12)
    assert variances(spread, lam)[0] < 10


def test_a_coordinate_that_does_not_feel_lam_sets_no_limit():
    assert tuned_lam(two((10, 1), (9, 0), (10, 0), (0, 0)), UNIT) == pytest.approx(0.9)
    assert tuned_lam(two((10, 0), (9, 0), (10, 0), (0, 0)), UNIT) == pytest.approx(0.9)


def test_a_lower_bound_is_kept_at_any_cost():
    spread = two((10, 1), (9, 0), (9, 1), (0, 0))
    assert tuned_lam(spread, (0.5, 1.0)) == 0.5
