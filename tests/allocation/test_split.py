"""The split against METHOD's numbers, brute force, and its bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.allocation import ScalingLaw, feasibility, optimal_split, s_star
from ftrect_ray.allocation.split import best_whole, s_stars
from ftrect_ray.errors import InputError, StatisticalRefusal

WINE_V2, WINE, WINE_BOOTSTRAP, EMOBANK = (
    (10.21, 0.21, 1.98),
    (16.86, 0.553, 2.754),
    (11.403, 0.261, 2.447),
    (0.287, 0.297, 0.042),
)
PUBLISHED = [
    (WINE_V2, 10000, 1028.34, 0.1028, 4.85914),
    (WINE_V2, 1000, 120.65, 0.1206, 6.49535),
    (WINE, 240, 45.69, 0.1904, 5.91747),
    (WINE, 400, 68.25, 0.1706, 5.28777),
    (WINE, 560, 88.45, 0.1579, 4.94936),
    (WINE, 800, 115.94, 0.1449, 4.64419),
    (WINE_BOOTSTRAP, 5000, 549.5, 0.1099, None),
    (EMOBANK, 500, 80.86, 0.1617, 0.14298),
    (EMOBANK, 1000, 152.44, 0.1524, 0.12564),
    (EMOBANK, 5000, 646.44, 0.1293, 0.09646),
]
laws = st.builds(ScalingLaw, st.floats(0.01, 100), st.floats(0.05, 2), st.floats(0, 10))


@pytest.mark.parametrize(("parameters", "n", "size", "fraction", "scaled_variance"), PUBLISHED)
def test_published_numbers(parameters, n, size, fraction, scaled_variance):
    law = ScalingLaw(*parameters)
    split = optimal_split(law, n)
    half_a_digit = 0.05 if size == 549.5 else 0.00503  # the last line is 646.43498, printed 646.44
    assert split.s_star == pytest.approx(size, abs=half_a_digit)
    assert split.s_star / n == pytest.approx(fraction, abs=5.1e-5)
    if scaled_variance is not None:
        assert n * law.variance(split.s_star) / (n - split.s_star) == pytest.approx(scaled_variance, abs=6e-6)
        assert n * split.variance == pytest.approx(scaled_variance, rel=1e-4)
    assert split.n_finetune in (int(size), int(size) + 1)
    assert split.n_finetune + split.n_rectify == n


@settings(deadline=None)
@given(laws, st.integers(20, 5000))
def test_s_star_solves_the_equation_of_the_paper(law, n):
    s = s_star(law, n)
    terms = np.array([law.alpha * law.a * n * s ** (-law.alpha - 1), (law.alpha + 1) * law.a * s**-law.alpha, law.b])
    assert abs(terms[0] - terms[1] - terms[2]) <= 1e-7 * terms.max()


@settings(deadline=None)
@given(st.lists(laws, min_size=1, max_size=5), st.integers(20, 5000))
def test_many_laws_at_once(several, n):
    found = s_stars(np.array([(law.a, law.alpha, law.b) for law in several]), n)
    np.testing.assert_allclose(found, [s_star(law, n) for law in several], rtol=1e-8, atol=1e-9 * n)


@settings(deadline=None)
@given(st.floats(0.01, 100), st.floats(0.05, 2), st.integers(20, 5000))
def test_closed_form_without_a_floor(a, alpha, n):
    s = s_star(ScalingLaw(a, alpha, 0), n)
    assert s / n == pytest.approx(alpha / (1 + alpha), rel=1e-9)
    least = a * (1 + alpha) ** (1 + alpha) * alpha**-alpha * n ** -(1 + alpha)
    assert a * s**-alpha / (n - s) == pytest.approx(least, rel=1e-9)


@settings(deadline=None)
@given(laws, st.integers(12, 400), st.one_of(st.none(), st.integers(1, 5000)), st.floats(0.05, 50))
def test_no_whole_split_is_better(law, n, m, variance):
    """Brute force over all splits and many λ."""
    split = optimal_split(law, n, m, variance=variance, minimum=1)
    s, lam = np.arange(1, n - 1), np.linspace(0, 1, 501)[:, None]
    v = np.minimum(law.variance(s), variance)
    every = (variance - (2 * lam - lam**2) * (variance - v)) / (n - s)
    every += 0 if m is None else lam**2 * (variance - v) / m
    assert split.variance == pytest.approx(every.min(), rel=1e-4)


@settings(deadline=None)
@given(laws, st.integers(12, 400), st.one_of(st.none(), st.integers(1, 5000)))
def test_no_whole_split_is_better_where_the_variance_of_the_answers_is_unknown(law, n, m):
    split = optimal_split(law, n, m, minimum=1)
    s = np.arange(1, n - 1)
    helps = np.maximum(1 / (n - s) - (0 if m is None else 1 / m), 0)
    criterion = law.variance(s) * helps
    assert criterion[split.n_finetune - 1] <= criterion.min() + 1e-9 * criterion.max()


def test_finite_texts_add_the_variance_of_the_predictions():
    law = ScalingLaw(*WINE)
    split = optimal_split(law, 500, 4500, variance=9.57)
    v = law.variance(split.n_finetune)
    assert split.variance == pytest.approx(v / split.n_rectify + (9.57 - v) / (4500 + split.n_rectify))
    assert split.n_finetune == optimal_split(law, 500, 4500).n_finetune < optimal_split(law, 500).n_finetune
    assert optimal_split(law, 500, 10**12).n_finetune == optimal_split(law, 500).n_finetune


def test_bounds():
    assert optimal_split(ScalingLaw(1e-9, 0.5, 3), 100).n_finetune == 10
    assert optimal_split(ScalingLaw(1e-9, 0.5, 3), 100, minimum=25).n_finetune == 25
    assert optimal_split(ScalingLaw(1, 2, 0), 12).n_finetune == 10
    with pytest.raises(StatisticalRefusal, match="11 labels cannot be split: 10 must train and 2 rectify"):
        optimal_split(ScalingLaw(1, 1, 0), 11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1}, "'n' must be a whole number ≥ 3; got 1."),
        ({"n": 50.5}, "'n' must be a whole number ≥ 3; got 50.5."),
        ({"n": 50, "m": 0}, "'m' must be a whole number ≥ 1; got 0."),
        ({"n": 50, "minimum": 0}, "'minimum' must be a whole number ≥ 1; got 0."),
        ({"n": 50, "variance": -1.0}, "'variance' must be a number > 0; got -1."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError) as caught:
        optimal_split(ScalingLaw(1, 1, 0), **arguments)
    assert str(caught.value) == message


# ------------------------------------------------------------------------------------------- feasibility


@pytest.mark.parametrize(("n", "b", "feasible"), [(4, 0, False), (100, 0.79, True), (100, 0.81, False)])
def test_published_feasibility(n, b, feasible):
    assert feasibility(ScalingLaw(1, 1, b), n, 1.0).feasible is feasible


def test_emobank_needs_about_1204_labels():
    law = ScalingLaw(*EMOBANK)
    first = next(n for n in range(100, 3000) if feasibility(law, n, 0.1216))
    assert first == pytest.approx(1204, abs=5)


@settings(deadline=None)
@given(laws, st.integers(4, 2000), st.floats(0.01, 50))
def test_feasible_means_that_some_split_beats_the_mean(law, n, variance):
    verdict = feasibility(law, n, variance)
    s = np.linspace(n * 1e-6, n * (1 - 1e-6), 20001)
    gain = np.max(1 - law.variance(s) / variance - s / n)
    if abs(verdict.right - verdict.left) > 1e-3:
        assert bool(verdict) == (gain > 0)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 60_000), st.floats(0.1, 2), st.floats(1, 50_000))
def test_the_best_whole_number_of_a_valley(low, width, power, bottom):
    s = np.arange(low, low + width + 1)

    def criterion(x):
        return np.abs(np.log(x / bottom)) ** power

    assert criterion(best_whole(criterion, low, low + width)) == pytest.approx(criterion(s).min(), rel=1e-12, abs=1e-12)
