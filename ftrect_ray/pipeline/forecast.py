"""What a run would do and about how long it would take, from the study alone."""

from __future__ import annotations

import os
from collections.abc import Collection
from math import prod
from typing import Any

from ftrect_ray.models import MODELS, check_model_folder, count_parameters
from ftrect_ray.pipeline.design import is_zero_shot
from ftrect_ray.pipeline.record import STAGES
from ftrect_ray.study import Study

#: CPU seconds for each million parameters, measured with minilm in bf16 on texts of 25 tokens
#: (benchmarks/results/ten_seeds.md): one text through one training epoch, and through prediction.
TRAIN_SECONDS, PREDICT_SECONDS = 8.5e-4, 1.0e-4
#: Wall seconds that a stage costs beside the model: Ray, imports, loading.
OVERHEAD = {"tables": 1, "pilot": 35, "allocate": 1, "finetune": 25, "predict": 20, "rectify": 1, "report": 5}
CORES = 2


def forecast(study: Study, done: Collection[str], texts: int | None = None) -> list[dict[str, Any]]:
    """One row a stage: ``stage``, ``what`` it would do, ``seconds`` on two CPU cores.

    ``seconds`` is 0 for a stage that is done or not needed, and None where the model's size or the number of
    texts is not known here. Fine-tunes are taken to run all their epochs.
    """
    return [_row(study, stage, stage in done, texts) for stage in STAGES]


def _row(study: Study, stage: str, done: bool, texts: int | None) -> dict[str, Any]:
    what, work = _work(study, stage, texts)
    if done:
        return {"stage": stage, "what": "done already: " + what, "seconds": 0}
    if work == 0 and stage in ("pilot", "finetune", "predict"):
        return {"stage": stage, "what": what, "seconds": 0}
    seconds = None if work is None else round(OVERHEAD[stage] + work / CORES)
    return {"stage": stage, "what": what, "seconds": seconds}


def _work(study: Study, stage: str, texts: int | None) -> tuple[str, float | None]:
    """In words, and in CPU seconds of the model; None where they cannot be known here."""
    models, labels = _models(study), study.labels
    if stage == "tables":
        return f"read and check the table, draw {labels or 'all'} labels", 0
    if stage == "pilot":
        return _pilots(study)
    if stage in ("finetune", "predict") and not models:
        return "no fine-tune", 0
    if stage == "finetune" and is_zero_shot(study):
        return "the model as it is, untrained", 0
    most = max(study.contenders.values(), key=lambda own: _million_parameters(own) or 0)  # the choice may fall on it
    size, training = _million_parameters(most), most.training
    of = "" if study.candidates is None else " of the best candidate"
    if stage == "finetune":
        upto = "up to " if study.design == "auto" else ""
        what = f"{upto}{models} fine-tunes{of} on {training.workers} workers"
        return what, _product(labels, max(models - 1, 1), training.epochs, TRAIN_SECONDS, size)
    if stage == "predict":
        amount = f"{texts} texts" if texts is not None else "every text"
        return f"predict {amount} with {models} models", _product(texts, models, PREDICT_SECONDS, size)
    kinds = {"allocate": "fit the scaling law, choose the design", "rectify": "the rectified estimate"}
    return kinds.get(stage, "report.html and its figures"), 0


def _pilots(study: Study) -> tuple[str, float | None]:
    pilots = study.pilots
    if pilots is None or study.design in ("classical", "rectify-only"):
        return "no pilots", 0
    contenders = study.contenders.values()
    rows = sum(pilots.sizes) * pilots.seeds
    if pilots.in_folds:  # a cross-validated fold is trained on the others, a cross-fitted one on as many as the size
        rows *= pilots.folds - (pilots.scheme == "cross-validated")
    work = [_product(rows, own.training.epochs, TRAIN_SECONDS, _million_parameters(own)) for own in contenders]
    names, upto = ", ".join(own.model.name for own in contenders), "up to " if pilots.scheme == "ramp-up" else ""
    what = f"{upto}{pilots.fits * len(work)} pilot fine-tunes of {names}, sizes {pilots.sizes}"
    return what, None if None in work else sum(seconds for seconds in work if seconds is not None)


def _product(*factors: float | None) -> float | None:
    known = [factor for factor in factors if factor is not None]
    return prod(known) if len(known) == len(factors) else None


def _models(study: Study) -> int:
    if is_zero_shot(study):
        return 1
    return {"auto": study.max_finetunes, "crossfit": study.folds, "split": 1, "recycle": 1}.get(study.design, 0)


def _million_parameters(study: Study) -> float | None:
    name = study.model.name
    if name in MODELS:
        return MODELS[name].parameters / 1e6
    if os.path.isdir(name):
        check_model_folder(name)
        return count_parameters(name) / 1e6
    return None
