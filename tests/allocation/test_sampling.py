"""Which labels to buy next: probabilities, the draw, the spread that it rests on, and the whole circle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ftrect_ray.allocation import draw, inclusion_probabilities, next_labels, residual_spread
from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.estimators import Sample, mean

spreads = arrays(float, st.integers(1, 40), elements=st.one_of(st.just(0.0), st.floats(1e-3, 1e3)))

# ------------------------------------------------------------------------------------------- probabilities


@settings(deadline=None, max_examples=200)
@given(spreads, st.data())
def test_they_add_to_n_and_keep_their_bounds(spread, data):
    n = data.draw(st.integers(1, len(spread)))
    floor = data.draw(st.floats(0.01, 1))
    chance = inclusion_probabilities(spread, n, floor)
    assert chance.sum() == pytest.approx(n, rel=1e-9)
    assert (chance <= 1).all()
    assert (chance >= floor * n / len(spread) * (1 - 1e-9)).all()
    order = np.argsort(spread)
    assert (np.diff(chance[order]) >= -1e-12).all()
    free = chance < 1
    if spread.any() and free.sum() > 1:
        size = ((1 - floor) * spread + floor * spread.mean())[free]
        np.testing.assert_allclose(chance[free] / size, (chance[free] / size)[0], rtol=1e-9)


@settings(deadline=None)
@given(st.integers(3, 12), st.integers(0, 1000))
def test_no_other_probabilities_leave_a_smaller_variance(rows, seed):
    """Σ s²/π under Σπ = n, π ≤ 1: no small exchange between two rows makes it smaller."""
    rng = np.random.default_rng(seed)
    spread, n = rng.lognormal(size=rows), int(rng.integers(1, rows))
    chance = inclusion_probabilities(spread, n, floor=1e-9)
    variance = np.sum(spread**2 / chance)
    for _ in range(50):
        i, j = rng.choice(rows, 2, replace=False)
        step = 0.1 * min(chance[i], 1 - chance[j])
        other = chance.copy()
        other[i] -= step
        other[j] += step
        assert np.sum(spread**2 / other) >= variance * (1 - 1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, -1.0], 1), "'residual_sd' must be ≥ 0; got -1."),
        (([1.0, 1.0], 3), "3 labels cannot be bought: 2 rows have none."),
        (([1.0, 1.0], 0), "'n' must be a whole number ≥ 1; got 0."),
        (([1.0, 1.0], 1, 0.0), "'floor' must be in (0, 1]; got 0."),
        (([1.0, np.nan], 1), "'residual_sd' must be finite"),
    ],
)
def test_bad_probabilities(arguments, message):
    with pytest.raises(InputError) as caught:
        inclusion_probabilities(*arguments)
    assert caught.value.what.startswith(message)


# ------------------------------------------------------------------------------------------- draw


@settings(deadline=None, max_examples=200)
@given(spreads, st.data())
def test_a_draw_has_exactly_n_different_rows(spread, data):
    n = data.draw(st.integers(1, len(spread)))
    chance = inclusion_probabilities(spread, n, 0.1)
    chosen = draw(chance, data.draw(st.integers(0, 2**32)))
    assert len(np.unique(chosen)) == n
    assert set(np.flatnonzero(chance == 1)) <= set(chosen.tolist())


def test_first_order_probabilities_are_exact_and_second_order_ones_near_independence():
    chance = inclusion_probabilities(np.r_[np.linspace(0.2, 3, 19), 40], 6, 0.1)
    rng, repetitions = np.random.default_rng(0), 20_000
    hits, pairs = np.zeros(20), np.zeros((20, 20))
    for _ in range(repetitions):
        mark = np.zeros(20)
        mark[draw(chance, rng)] = 1
        hits += mark
        pairs += np.outer(mark, mark)
    error = np.sqrt(chance * (1 - chance) / repetitions)
    assert (np.abs(hits / repetitions - chance) <= 4.5 * error).all()
    some = ~np.eye(20, dtype=bool) & (chance < 1) & (chance < 1)[:, None]
    ratio = (pairs / repetitions)[some] / np.outer(chance, chance)[some]
    assert ratio.min() > 0.5  # no two rows exclude each other, as they do in systematic sampling in a fixed order
    assert ratio.mean() == pytest.approx(1, abs=0.2)


def test_the_same_seed_draws_the_same_rows():
    chance = np.full(100, 0.1)
    assert draw(chance, 7).tolist() == draw(chance, 7).tolist() != draw(chance, 8).tolist()


@pytest.mark.parametrize(
    ("chance", "message"),
    [([0.5, 0.7], "'probabilities' must add to a whole number of labels; got 1.2."),
     ([1.5, 0.5], "'probabilities' must be in [0, 1]; got 1.5.")],
)  # fmt: skip
def test_bad_draws(chance, message):
    with pytest.raises(InputError) as caught:
        draw(chance, 0)
    assert caught.value.what == message


# ------------------------------------------------------------------------------------------- the residual's spread


def test_it_follows_the_residuals_and_no_shape_is_assumed():
    rng = np.random.default_rng(0)
    f = rng.uniform(0, 10, 3000)
    true = 0.5 + 2 * np.exp(-((f - 5) ** 2))
    spread = residual_spread(f + 1 + true * rng.normal(size=3000), f)
    at = np.linspace(1, 9, 50)
    np.testing.assert_allclose(spread.at(at), 0.5 + 2 * np.exp(-((at - 5) ** 2)), rtol=0.35)
    assert spread.at([-100.0, 100.0]) == pytest.approx([spread.spreads[0], spread.spreads[-1]])


def test_a_bias_of_some_predictions_counts_as_spread():
    f = np.linspace(0, 1, 400)
    y = f + 0.1 * np.random.default_rng(1).normal(size=400) + np.where(f > 0.9, 1.0, 0.0)
    spread = residual_spread(y, f)
    assert spread.at([0.97])[0] > 3 * spread.at([0.3])[0]


def test_chance_differences_are_shrunk_away():
    ranges = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        f = rng.normal(size=300)
        residual = rng.normal(size=300)
        spread = residual_spread(f + residual, f)
        squares = (residual - residual.mean())[np.argsort(f)] ** 2
        raw = np.sqrt([part.mean() for part in np.array_split(squares, len(spread.spreads))])
        assert np.ptp(spread.spreads) <= np.ptp(raw) + 1e-12
        ranges.append((np.ptp(spread.spreads), np.ptp(raw)))
    shrunk, raw = np.mean(ranges, axis=0)
    assert shrunk < 0.25 * raw
    assert np.mean(np.array(ranges)[:, 0] < 1e-9) > 0.4


def test_few_rows_and_predictions_of_few_values():
    rng = np.random.default_rng(0)
    few = residual_spread(rng.normal(size=12), np.zeros(12))
    assert len(few.centers) == 1
    answer = np.repeat([0.0, 1.0], 100)
    two = residual_spread(answer + np.where(answer > 0, 2.0, 0.2) * rng.normal(size=200), answer)
    assert two.at([1.0])[0] > 3 * two.at([0.0])[0]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (
            ([1.0] * 9, [0.0] * 9),
            StatisticalRefusal,
            "9 labelled rows with a prediction cannot tell where the model is",
        ),
        (([1.0] * 12, [0.0] * 12), StatisticalRefusal, "all residuals are equal"),
        (([1.0] * 12, [0.0] * 11), InputError, "'Yhat' must have as many rows as 'Y' (12); got 11."),
    ],
)
def test_refusals_of_the_spread(rows, kind, message):
    with pytest.raises(kind) as caught:
        residual_spread(*rows)
    assert caught.value.what.startswith(message)


# ------------------------------------------------------------------------------------------- the next labels


def test_probabilities_of_earlier_labels():
    spread, known = np.linspace(1, 4, 200), np.arange(200) % 4 == 0
    fixed = next_labels(spread, known, 30, floor=0.2, seed=1)
    assert (fixed.probabilities[known] == 1).all()
    np.testing.assert_allclose(fixed.probabilities[~known], inclusion_probabilities(spread[~known], 30, 0.2))
    assert not known[fixed.chosen].any()
    assert fixed.worth > 30
    joint = next_labels(spread, known, 30, earlier="random", floor=0.2, seed=1)
    assert joint.chosen.tolist() == fixed.chosen.tolist()
    np.testing.assert_allclose(joint.probabilities[~known], 0.25 + 0.75 * fixed.probabilities[~known])
    assert (np.diff(joint.probabilities) > 0).all()  # one rule for all rows
    assert next_labels(np.ones(200), known, 30).worth == pytest.approx(30)
    with pytest.raises(InputError, match="'earlier' must be 'fixed' or 'random'; got 'none'"):
        next_labels(spread, known, 30, earlier="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'labelled' must have one entry a row"):
        next_labels(spread, known[:-1], 30)


def circle(
    seed: int, uneven: float, rows: int = 2000, first: int = 100, more: int = 200
) -> dict[str, tuple[bool, float, float]]:
    """Label some at random, learn the spread, draw, label, estimate: coverage, length, error of each way."""
    rng = np.random.default_rng(seed)
    f = rng.normal(size=rows)
    y = 1 + 0.9 * f + np.exp(uneven * (np.abs(f) - 0.8)) * rng.normal(size=rows)
    order = rng.permutation(rows)
    known = np.zeros(rows, dtype=bool)
    known[order[:first]] = True
    ways = {"equal": (order[: first + more], None)}
    for earlier in ("fixed", "random"):
        spread = residual_spread(y[known], f[known]).at(f)
        drawn = next_labels(spread, known, more, earlier=earlier, seed=rng)
        labelled = np.concatenate([order[:first], drawn.chosen])
        ways[earlier] = (labelled, Sample(probabilities=drawn.probabilities[labelled]))
    found = {}
    for way, (labelled, sample) in ways.items():
        rest = np.setdiff1d(np.arange(rows), labelled)
        estimate = mean(y[labelled], f[labelled], f[rest], sample=sample)
        low, high = estimate.interval
        found[way] = (bool(low <= 1 <= high), high - low, estimate.value - 1)
    return found


def test_the_whole_circle_covers_and_is_shorter_where_the_spread_varies():
    repetitions = 400
    found = [circle(seed, uneven=1.0) for seed in range(repetitions)]
    error = np.sqrt(0.95 * 0.05 / repetitions)
    lengths, errors = {}, {}
    for way in ("equal", "fixed", "random"):
        hits, lengths[way], errors[way] = (np.array([one[way][j] for one in found]) for j in range(3))
        assert abs(hits.mean() - 0.95) <= 3 * error, way
        assert abs(errors[way].mean()) <= 3 * errors[way].std() / np.sqrt(repetitions), way
    assert lengths["random"].mean() < 0.93 * lengths["equal"].mean()
    assert np.var(errors["random"]) < 0.9 * np.var(errors["equal"])
    assert lengths["random"].mean() < lengths["fixed"].mean()


def test_where_the_spread_is_even_little_is_lost():
    found = [circle(seed, uneven=0.0) for seed in range(100)]
    lengths = {way: np.mean([one[way][1] for one in found]) for way in ("equal", "random")}
    assert lengths["random"] < 1.03 * lengths["equal"]
