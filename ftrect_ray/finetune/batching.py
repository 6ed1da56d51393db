"""Rows to optimiser steps, and the rows of a step to ranks and micro-batches.

The rows of one optimiser step are drawn at random: they are not grouped by length, because length and answer go
together, and the variance objective measures the spread *within* a step. How the rows of one step are dealt out is
free: the objective is that of the whole step, whoever computes which row. So they are dealt by length.
"""

from __future__ import annotations

import numpy as np


def epoch_batches(rows: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The global batches of one epoch: a permutation of ``rows`` in steps of nearly equal size, at most ``batch_size``.

    Equal steps rather than full ones and a rest: a rest of one row has no residual variance to learn from.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return np.array_split(order, -(-rows // batch_size))
