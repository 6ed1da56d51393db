"""All pilots of a study, side by side under Ray Tune.

They are a designed experiment: there is no search, and no trial is stopped for being worse than another.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from ray import tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial

from ftrect_ray.errors import EnvironmentFault, InputError, StatisticalRefusal
from ftrect_ray.finetune.pilot import PilotRecords, PilotResult, PilotSpec, measure, result_of
from ftrect_ray.finetune.spec import Diverged
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import digest

OnResult = Callable[[PilotResult], None]

WORKER_DIED = "its worker died (killed, or out of memory)"

#: Tune prints on standard output, which belongs to the caller, and takes an interrupt for the sweep's end alone.
QUIET_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

#: What a finished trial's metrics go to. Tune pickles its callbacks and revives them on restore, where they must
#: act on the sweep that runs then.
_receiver: ContextVar[Callable[[dict[str, Any]], None]] = ContextVar("receiver")


@dataclass
class Pace:
    """What running pilots side by side costs beside the pilots themselves, over one sweep or several.

    Attributes
    ----------
    wall : float
        Seconds from the call to the last result.
    ideal : float
        The pilots' own seconds, divided by how many could run at once.
    """

    wall: float = 0.0
    ideal: float = 0.0

    @property
    def orchestration(self) -> float | None:
        """1 − ideal/wall: starting workers, importing, and slots without a pilot; None before anything ran."""
        return max(0.0, 1 - self.ideal / self.wall) if self.wall else None


class _Finished(tune.Callback):
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        _receiver.get()(trial.last_result)


def run_pilots(
    specs: Sequence[PilotSpec],
    *,
    storage: str,
    slots: int,
    max_failures: int,
    cpus: int = 1,
    gpus: float = 0,
    on_result: OnResult | None = None,
    pace: Pace | None = None,
) -> list[PilotResult]:
    """Measure pilots, ``slots`` at a time; those that ``storage`` has already are read.

    Ray must be connected, unless all are there. A pilot whose loss diverges or whose worker dies is tried again
    ``max_failures`` times, then reported as failed, and the others go on. After a kill the same call continues.

    Parameters
    ----------
    storage : str
        Path or URI of a folder of their own. Tune's part of it holds pickles: it must be writable to nobody else.
    cpus, gpus : numbers
        Of one pilot; of a GPU a share will do.
    on_result : callable, optional
        Called once a pilot, as soon as its result is known.
    pace : Pace, optional
        Where the seconds are added up.

    Returns
    -------
    list of PilotResult
        In the order of ``specs``; see :func:`refuse_failed` for what to do where none was measured.
    """
    opened = RunStorage.open(storage)
    records, results = PilotRecords(opened), Results(len(specs), on_result)
    by_name = {spec.name: spec for spec in specs}
    for spec in specs:
        if known := records.load(spec):
            results.add(known)
    missing = [spec for spec in specs if spec.name not in results.found]
    began = time.perf_counter()

    def receive(metrics: dict[str, Any]) -> None:
        if metrics["name"] in results.found:
            return
        result = result_of(metrics)
        if result.status == "done":
            records.save(by_name[result.name], result)
        results.add(result)

    if missing:
        experiment = f"tune-{digest([spec.key for spec in specs])}"
        reasons: dict[str, str] = {}
        for _ in range(max_failures + 1):
            grid = _run_tune(missing, opened, experiment, receive, slots, max_failures, {"CPU": cpus, "GPU": gpus})
            for ended in (grid[i] for i in range(len(grid))):
                if ended.error is not None and ended.config is not None:
                    reasons[ended.config["pilot"]] = one_line(ended.error)
                elif ended.metrics is not None and "name" in ended.metrics:
                    receive(ended.metrics)  # news only where it ended just before an earlier call was killed
            # Tune 2.60 counts it twice when a worker dies between two trials, and keeps no reason: one round more.
            if {spec.name for spec in missing} <= results.found.keys() | reasons.keys():
                break
        for spec in missing:
            if spec.name not in results.found:
                results.add(PilotResult.failed(spec, reasons.get(spec.name, WORKER_DIED)))
        opened.delete(experiment)
        if pace is not None:
            own = sum(results.found[spec.name].seconds or 0.0 for spec in missing)
            pace.wall += time.perf_counter() - began
            pace.ideal += own / min(slots, len(missing))
    return [results.found[spec.name] for spec in specs]


def refuse_failed(results: Sequence[PilotResult]) -> None:
    """Stop where no pilot was measured.

    Raises
    ------
    StatisticalRefusal, EnvironmentFault, InputError
        With the reason.
    """
    if any(result.status == "done" for result in results):
        return
    reasons = list(dict.fromkeys(str(result.error) for result in results))
    what = f"no pilot of {len(results)} succeeded: {reasons[0]}" + (
        f" (and {len(reasons) - 1} more)" if reasons[1:] else ""
    )
    kinds = {result.kind for result in results}
    if kinds == {"input"}:
        raise InputError(what)
    if kinds == {"diverged"}:
        raise StatisticalRefusal(what)
    raise EnvironmentFault(what, mend="the workers' logs are under /tmp/ray/session_latest/logs")


def _run_tune(
    missing: Sequence[PilotSpec],
    storage: RunStorage,
    experiment: str,
    receive: Callable[[dict[str, Any]], None],
    slots: int,
    max_failures: int,
    resources: dict[str, float],
) -> tune.ResultGrid:
    """Run the sweep, or what an earlier one left of it: one that was killed, or the last round of this call."""
    quiet()
    trainable = tune.with_parameters(
        trial, specs={spec.name: spec for spec in missing}, tries=max_failures + 1, storage=storage.uri
    )
    trainable = tune.with_resources(trainable, resources)
    path = storage.url(experiment)
    if tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"pilot": tune.grid_search([spec.name for spec in missing])},
            tune_config=tune.TuneConfig(max_concurrent_trials=slots, reuse_actors=True),
            run_config=tune.RunConfig(
                name=experiment,
                storage_path=storage.uri,
                failure_config=tune.FailureConfig(max_failures=max_failures),
                callbacks=[_Finished()],
                verbose=0,
            ),
        )
    token = _receiver.set(receive)
    try:
        return tuner.fit()
    finally:
        _receiver.reset(token)


def quiet() -> None:
    """What fails is reported by the sweep itself."""
    os.environ |= QUIET_TUNE
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def trial(config: dict[str, Any], specs: dict[str, PilotSpec], tries: int, storage: str) -> None:
    """What Tune runs in a worker. A reused worker has torch and the process group from the pilot before.

    An error that we understand is reported, not raised: raised, it would cost the worker, and each new one loads
    everything anew.
    """
    spec = specs.get(config["pilot"])
    if spec is None:  # measured by a killed call whose last save of Tune's state came before
        tune.report({"name": config["pilot"]})
        return
    for left in reversed(range(tries)):
        try:
            tune.report(asdict(measure(spec, PilotRecords(RunStorage.open(storage)))))
            return
        except (Diverged, InputError) as error:
            if isinstance(error, InputError) or not left:
                kind = "input" if isinstance(error, InputError) else "diverged"
                tune.report(asdict(PilotResult.failed(spec, str(error), kind)))
                return
        finally:
            gc.collect()  # an engine is a web of cycles; the next pilot needs its memory


class Results:
    """Results as they come in, told to whoever listens, and to a terminal one line each."""

    def __init__(self, expected: int, on_result: OnResult | None) -> None:
        self.found: dict[str, PilotResult] = {}
        self.expected, self._on_result = expected, on_result

    def add(self, result: PilotResult) -> None:
        self.found[result.name] = result
        if sys.stderr.isatty():
            told = result.error or f"residual variance {result.residual_variance:.4g} in {result.seconds:.1f} s"
            print(f"pilot {len(self.found)} of {self.expected}: {result.name} {told}", file=sys.stderr)
        if self._on_result is not None:
            self._on_result(result)


def one_line(error: BaseException) -> str:
    """One line from what Tune kept of a worker's end."""
    if isinstance(error, RayActorError):
        return WORKER_DIED
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
