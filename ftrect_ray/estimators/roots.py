"""M-estimates: roots of the mean score, rectified (FTR §5; PPI++ §3), in a few passes over the unlabelled rows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators.blocks import Block, Blocks
from ftrect_ray.estimators.conclusion import conclude, settle_lam
from ftrect_ray.estimators.crossfit import crossfit_lams
from ftrect_ray.estimators.diagnostics import Facts
from ftrect_ray.estimators.equation import Problem, Scored
from ftrect_ray.estimators.labeled import Labeled, selected
from ftrect_ray.estimators.newton import Singular, Unsolved, inverted, solved
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.score import QUIET, Score, Silent
from ftrect_ray.estimators.settings import Settings
from ftrect_ray.estimators.validation import LARGEST

MOST_PASSES = 25
"""Over the unlabelled rows for one λ; four to six are usual."""

MOST_STEPS = 50
"""On the labelled rows alone. Newton's steps on separated answers are of length 1 and never end."""


def rectified_root(
    labeled: Labeled, unlabeled: Blocks, settings: Settings, score: Score, names: tuple[str, ...], target: str
) -> Estimate:
    """θ̂ with mean_r(ψ(Y) − λψ(f)) + λ·mean_u ψ(f) = 0, and its sandwich H⁻¹(…)H⁻¹, H the equation's Jacobian (FTR §5).

    Passes over the unlabelled rows: one at the classical estimate, where λ is tuned; then Newton's, of which the last
    gives the spread: four to six in all are usual. λ = 0 takes one, a cross-fitted λ one more, and several λ as many
    as each of them, and one.
    """
    chosen = selected(names, settings)
    silent = not settings.tunes and not np.any(settings.lam)
    problem = Problem(labeled, unlabeled, score, score, np.ones(labeled.n))
    begin = score.start(labeled, names)
    try:
        theta = solved(problem.classical, begin, problem.classical(begin), MOST_STEPS)[0]
    except Unsolved as failure:
        raise score.fault(failure, labeled, names) from None
    problem = replace(problem, predicting=Silent(len(theta)) if silent else score)
    first = problem.at(theta, complete=True)
    rows, imputed, whole = first.spread(labeled, -inverted(first.slope).T[:, chosen])
    if not np.isfinite([whole.cross, whole.labeled, whole.unlabeled]).all():
        raise _overflow(problem, theta)

    rested = first.sums.rows + (labeled.n if labeled.carries_imputed else 0)
    if settings.crossfits and rested >= 2:
        lams = crossfit_lams(labeled, settings, rows.answers, rows.predicted, imputed)
        weighting, problem = lams.weighting, replace(problem, ratio=lams.ratio)
        first = problem.at(theta, complete=True)
    else:
        weighting = settle_lam(settings, whole, rested, len(theta))
    each = np.broadcast_to(weighting.lam, (len(chosen),))
    try:
        value, last = _roots(problem, each, chosen, theta, first)
        bread = np.column_stack([-inverted(last.jacobian(lam))[j] for j, lam in zip(chosen, each, strict=True)])
    except (Singular, Unsolved) as failure:
        raise _no_root(failure, float(each.max()), names) from None
    rows, _, whole = last.spread(labeled, bread)
    control = rows.contributions.sum(axis=0)
    return conclude(
        value,
        whole,
        weighting,
        settings,
        fitted=len(theta),
        target=target,
        names=tuple(names[j] for j in chosen),
        facts=Facts(
            labeled,
            first.sums.rows,
            first.sums.predicted_variance,
            rows.answers - weighting.lam * rows.predicted,
            control,
        ),
    )


def _roots(
    problem: Problem, lams: np.ndarray, chosen: np.ndarray, theta: np.ndarray, first: Scored
) -> tuple[np.ndarray, Scored]:
    """Coordinate ``chosen[i]`` of the root for ``lams[i]``, and the scores where all these coordinates meet."""
    roots = {lam: problem.root(lam, theta, first, MOST_PASSES) for lam in np.unique(lams).tolist()}
    value = np.array([roots[lam][0][j] for j, lam in zip(chosen, lams.tolist(), strict=True)])
    meeting, last = roots[lams.tolist()[0]]
    if len(roots) > 1:
        meeting = meeting.copy()
        meeting[chosen] = value
        last = problem.at(meeting, complete=True)
    return value, last


@QUIET
def _unusable(block: Block, score: Score, theta: np.ndarray) -> np.ndarray:
    """Number of rows, and of those whose scores are not finite or too large to square."""
    rows = score.at(theta, block.X).rows(block.F, np.full(block.F.shape[1], 1 / block.F.shape[1]))
    return np.array([len(block), np.count_nonzero(~(np.abs(rows) <= LARGEST).all(axis=1))])


def _overflow(problem: Problem, theta: np.ndarray) -> StatisticalRefusal:
    count = partial(_unusable, score=problem.score, theta=theta)
    (n, bad), (m, worse) = count(problem.labeled.as_block()), problem.unlabeled.fold(count)
    return StatisticalRefusal(
        f"the scores of the predictions are not finite, or too large, in {bad} of {n} labelled and {worse} of {m} "
        "unlabelled rows",
        mend="check the predictions, and that 'X_unlabeled' has the units of 'X'; lam=0 does without predictions",
    )


def _no_root(failure: Singular | Unsolved, lam: float, names: tuple[str, ...]) -> StatisticalRefusal:
    reason = f"no root within {MOST_PASSES} passes over the unlabelled rows"
    if failure.column is not None:
        reason = f"the Jacobian is singular at {names[failure.column]!r}"
    return StatisticalRefusal(
        f"the rectified equation cannot be solved with lam={lam:g}: {reason}",
        mend="take a smaller 'lam' (0 is the classical estimate); check that predictions and answers are on one scale",
    )
