"""The pilots choose the design, and the model, with labels that rectify afterwards. Does the interval still cover?

A small copy of it with ridge regressions for language models: pilots at three sizes under either scheme, the law, the
decision among designs and candidates, one of them untrained as well, and the estimate with all labels. The signal is so
weak that the decision falls every way. The law has no doubt here, which takes long to draw, so the plan rests on the
measured sizes; ``tests/evaluation/test_designs_coverage.py`` replays one model's whole procedure.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ftrect_ray.allocation import LawFit, fit_scaling_law
from ftrect_ray.allocation.pilot_rows import pilot_draws
from ftrect_ray.estimators import Estimate, classical_mean, mean, recycle
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.pipeline.allocate import decide
from ftrect_ray.pipeline.design import Decision, draw_folds
from ftrect_ray.study import Study
from ftrect_ray.study_file import parse_study

TEXT = "study: a\ndata: {source: vader, text: text, label: rating}\nmax_finetunes: 2\n"
ONE: Study = parse_study(TEXT)
SEVERAL: Study = parse_study(
    TEXT + "candidates: {narrow: {model: {name: minilm}}, wide: {model: {name: minilm}}, late: {model: {name: minilm}}}"
)
N, M, FEATURES = 120, 2000, 12
SIZES = (20, 40, 80)

#: Features that a candidate reads, and its penalty: each is the best one on some replications.
LEARNERS = {"": (12, 20.0), "narrow": (4, 5.0), "wide": (12, 20.0), "late": (12, 60.0)}


def ridge(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients with the intercept first."""
    features, strength = LEARNERS[name]
    design = np.column_stack([np.ones(len(x)), x[:, :features]])
    penalty = strength * np.eye(design.shape[1])
    penalty[0, 0] = 0
    return np.linalg.solve(design.T @ design + penalty, design.T @ y)


def predict(beta: np.ndarray, x: np.ndarray) -> np.ndarray:
    return beta[0] + x[:, : len(beta) - 1] @ beta[1:]


