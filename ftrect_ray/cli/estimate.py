"""``ftrect estimate``: predictions that are already in a table, rectified; no model and no cluster."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from ftrect_ray.cli import tabulated
from ftrect_ray.cli.tabulated import Beside
from ftrect_ray.errors import FtrectError, InputError
from ftrect_ray.estimators.settings import Bootstrap, Settings
from ftrect_ray.streaming.answering import Answer, answers_to, each
from ftrect_ray.streaming.columns import Columns
from ftrect_ray.streaming.contrast import Contrast
from ftrect_ray.streaming.questions import Question


def estimate_table(options: Namespace) -> int:
    """Print the rectified estimate beside the classical one; only the columns that are needed are read."""
    question = Question(
        _columns(options),
        options.target,
        q=options.q,
        scale=options.scale,
        missing=options.missing,
        by=options.by,
    )
    limits = {name: value for name in ("max_rows", "max_bytes") if (value := getattr(options, name)) is not None}
    found = answers_to(question, _settings(options), options.table, **limits)
    if options.by is None:
        beside = _beside(found[""])
        print(_as_json(_document(beside)) if options.json else tabulated.one(beside, _what(question)))
        return 0
    groups = each(found, _beside)
    note = tabulated.multiplicity(len(groups), options.alpha)
    if options.json:
        listed = [{"group": name, **_document(outcome)} for name, outcome in groups.items()]
        print(_as_json({"by": options.by, "note": note, "groups": listed}))
    else:
        print(tabulated.several(groups, options.by, _what(question), note))
    return 0


def _what(question: Question) -> str:
    columns = question.columns
    asked = question.target if question.q is None else f"{question.q:g}-{question.target}"
    answers = " − ".join(repr(name) for name in (columns.label, columns.label_other) if name is not None)
    return f"{asked} of {answers}"


def _beside(answer: Answer) -> Beside:
    between = answer.names if isinstance(answer, Contrast) else None
    return Beside(answer.rectified(), answer.classical(), between)


def _document(outcome: Beside | FtrectError) -> dict[str, Any]:
    if isinstance(outcome, FtrectError):
        return {"refusal": str(outcome), "exit_code": outcome.exit_code}
    document = outcome.rectified.to_dict() | {"classical": outcome.classical.to_dict()}
    return document if outcome.between is None else document | {"between": list(outcome.between)}


def _as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False)


def _columns(options: Namespace) -> Columns:
    names = ("label", "prediction", "fold", "features", "label_other", "prediction_other", "groups")
    drawn = ("weight", "strata", "cluster", "probability", "density_ratio")
    return Columns(**{name: getattr(options, name) for name in (*names, *drawn)})


def _settings(options: Namespace) -> Settings:
    bootstrap = None
    chosen = {name: value for name in ("replications", "seed") if (value := getattr(options, name)) is not None}
    if options.bootstrap is not None:
        bootstrap = Bootstrap(options.bootstrap, **chosen)
    elif chosen:
        raise InputError(f"'--{next(iter(chosen))}' goes with '--bootstrap' only", where="ftrect estimate")
    names = ("alpha", "alternative", "null", "coefficients", "simultaneous", "population", "quantiles")
    return Settings.of(
        {name: getattr(options, name) for name in names} | {"lam": _lam(options.lam), "bootstrap": bootstrap}
    )


def _lam(text: str) -> str | float:
    """A number, or a word that is checked where λ is used."""
    try:
        return float(text)
    except ValueError:
        return text
