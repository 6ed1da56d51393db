"""The stages in their order: what is done is not done again, what is wrong stops before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from ftrect_ray.errors import InputError
from ftrect_ray.pipeline import stages
from ftrect_ray.pipeline.context import Run
from ftrect_ray.pipeline.forecast import forecast
from ftrect_ray.pipeline.meter import Meter
from ftrect_ray.pipeline.record import STAGES, RunRecord, changes, invalidated, refuse_changed
from ftrect_ray.sources import SOURCES
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Study, digest
from ftrect_ray.study_file import dump_study, parse_study

_WORK: dict[str, Callable[[Run], dict[str, Any]]] = {
    "tables": stages.tables,
    "pilot": stages.pilot,
    "allocate": stages.allocate,
    "finetune": stages.finetune,
    "predict": stages.predict,
    "rectify": stages.rectify,
    "report": stages.report,
}


def run_study(
    study: Study,
    location: str,
    *,
    only: Sequence[str] = STAGES,
    update: bool = False,
    address: str | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Run the stages named in ``only``, those that are not done yet.

    Parameters
    ----------
    study : Study
    location : str
        The run's folder: a path or a URI.
    only : sequence of str
        A part of ``STAGES``. The stages before the first must be done.
    update : bool
        Accept a study that differs from the run's own, and redo what the difference invalidates.
    address : str, optional
        A Ray cluster; default a local one, or the cluster that this process is a job of.
    verbose : bool
        Show what Ray logs.

    Returns
    -------
    dict
        ``estimate.json`` where the run has come that far, else the manifest.

    Raises
    ------
    InputError, EnvironmentFault, StatisticalRefusal
        As the stages do; what was finished stays.
    """
    with _open_run(study, location, update, address, verbose) as run:
        for stage in STAGES[: STAGES.index(only[0])]:
            if not stages.needless(run, stage) and not run.record.is_done(stage, stages.key(run, stage)):
                raise InputError(
                    f"stage {stage!r} is not done in this run",
                    where=run.storage.uri,
                    mend=f"run 'ftrect run' or the stage {stage!r} first",
                )
        for stage in only:
            _do(run, stage)
        done = run.storage.exists("estimate.json") and STAGES.index(only[-1]) >= STAGES.index("rectify")
        return dict(run.storage.read_json("estimate.json") if done else run.record.content)


@contextmanager
def _open_run(study: Study, location: str, update: bool, address: str | None, verbose: bool) -> Iterator[Run]:
    """The run's folder, locked, its study file written or compared."""
    storage = RunStorage.open(location)
    storage.create()
    with storage.lock(), ExitStack() as stack, Meter() as meter:
        if storage.exists("evaluation.json"):
            raise InputError(
                "the folder holds an evaluation, whose page a run would overwrite",
                where=storage.uri,
                mend="choose another folder with -o",
            )
        if storage.exists("study.yaml") and not update:
            refuse_changed(storage, _study_of(storage), study)
        storage.write_bytes(dump_study(study).encode(), "study.yaml")
        yield Run(study, storage, RunRecord(storage, study), meter, stack, address, update, verbose)


def _do(run: Run, stage: str) -> None:
    if stage != "tables" and (reason := stages.needless(run, stage)):
        say(stage, f"skipped: {reason}")
        return
    key = stages.key(run, stage)
    if run.record.is_done(stage, key):
        say(stage, f"skipped: done already with the same inputs (key {key})")
        return
    seconds, cpu_seconds = run.meter.seconds, run.meter.cpu_seconds
    run.record.begin(stage, key)
    say(stage, "…")
    facts = _WORK[stage](run)
    costs = {
        "seconds": round(run.meter.seconds - seconds, 2),
        "cpu_seconds": round(run.meter.cpu_seconds - cpu_seconds, 2),
    }
    run.record.finish(stage, {**costs, **facts, "peak_bytes": run.meter.peak_bytes})
    computed = facts.get("model_seconds")
    model = f", of which the model computed {computed:.0f} s" if computed else ""
    spent = f"{costs['seconds']:.0f} s ({costs['cpu_seconds']:.0f} CPU s{model})"
    say(stage, f"done in {spent} {facts.get('summary', '')}".rstrip())


def describe(study: Study, location: str) -> dict[str, Any]:
    """What :func:`run_study` would do, without doing it: ``run``, ``study_hash`` and ``stages``.

    See :func:`ftrect_ray.pipeline.forecast.forecast` for the stages' rows.

    Raises
    ------
    InputError
        There is a file of the run's name.
    """
    storage = RunStorage.open(location)
    storage.refuse_file()
    done: set[str] = set()
    if storage.exists("study.yaml") and storage.exists("run.json"):
        entries = storage.read_json("run.json")["stages"]
        different = invalidated(changes(_study_of(storage), study), study)
        done = {name for name, entry in entries.items() if entry.get("status") == "done" and name not in different}
    texts = SOURCES[study.data.source].rows if study.data.source in SOURCES else None
    return {
        "run": storage.uri,
        "study_hash": digest(study.model_dump(mode="json")),
        "stages": forecast(study, done, texts),
    }


def _study_of(storage: RunStorage) -> Study:
    return parse_study(storage.read_bytes("study.yaml").decode(), where=storage.url("study.yaml"))


def say(stage: str, message: str) -> None:
    """One line of progress on stderr."""
    print(f"[{stage}] {message}", file=sys.stderr, flush=True)
