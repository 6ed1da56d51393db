"""What can be known to be wrong before anything runs, all of it in one pass."""

from __future__ import annotations

from typing import Any

from ftrect_ray.errors import InputError, InputErrors
from ftrect_ray.finetune.pilot import validation_rows
from ftrect_ray.models import MODELS, resolve_model
from ftrect_ray.pipeline.design import SMALLEST_PART
from ftrect_ray.study import Study
from ftrect_ray.tables import LoadedTable, load_table
from ftrect_ray.targets import Question


def check_study(study: Study) -> dict[str, Any]:
    """Check the data, the model's name and the label budget against each other; nothing large is downloaded.

    Returns
    -------
    dict
        ``labels``, ``unlabeled`` and ``model``.

    Raises
    ------
    InputErrors
        Every problem that was found.
    """
    problems: list[InputError] = []
    if study.model.name not in MODELS and study.design not in ("classical", "rectify-only"):
        try:
            resolve_model(study.model.name, study.model.revision)
        except InputError as error:
            problems.append(error)
    try:
        loaded = load_table(study.data, study.labels, study.seed, features=getattr(study.target, "features", ()))
    except InputErrors as errors:
        raise InputErrors([*errors.errors, *problems]) from None
    except InputError as error:
        raise InputErrors([error, *problems]) from None
    problems += check_budget(study, loaded)
    if problems:
        raise InputErrors(problems)
    n = _labels(loaded)
    return {"labels": n, "unlabeled": loaded.table.num_rows - n, "model": study.model.name}


def check_budget(study: Study, loaded: LoadedTable) -> list[InputError]:
    """Where pilots, folds or a split ask for more labels than there are, and features that are no numbers."""
    n, problems = _labels(loaded), []
    where = f"{n} labels"
    if study.pilots is not None and study.design not in ("classical", "rectify-only"):
        try:
            validation_rows(study.pilots, n)
        except InputError as error:
            problems.append(error)
    if study.design == "crossfit" and n < study.folds * SMALLEST_PART:
        problems.append(
            InputError(
                f"{study.folds} folds need {study.folds * SMALLEST_PART} labels", where=where, mend="lower 'folds'"
            )
        )
    if study.finetune_labels is not None and study.finetune_labels > n - SMALLEST_PART:
        problems.append(
            InputError(
                f"'finetune_labels' {study.finetune_labels} leaves fewer than {SMALLEST_PART} labels to rectify with",
                where=where,
                mend="lower it",
            )
        )
    try:
        Question.of(study.target, study.alpha, loaded.table)
    except InputError as error:
        problems.append(error)
    return problems


def _labels(loaded: LoadedTable) -> int:
    return loaded.table.num_rows - int(loaded.table["label"].null_count)
