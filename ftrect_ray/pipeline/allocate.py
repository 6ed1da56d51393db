"""From measured pilots to a decision, with the predicted variance of every design and candidate beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, isfinite
from typing import Any

import numpy as np

from ftrect_ray.allocation import Compute, Design, LawFit, Plan, choose_model, plan_models
from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.spec import Coefficients, Rows
from ftrect_ray.pipeline.design import Decision, is_zero_shot
from ftrect_ray.pipeline.measured import existing_variance
from ftrect_ray.study import Study

#: Folds of the cross-fitted designs that every plan lists.
FOLDS = range(2, 11)

#: What ``allocation.json`` has of each design.
KEPT = (
    *("name", "finetunes", "n_finetune", "variance", "std_error"),
    *("interval_length", "interval_length_range", "saved_range", "gpu_hours"),
)

#: Designs that a plan compares and 'ftrect run' does not carry out, and why they are shown.
COMPARED = {
    "sequential": "for comparison: 'ftrect run' does not carry it out",
    "split": "if the {spent} labels of the pilots could still rectify",
}


def decide(
    study: Study,
    laws: Mapping[str, LawFit],
    *,
    rows: Rows,
    unlabeled: int,
    spent: Rows,
    predictions: np.ndarray | None,
    spent_laws: Mapping[str, LawFit] | None = None,
    zero_shot: Mapping[str, float] | None = None,
    compute: Mapping[str, Compute] | None = None,
    effect: float = 1.0,
) -> tuple[Decision, dict[str, Any]]:
    """The decision and ``allocation.json``.

    Everything is compared in the unit of the objective: for the mean, Var Y without a model against Var(Y − f) with
    one; for coefficients, the variance of their classical influence against ν (see ``finetune.influence``).

    Parameters
    ----------
    study : Study
    laws : mapping of candidate to LawFit
        Empty where the study has no pilots: the design is then named by the study. ``""`` is the only model's name.
    rows : Rows
        The label budget, n rows.
    unlabeled : int
        Texts without an answer.
    spent : Rows
        Those of ``rows`` that the pilots trained on or were measured with. What is left rectifies a split, whose size
        therefore follows from the answers of ``spent`` alone.
    predictions : np.ndarray or None
        float64 (n,), the table's own predictions of the labelled rows.
    spent_laws : mapping of candidate to LawFit, optional
        As ``spent`` alone tells them; default ``laws``.
    zero_shot : mapping of candidate to float, optional
        ν of those that can be asked untrained: see ``measured.existing_variance``.
    compute : mapping of candidate to Compute, optional
        Device-seconds, for the designs' costs.
    effect : float
        Of how the labels were sampled: see ``pipeline.effect``.
    """
    n, answers = len(rows), np.asarray(rows.answers, dtype=np.float64)
    coefficients = Coefficients.of(study.target, study.objective)
    influence = Influence.of(study.objective, coefficients, rows)
    variance = influence.variance(rows, answers - influence.fitted)
    given = None if predictions is None else existing_variance(influence, rows, answers - predictions)
    seen = None
    if len(spent):
        of_spent = Influence.of(study.objective, coefficients, spent)
        seen = of_spent.variance(spent, spent.answers - of_spent.fitted) or None
    existing = _existing(laws, given, zero_shot or {})
    plans: dict[str, Plan] = {}
    if laws and variance > 0:
        plans = plan_models(
            laws,
            compute=compute,
            rectify_variance={name: nu for name, (nu, _) in existing.items()},
            untrained=[name for name, (_, untrained) in existing.items() if untrained],
            labels=n,
            unlabeled=unlabeled,
            variance=variance,
            folds=tuple(sorted({*FOLDS, study.folds, *range(2, study.max_finetunes + 1)})),
            population=study.population if unlabeled else "infinite",
            alpha=study.alpha,
            effect=effect,
            spent=len(spent),
            spent_law=spent_laws,
            spent_variance=seen,
        )
    decision, candidate, design = _choose(study, plans, laws, existing)
    document = {
        "decision": decision.to_dict(),
        "chosen": design.name,
        "candidate": candidate,
        "reason": _reason(study, design, candidate, plans, laws),
        "labels": n,
        "unlabeled": unlabeled,
        "variance": variance,
        "design_effect": effect,
        "spent": len(spent),
        "max_finetunes": study.max_finetunes,
        "designs": _rows(plans.get(candidate), len(spent), existing.get(candidate)),
    }
    if study.candidates is not None and plans:
        document["candidates"] = [
            {
                "name": name,
                "model": study.with_candidate(name).model.name,
                "designs": _rows(made, len(spent), existing.get(name)),
            }
            for name, made in plans.items()
        ]
    return decision, document


def _existing(
    laws: Mapping[str, LawFit], given: float | None, zero_shot: Mapping[str, float]
) -> dict[str, tuple[float, bool]]:
    """By candidate ν of the better predictions that exist already, and whether the untrained model makes them."""
    found: dict[str, tuple[float, bool]] = {}
    for name in laws:
        options = [(nu, untrained) for nu, untrained in ((given, False), (zero_shot.get(name), True)) if nu]
        if options:
            found[name] = min(options)
    return found


def _choose(
    study: Study, plans: Mapping[str, Plan], laws: Mapping[str, LawFit], existing: Mapping[str, tuple[float, bool]]
) -> tuple[Decision, str, Design]:
    """The decision, the candidate whose plan speaks for it, and its line of the plan, with the reason in ``note``."""
    if study.design == "auto":
        return (
            _best(study, plans, existing)
            if plans
            else _named("classical", "", "all answers are equal: there is nothing to predict")
        )
    reason = "named by the study"
    if study.design in ("rectify-only", "classical"):
        return _named(study.design, "", reason, zero_shot=is_zero_shot(study))
    if study.design == "crossfit":
        name = f"crossfit-{study.folds}"
        candidate = _least(study, plans, laws, lambda plan, _: plan[name].variance)
        return _named("crossfit", candidate, reason, plans=plans, called=name, folds=study.folds)
    size = study.finetune_labels
    if size is not None:
        candidate = _least(study, plans, laws, lambda _, fit: fit.curve.variance(float(size)))
        reason += "; size by 'finetune_labels'"
        return _named(study.design, candidate, reason, called=f"{study.design}-of-{size}", n_finetune=size)
    name = "split-after-pilots" if study.design == "split" else study.design
    candidate = _least(study, plans, laws, lambda plan, _: plan[name].variance)
    if not plans or plans[candidate][name].unavailable:
        why = plans[candidate][name].unavailable if plans else "all answers are equal"
        raise StatisticalRefusal(
            f"design {study.design!r} cannot be sized: {why}",
            where="design",
            mend="give 'finetune_labels', or use 'design: auto'",
        )
    design = plans[candidate][name]
    decision = Decision(study.design, n_finetune=design.n_finetune, selected_by_pilots=True, candidate=candidate)
    return decision, candidate, replace(design, note=f"{reason}; size by the pilots' law")


def _best(
    study: Study, plans: Mapping[str, Plan], existing: Mapping[str, tuple[float, bool]]
) -> tuple[Decision, str, Design]:
    """What ``auto`` takes: the candidate and the design with the least predicted variance."""
    listed = next(iter(plans.values())).designs
    runnable = [d.name for d in listed if d.name in ("classical", "split-after-pilots", "recycle")]
    runnable += ["rectify-only"] * bool(existing)
    runnable += [d.name for d in listed if d.name.startswith("crossfit-")]
    choice = choose_model(plans, study.max_finetunes, runnable)
    design, name = choice.design, choice.candidate
    kind = {"split-after-pilots": "split"}.get(design.name, design.name)
    if kind.startswith("crossfit-"):
        return Decision("crossfit", folds=design.finetunes, candidate=name), name, design
    if kind in ("split", "recycle"):
        return Decision(kind, n_finetune=design.n_finetune, selected_by_pilots=True, candidate=name), name, design
    untrained = kind == "rectify-only" and existing[name][1]
    return Decision(kind, zero_shot=untrained, candidate=name if untrained else ""), name, design


def _named(
    kind: str,
    candidate: str,
    reason: str,
    *,
    plans: Mapping[str, Plan] | None = None,
    called: str = "",
    folds: int = 0,
    n_finetune: int = 0,
    zero_shot: bool = False,
) -> tuple[Decision, str, Design]:
    """A decision that the study makes; with its line of the candidate's plan, where ``plans`` have one."""
    decision = Decision(kind, folds=folds, n_finetune=n_finetune, zero_shot=zero_shot, candidate=candidate)
    if plans:
        return decision, candidate, replace(plans[candidate][called], note=reason)
    return decision, candidate, Design(called or kind, 0, n_finetune, None, None, None, None, note=reason)


