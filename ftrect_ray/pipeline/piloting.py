"""The pilots of a run: charged before they start, measured under Ray Tune, written down for the law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ftrect_ray.ledger import Use
from ftrect_ray.pipeline.context import Run
from ftrect_ray.pipeline.design import PILOT_USES
from ftrect_ray.storage import RunStorage

if TYPE_CHECKING:
    from ftrect_ray.finetune.pilot import PilotResult, PilotSpec
    from ftrect_ray.finetune.pilots import Pace

#: Where the run keeps what its pilots measured, and Tune its state.
WORK = ("work", "pilots")


def run_pilot_stage(run: Run) -> dict[str, Any]:
    """Run all pilots of all candidates; write ``pilots.parquet`` and ``pilot_residuals.parquet``.

    Pilots run all at once, those of a ramp-up size after size. A label is in the ledger
    before the pilot that uses it starts, and one whose pilot never ran is not.

    Returns
    -------
    dict
        The stage's facts. ``orchestration``: the share of the pilots' wall time in which no pilot ran in its slot;
        None where all were measured before. ``devices``: GPUs of one pilot, or its CPUs where it has none.

    Raises
    ------
    StatisticalRefusal, EnvironmentFault, InputError
        Where no pilot of any size could be measured.
    """
    from ftrect_ray.finetune.pilot_plan import plan_all, validation_rows
    from ftrect_ray.finetune.pilots import Pace, refuse_failed, run_pilots
    from ftrect_ray.finetune.ramp import next_round

    study, rows = run.study, run.labeled
    pilots = study.pilots
    assert pilots is not None
    specs = [replace(spec, fit=replace(spec.fit, cache=run.cache)) for spec in plan_all(rows, study)]
    contenders = study.contenders.values()
    layouts = [run.layout(own, candidates=len(contenders)) for own in contenders]  # what cannot start is said now
    slots, gpus = min(layout.pilot_slots for layout in layouts), max(layout.gpus_per_pilot for layout in layouts)
    pace, ledger = Pace(), run.ledger
    ledger.forget(PILOT_USES)

    def charged(known: Sequence[PilotResult]) -> Sequence[PilotSpec]:
        """The next round, in the ledger before it starts."""
        if pilots.scheme == "ramp-up":
            some = next_round(specs, known, len(rows) - validation_rows(pilots, len(rows)))
        else:
            some = [] if known else specs
        for spec in some:
            if spec.size:
                ledger.record(Use.PILOT_TRAIN, spec.name, spec.fit.train.ids)
                ledger.record(Use.PILOT_STOP, spec.name, spec.fit.stop.ids)
            ledger.record(Use.PILOT_MEASURE, spec.name, spec.measure.ids)
        ledger.save(run.storage)
        return some

    results = run_pilots(
        specs,
        charged,
        storage=run.storage.url(*WORK),
        slots=slots,
        max_failures=pilots.max_failures,
        cpus=pilots.cpus_per_pilot,
        gpus=gpus,
        pace=pace,
    )
    refuse_failed([result for result in results if result.size])
    run.storage.write_table(pa.Table.from_pylist([asdict(result) for result in results]), "pilots.parquet")
    run.storage.write_table(_residuals(run.storage, specs, results), "pilot_residuals.parquet")
    return _facts(results, slots, gpus or pilots.cpus_per_pilot, pace, len(specs) - len(results))


def _residuals(storage: RunStorage, specs: Sequence[PilotSpec], results: Sequence[PilotResult]) -> pa.Table:
    """Of the pilots that were measured: ``pilot``, ``id``, ``residual``."""
    from ftrect_ray.finetune.pilot import PilotRecords

    done = {result.name for result in results if result.status == "done"}
    records = PilotRecords(RunStorage.open(storage.url(*WORK)))
    parts = []
    for spec in specs:
        kept = records.residuals(spec) if spec.name in done else None
        if kept is not None:
            parts.append(kept.append_column("pilot", pa.array(np.repeat(spec.name, kept.num_rows))))
    empty = pa.schema([("id", pa.string()), ("residual", pa.float64()), ("pilot", pa.string())]).empty_table()
    return pa.concat_tables([empty, *parts]).select(["pilot", "id", "residual"])


def _facts(results: Sequence[PilotResult], slots: int, devices: float, pace: Pace, left_out: int) -> dict[str, Any]:
    done = [result for result in results if result.status == "done"]
    failed, share = len(results) - len(done), pace.orchestration
    summary = f"— {len(done)} pilots measured" + (f", {failed} failed" if failed else "")
    summary += f", {left_out} larger ones not needed" if left_out else ""
    summary += f"; orchestration {100 * share:.0f} % of {pace.wall:.0f} s" if share is not None else ""
    return {
        "model_seconds": round(sum(result.model_seconds or 0.0 for result in done) / slots, 2),
        "failed": failed,
        "left_out": left_out,
        "devices": devices,
        "orchestration": None if share is None else round(share, 3),
        "summary": summary,
    }
