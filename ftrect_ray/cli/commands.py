"""What each command does: parse, call one function of the library, print."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftrect_ray.cli.plan import plan
from ftrect_ray.errors import InputError
from ftrect_ray.sizing.presets import PRESETS
from ftrect_ray.study import Study
from ftrect_ray.study_file import default_study_text, load_study


def init(options: Namespace) -> int:
    path = Path(options.study)
    text = default_study_text(PRESETS[options.preset].settings if options.preset else None)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            "the file is there already", where=str(path), mend="choose another name; nothing was overwritten"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write the file: {error.strerror}", where=str(path)) from None
    print(f"wrote {path}; next: ftrect validate {path}")
    return 0


def validate(options: Namespace) -> int:
    from ftrect_ray.pipeline.check import check_study

    study = load_study(options.study, options.set)
    facts = check_study(study)
    if options.json:
        _print_json(facts)
    else:
        counts = f"{facts['labels']} labels, {facts['unlabeled']} unlabelled texts"
        print(f"{options.study}: good — {counts}, model {facts['model']}")
    return 0


def run(options: Namespace) -> int:
    from ftrect_ray.pipeline.runner import describe, run_study

    study = load_study(options.study, options.set)
    location = _location(options, study)
    if options.dry_run:
        plan = describe(study, location)
        _print_json(plan) if options.json else _print_forecast(plan)
        return 0
    with stdout_for_the_result():
        estimate = run_study(study, location, **_run_settings(options))
    _print_json(estimate) if options.json else _print_estimate(estimate, location)
    return 0


def stage(options: Namespace) -> int:
    from ftrect_ray.pipeline.runner import run_study

    study = load_study(options.study, options.set)
    only = ["tables", "pilot"] if options.command == "pilot" else [options.command]
    run_study(study, _location(options, study), only=only, **_run_settings(options))
    return 0


def estimate(options: Namespace) -> int:
    from ftrect_ray.cli.estimate import estimate_table

    return estimate_table(options)


def sample(options: Namespace) -> int:
    from ftrect_ray.cli.sample import sample_table

    return sample_table(options)


def export(options: Namespace) -> int:
    from ftrect_ray.predictor import export as exporting

    with stdout_for_the_result():
        facts = exporting.export(
            options.run, options.output, model=options.model, merge=options.merge, dtype=options.dtype
        )
    if facts["note"]:
        print(f"note: {facts['note']}", file=sys.stderr)
    if options.json:
        _print_json(facts)
    else:
        held = {"full": "the whole model", "lora": "the adapter", "head": "the readout"}[facts["adapter"]]
        size = f"{len(facts['files'])} files, {facts['bytes'] / 1e6:.1f} MB"
        print(f"{facts['folder']}: {held} of {facts['model']!r} in {facts['dtype']}, {size}; see its README.md")
    return 0


def evaluate(options: Namespace) -> int:
    from ftrect_ray.cli.evaluate import evaluate as replay

    return replay(options)


def serve(options: Namespace) -> int:
    from ftrect_ray.serving import serve_runs

    serve_runs(options.runs, host=options.host, port=options.port, api_key=os.environ.get("FTRECT_API_KEY"))
    return 0


def submit(options: Namespace) -> int:
    from ftrect_ray.submit import submit_study

    study = load_study(options.study, options.set)
    return submit_study(
        study, options.output, address=options.address, submission_id=options.submission_id, wait=not options.no_wait
    )


def data(options: Namespace) -> int:
    from ftrect_ray.models import MODELS, resolve_model
    from ftrect_ray.sources import SOURCES, load_source

    if options.action == "list":
        for kind, entries in (("data", SOURCES), ("model", MODELS)):
            for name, entry in entries.items():
                print(f"{kind:6} {name:10} {entry.description} ({entry.licence})")
    elif options.name in SOURCES:
        print(f"{options.name}: {load_source(options.name).num_rows} rows, checked and cached")
    elif options.name in MODELS:
        print(f"{options.name}: {resolve_model(options.name)}")
    else:
        from ftrect_ray.errors import near_match

        raise InputError(
            f"no data set or model is named {options.name!r}", mend=near_match(options.name, [*SOURCES, *MODELS])
        )
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "init": init,
    "validate": validate,
    "run": run,
    **dict.fromkeys(["pilot", "allocate", "finetune", "predict", "rectify", "report"], stage),
    "estimate": estimate,
    "plan": plan,
    "sample": sample,
    "evaluate": evaluate,
    "export": export,
    "serve": serve,
    "submit": submit,
    "data": data,
}


@contextmanager
def stdout_for_the_result() -> Iterator[None]:
    """What libraries and their processes print on stdout inside the block goes to stderr: ``--json`` stays JSON."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _run_settings(options: Namespace) -> dict[str, Any]:
    return {"update": options.update, "address": options.address, "verbose": options.debug}


def _location(options: Namespace, study: Study) -> str:
    return options.output or str(Path("runs") / study.study)


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    print()


def _print_forecast(plan: dict[str, Any]) -> None:
    print(f"run {plan['run']} (study {plan['study_hash']}); nothing is run now")
    for step in plan["stages"]:
        seconds = step["seconds"]
        cost = (
            "its time depends on the model and the table"
            if seconds is None
            else f"about {seconds} s"
            if seconds
            else ""
        )
        print(f"  {step['stage']:9} {step['what']}" + (f" — {cost}" if cost else ""))
    known = sum(step["seconds"] or 0 for step in plan["stages"])
    print(f"about {known / 60:.0f} minutes on two CPU cores, for what is known here")


def _print_estimate(estimate: dict[str, Any], location: str) -> None:
    names = estimate["names"] or [estimate["target"]]
    level = f"{100 * (1 - estimate['alpha']):g} %"
    rows_used = f"n = {estimate['n']} labels" + (f", m = {estimate['m']} unlabelled texts" if estimate["m"] else "")
    print(f"\n{level} intervals, design {estimate['design']}, {rows_used}")
    for title, part in (
        ("rectified", estimate),
        ("classical", estimate["classical"]),
        ("model alone", estimate["naive"]),
    ):
        if part is None:
            continue
        columns = [part["value"], *part["interval"]]
        rows = zip(*columns, strict=True) if isinstance(part["value"], list) else [columns]
        for name, (value, low, high) in zip(names, rows, strict=True):
            print(f"  {title:12} {name:10} {value:10.4f}   [{low:.4f}, {high:.4f}]")
    ratio, worth = _show(estimate["interval_ratio"]), _show(estimate["effective_n"], 0)
    print(f"  interval length, rectified / classical: {ratio}; worth {worth} labels")
    for warning in estimate.get("diagnostics", {}).get("warnings", []):
        print(f"  WARN {warning}")
    print(f"  report: {location}/report.html")


def _show(value: Any, digits: int = 3) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join("n/a" if number is None else f"{number:.{digits}f}" for number in values)
