"""One function a stage: read what the stage before wrote, write one artifact, return its facts.

Facts go to ``run.json``: ``model_seconds`` (seconds in which the model itself computed, summed over the workers
and divided by how many worked side by side: beside the wall seconds, the rest is orchestration), ``summary``
(one line for people) and whatever else the report shows.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from ftrect_ray.errors import InputError, InputErrors
from ftrect_ray.finetune.spec import RESULT, FitResult
from ftrect_ray.finetune.untrained import asked, untrained
from ftrect_ray.ledger import ZERO_SHOT, Ledger
from ftrect_ray.pipeline.allocate import decide
from ftrect_ray.pipeline.check import check_base, check_budget
from ftrect_ray.pipeline.context import Run
from ftrect_ray.pipeline.design import plan_fits, spent_by_pilots
from ftrect_ray.pipeline.effect import design_effect
from ftrect_ray.pipeline.evidence import Evidence, gather_evidence, law_document
from ftrect_ray.pipeline.piloting import run_pilot_stage
from ftrect_ray.pipeline.record import settings_of
from ftrect_ray.study import Study, digest
from ftrect_ray.tables import LoadedTable, load_table
from ftrect_ray.targets import Question

# ------------------------------------------------------------------------------------- what makes a stage stale


def key(run: Run, stage: str) -> str:
    """Names a stage by all that can change its artifact."""
    own = settings_of(run.study, stage)
    if stage == "tables":
        return digest([own, data_stamp(run.study)])
    base = digest([run.record.content.get("fingerprint"), settings_of(run.study, "tables")])
    if stage == "pilot":
        return digest([base, own])
    if stage == "allocate":
        return digest([base, own, None if needless(run, "pilot") else key(run, "pilot")])
    if stage == "finetune":
        if not run.storage.exists("allocation.json"):
            return digest([base, own, None])
        return digest([base, settings_of(run.chosen, stage), run.decision.to_dict()])
    if stage == "predict":
        return digest([key(run, "finetune"), own])
    if stage == "rectify":
        return digest([key(run, "predict"), own, run.study.inference.max_error_share])
    return digest([key(run, "rectify"), key(run, "allocate"), own])


def data_stamp(study: Study) -> list[Any]:
    """Size and time of the data files: while they stand still, the table is not read again."""
    data = study.data
    stamps = []
    for name in (data.table, data.labeled, data.unlabeled):
        if name is None:
            continue
        try:
            filesystem, path = pafs.FileSystem.from_uri(name) if "://" in name else (pafs.LocalFileSystem(), name)
            info = filesystem.get_file_info(path)
        except (pa.ArrowInvalid, OSError):
            continue  # reading the table says what is wrong, with a remedy
        stamps.append([name, info.size, info.mtime_ns])
    return stamps


def needless(run: Run, stage: str) -> str:
    """Why the study does not need ``stage``, or an empty string."""
    study = run.study
    if stage == "pilot":
        if study.pilots is None:
            return "the study has no pilots"
        if study.design in ("classical", "rectify-only"):
            return f"design {study.design} fine-tunes nothing"
    if stage in ("finetune", "predict") and run.storage.exists("allocation.json") and not run.decision.model_names:
        return f"design {run.decision.design} needs no model"
    return ""


# ------------------------------------------------------------------------------------------------ the stages


def tables(run: Run) -> dict[str, Any]:
    """Read and check the data, draw the label budget, open the ledger of a new one."""
    study = run.study
    loaded = load_table(study.data, study.labels, study.seed, features=getattr(study.target, "features", ()))
    before = run.record.content.get("fingerprint")
    if before not in (None, loaded.fingerprint) and not run.update:
        raise InputError(
            f"the data have changed since this run began: fingerprint {before[:16]} → {loaded.fingerprint[:16]}",
            where=run.storage.uri,
            mend="restore the file, add --update to redo every stage, or start another run with -o",
        )
    if problems := [*check_base(study), *check_budget(study, loaded)]:
        raise InputErrors(problems)
    run.storage.write_table(loaded.table, "table.parquet")
    run.storage.delete("truth.json")
    if loaded.answers is not None:
        run.storage.write_json(_truth(study, loaded), "truth.json")
    labeled = run.labeled
    if before != loaded.fingerprint or run.ledger.budget != frozenset(labeled.ids):
        Ledger(labeled.ids).save(run.storage)  # else the same labels, read again: what they were spent on stays
    run.record.note(fingerprint=loaded.fingerprint)
    n, m = len(labeled), run.n_unlabeled
    return {"labels": n, "unlabeled": m, "summary": f"— {n} labels, {m} unlabelled texts"}


def _truth(study: Study, loaded: LoadedTable) -> dict[str, Any]:
    """The target on all answers of a fully answered table. Only the report sees it."""
    assert loaded.answers is not None
    every = np.asarray(loaded.answers["label"].to_numpy(), dtype=np.float64)
    question = Question.of(study.target, study.alpha, loaded.table)
    value = question.classical(every, np.arange(len(every)), np.arange(0)).to_dict()["value"]
    return {"value": value, "rows": len(every)}


def pilot(run: Run) -> dict[str, Any]:
    """Measure the residual variance of every candidate at several sizes, each label charged."""
    return run_pilot_stage(run)


def allocate(run: Run) -> dict[str, Any]:
    """The law of each candidate, the predicted variance of every design, the decision, and the labels for it."""
    study, rows, ledger = run.study, run.labeled, run.ledger
    piloted = not needless(run, "pilot")
    names = spent_by_pilots(ledger) if piloted else set()
    spent = np.flatnonzero([name in names for name in rows.ids])
    evidence = gather_evidence(run, spent) if piloted else Evidence.none()
    decision, document = decide(
        study,
        {name: fit for name, (fit, _) in evidence.laws.items()},
        rows=rows,
        unlabeled=run.n_unlabeled,
        spent=rows.take(spent),
        predictions=run.labeled_predictions,
        spent_laws=evidence.spent_laws,
        zero_shot=evidence.zero_shot,
        compute=evidence.compute,
        effect=design_effect(study, run.table),
    )
    run.storage.delete("scaling_law.json")
    if evidence.laws:
        run.storage.write_json(law_document(evidence, document["candidate"]), "scaling_law.json")
    plan_fits(decision, rows, study, ledger)
    ledger.save(run.storage)
    run.storage.write_json(document, "allocation.json")
    return {"summary": f"— {document['chosen']}: {document['reason']}"}


def finetune(run: Run) -> dict[str, Any]:
    """The final fine-tunes of the chosen design, side by side where the cluster has room; or the model as it is."""
    from ftrect_ray.finetune.driver import finetune as train_all

    storage, decision = run.storage, run.decision
    for stale in set(storage.list("model")) - set(decision.model_names):
        storage.delete("model", stale)
    if decision.zero_shot:
        return _untrained(run)
    specs = plan_fits(decision, run.labeled, run.study, run.ledger)
    missing = [replace(spec, cache=run.cache) for spec in specs if not _is_there(run, spec.name, spec.key)]
    parallel = 1
    if missing:
        parallel = run.layout(run.chosen, finetunes=len(missing)).finetunes_in_parallel
        work = storage.url("work", "finetune")
        with storage.local_folder("model") as home:
            train_all(missing, storage=work, destination=home, parallel=parallel)
        storage.delete("work", "finetune")
    seconds = sum(storage.read_json("model", spec.name, RESULT)["model_seconds"] for spec in specs) / parallel
    kept = len(specs) - len(missing)
    return {
        "model_seconds": round(seconds, 2),
        "summary": f"— {len(specs)} models" + (f", {kept} kept from before" if kept else ""),
    }


def _is_there(run: Run, model: str, key: str) -> bool:
    place = ("model", model, RESULT)
    return run.storage.exists(*place) and run.storage.read_json(*place)["key"] == key


def _untrained(run: Run) -> dict[str, Any]:
    """The model as it is, where a fine-tune's would be."""
    model = run.chosen.model
    name = digest([ZERO_SHOT, asked(model).model_dump(exclude={"layer"})])
    if not _is_there(run, ZERO_SHOT, name):
        with run.storage.local_folder("model") as home:
            shutil.rmtree(home / ZERO_SHOT, ignore_errors=True)
            untrained(model).save(home / ZERO_SHOT)
            FitResult.of(ZERO_SHOT, (), best_epoch=0).write(home / ZERO_SHOT, name)
    return {"summary": "— the model as it is, untrained"}


