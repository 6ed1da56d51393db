"""``ftrect evaluate``: designs replayed many times on a table whose every answer is known."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from ftrect_ray.cli.tabulated import aligned
from ftrect_ray.errors import InputError
from ftrect_ray.study_file import load_study


def evaluate(options: Namespace) -> int:
    """Replay, and print what was saved.

    Raises
    ------
    InputError
        Before any work: options, study, table and folder must go together.
    """
    from ftrect_ray.cli.commands import stdout_for_the_result
    from ftrect_ray.evaluation import driver

    spec = _spec(options)
    location = options.output or str(Path("evaluations") / spec.study.study)
    if options.dry_run:
        plan = driver.describe(spec, location)
        print(json.dumps(plan, indent=2, ensure_ascii=False) if options.json else _forecast(plan))
        return 0
    with stdout_for_the_result():
        document = driver.evaluate(spec, location, address=options.address, verbose=options.debug)
    if options.json:
        json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        print()
    else:
        print(_text(document, location))
    return 0


def _spec(options: Namespace) -> Any:
    from ftrect_ray.evaluation.presets import preset
    from ftrect_ray.evaluation.spec import EvaluationSpec, default_designs, left_out, parse_counts

    if (options.study is None) == (options.preset is None):
        raise InputError(
            "name a study file or a preset, one of them", where="ftrect evaluate", mend="see 'ftrect evaluate --help'"
        )
    further: dict[str, Any] = {}
    if options.preset is not None:
        study, further = preset(options.preset, options.table, options.set)
    elif options.table is not None:
        raise InputError("'--table' goes with '--preset' only", where="ftrect evaluate", mend="name it in the study")
    else:
        study = load_study(options.study, options.set)
    if options.rows is not None:
        further["target_rows"] = options.rows
    budgets = further.pop("budgets", None) or ((study.labels,) if study.labels else ())
    if options.budgets is not None:
        budgets = parse_counts("--budgets", options.budgets)
    if not budgets:
        raise InputError("an evaluation needs budgets", where="ftrect evaluate", mend="give --budgets 300,500,1000")
    designs = options.designs
    if designs is None:
        asked = study, budgets, options.lane, further.get("untrained"), further.get("pilots")
        designs = default_designs(*asked)
        if designs == ("mean",):
            least = min(budgets)
            raise InputError(f"no design has room in {least} labels", where="--budgets", mend="raise the budget")
        if beyond := left_out(*asked):
            note = f"Left out, since {min(budgets)} labels are too few for them: {', '.join(beyond)}."
            further["notes"] = (*further.get("notes", ()), note)
    return EvaluationSpec(
        study=study,
        replications=options.replications,
        budgets=budgets,
        designs=designs,
        objectives=options.objectives or ("variance",),
        lane=options.lane,
        texts=options.texts,
        **further,
    )


def _forecast(plan: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"evaluation in {plan['folder']}; nothing is run now",
            f"  table         {plan['rows']:,} rows, mean answer {plan['truth']:.4f}",
            f"  lane          {plan['lane']}",
            f"  models        {', '.join(plan['models'])}",
            f"  budgets       {', '.join(map(str, plan['budgets']))}",
            f"  designs       {', '.join(plan['designs'])}",
            f"  replications  {plan['replications']:,}, {plan['missing']:,} of them to do",
            *(f"  note          {note}" for note in plan["notes"]),
        ]
    )


def _text(document: dict[str, Any], location: str) -> str:
    """Labels saved, one line a design, one column a budget."""
    from ftrect_ray.evaluation.titles import table_rows

    parts = []
    for model in dict.fromkeys(row["model"] for row in document["rows"]):
        lines = [[model, *(f"B = {budget}" for budget in document["budgets"])]]
        lines += [
            [row.title, *(_cell(row.by_budget.get(budget, {})) for budget in document["budgets"])]
            for row in table_rows(document["rows"], model)
        ]
        parts.append(aligned(lines))
    level = f"{100 * (1 - document['alpha']):g} %"
    legend = (
        f"saved labels against the sample mean (by estimated variance, ± one Monte-Carlo error); in brackets the "
        f"coverage of the population's mean by the {level} interval; {document['replications']:,} replications"
    )
    return "\n\n".join([*parts, f"{legend}\nreport: {location}/report.html"])


def _cell(row: dict[str, Any]) -> str:
    if row.get("coverage") is None:
        return "–"
    held = f"({100 * row['coverage']:.1f} %)"
    if row.get("saved") is None:
        return f"– {held}"
    return f"{100 * row['saved']:.1f} ± {100 * row['saved_error']:.1f} % {held}"
