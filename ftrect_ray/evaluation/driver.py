"""An evaluation on Ray: what is missing is computed, each finished piece is kept, and the outcome is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from ftrect_ray.cluster import cluster_session, resources
from ftrect_ray.errors import EnvironmentFault, FtrectError, InputError, InputErrors
from ftrect_ray.evaluation.designs import NEEDS_ZERO_SHOT
from ftrect_ray.evaluation.features import Pass, Shards, compute
from ftrect_ray.evaluation.outcome import write_outcome
from ftrect_ray.evaluation.population import Population, load_population
from ftrect_ray.evaluation.records import Records, has_records
from ftrect_ray.evaluation.replaying import Unit, World, replay, units
from ftrect_ray.evaluation.spec import AUTO, Candidate, EvaluationSpec, refuse_other
from ftrect_ray.finetune.untrained import asked
from ftrect_ray.layout import Demand, Resources, check_feasible
from ftrect_ray.pipeline.check import check_models
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Model

EVALUATION = "evaluation.json"
#: Replications of one piece of work: what a kill may cost, for each worker.
CHUNKS = {"fast": 10, "finetune": 1}
#: Pieces handed to Ray for each that can run: enough to keep workers busy while the driver writes.
AHEAD = 2
PROGRESS_SECONDS = 15.0

Item = TypeVar("Item")


def evaluate(
    spec: EvaluationSpec, location: str, *, address: str | None = None, verbose: bool = False
) -> dict[str, Any]:
    """Replay what is not replayed yet, and write records, tables, figures and the page.

    The same call again continues after a kill; more replications, budgets, designs, objectives or models reuse what is
    there. The outcome depends on the specification alone, not on how the work was spread or interrupted.

    Parameters
    ----------
    spec : EvaluationSpec
    location : str
        A folder: a path or a URI.
    address, verbose
        As in :func:`~ftrect_ray.pipeline.runner.run_study`.

    Returns
    -------
    dict
        The content of ``summary.json``.

    Raises
    ------
    InputError
        The table does not allow what is asked, or the folder holds another evaluation; nothing was started.
    EnvironmentFault
        The cluster lacks what a fine-tune needs, or a model does not load.
    """
    population = check(spec, location)
    storage = RunStorage.open(location)
    storage.create()
    with storage.lock():
        storage.write_json(_described(spec, population, _before(storage)), EVALUATION)
        records = Records(storage)
        missing = sum(len(unit.replications) for unit in _units(spec, records))
        if missing:
            with cluster_session(address, verbose=verbose):
                _replay(spec, population, records, storage)
        else:
            say(f"skipped: all {spec.replications} replications are there")
        records.finish()
        return write_outcome(spec, population, records, storage)


def check(spec: EvaluationSpec, location: str) -> Population:
    """Everything that can be wrong before work starts; the table.

    Raises
    ------
    InputError
    """
    data = spec.study.data
    population = load_population(data, spec.study.seed, distinct=spec.distinct, target_rows=spec.target_rows)
    spec.check_against(population)
    if problems := check_models(candidate.model for candidate in spec.candidates.values()):
        raise InputErrors(problems)
    storage = RunStorage.open(location)
    storage.refuse_file()
    if storage.exists("run.json"):
        raise InputError(
            "the folder holds a run, whose report an evaluation would overwrite",
            where=storage.uri,
            mend="choose another folder with -o",
        )
    before = _before(storage)
    if before is not None:
        refuse_other(before, _described(spec, population, before), storage.uri)
    return population


def describe(spec: EvaluationSpec, location: str) -> dict[str, Any]:
    """What :func:`evaluate` would do, without doing it.

    Returns
    -------
    dict
        ``folder``, ``rows``, ``truth``, ``replications`` that are asked for and ``missing`` ones (of all models,
        budgets and objectives), and ``models``, ``notes``.
    """
    population, storage = check(spec, location), RunStorage.open(location)
    missing = sum(len(unit.replications) for unit in _units(spec, Records(storage)))
    kinds = len(spec.candidates) * len(spec.budgets) * len(spec.objectives)
    return {
        "folder": storage.uri,
        "rows": len(population),
        "truth": population.truth,
        "lane": spec.lane,
        "models": list(spec.candidates),
        "budgets": list(spec.budgets),
        "designs": list(spec.replayed),
        "notes": list(spec.remarks(population)),
        "replications": spec.replications * kinds,
        "missing": missing,
    }


def say(message: str) -> None:
    """One line of progress on stderr."""
    print(f"[evaluate] {message}", file=sys.stderr, flush=True)


def _described(spec: EvaluationSpec, population: Population, before: dict[str, Any] | None) -> dict[str, Any]:
    """What ``evaluation.json`` says: the models of earlier calls, which it says ``before``, stay in it."""
    models = {name: candidate.key for name, candidate in spec.candidates.items()}
    if before is not None:
        models = {**before["models"], **models}
    return {"identity": spec.identity(population), "models": dict(sorted(models.items()))}


def _before(storage: RunStorage) -> dict[str, Any] | None:
    """What ``evaluation.json`` of an earlier call says; None in a folder without records, where it binds nobody.

    Raises
    ------
    InputError
        It is damaged or gone: nobody can tell what the records are of.
    """
    if not has_records(storage):
        return None
    there = storage.exists(EVALUATION)
    try:
        before = storage.read_json(EVALUATION) if there else None
    except InputError:
        before = None
    if isinstance(before, dict) and all(isinstance(before.get(name), dict) for name in ("identity", "models")):
        return before
    raise InputError(
        f"{EVALUATION!r} is {'damaged' if there else 'gone'}, which says what the folder's records are of",
        where=storage.uri,
        mend="restore it, or choose another folder with -o",
    )


def _units(spec: EvaluationSpec, records: Records) -> Iterator[Unit]:
    return units(spec, list(spec.candidates), records.__contains__, CHUNKS[spec.lane])


# ------------------------------------------------------------------------------------------------- on Ray


def _replay(spec: EvaluationSpec, population: Population, records: Records, storage: RunStorage) -> None:
    import ray

    with_model = _demand(spec, resources())
    todo = list(_units(spec, records))
    needed = {unit.model for unit in todo}
    worlds = {
        name: ray.put(_world(spec, population, name, candidate, storage, with_model))
        for name, candidate in spec.candidates.items()
        if name in needed
    }
    total = sum(len(unit.replications) for unit in todo)
    cpus, gpus = (1.0, 0.0) if spec.lane == "fast" else with_model
    task, progress = ray.remote(num_cpus=cpus, num_gpus=gpus)(replay), _Progress(total, "replications")
    most = AHEAD * resources().capacity(cpus, gpus)
    for unit, rows in _in_flight(todo, lambda unit: task.remote(unit, worlds[unit.model]), most):
        records.add(rows)
        progress.add(len(unit.replications))


def _world(
    spec: EvaluationSpec,
    population: Population,
    name: str,
    candidate: Candidate,
    storage: RunStorage,
    demand: tuple[float, float],
) -> World:
    """With the features and the untrained answers of a model, which are computed here if they are missing."""
    import ray

    cpus, gpus = demand
    task, most = ray.remote(num_cpus=cpus, num_gpus=gpus)(compute), AHEAD * resources().capacity(cpus, gpus)

    def of_texts(kind: Any, model: Model) -> np.ndarray:
        shards = Shards(
            RunStorage.open(storage.url("work", "passes")),
            Pass(kind, model, candidate.training.precision),
            population.rows.texts,
        )
        if missing := list(shards.missing()):
            say(f"{name}: {kind} of {sum(len(texts) for _, texts in missing):,} texts")
            progress = _Progress(sum(len(texts) for _, texts in missing), "texts")
            for (file, texts), array in _in_flight(missing, lambda item: task.remote(shards.pass_, item[1]), most):
                shards.keep(file, array)
                progress.add(len(texts))
        return shards.read()

    def answers(model: Model) -> np.ndarray:
        return of_texts("answers", asked(model))[:, 0]

    own = [answers(candidate.model)] if candidate.model.has_answers and AUTO in spec.designs else []
    given = [] if population.zero_shot is None else [population.zero_shot]
    zero_shot, prompted = population.zero_shot, spec.asked(candidate)
    if zero_shot is None and prompted is not None and NEEDS_ZERO_SHOT & set(spec.designs):
        zero_shot = answers(prompted)
    fast, rows = spec.lane == "fast", population.rows
    return World(
        spec=spec,
        candidate=candidate,
        answers=rows.answers,
        rows=None if fast else rows,
        features=of_texts("features", candidate.model) if fast else None,
        zero_shot=zero_shot,
        existing=(*given, *own),
        work=storage.url("work"),
    )


def _demand(spec: EvaluationSpec, cluster: Resources) -> tuple[float, float]:
    """CPUs and GPUs of one worker that runs a model: a pilot's, as the study names them.

    Raises
    ------
    EnvironmentFault
        No node has them.
    """
    pilots, training = spec.study.pilots, spec.study.training
    cpus = 1.0 if pilots is None else float(pilots.cpus_per_pilot)
    named: Any = "auto" if pilots is None else pilots.gpus_per_pilot
    if named == "auto":
        named = training.gpus_per_worker
    gpus = float(cluster.gpus >= 1) if named == "auto" else float(named)
    check_feasible([Demand("evaluate", "worker", 1, cpus, gpus, "pilots.gpus_per_pilot")], cluster)
    return cpus, gpus


def _in_flight(items: Iterable[Item], start: Callable[[Item], Any], most: int) -> Iterator[tuple[Item, Any]]:
    """Each item with what came of it, as soon as it is there; never more than ``most`` at a time.

    What runs when the caller stops is not cancelled, but ends with the driver: a cancellation that meets the task's
    answer makes Ray 2.60 abort the driver.

    Raises
    ------
    FtrectError
        What a worker raised.
    EnvironmentFault
        A worker died again and again.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    running: dict[Any, Item] = {}
    try:
        for item in [*items, None]:
            while running and (item is None or len(running) >= most):
                done = ray.wait(list(running))[0][0]
                answer = ray.get(done)
                yield running.pop(done), answer
            if item is not None:
                running[start(item)] = item
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, FtrectError) else error) from None
    except (WorkerCrashedError, OutOfMemoryError):
        raise EnvironmentFault(
            "a worker died (killed, or out of memory)",
            where="evaluate",
            mend="give it more memory or fewer workers; the same command continues",
        ) from None


class _Progress:
    """A line now and then: how many are done, how fast, how long it will take."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.done = total, what, 0
        self.began = self.told = time.monotonic()

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.told < PROGRESS_SECONDS and self.done < self.total:
            return
        self.told, rate = now, self.done / max(now - self.began, 1e-9)
        left = (self.total - self.done) / rate
        minutes = f", about {left / 60:.0f} min left" if left >= 60 else ""
        say(f"{self.done:,} of {self.total:,} {self.what}, {rate:.3g} a second{minutes}")
