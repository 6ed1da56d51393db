"""Shares of categories that come up one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.blocks import Block, InMemory
from ftrect_ray.estimators.means import MeanSums
from ftrect_ray.streaming import words
from ftrect_ray.streaming.words import ShareSums, encoded, in_order

LETTERS = np.array(list("abcde"), dtype=object)


def block(rng: np.random.Generator, rows: int, kind: str) -> Block:
    return Block(
        rng.choice(LETTERS[: rng.integers(1, 6)], (rows, 2)),
        weights=rng.uniform(0.5, 2, rows) if "weights" in kind else None,
        strata=rng.integers(0, 2, rows) if "strata" in kind else None,
        clusters=rng.integers(0, 5, rows) if "clusters" in kind else None,
    )


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("kind", ["", "weights", "strata", "clusters", "weights strata clusters"])
def test_merged_sums_are_those_of_all_indicators_at_once(kind: str, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [block(rng, size, kind.replace("strata clusters", "clusters")) for size in sizes]
    names = ("e", "d", "c", "b", "a")
    together = InMemory(blocks[0]).fold(ShareSums.of)
    for one in blocks[1:]:
        together = together.merge(InMemory(one).fold(ShareSums.of))
    found = together.over(names)

    def joined(part: str) -> Any:
        arrays = [getattr(one, part) for one in blocks]
        return None if arrays[0] is None else np.concatenate(arrays)

    F = encoded(joined("F"), names)
    expected = MeanSums.of(Block(F, None, joined("weights"), joined("strata"), joined("clusters")))
    assert (found.rows, found.level.shape) == (sum(sizes), (10,))
    np.testing.assert_allclose(found.level, expected.level, atol=1e-12)
    mix, level = np.array([0.3, 0.7]), expected.level
    left, right = (s.influence(mix, level, max(s.weight, 1.0)) for s in (found, expected))
    np.testing.assert_allclose(left.total, right.total, atol=1e-12)
    np.testing.assert_allclose(found.values.comoment, expected.values.comoment, atol=1e-10)


def test_cells_of_many_categories_are_cut_into_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = Block(rng.choice(LETTERS, (50, 1)))
    whole = ShareSums.of(rows)
    monkeypatch.setattr(words, "CELLS", 20)
    np.testing.assert_allclose(ShareSums.of(rows).sums.level, whole.sums.level, atol=1e-12)


def test_too_many_categories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_CATEGORIES", 3)
    three, other = Block(LETTERS[:3, None]), Block(LETTERS[3:, None])
    assert ShareSums.of(three).categories == ("a", "b", "c")
    message = r"^the answers have more than 3 different values. — for numbers take the target mean$"
    with pytest.raises(InputError, match=message):
        ShareSums.of(three).merge(ShareSums.of(other))
    with pytest.raises(InputError, match=message):
        ShareSums.of(Block(LETTERS[:4, None]))


def test_order_and_indicators() -> None:
    assert in_order(["10", "9", "-1", "+2"]) == ("-1", "+2", "9", "10")
    assert in_order(["10", "9", "²"]) == ("10", "9", "²")
    np.testing.assert_array_equal(encoded(np.array(["b", "a"], dtype=object), ("a", "b")), [[0.0, 1.0], [1.0, 0.0]])
