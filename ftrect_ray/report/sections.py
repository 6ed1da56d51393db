"""What each section of the page says: plain rows of words, every number already written as it is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ftrect_ray.report import words
from ftrect_ray.report.budget import Budget, design_effect, fitted_law
from ftrect_ray.report.figures_plan import available_designs
from ftrect_ray.report.inputs import Json, ReportInputs

STAGES = {
    "tables": "read the table",
    "pilot": "pilots",
    "allocate": "allocation",
    "finetune": "fine-tunes",
    "predict": "predictions",
    "rectify": "estimate",
    "report": "report",
}


def design_name(inputs: ReportInputs) -> str:
    if inputs.is_zero_shot:
        return "zero-shot"
    return f"crossfit-{inputs.folds}" if inputs.design == "crossfit" else inputs.design


def diagnostic(inputs: ReportInputs, key: str) -> Any:
    return (inputs.estimate.get("diagnostics") or {}).get(key)


def _component(value: Any, j: int) -> Any:
    return value[j] if np.ndim(value) else value


def estimates(inputs: ReportInputs) -> list[dict[str, Any]]:
    """One row a component: the estimate, the classical one, its worth, the truth, all in the same decimals."""
    own, classical = inputs.intervals(), inputs.intervals("classical")
    assert own is not None  # ReportInputs checks it
    rows = []
    for j, (name, row, truth) in enumerate(zip(inputs.names, own, inputs.truths, strict=True)):
        d = words.decimals_for(row.std_error)
        other = classical[j] if classical else None
        rows.append(
            {
                "name": name,
                **{key: words.fixed(getattr(row, key), d) for key in ("value", "std_error", "low", "high")},
                "classical": f"{words.fixed(other.value, d)} {words.bracketed(other, d)}" if other else words.ABSENT,
                "effective_n": words.count(_component(inputs.estimate.get("effective_n"), j)),
                "excludes_zero": row.low > 0 or row.high < 0,
                "truth": words.fixed(truth, d) if truth is not None else None,
                "covers_truth": truth is not None and row.low <= truth <= row.high,
            }
        )
    return rows


def facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    """The row of large numbers under the first sentence."""
    facts = [(words.count(inputs.labels), "human answers used"), (words.count(inputs.texts), "texts in the table")]
    if inputs.design == "classical":
        return facts
    if words.is_number(inputs.estimate.get("effective_n")):
        facts.insert(1, (words.count(inputs.estimate.get("effective_n")), "answers that it is worth"))
    if words.is_number(r2 := diagnostic(inputs, "r2")):
        facts.append((words.percent(max(r2, 0.0)), "of the answers’ variance explained on unseen texts"))
    return facts


def worth(inputs: ReportInputs) -> dict[str, Any]:
    """What the model bought, in interval length and in labels."""
    ratio = inputs.estimate.get("interval_ratio")
    ratios = [
        value
        for value in np.atleast_1d(np.asarray(ratio if ratio is not None else [], dtype=float))
        if words.is_number(float(value))
    ]
    if not ratios:
        return {"known": False}
    mean = float(np.exp(np.mean(np.log(ratios))))
    return {
        "known": True,
        "helped": round(mean, 3) < 0.995,
        "shorter": words.percent(1 - mean),
        "longer": words.percent(max(mean - 1, 0.0)),
        "effective_n": words.count(equal) if words.is_number(equal := inputs.estimate.get("effective_n")) else None,
    }


def law(inputs: ReportInputs) -> dict[str, Any] | None:
    given = inputs.law
    if not given:
        return None
    ranges, parameters = given.get("intervals") or {}, []
    if fitted_law(given) is not None:
        for key, symbol in (("a", "a"), ("alpha", "α"), ("b", "b")):
            shown = f"{symbol} = {words.short(given[key])}"
            if ranges.get(key) and all(map(words.is_number, ranges[key])):
                shown += f" ({words.short(ranges[key][0])} to {words.short(ranges[key][1])})"
            parameters.append(shown)
    return {
        "parameters": ", ".join(parameters),
        "r2": words.fixed(given["r2"], 2) if words.is_number(given.get("r2")) else None,
        "reason": words.sentence(given.get("message")),
        "has_band": bool(given.get("band")),
        "is_measured": (given.get("curve") or {}).get("kind") == "measured",
        "symbol": "ν" if inputs.is_targeted else "Var(Y − f)",
        "meaning": f" ν is {words.objective(inputs.study)}." if inputs.is_targeted else "",
    }


def pilots(inputs: ReportInputs) -> list[dict[str, str]]:
    return [
        {
            "name": row["name"],
            "size": words.count(row.get("size")) if row.get("size") else "untrained",
            "residual_variance": words.short(row.get("residual_variance")),
            "n_measure": words.count(row.get("n_measure")),
            "best_epoch": words.count(row.get("best_epoch")),
            "seconds": words.duration(row.get("seconds")),
            "error": row.get("error") or "",
        }
        for row in inputs.pilots
    ]


def allocation(inputs: ReportInputs) -> dict[str, Any]:
    given = inputs.allocation or {}
    possible = available_designs(inputs)
    impossible = [row for row in given.get("designs") or () if not words.is_number(row.get("interval_length"))]
    d = words.decimals_for(possible[0]["interval_length"] / 4) if possible else 0
    rows = [
        {
            "name": words.design(str(row["name"])),
            "chosen": row["name"] == given.get("chosen"),
            "finetunes": words.count(row.get("finetunes")),
            "n_finetune": words.count(row.get("n_finetune") or None),
            "std_error": words.fixed(row.get("std_error"), d),
            "interval_length": words.fixed(row.get("interval_length"), d),
            "range": _range(row, d),
            "saved_labels": words.percent(row.get("saved_labels")),
            "hours": words.short(row.get("gpu_hours")),
            "note": row.get("note") or "",
        }
        for row in [*possible, *impossible]
    ]
    chosen = next((row for row in possible if row["name"] == given.get("chosen")), None)
    own, planned = inputs.intervals(), inputs.planned
    came_out = own[planned].high - own[planned].low if own and planned is not None else None
    return {
        "rows": rows if possible else [],
        "has_range": any(row["range"] for row in rows),
        "has_hours": any(words.is_number(row.get("gpu_hours")) for row in possible),
        "candidates": _candidates(inputs, d),
        "reason": words.sentence(given.get("reason")),
        "of": _planned_quantity(inputs),
        "effect": _effect(inputs),
        "predicted": words.fixed(chosen["interval_length"], d) if chosen else None,
        "came_out": words.fixed(came_out, d) if came_out is not None else None,
    }


def _effect(inputs: ReportInputs) -> str:
    """The design effect, where the labels are no simple random sample."""
    effect = design_effect(inputs)
    return "" if effect == 1.0 else words.fixed(effect, 2)


def _range(row: Json, decimals: int) -> str:
    """The 95 % range of a design's interval length; empty where the doubt is not known."""
    ends = row.get("interval_length_range")
    return f"{words.fixed(ends[0], decimals)} to {words.fixed(ends[1], decimals)}" if ends else ""


