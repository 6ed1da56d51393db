"""Pilots that are named one round after the other, in one sweep: its workers stay from round to round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from ftrect_ray.finetune.pilot import PilotRecords, PilotResult, PilotSpec, result_of
from ftrect_ray.finetune.pilots import WORKER_DIED, OnResult, Pace, Results, one_line, quiet, trial
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import digest

#: From what is measured so far to the pilots of the next round; none: the end.
Following = Callable[[Sequence[PilotResult]], Sequence[PilotSpec]]

#: The climb that runs now. Tune pickles its callbacks, and would pickle what they hold.
_climb: ContextVar[_Climb] = ContextVar("climb")


def climb_pilots(
    specs: Sequence[PilotSpec],
    following: Following,
    *,
    storage: str,
    slots: int,
    max_failures: int,
    cpus: int = 1,
    gpus: float = 0,
    on_result: OnResult | None = None,
    pace: Pace | None = None,
) -> list[PilotResult]:
    """As :func:`~ftrect_ray.finetune.pilots.run_pilots`, but round by round.

    After a kill the same call continues with what ``storage`` has: a pilot is lost that was running, and no other.

    Parameters
    ----------
    specs : sequence of PilotSpec
        All that may be asked for.
    following : callable
        Called when every pilot that it named is measured or has failed, at first with none.

    Returns
    -------
    list of PilotResult
        Round by round.
    """
    opened = RunStorage.open(storage)
    climb = _Climb(following, PilotRecords(opened), on_result, max_failures + 1)
    experiment = f"climb-{digest([spec.key for spec in specs])}"
    opened.delete(experiment)  # of a killed call
    climb.advance()
    if climb.queue:
        began, at_once = time.perf_counter(), min(slots, len(climb.queue))
        _run(climb, specs, opened, experiment, slots, max_failures, {"CPU": cpus, "GPU": gpus})
        opened.delete(experiment)
        if pace is not None:
            own = (result for name, result in climb.results.found.items() if name not in climb.read)
            pace.wall += time.perf_counter() - began
            pace.ideal += sum(result.seconds or 0.0 for result in own) / at_once
    return [climb.results.found[spec.name] for spec in climb.asked]


def _run(
    climb: _Climb,
    specs: Sequence[PilotSpec],
    storage: RunStorage,
    experiment: str,
    slots: int,
    max_failures: int,
    resources: dict[str, float],
) -> None:
    quiet()
    named = {spec.name: spec for spec in specs}
    trainable = tune.with_parameters(trial, specs=named, tries=max_failures + 1, storage=storage.uri)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(search_alg=climb, num_samples=-1, max_concurrent_trials=slots, reuse_actors=True),
        run_config=tune.RunConfig(name=experiment, storage_path=storage.uri, callbacks=[_Told()], verbose=0),
    )
    token = _climb.set(climb)
    try:
        tuner.fit()
    finally:
        _climb.reset(token)


class _Told(tune.Callback):
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        _climb.get().receive(trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_pickled_error()
        _climb.get().lose(trial.config["pilot"], WORKER_DIED if error is None else one_line(error))


class _Climb(Searcher):
    """Suggests the pilots of a round, waits for all of them, asks for the next round.

    Nothing of it is saved: the records are the truth about what is measured.
    """

    def __init__(self, following: Following, records: PilotRecords, on_result: OnResult | None, tries: int) -> None:
        super().__init__()
        self.following, self.records, self.tries = following, records, tries
        self.results = Results(0, on_result)
        self.asked: list[PilotSpec] = []
        self.queue: list[str] = []
        self.waiting: set[str] = set()
        self.read: set[str] = set()
        self.lost: dict[str, int] = {}

    def advance(self) -> None:
        """Queue the next pilots that are to be measured; rounds that are measured already are read."""
        while not self.queue:
            named = self.following([self.results.found[spec.name] for spec in self.asked])
            if not named:
                return
            self.asked += named
            self.results.expected += len(named)
            for spec in named:
                if known := self.records.load(spec):
                    self.results.add(known)
                    self.read.add(spec.name)
                else:
                    self.queue.append(spec.name)
                    self.waiting.add(spec.name)

    def suggest(self, trial_id: str) -> Any:
        """A pilot, nothing yet, or the end."""
        if not self.queue and not self.waiting:
            self.advance()
        if self.queue:
            return {"pilot": self.queue.pop(0)}
        return None if self.waiting else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What became of the trial, the callback tells: it knows the error."""

    def receive(self, metrics: dict[str, Any]) -> None:
        result = result_of(metrics)
        if result.status == "done":
            self.records.save(self._spec(result.name), result)
        self._settle(result)

    def lose(self, name: str, reason: str) -> None:
        """A worker died: try again, or give the pilot up."""
        self.lost[name] = self.lost.get(name, 0) + 1
        if self.lost[name] < self.tries:
            self.queue.append(name)
        else:
            self._settle(PilotResult.failed(self._spec(name), reason))

    def _settle(self, result: PilotResult) -> None:
        self.waiting.discard(result.name)
        self.results.add(result)

    def _spec(self, name: str) -> PilotSpec:
        return next(spec for spec in self.asked if spec.name == name)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Climb:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Searcher, ()
