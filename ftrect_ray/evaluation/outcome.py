"""What an evaluation leaves behind for people: summary.csv, summary.json, figures and the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ftrect_ray.evaluation.designs import NEEDS_ZERO_SHOT
from ftrect_ray.evaluation.page import build_page
from ftrect_ray.evaluation.population import Population
from ftrect_ray.evaluation.records import Records
from ftrect_ray.evaluation.spec import EvaluationSpec
from ftrect_ray.evaluation.summary import Row, summarise
from ftrect_ray.storage import RunStorage
from ftrect_ray.study_file import dump_sections


def write_outcome(
    spec: EvaluationSpec, population: Population, records: Records, storage: RunStorage
) -> dict[str, Any]:
    """Write ``summary.json``, ``summary.csv``, ``figures/*.png`` and ``report.html``; the first is returned."""
    document: dict[str, Any] = {
        "study": spec.study.study,
        "lane": spec.lane,
        "models": list(spec.candidates),
        "objectives": list(spec.objectives),
        "budgets": list(spec.budgets),
        "designs": list(spec.replayed),
        "replications": spec.replications,
        "texts": spec.texts,
        "untrained": _untrained(spec, population),
        "alpha": spec.study.alpha,
        "seed": spec.study.seed,
        "notes": list(spec.remarks(population)),
        "population": {
            "rows": len(population),
            "truth": population.truth,
            "variance": population.variance,
            "spread": population.spread,
            "repeated": population.repeated,
            "beyond": population.beyond,
        },
        "rows": summarise(spec, population, records.table),
    }
    html, pngs = build_page(document, settings(spec))
    storage.write_json(document, "summary.json")
    storage.write_bytes(table_csv(document["rows"]).encode(), "summary.csv")
    for name, png in pngs.items():
        storage.write_bytes(png, "figures", f"{name}.png")
    storage.write_bytes(html.encode(), "report.html")
    return document


def _untrained(spec: EvaluationSpec, population: Population) -> str | None:
    """Whose answers were rectified without a fine-tune; None where nothing was, or a column of the table."""
    if population.zero_shot is not None or not NEEDS_ZERO_SHOT & set(spec.designs):
        return None
    models = [spec.asked(candidate) for candidate in spec.candidates.values()]
    return " and ".join(dict.fromkeys(model.name for model in models if model is not None)) or None


def settings(spec: EvaluationSpec) -> str:
    """What was asked for, as YAML text, with the pilots as they were replayed."""
    asked = {
        "lane": spec.lane,
        "replications": spec.replications,
        "budgets": list(spec.budgets),
        "designs": list(spec.replayed),
        "objectives": list(spec.objectives),
        "texts": spec.texts,
        "target_rows": spec.target_rows,
        "distinct": spec.distinct,
        "max_finetunes": spec.finetunes_allowed,
        "untrained": None if spec.untrained is None else spec.untrained.model_dump(mode="json"),
        "pilots": {budget: _pilots(spec, budget) for budget in spec.budgets},
    }
    study = spec.study.model_dump(mode="json", exclude={"pilots", "max_finetunes"})
    return dump_sections({"evaluation": asked, "study": study})


def _pilots(spec: EvaluationSpec, budget: int) -> dict[str, Any]:
    rule = asdict(spec.pilot_rule(budget))
    return rule | {
        "sizes": rule["sizes"] or "an eighth, a quarter, a half and all of the labels that pilots may take",
        "ramp": rule["ramp"] or "a twentieth of the budget, two twentieths and so on",
    }


def table_csv(rows: Sequence[Row]) -> str:
    """All rows and all numbers; empty where there is none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
