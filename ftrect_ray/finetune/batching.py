"""Rows to optimiser steps, and the rows of a step to ranks and micro-batches.

The rows of one optimiser step are drawn at random. They are not grouped by length: length and answer go together,
and the variance objective measures the spread *within* a step. How the rows of one step are dealt out is free: the
objective is that of the whole step, whoever computes which row. So they are dealt by length, and where a pass costs
what its tokens cost, a micro-batch goes through the model in several passes of rows that are alike in length.
"""

from __future__ import annotations

import numpy as np


def epoch_batches(rows: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The global batches of one epoch: a permutation of ``rows`` in steps of nearly equal size, at most ``batch_size``.

    Equal steps rather than full ones and a rest: a rest of one row has no residual variance to learn from.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return np.array_split(order, -(-rows // batch_size))


def deal(
    rows: np.ndarray, lengths: np.ndarray, world: int, micro_batch_size: int | None = None
) -> list[list[np.ndarray]]:
    """The rows of one step as ``[micro-batch][rank]``: longest first, alike in length side by side.

    Parameters
    ----------
    rows : ndarray, int (n,)
        Positions.
    lengths : ndarray, int
        Tokens of each position.
    world : int
        Ranks. Where rows are fewer, some ranks hold none.
    micro_batch_size : int, optional
        Rows of one rank at a time; default all at once.

    >>> deal(np.arange(5), np.array([9, 1, 7, 3, 5]), world=2, micro_batch_size=1)
    [[array([0]), array([2])], [array([4]), array([3])], [array([1]), array([], dtype=int64)]]
    """
    order = rows[np.argsort(-lengths[rows], kind="stable")]
    at_once = world * (micro_batch_size or -(-len(rows) // world))
    pieces = [order[start : start + at_once] for start in range(0, len(order), at_once)]
    return [[piece[rank::world] for rank in range(world)] for piece in pieces]


def passes(widths: np.ndarray, overhead: float) -> list[slice]:
    """Neighbouring rows for one forward pass each, so that padded tokens and passes together cost the least.

    Parameters
    ----------
    widths : ndarray, int (n,)
        Tokens of each row, longest first; a pass pads its rows to the first of them.
    overhead : float
        What a pass costs besides, in tokens. Infinite: all rows in one.

    >>> passes(np.array([60, 58, 20, 19, 18]), overhead=32)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    if np.isinf(overhead):
        return [slice(0, len(widths))]
    cost, start = np.zeros(len(widths) + 1), np.zeros(len(widths) + 1, dtype=np.intp)
    for end in range(1, len(widths) + 1):
        last = cost[:end] + np.arange(end, 0, -1) * widths[:end] + overhead
        start[end] = np.argmin(last)
        cost[end] = last[start[end]]
    ends = [len(widths)]
    while start[ends[-1]]:
        ends.append(int(start[ends[-1]]))
    return [slice(first, end) for first, end in zip([*ends[1:], 0][::-1], ends[::-1], strict=True)]
