"""Gather from a run's storage what the report shows."""

from __future__ import annotations

from ftrect_ray.finetune.spec import RESULT
from ftrect_ray.pipeline.context import Run
from ftrect_ray.rectify import load_evidence
from ftrect_ray.report import ReportInputs
from ftrect_ray.study_file import dump_study


def gather(run: Run) -> ReportInputs:
    """The report's inputs, read back from the artifacts of a finished run."""
    storage = run.storage
    evidence = load_evidence(storage)
    estimate = storage.read_json("estimate.json")
    fits = {name: storage.read_json("model", name, RESULT) for name in run.decision.model_names}
    stages = run.record.content["stages"]
    estimate["diagnostics"]["texts_cut"] = stages.get("predict", {}).get("texts_cut", 0)
    rectifying = evidence.rectifier >= 0
    pilots = storage.exists("pilots.parquet") and stages.get("pilot", {}).get("status") == "done"
    return ReportInputs(
        study=run.chosen.model_dump(mode="json"),
        study_yaml=dump_study(run.study),
        estimate=estimate,
        labels=int(evidence.labelled.sum()),
        texts=len(evidence.answers),
        run=run.record.content,
        pilots=storage.read_table("pilots.parquet").to_pylist() if pilots else (),
        law=storage.read_json("scaling_law.json") if storage.exists("scaling_law.json") else None,
        allocation=storage.read_json("allocation.json"),
        curves={name: fit["curve"] for name, fit in fits.items()},
        best_epochs={name: fit["best_epoch"] for name, fit in fits.items()},
        ledger_counts=run.ledger.counts(),
        answers=evidence.answers[rectifying] if rectifying.any() else None,
        predictions=evidence.out_of_fold[rectifying] if rectifying.any() else None,
        truth=storage.read_json("truth.json")["value"] if storage.exists("truth.json") else None,
    )
