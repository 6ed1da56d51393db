"""All pilots of a study, side by side under Ray Tune."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftrect_ray.errors import EnvironmentFault, InputError, StatisticalRefusal
from ftrect_ray.finetune.pilot import PilotRecords, PilotResult, PilotSpec
from ftrect_ray.finetune.sweep import OnResult, Sweep
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import digest

#: From what is measured so far to the pilots of the next round; none: the end.
Following = Callable[[Sequence[PilotResult]], Sequence[PilotSpec]]


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


def run_pilots(
    specs: Sequence[PilotSpec],
    following: Following | None = None,
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
    ``max_failures`` times, then reported as failed, and the others go on. After a kill the same call continues: a
    pilot is lost that was running, and no other.

    Parameters
    ----------
    specs : sequence of PilotSpec
        All that may be asked for.
    following : callable, optional
        Names the pilots round by round: called when every pilot that it named is measured or has failed, at first
        with none. The workers stay from round to round. Default: all pilots in one round.
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
        Round by round; see :func:`refuse_failed` for what to do where none was measured.
    """
    opened = RunStorage.open(storage)
    named = following or (lambda known: () if known else specs)
    sweep = Sweep(named, PilotRecords(opened), on_result, max_failures + 1)
    experiment = f"tune-{digest([spec.key for spec in specs])}"
    opened.delete(experiment)  # of a killed call: what it measured is in the records
    sweep.advance()
    if sweep.queue:
        began, at_once = time.perf_counter(), min(slots, len(sweep.queue))
        sweep.run(specs, opened, experiment, slots, {"CPU": cpus, "GPU": gpus})
        opened.delete(experiment)
        if pace is not None:
            pace.wall += time.perf_counter() - began
            pace.ideal += sum(result.seconds or 0.0 for result in sweep.fresh) / at_once
    return [sweep.found[spec.name] for spec in sweep.asked]


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
