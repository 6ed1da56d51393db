"""The largest of several t statistics: known cases, bounds, and tests that fit the intervals."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from ftrect_ray.estimators.simultaneous import joint_p_values, joint_quantile


def equicorrelated(d, rho):
    return np.full((d, d), rho) + (1 - rho) * np.eye(d)


@pytest.mark.parametrize("d", [2, 5, 12])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_independent_normal_is_sidak(d, alpha):
    level = (1 - alpha) ** (1 / d)
    two, one = stats.norm.ppf((1 + level) / 2), stats.norm.ppf(level)
    assert joint_quantile(np.eye(d), np.inf, alpha, 2) == pytest.approx(two, rel=5e-3)
    assert joint_quantile(np.eye(d), np.inf, alpha, 1) == pytest.approx(one, rel=5e-3)


def dunnett_tail(q, d, df, sides):
    """P(max > q) of d comparisons with one control, by quadrature over the control's mean and the pooled sd."""
    z, wz = np.polynomial.hermite_e.hermegauss(60)
    u = (np.arange(400) + 0.5) / 400
    s = np.sqrt(stats.chi2.ppf(u, df) / df)[:, None]
    upper = stats.norm.cdf(z + np.sqrt(2) * q * s)
    lower = stats.norm.cdf(z - np.sqrt(2) * q * s) if sides == 2 else 0.0
    return 1 - np.mean((upper - lower) ** d @ wz / wz.sum())


@pytest.mark.parametrize(("d", "df"), [(2, 10), (4, 20), (9, 60)])
@pytest.mark.parametrize("sides", [1, 2])
def test_dunnetts_comparisons_with_a_control(d, df, sides):
    exact = brentq(lambda q: dunnett_tail(q, d, df, sides) - 0.05, 1, 5)
    assert joint_quantile(equicorrelated(d, 0.5), df, 0.05, sides) == pytest.approx(exact, rel=5e-3)


def test_the_table_of_dunnett():
    assert joint_quantile(equicorrelated(2, 0.5), 10, 0.05, 1) == pytest.approx(2.15, abs=0.01)
    assert joint_quantile(equicorrelated(2, 0.5), 10, 0.05, 2) == pytest.approx(2.57, abs=0.01)


def test_the_multivariate_t_of_scipy():
    correlation = np.array([[1, 0.7, -0.2], [0.7, 1, 0.1], [-0.2, 0.1, 1]])
    law = stats.multivariate_t(np.zeros(3), correlation, df=7, seed=1)
    exact = brentq(lambda q: law.cdf(np.full(3, q), maxpts=200_000) - 0.95, 2, 3, xtol=1e-4)
    assert joint_quantile(correlation, 7, 0.05, 1) == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("df", [4.0, np.inf])
def test_one_statistic_or_copies_of_it_are_the_single_quantile(sides, df):
    law = stats.norm if np.isinf(df) else stats.t(df)
    single = law.isf(0.05 / sides)
    assert joint_quantile(np.array([[9.0]]), df, 0.05, sides) == pytest.approx(single, rel=1e-12)
    assert joint_quantile(np.full((3, 3), 4.0), df, 0.05, sides) == pytest.approx(single, rel=5e-3)
    assert joint_quantile(np.full((3, 3), 4.0), df, 0.05, sides) >= single * (1 - 1e-12)


def test_scale_does_not_matter_and_constants_do_not_count():
    correlation = equicorrelated(3, 0.3)
    deviation = np.array([1.0, 20.0, 0.003])
    scaled = correlation * np.outer(deviation, deviation)
    expected = joint_quantile(correlation, 9, 0.1, 2)
    assert joint_quantile(scaled, 9, 0.1, 2) == pytest.approx(expected, rel=1e-9)
    wider = np.zeros((4, 4))
    wider[np.ix_([0, 2, 3], [0, 2, 3])] = correlation
    assert joint_quantile(wider, 9, 0.1, 2) == expected
    assert joint_quantile(np.zeros((2, 2)), 9, 0.1, 2) == 0.0


def test_never_beyond_bonferroni():
    opposed = np.array([[1.0, -1.0], [-1.0, 1.0]])  # one-sided: Bonferroni is exact
    assert joint_quantile(opposed, np.inf, 0.05, 1) == pytest.approx(stats.norm.isf(0.025), rel=5e-3)
    for d in (2, 6):
        assert joint_quantile(np.eye(d), 5, 0.01, 2) <= stats.t.isf(0.005 / d, 5) * (1 + 1e-12)


def test_the_same_every_time():
    assert joint_quantile(np.eye(3), 5, 0.05, 2) == joint_quantile(np.eye(3), 5, 0.05, 2)


# ------------------------------------------------------------------------------------------- p-values


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("df", [6.0, np.inf])
def test_p_values_invert_the_quantile(sides, df):
    covariance = equicorrelated(4, 0.4) * 7
    for alpha in (0.3, 0.05, 0.004):
        q = joint_quantile(covariance, df, alpha, sides)
        near = joint_p_values(np.array([q * (1 - 1e-6), q * (1 + 1e-6), 0.1, 9.0]), covariance, df, sides)
        assert near[0] >= alpha > near[1]
        assert near[3] < near[1] < near[2]


def test_p_values_of_independent_normals_are_sidaks():
    score = np.array([1.0, 2.0, 2.5])
    single = 2 * stats.norm.sf(score)
    np.testing.assert_allclose(joint_p_values(score, np.eye(3), np.inf, 2), 1 - (1 - single) ** 3, rtol=0.05)


def test_p_values_lie_between_the_single_one_and_bonferronis():
    score = np.array([0.0, 1.0, 3.0, 9.0, 60.0])
    single = 2 * stats.t.sf(score, 5)
    found = joint_p_values(score, np.eye(5), 5, 2)
    assert (found >= single * (1 - 1e-12)).all()
    assert (found <= np.minimum(5 * single, 1) * (1 + 1e-12)).all()
    assert found[0] == 1.0
    assert found[-1] > 0


def test_p_values_where_nothing_varies():
    assert joint_p_values(np.array([np.inf, 0.0]), np.zeros((2, 2)), 5, 2).tolist() == [0.0, 1.0]
    assert joint_p_values(np.array([np.inf, 0.0]), np.zeros((2, 2)), np.inf, 1).tolist() == [0.0, 0.5]