def predict(run: Run) -> dict[str, Any]:
    """Every text, every model."""

    from ftrect_ray.inference import predict_all

    names = run.decision.model_names
    for stale in set(run.storage.list("predictions")) - set(names):
        run.storage.delete("predictions", stale)
    layout = run.layout(run.chosen)
    summary = predict_all(
        run.storage, names, run.study.inference, actors=layout.inference_actors, gpus=layout.gpus_per_worker
    )
    seconds = round(summary.model_seconds / max(summary.actors, 1), 2)
    missing = sum(summary.errors.values())
    text = f"— {summary.rows} predictions, {missing} missing"
    return asdict(summary) | {"model_seconds": seconds, "summary": text}


def rectify(run: Run) -> dict[str, Any]:
    """The estimate, with the classical one and the model's own beside it."""
    from ftrect_ray.rectify import load_evidence

    estimate = load_evidence(run.storage).estimate(run.study.target, run.study.alpha)
    run.storage.write_json(estimate, "estimate.json")
    return {"summary": f"— design {estimate['design']}"}


def report(run: Run) -> dict[str, Any]:
    """report.html and figures/*.png."""
    from ftrect_ray.pipeline.reporting import gather
    from ftrect_ray.report import build_report

    html, figures = build_report(gather(run))
    for name, png in figures.items():
        run.storage.write_bytes(png, "figures", f"{name}.png")
    run.storage.write_bytes(html.encode(), "report.html")
    return {"summary": f"— {run.storage.url('report.html')}"}