def _candidates(inputs: ReportInputs, decimals: int) -> list[dict[str, Any]]:
    """What each candidate model would give at its best, by the design that was chosen."""
    given = inputs.allocation or {}
    rows = []
    for candidate in given.get("candidates") or ():
        same: Json = next((row for row in candidate["designs"] if row["name"] == given.get("chosen")), {})
        rows.append(
            {
                "name": candidate["name"],
                "model": candidate["model"],
                "chosen": candidate["name"] == inputs.candidate,
                "law": words.sentence(inputs.laws.get(candidate["name"], {}).get("message")),
                "interval_length": words.fixed(same.get("interval_length"), decimals),
                "range": _range(same, decimals) if same else "",
                "hours": words.short(same.get("gpu_hours")),
            }
        )
    return rows


def _planned_quantity(inputs: ReportInputs) -> str:
    """What the plan's numbers are predictions for, where that is not the estimate itself."""
    if inputs.is_mean:
        return ""
    return {
        "coefficient": f" for the coefficient of {inputs.study['target'].get('coefficient')}",
        "trace": " for all coefficients, their variances summed",
        "determinant": " for all coefficients, their variances in the geometric mean",
    }.get(inputs.study["objective"], " for the mean answer")


def curves(inputs: ReportInputs) -> dict[str, str]:
    """What the fine-tunes minimised, and on how many labels each chose its epoch."""
    return {"objective": words.objective(inputs.study), "rows": stopping_rows(inputs)}


def stopping_rows(inputs: ReportInputs) -> str:
    """``45``, or ``44 to 45`` where the fine-tunes differ; nothing where none stopped."""
    rows = inputs.stopping_rows
    if not rows:
        return ""
    return words.count(min(rows)) + (f" to {words.count(max(rows))}" if max(rows) > min(rows) else "")


def budget(inputs: ReportInputs) -> dict[str, str] | None:
    fitted = Budget.of(inputs)
    if fitted is None:
        return None
    more = fitted.more_than(inputs.labels)
    if more == inputs.labels:
        return None
    now, then = fitted.half_width(np.array([inputs.labels, more]))
    d = words.decimals_for(float(now) / 2)
    return {
        "more": words.count(more),
        "now": words.fixed(float(now), d),
        "then": words.fixed(float(then), d),
        "equal": words.count(fitted.classical_labels_for(float(now))),
    }


def stages(inputs: ReportInputs) -> list[dict[str, str]]:
    """Where the time went; orchestration is what a stage with a model spent beside computing it."""
    given = [
        (name, entry)
        for name, entry in (inputs.run.get("stages") or {}).items()
        if words.is_number(entry.get("seconds"))
    ]
    if not given:
        return []
    total: dict[str, float] = {
        key: sum(entry.get(key) or 0.0 for _, entry in given) for key in ("seconds", "cpu_seconds", "model_seconds")
    }
    rows = [(STAGES.get(name, name), entry) for name, entry in given] + [("all stages", total)]
    return [
        {
            "name": name,
            "seconds": words.duration(entry["seconds"]),
            "cpu_seconds": words.duration(entry.get("cpu_seconds")),
            "model_seconds": words.duration(entry.get("model_seconds") or None),
            "overhead": words.percent(max(1 - entry["model_seconds"] / entry["seconds"], 0.0))
            if entry.get("model_seconds") and entry["seconds"] > 0
            else words.ABSENT,
        }
        for name, entry in rows
    ]


def run_facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    run = inputs.run
    facts = [("started", str(run["started"]).replace("T", " ").replace("+00:00", " UTC"))] if run.get("started") else []
    facts += [("git", run["git"])] if run.get("git") else []
    facts.append(("seed", inputs.study["seed"]))
    facts += [("python", run["python"])] if run.get("python") else []
    return [(name, str(value)) for name, value in [*facts, *(run.get("versions") or {}).items()]]