def _least(
    study: Study,
    plans: Mapping[str, Plan],
    laws: Mapping[str, LawFit],
    variance: Callable[[Plan, LawFit], float | None],
) -> str:
    """The candidate with the smallest ``variance(plan, fit)``; the first one where nothing tells them apart."""

    def known(name: str) -> float:
        value = variance(plans[name], laws[name])
        return value if value is not None and isfinite(value) else inf

    return min(plans, key=known) if plans else next(iter(laws or study.contenders))


def _reason(study: Study, design: Design, candidate: str, plans: Mapping[str, Plan], laws: Mapping[str, LawFit]) -> str:
    """Why this design, whether a law stands behind it, and what the next best candidate would give."""
    reason = design.note
    if candidate in plans and laws[candidate].status != "identified":
        reason += f"; the plan rests on the measured sizes: {laws[candidate].reason}"
    others = [
        (made[design.name].variance, name) for name, made in plans.items() if name != candidate and design.finetunes
    ]
    known = sorted((variance, name) for variance, name in others if variance is not None)
    if known and design.variance is not None:
        reason += f"; of {len(plans)} candidates the next is {known[0][1]!r}, with variance {known[0][0]:.4g}"
    if unmeasured := [name for name in study.contenders if name not in laws] if laws else []:
        reason += f"; not measured: {', '.join(unmeasured)}"
    return reason


def _rows(made: Plan | None, spent: int, existing: tuple[float, bool] | None) -> list[dict[str, Any]]:
    """The lines of a plan, as ``allocation.json`` has them."""
    notes = dict(COMPARED)
    if not spent:
        del notes["split"]
    if existing is not None and existing[1]:
        notes["rectify-only"] = "the model as it is, untrained"
    return [
        {key: row[key] for key in KEPT}
        | {
            "saved_labels": row["saved"],
            "note": row["unavailable"] or notes.get(row["name"], "").format(spent=spent),
        }
        for row in ([] if made is None else made.to_dict()["designs"])
    ]
