"""Designs without a split of the labels: no model, a model alone, and predictions that exist already."""

from __future__ import annotations

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.estimators import classical_mean, draw_folds, naive_mean
from ftrect_ray.evaluation.designs.replication import RECALIBRATION, Charge, DesignResult, Replication
from ftrect_ray.ledger import GIVEN, NO_MODEL, Use

#: Folds of the recalibration: lines of two parameters are stable with any number of them.
RECALIBRATION_FOLDS = 5


def sample_mean(replication: Replication) -> DesignResult:
    """The mean of the n answers with its t interval, without any model."""
    estimate = classical_mean(replication.y, alpha=replication.alpha)
    return DesignResult.of(estimate, [Charge(Use.CLASSICAL, NO_MODEL, np.arange(replication.n))])


def finetune_only(replication: Replication) -> DesignResult:
    """The mean prediction of the unlabelled rows by a model of all n labels, and the interval that this pretends to.

    Not deployable: the model's bias is not in the interval.
    """
    places = np.arange(replication.n)
    f = replication.learn([places], [replication.seed])[replication.unlabeled]
    charges = [Charge(Use.FINETUNE, "all", places)]
    return DesignResult.of(naive_mean(f, alpha=replication.alpha), charges, n_finetune=replication.n, finetunes=1)


def ppi(replication: Replication) -> DesignResult:
    """Untrained predictions, rectified with λ = 1 by every label (Angelopoulos et al. 2023)."""
    return _rectify_only(replication, 1.0)


def ppi_tuned(replication: Replication) -> DesignResult:
    """The same with a tuned λ in [0, 1] (PPI++, arXiv 2311.01453)."""
    return _rectify_only(replication, "tuned")


def recalibrated(replication: Replication) -> DesignResult:
    """Untrained predictions, recalibrated to the answers before they are rectified.

    RePPI (Ji, Lei & Zrnic, arXiv 2501.09731) with a line g(f) = a + bf, the least-squares regression of Y on f. Each
    label is rectified by the line of the other four of five folds, and λ is tuned afterwards. Unlike in PPI++, a slope
    b above 1 or below 0 is used as it is found.
    """
    places, f = np.arange(replication.n), _zero_shot(replication)
    fold = draw_folds(replication.n, RECALIBRATION_FOLDS, [replication.seed, RECALIBRATION])
    lines = [_line(f[replication.labeled[fold != k]], replication.y[fold != k]) for k in range(RECALIBRATION_FOLDS)]
    g = np.stack([a + b * f for a, b in lines], axis=1)
    charges = []
    for k in range(RECALIBRATION_FOLDS):
        charges.append(Charge(Use.FINETUNE, f"line-{k}", places[fold != k]))
        charges.append(Charge(Use.RECTIFY, f"line-{k}", places[fold == k]))
    return DesignResult.of(replication.rectified(places, g, folds=fold, lam="tuned"), charges)


def _rectify_only(replication: Replication, lam: float | str) -> DesignResult:
    places = np.arange(replication.n)
    estimate = replication.rectified(places, _zero_shot(replication), lam=lam)
    return DesignResult.of(estimate, [Charge(Use.RECTIFY, GIVEN, places)])


def _zero_shot(replication: Replication) -> np.ndarray:
    if replication.zero_shot is None:
        raise InputError(
            "there are no predictions to rectify",
            mend="give the table a column of predictions, or the model a prompt with answer options",
        )
    return replication.zero_shot


def _line(f: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(a, b) of the least-squares line of ``y`` on ``f``; b = 0 where f does not vary."""
    deviation = f - f.mean()
    energy = float(deviation @ deviation)
    b = float(deviation @ y) / energy if energy > 0 else 0.0
    return float(y.mean() - b * f.mean()), b
