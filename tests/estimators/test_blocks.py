"""The unlabelled sample in blocks: cut, folded, taken."""

from dataclasses import dataclass

import numpy as np
import pytest

from ftrect_ray.estimators.blocks import CELLS, Block, InMemory, fold, merged_with


@dataclass(frozen=True)
class Log:
    lengths: tuple

    def merge(self, other):
        return Log(self.lengths + other.lengths)


def lengths_of(block):
    return Log((len(block),))


def of_size(m, models=1, features=0):
    X = np.ones((m, features)) if features else None
    return InMemory(Block(np.arange(m * models, dtype=float).reshape(m, models), X))


@pytest.mark.parametrize(
    ("m", "models", "features", "expected"),
    [
        (0, 1, 0, (0,)),
        (5, 1, 0, (5,)),
        (CELLS, 1, 0, (CELLS,)),
        (CELLS + 1, 1, 0, (CELLS, 1)),
        (2 * CELLS + 3, 1, 0, (CELLS, CELLS, 3)),
        (CELLS // 4 + 1, 3, 1, (CELLS // 4, 1)),
        (CELLS // 4, 3, 1, (CELLS // 4,)),
    ],
)
def test_blocks_hold_so_many_numbers(m, models, features, expected):
    assert of_size(m, models, features).fold(lengths_of).lengths == expected


def test_a_row_that_is_longer_than_a_block_is_a_block():
    whole = InMemory(Block(np.zeros((3, 1, CELLS + 1))))
    assert whole.fold(lengths_of).lengths == (1, 1, 1)


def test_folding_sums_every_row_once():
    m = 2 * CELLS + 7
    total, log = of_size(m).fold(lambda block: (block.F.sum(axis=0), Log((len(block),))))
    assert total.tolist() == [m * (m - 1) / 2]
    assert sum(log.lengths) == m


def test_summaries_merge_by_their_kind():
    merged = merged_with((np.array([1.0]), (Log((1,)), 2)), (np.array([4.0]), (Log((5,)), 3)))
    assert merged[0].tolist() == [5.0]
    assert merged[1] == (Log((1, 5)), 5)
    with pytest.raises(ValueError, match="zip"):
        merged_with((1, 2), (1, 2, 3))
    assert fold(iter([Block(np.ones((2, 1))), Block(np.ones((3, 1)))]), len) == 5


def test_rows_are_taken_from_every_array():
    block = Block(
        np.arange(8.0).reshape(4, 2), np.arange(4.0)[:, None], np.arange(4.0), np.array(list("abcd")), np.arange(4)
    )
    taken = InMemory(block).take(np.array([2, 0, 2])).whole
    assert taken.F.tolist() == [[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]
    assert taken.X.tolist() == [[2.0], [0.0], [2.0]]
    assert taken.weights.tolist() == [2.0, 0.0, 2.0]
    assert taken.strata.tolist() == ["c", "a", "c"]
    assert taken.clusters.tolist() == [2, 0, 2]
    assert len(taken) == 3
    assert np.shares_memory(block.rows(slice(1, 3)).F, block.F)
    bare = Block(np.ones((4, 1))).rows(np.array([1]))
    assert (bare.X, bare.weights, bare.strata, bare.clusters) == (None, None, None, None)