def law(name: str, scheme: str, x: np.ndarray, y: np.ndarray, seed: int) -> LawFit:
    """From pilots with two repetitions of each size."""
    residuals: dict[tuple[int, int], list[np.ndarray]] = {}
    consumed: dict[tuple[int, int], int] = {}
    for draw in pilot_draws(N, SIZES, 2, scheme, N // 4, 5, seed):
        beta = ridge(name, x[draw.own], y[draw.own])
        residuals.setdefault((draw.size, draw.repetition), []).append(y[draw.measure] - predict(beta, x[draw.measure]))
        consumed[draw.size, draw.repetition] = len(draw.own)
    together = {key: np.concatenate(parts) for key, parts in residuals.items()}
    variances = [float(np.var(residual, ddof=1)) for residual in together.values()]
    counts = [len(residual) for residual in together.values()]
    return fit_scaling_law(list(consumed.values()), variances, counts=counts, bootstrap=0)


def estimate_of(
    decision: Decision,
    x: np.ndarray,
    y: np.ndarray,
    unlabeled: np.ndarray,
    untrained: np.ndarray,
    spent: np.ndarray,
    seed: int,
) -> Estimate:
    name = decision.candidate
    if decision.design == "crossfit":
        fold = draw_folds(N, decision.folds, seed)
        betas = [ridge(name, x[fold != k], y[fold != k]) for k in range(decision.folds)]
        out_of_fold = np.column_stack([predict(beta, x) for beta in betas])[np.arange(N), fold]
        return mean(y, out_of_fold, np.column_stack([predict(beta, unlabeled) for beta in betas]), folds=fold)
    if decision.design in ("split", "recycle"):
        order = np.random.default_rng(seed).permutation(N)
        order = np.concatenate([spent, order[~np.isin(order, spent)]])  # what sized the split may not rectify it
        own, rest = order[: decision.n_finetune], order[decision.n_finetune :]
        beta = ridge(name, x[own], y[own])
        found = mean(y[rest], predict(beta, x[rest]), predict(beta, unlabeled))
        return recycle(classical_mean(y[own]), found) if decision.design == "recycle" else found
    if decision.design == "rectify-only":
        return mean(y, predict(untrained, x), predict(untrained, unlabeled))
    return classical_mean(y)


def replicate(study: Study, scheme: str, rng: np.random.Generator, signal: np.ndarray) -> tuple[str, bool, bool]:
    """One study: the design (and model) that was chosen, and whether its interval holds the true mean, which is 1.

    And whether the classical interval holds it.
    """
    x, unlabeled = rng.normal(size=(N, FEATURES)), rng.normal(size=(M, FEATURES))
    y = 1 + x @ signal + rng.exponential(1.0, N) - 1.0
    seed = int(rng.integers(2**31))
    laws = {name: law(name, scheme, x, y, seed) for name in study.contenders}
    untrained = np.concatenate([[0.7], 0.5 * signal[:8]])  # a model that no label has shaped
    zero_shot = {"late": float(np.var(y - predict(untrained, x), ddof=1))} if study is SEVERAL else {}
    rows = Rows(tuple(map(str, range(N))), ("",) * N, y)
    draws = pilot_draws(N, SIZES, 2, scheme, N // 4, 5, seed)
    spent = np.unique(np.concatenate([part for draw in draws for part in (draw.own, draw.measure)]))
    among = {"rows": rows, "spent": rows.take(spent), "zero_shot": zero_shot}
    decision, _ = decide(study, laws, unlabeled=M, predictions=None, **among)
    ours_and_classical = (estimate_of(decision, x, y, unlabeled, untrained, spent, seed), classical_mean(y))
    intervals = [estimate.interval for estimate in ours_and_classical]
    ours, classical = (bool(low <= 1 <= high) for low, high in intervals)
    return f"{decision.design} {decision.candidate}".strip(), ours, classical


def coverage(study: Study, scheme: str, strength: float, replications: int) -> tuple[np.ndarray, Counter[str]]:
    """Whether either interval held, bool (replications, 2), and what was chosen."""
    rng = np.random.default_rng([20, int(100 * strength)])
    signal = np.full(FEATURES, strength) / np.sqrt(FEATURES) * np.sqrt(6)
    outcomes = [replicate(study, scheme, rng, signal) for _ in range(replications)]
    return np.array([hits for _, *hits in outcomes]), Counter(chosen for chosen, *_ in outcomes)


def assert_nominal(covered: np.ndarray, chosen: Counter[str]) -> None:
    """As often as promised, and, on the same replications, as often as the classical interval."""
    error = np.sqrt(0.95 * 0.05 / len(covered))
    ours, classical = covered.mean(axis=0)
    assert abs(ours - 0.95) < 3 * error, (ours, classical, chosen)
    worse = covered[:, 1].astype(float) - covered[:, 0]
    assert abs(worse.mean()) < 3 * worse.std() / np.sqrt(len(worse)), (ours, classical, chosen)


@pytest.mark.parametrize(
    ("strength", "scheme", "replications"),
    [(0.12, "shared", 1000), (0.5, "shared", 1000), (0.12, "cross-validated", 400), (0.12, "cross-fitted", 400)],
)
def test_auto_covers_within_monte_carlo_error(strength: float, scheme: str, replications: int) -> None:
    covered, chosen = coverage(ONE, scheme, strength, replications)
    if strength == 0.12:
        assert min(chosen["classical"], chosen["crossfit"]) > 0.05 * replications  # the choice is really open
    assert_nominal(covered, chosen)


@pytest.mark.parametrize("strength", [0.12, 0.3])
def test_a_choice_among_candidates_trained_or_not_covers_within_monte_carlo_error(strength: float) -> None:
    covered, chosen = coverage(SEVERAL, "shared", strength, 500)
    assert sum(count > 25 for count in chosen.values()) >= 3  # the choice is really open
    assert_nominal(covered, chosen)
