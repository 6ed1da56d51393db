"""One sweep of Ray Tune over pilots that are named round by round; its workers stay from round to round.

They are a designed experiment: there is no search, and no trial is stopped for being worse than another. What is
measured is in the records, so Tune's own state is not restored after a kill: it would know nothing more.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.pilot import PilotRecords, PilotResult, PilotSpec, measure, result_of
from ftrect_ray.finetune.spec import Diverged
from ftrect_ray.storage import RunStorage

OnResult = Callable[[PilotResult], None]

WORKER_DIED = "its worker died (killed, or out of memory)"

#: Tune prints on standard output, which belongs to the caller, and takes an interrupt for the sweep's end alone.
QUIET_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

#: The sweep that runs now. Tune pickles its callbacks, and would pickle what they hold.
_running: ContextVar[Sweep] = ContextVar("running")


class Sweep(Searcher):
    """Suggests the pilots of a round, waits for all of them, asks for the next round.

    Parameters
    ----------
    following : callable
        From what is measured so far to the pilots of the next round; none: the end.
    records : PilotRecords
    on_result : callable, optional
    tries : int
        Of one pilot.

    Attributes
    ----------
    asked : list of PilotSpec
        Those of all rounds so far.
    found : dict of str to PilotResult
        By name, read or measured.
    queue : list of str
        Names of those that no worker has yet.
    """

    def __init__(
        self,
        following: Callable[[Sequence[PilotResult]], Sequence[PilotSpec]],
        records: PilotRecords,
        on_result: OnResult | None,
        tries: int,
    ) -> None:
        super().__init__()
        self.following, self.records, self.tries, self._on_result = following, records, tries, on_result
        self.asked: list[PilotSpec] = []
        self.found: dict[str, PilotResult] = {}
        self.queue: list[str] = []
        self._waiting: set[str] = set()
        self._read: set[str] = set()
        self._lost: dict[str, int] = {}

    @property
    def fresh(self) -> list[PilotResult]:
        """What this sweep measured itself."""
        return [result for name, result in self.found.items() if name not in self._read]

    def advance(self) -> None:
        """Queue the next pilots that are to be measured; rounds that are measured already are read."""
        while not self.queue:
            named = self.following([self.found[spec.name] for spec in self.asked])
            if not named:
                return
            self.asked += named
            for spec in named:
                if known := self.records.load(spec):
                    self._read.add(spec.name)
                    self._add(known)
                else:
                    self.queue.append(spec.name)
                    self._waiting.add(spec.name)

    def run(
        self, specs: Sequence[PilotSpec], storage: RunStorage, experiment: str, slots: int, resources: dict[str, float]
    ) -> None:
        """Measure what is queued and what follows, all of ``specs`` at most; Tune's state goes to ``experiment``."""
        os.environ |= QUIET_TUNE  # what fails is reported here
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        by_name = {spec.name: spec for spec in specs}
        trainable = tune.with_parameters(_trial, specs=by_name, tries=self.tries, storage=storage.uri)
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=self, num_samples=-1, max_concurrent_trials=slots, reuse_actors=True
            ),
            run_config=tune.RunConfig(name=experiment, storage_path=storage.uri, callbacks=[_Told()], verbose=0),
        )
        token = _running.set(self)
        try:
            tuner.fit()
        finally:
            _running.reset(token)

    def receive(self, result: PilotResult) -> None:
        """A pilot has ended."""
        if result.status == "done":
            self.records.save(self._spec(result.name), result)
        self._waiting.discard(result.name)
        self._add(result)

    def lose(self, name: str, reason: str) -> None:
        """A worker died: try again, or give the pilot up."""
        self._lost[name] = self._lost.get(name, 0) + 1
        if self._lost[name] < self.tries:
            self.queue.append(name)
        else:
            self.receive(PilotResult.failed(self._spec(name), reason))

    def _add(self, result: PilotResult) -> None:
        """Tell whoever listens, and a terminal in one line."""
        self.found[result.name] = result
        if sys.stderr.isatty():
            told = result.error or f"residual variance {result.residual_variance:.4g} in {result.seconds:.1f} s"
            print(f"pilot {len(self.found)} of {len(self.asked)}: {result.name} {told}", file=sys.stderr)
        if self._on_result is not None:
            self._on_result(result)

    def _spec(self, name: str) -> PilotSpec:
        return next(spec for spec in self.asked if spec.name == name)

    # ------------------------------------------------------------------------------------- what Tune asks of a searcher

    def suggest(self, trial_id: str) -> Any:
        """A pilot, nothing yet, or the end."""
        if not self.queue and not self._waiting:
            self.advance()
        if self.queue:
            return {"pilot": self.queue.pop(0)}
        return None if self._waiting else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What became of the trial, the callback tells: it knows the error."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Sweep:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Searcher, ()


class _Told(tune.Callback):
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        _running.get().receive(result_of(trial.last_result))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_pickled_error()
        _running.get().lose(trial.config["pilot"], WORKER_DIED if error is None else _one_line(error))


def _trial(config: dict[str, Any], specs: dict[str, PilotSpec], tries: int, storage: str) -> None:
    """What Tune runs in a worker. A reused worker has torch and the process group from the pilot before.

    An error that we understand is reported, not raised: raised, it would cost the worker, and each new one loads
    everything anew.
    """
    spec = specs[config["pilot"]]
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


def _one_line(error: BaseException) -> str:
    """One line from what Tune kept of a worker's end."""
    if isinstance(error, RayActorError):
        return WORKER_DIED
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
