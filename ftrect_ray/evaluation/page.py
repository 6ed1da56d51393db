"""The page of an evaluation: what the designs saved, whether their intervals held, and tables as FTR's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ftrect_ray.evaluation import figures
from ftrect_ray.evaluation.spec import AUTO, CLASSICAL
from ftrect_ray.evaluation.summary import ANY, UNRECTIFIED, Row
from ftrect_ray.evaluation.titles import TableRow, table_rows
from ftrect_ray.report import words
from ftrect_ray.report.drawing import Picture, picture
from ftrect_ray.report.page import Inline, environment


def _tenths(share: Any) -> str:
    return words.percent(share, 1)


#: Numbers of the large tables, each with its Monte-Carlo error: heading, name in the summary, how it is written.
COLUMNS: tuple[tuple[str, str, Callable[[Any], str] | None], ...] = (
    ("Bias", "bias", None),
    ("RMSE", "rmse", None),
    ("MAE", "mae", None),
    ("Coverage", "coverage", _tenths),
    ("Length ratio", "length_ratio", lambda x: words.fixed(x, 3)),
    ("Saved", "saved", _tenths),
    ("Saved, by errors", "saved_mse", _tenths),
    ("Worth labels", "effective_labels", words.count),
)


def build_page(document: dict[str, Any], settings: str) -> tuple[str, dict[str, bytes]]:
    """Write the page.

    Parameters
    ----------
    document : dict
        The content of ``summary.json``.
    settings : str
        The study and what was asked of it, as YAML text.

    Returns
    -------
    html : str
        One page with its styles and figures inside; it loads nothing and runs no script.
    pngs : dict of str to bytes
        The figures at 200 dpi by name.
    """
    pngs: dict[str, bytes] = {}
    models = []
    names = list(dict.fromkeys(row["model"] for row in document["rows"]))
    for model in names:
        rows = table_rows(document["rows"], model)
        pictures = _pictures(rows, document, model if len(names) > 1 else "")
        pngs |= {drawn.name: drawn.png for drawn in pictures.values()}
        models.append(
            {
                "name": model,
                "pictures": {name: Inline(drawn) for name, drawn in pictures.items()},
                "saved": _saved(rows, document["budgets"]),
                "tables": [_table(rows, budget) for budget in document["budgets"]],
                "missing": _missing(rows),
                "planned": _planned(rows, document["budgets"]),
            }
        )
    told = [ANY] if ANY in names else names
    headlines = [_headline(model, table_rows(document["rows"], model), document) for model in told]
    html = (
        environment(Path(__file__).parent)
        .get_template("evaluation.html.j2")
        .render(
            document=document,
            models=models,
            headlines=[line for line in headlines if line],
            level=words.level(document["alpha"]),
            headings=[heading for heading, _, _ in COLUMNS],
            budgets=[words.count(budget) for budget in document["budgets"]],
            facts=_facts(document),
            replications=words.count(document["replications"]),
            rows=words.count(document["population"]["rows"]),
            repeated=words.count(document["population"]["repeated"]) if document["population"]["repeated"] else "",
            beyond=words.count(document["population"]["beyond"]) if document["population"]["beyond"] else "",
            texts=words.count(document["texts"]) if document["texts"] else "",
            untrained=document["untrained"],
            settings=words.plain(settings),
        )
    )
    return html, pngs


def _pictures(rows: Sequence[TableRow], document: dict[str, Any], model: str) -> dict[str, Picture]:
    alpha = document["alpha"]
    drawings: dict[str, tuple[str, Callable[[float], Figure]]] = {}
    if _known(rows, "saved"):
        drawings["saved"] = ("Labels that each design saved, by budget.", lambda width: figures.saved(rows, width))
        drawings["coverage"] = (
            "Share of intervals that held the truth, by design and budget.",
            lambda width: figures.coverage(rows, width, alpha),
        )
    if _known(rows, "predicted_ratio"):
        drawings["planned"] = (
            "Length of the interval as the planner predicted it, over the realised one.",
            lambda width: figures.planned(rows, width),
        )
    prefix = f"{''.join(c if c.isalnum() else '-' for c in model)}-" if model else ""
    return {name: picture(f"{prefix}{name}", alt, draw) for name, (alt, draw) in drawings.items()}


def _known(rows: Sequence[TableRow], name: str) -> bool:
    """Whether there is any such number."""
    return any(words.is_number(found.get(name)) for row in rows for found in row.by_budget.values())


def _headline(model: str, rows: Sequence[TableRow], document: dict[str, Any]) -> dict[str, str] | None:
    """Of ``auto``, else of the best deployable design, at the largest budget."""
    budget = document["budgets"][-1]
    known = [row for row in rows if row.deployable and words.is_number(row.by_budget.get(budget, {}).get("saved"))]
    known = [row for row in known if row.design not in (CLASSICAL, UNRECTIFIED)]
    if not known:
        return None
    best = max(known, key=lambda row: (row.design == AUTO, row.by_budget[budget]["saved"]))
    found = best.by_budget[budget]
    chosen = "the planner’s choice of model and design" if model == ANY else "the planner’s choice"
    return {
        "model": "" if model == ANY else model,
        "title": chosen if best.design == AUTO else best.title,
        "budget": words.count(budget),
        "saved": words.percent(abs(found["saved"])),
        "verb": "saved" if found["saved"] >= 0 else "cost",
        "coverage": words.percent(found["coverage"], 1),
    }


def _saved(rows: Sequence[TableRow], budgets: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "title": row.title,
            "chosen": row.design == AUTO,
            "deployable": row.deployable,
            "cells": [_with_error(row.by_budget.get(budget, {}), "saved", _tenths) for budget in budgets],
        }
        for row in rows
    ]


def _table(rows: Sequence[TableRow], budget: int) -> dict[str, Any]:
    digits = [words.decimals_for(row.by_budget[budget].get("bias_error")) for row in rows if budget in row.by_budget]
    decimals = max(digits, default=3)
    lines = []
    for row in rows:
        found = row.by_budget.get(budget, {})
        cells = [_with_error(found, name, show or (lambda x: words.fixed(x, decimals))) for _, name, show in COLUMNS]
        flag = abs(found.get("coverage_off") or 0.0) > figures.FAR
        chosen = f"chose {found['chosen']}" if found.get("chosen") else ""
        lines.append(
            {"title": row.title, "cells": cells, "chosen": row.design == AUTO, "off": flag,
             "note": chosen or (found.get("reason") or "" if not found.get("replications") else "")}
        )  # fmt: skip
    return {"budget": words.count(budget), "lines": lines}


def _planned(rows: Sequence[TableRow], budgets: Sequence[int]) -> list[dict[str, Any]]:
    """Predicted over realised length, and regrets, of the designs that a plan preceded."""
    lines = []
    for row in rows:
        for budget in budgets:
            found = row.by_budget.get(budget, {})
            if words.is_number(found.get("predicted_ratio")):
                cells = [_with_error(found, "predicted_ratio", lambda x: words.fixed(x, 3))]
                cells += [_with_error(found, name, _tenths) for name in ("regret_split", "regret")]
                lines.append({"title": row.title, "budget": words.count(budget), "cells": cells})
    return lines


def _missing(rows: Sequence[TableRow]) -> list[str]:
    """Replications in which a design could not be carried out, and why."""
    return [
        f"{row.title}, {words.count(budget)} labels: {words.count(found['unavailable'])} replications without an "
        f"estimate: {found['reason']}"
        for row in rows
        for budget, found in row.by_budget.items()
        if found["unavailable"]
    ]


def _with_error(found: Row, name: str, show: Callable[[Any], str]) -> tuple[str, str]:
    """A number and its Monte-Carlo error, as text; a dash where there is none."""
    value, error = found.get(name), found.get(f"{name}_error")
    if not words.is_number(value):
        return words.ABSENT, ""
    return show(value), f"± {show(error)}" if words.is_number(error) else ""


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (words.count(document["replications"]), "replications of each budget"),
        (", ".join(words.count(budget) for budget in document["budgets"]), "labels"),
        (words.count(document["population"]["rows"]), "rows, every answer known"),
        (words.fixed(document["population"]["truth"], 3), "mean of all answers"),
    ]
