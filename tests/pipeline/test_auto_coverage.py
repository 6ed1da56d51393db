"""The pilots choose the design with labels that rectify afterwards. Does the interval still cover?

A small copy of the whole procedure with ridge regressions for language models: pilots at three sizes measured on
a validation part, the law, the decision, and the estimate with all labels. The signal is so weak that the decision
falls both ways.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ftrect_ray.allocation import fit_scaling_law
from ftrect_ray.estimators import classical_mean, mean, recycle
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.pipeline.allocate import decide
from ftrect_ray.pipeline.design import draw_folds
from ftrect_ray.study import Study
from ftrect_ray.study_file import parse_study

STUDY: Study = parse_study("study: a\ndata: {source: vader, text: text, label: rating}\nmax_finetunes: 2")
N, M, FEATURES, REPLICATIONS = 120, 2000, 12, 1000
SIZES = (20, 40, 80)


def ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients with the intercept first."""
    design = np.column_stack([np.ones(len(x)), x])
    penalty = 20 * np.eye(design.shape[1])
    penalty[0, 0] = 0
    return np.linalg.solve(design.T @ design + penalty, design.T @ y)


def predict(beta: np.ndarray, x: np.ndarray) -> np.ndarray:
    return beta[0] + x @ beta[1:]


def replicate(rng: np.random.Generator, signal: np.ndarray) -> tuple[str, bool]:
    """One study: the design that was chosen, and whether the interval holds the true mean, which is 1."""
    x, unlabeled = rng.normal(size=(N, FEATURES)), rng.normal(size=(M, FEATURES))
    y = 1 + x @ signal + rng.exponential(1.0, N) - 1.0
    order = rng.permutation(N)
    held, pool = order[: N // 4], order[N // 4 :]
    sizes = [size for size in SIZES for _ in range(2)]
    variances = []
    for size in sizes:
        own = rng.permutation(pool[: SIZES[-1]])[:size]
        variances.append(float(np.var(y[held] - predict(ridge(x[own], y[own]), x[held]), ddof=1)))
    fit = fit_scaling_law(sizes, variances, bootstrap=0)
    rows = Rows(tuple(map(str, range(N))), ("",) * N, y)
    decision, _ = decide(STUDY, fit, rows=rows, unlabeled=M, spent=N // 4 + SIZES[-1], predictions=None)
    if decision.design == "crossfit":
        fold = draw_folds(N, decision.folds, int(rng.integers(2**31)))
        betas = [ridge(x[fold != k], y[fold != k]) for k in range(decision.folds)]
        out_of_fold = np.array([predict(betas[k], row) for k, row in zip(fold, x, strict=True)])
        estimate = mean(y, out_of_fold, np.column_stack([predict(beta, unlabeled) for beta in betas]), folds=fold)
    elif decision.design in ("split", "recycle"):
        own, rest = order[: decision.n_finetune], order[decision.n_finetune :]
        beta = ridge(x[own], y[own])
        estimate = mean(y[rest], predict(beta, x[rest]), predict(beta, unlabeled))
        if decision.design == "recycle":
            estimate = recycle(classical_mean(y[own]), estimate)
    else:
        estimate = classical_mean(y)
    low, high = estimate.interval
    return decision.design, bool(low <= 1 <= high)


@pytest.mark.parametrize("strength", [0.12, 0.5])
def test_auto_covers_within_monte_carlo_error(strength: float) -> None:
    rng = np.random.default_rng([20, int(100 * strength)])
    signal = np.full(FEATURES, strength) / np.sqrt(FEATURES) * np.sqrt(6)
    outcomes = [replicate(rng, signal) for _ in range(REPLICATIONS)]
    chosen = Counter(design for design, _ in outcomes)
    if strength == 0.12:
        assert min(chosen["classical"], chosen["crossfit"]) > 0.05 * REPLICATIONS  # the choice is really open
    coverage = np.mean([hit for _, hit in outcomes])
    # with skewed noise, 120 labels and normal quantiles the classical interval itself covers 94.5 %
    assert abs(coverage - 0.945) < 3 * np.sqrt(0.95 * 0.05 / REPLICATIONS), (coverage, chosen)
