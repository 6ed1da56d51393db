"""Designs in which every label both trains and rectifies, each a model of the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ftrect_ray.estimators import draw_folds, rotation, sequential
from ftrect_ray.evaluation.designs.replication import FOLDS, ORDER, Charge, DesignResult, Replication
from ftrect_ray.ledger import Use


def crossfit(folds: int) -> Callable[[Replication], DesignResult]:
    """K folds, each rectified by the model of the other K − 1 (Zrnic & Candès 2024)."""
    return partial(rotate, train=folds - 1, folds=folds)


def rotate(replication: Replication, train: int, folds: int) -> DesignResult:
    """``folds`` models, each of ``train`` consecutive folds; the others rectify it (FTR §1.2)."""
    n = replication.n
    fold = draw_folds(n, folds, [replication.seed, FOLDS, folds])
    unseen = rotation(fold, train)
    own = [replication.rng(ORDER, folds, train, k).permutation(np.flatnonzero(~unseen[:, k])) for k in range(folds)]
    f = replication.learn(own, [replication.seed + k for k in range(folds)])
    charges = []
    for k, places in enumerate(own):
        charges.append(Charge(Use.FINETUNE, f"fold-{k}", places))
        charges.append(Charge(Use.RECTIFY, f"fold-{k}", np.flatnonzero(unseen[:, k])))
    estimate = replication.rectified(np.arange(n), f, folds=unseen)
    return DesignResult.of(estimate, charges, n_finetune=len(own[0]), finetunes=folds)


def in_batches(replication: Replication, batches: int, first: float) -> DesignResult:
    """Batches, each rectified by the model of those before it; the first one by nothing (METHOD: sequential).

    Parameters
    ----------
    batches : int
    first : float
        Share of the labels that is the first batch; together they then grow by one factor, as the planner has it.
    """
    n = replication.n
    ends = np.round(first * n * first ** (-np.arange(batches - 1) / (batches - 1))).astype(np.intp)
    batch = np.searchsorted(ends, np.arange(n), side="right")
    own = [np.arange(end) for end in ends]
    models = replication.learn(own, [replication.seed + k for k in range(len(own))])
    f = np.column_stack([np.zeros(len(models)), models])
    charges = []
    for k, places in enumerate(own):
        charges.append(Charge(Use.FINETUNE, f"batches-{k + 1}", places))
        charges.append(Charge(Use.RECTIFY, f"batches-{k + 1}", np.flatnonzero(batch == k + 1)))
    estimate = sequential(
        replication.y,
        f[replication.labeled],
        f[replication.unlabeled],
        batch,
        lam=replication.lam,
        alpha=replication.alpha,
    )
    return DesignResult.of(estimate, charges, n_finetune=int(ends[-1]), finetunes=len(own))
