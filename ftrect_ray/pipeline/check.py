"""What can be known to be wrong before anything runs, all of it in one pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ftrect_ray.allocation.split import MINIMUM
from ftrect_ray.errors import InputError, InputErrors
from ftrect_ray.finetune.pilot import PilotSpec
from ftrect_ray.finetune.pilot_plan import plan_all, validation_rows
from ftrect_ray.finetune.spec import TARGETED, Rows
from ftrect_ray.ledger import Ledger
from ftrect_ray.models import MODELS, resolve_model
from ftrect_ray.models.named import place
from ftrect_ray.pipeline.context import label_budget
from ftrect_ray.pipeline.design import Decision, plan_fits
from ftrect_ray.study import Model, Regression, Study
from ftrect_ray.tables import LoadedTable, load_table
from ftrect_ray.targets import Question

#: Characters from which a prompt that holds a text cannot hold it by chance.
LEAST_QUOTE = 20


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
    StatisticalRefusal
        See :func:`check_budget`.
    """
    problems = check_base(study)
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


def check_base(study: Study) -> list[InputError]:
    """As :func:`check_models`, where the design needs models."""
    untrained = study.design == "rectify-only" and not study.model.has_answers
    if untrained or study.design == "classical":
        return []
    return check_models(own.model for own in study.contenders.values())


def check_models(models: Iterable[Model]) -> list[InputError]:
    """Those that cannot be had: a name of no sound form, a folder that would not load.

    A folder's configuration, tokenizer and shapes are checked against each other and the settings; its weights are not
    read. Nothing is fetched: neither a Hugging Face id nor a named model that is not in the cache yet.
    """
    return [problem for model in models if (problem := _base_problem(model)) is not None]


def _base_problem(model: Model) -> InputError | None:
    if model.name in MODELS and (model == Model(name=model.name) or not place(MODELS[model.name]).exists()):
        return None
    try:
        base = resolve_model(model.name, model.revision)
        if os.path.isabs(base):
            from ftrect_ray.predictor.pretrained import check_model  # torch and transformers: seconds

            check_model(model)
    except InputError as error:
        return error
    return None


def check_budget(study: Study, loaded: LoadedTable) -> list[InputError]:
    """Where pilots, folds or a split ask for more labels than there are, features that are no numbers, and leaks.

    Raises
    ------
    StatisticalRefusal
        The answers cannot carry the regression (columns that depend on each other, separated answers), or the rows of
        a pilot or fold the objective. Found now, not after the fine-tunes.
    """
    n, problems = _labels(loaded), []
    where = f"{n} labels"
    if study.pilots is not None and study.design not in ("classical", "rectify-only"):
        try:
            validation_rows(study.pilots, n)
        except InputError as error:
            problems.append(error)
    if study.design == "crossfit" and n < study.folds * MINIMUM:
        problems.append(
            InputError(f"{study.folds} folds need {study.folds * MINIMUM} labels", where=where, mend="lower 'folds'")
        )
    if study.finetune_labels is not None and study.finetune_labels > n - MINIMUM:
        problems.append(
            InputError(
                f"'finetune_labels' {study.finetune_labels} leaves fewer than {MINIMUM} labels to rectify with",
                where=where,
                mend="lower it",
            )
        )
    try:
        question = Question.of(study.target, study.alpha, loaded.table)
        rows = label_budget(study, loaded.table)
        if not problems:
            problems += check_prompt(study, rows)
            _try(study, question, rows, loaded)
    except InputError as error:
        problems.append(error)
    return problems


def check_prompt(study: Study, rows: Rows) -> list[InputError]:
    """Labelled rows that a prompt shows to the model: one that it has seen cannot rectify it."""
    if study.design == "classical":
        return []
    texts = [_plain(text) for text in rows.texts]
    problems = []
    for name, own in study.contenders.items():
        if (options := own.model.options) is None:
            continue
        prompt = _plain(f"{options.system or ''}\n{options.prompt}")
        shown = [
            name for name, text in zip(rows.ids, texts, strict=True) if len(text) >= LEAST_QUOTE and text in prompt
        ]
        if shown:
            problems.append(
                InputError(
                    f"the prompt holds the whole text of {len(shown)} labelled rows, the first with id {shown[0]!r}: "
                    "a label cannot rectify a model that was shown its row",
                    where=f"{f'candidates.{name}.' if name else ''}model.options.prompt",
                    mend="take examples from texts outside the table, or take those rows out of it",
                )
            )
    return problems


def _plain(text: str) -> str:
    """Without regard to case and white space."""
    return " ".join(text.casefold().split())


def _try(study: Study, question: Question, rows: Rows, loaded: LoadedTable) -> None:
    """Estimate and plan what will be estimated and planned later on, for the refusals alone."""
    if isinstance(study.target, Regression):
        answered = np.asarray(loaded.table["label"].is_valid())
        question.classical(rows.answers, np.flatnonzero(answered), np.flatnonzero(~answered))
    if study.design in ("classical", "rectify-only"):
        return
    if study.pilots is not None:
        _leave_enough(study, plan_all(rows, study), len(rows))
    if study.objective not in TARGETED:
        return
    if study.design == "crossfit":
        plan_fits(Decision("crossfit", folds=study.folds), rows, study, Ledger(rows.ids))
    elif study.design in ("split", "recycle") and study.finetune_labels is not None:
        plan_fits(Decision(study.design, n_finetune=study.finetune_labels), rows, study, Ledger(rows.ids))


def _leave_enough(study: Study, pilots: Sequence[PilotSpec], n: int) -> None:
    """Refuse a split that the pilots shall size, where these may spend the labels that are to rectify it."""
    if study.design not in ("split", "recycle") or study.finetune_labels:
        return
    own = [rows.ids for spec in pilots if spec.size for rows in (spec.fit.train, spec.fit.stop, spec.measure)]
    spent = len(set().union(*own))
    if n - spent < MINIMUM:
        raise InputError(
            f"the pilots may spend {spent} of {n} labels, and what sizes a {study.design} may not rectify it",
            where="pilots",
            mend="lower 'pilots.sizes' (scheme shared or ramp-up), give 'finetune_labels', or use 'design: crossfit'",
        )


def _labels(loaded: LoadedTable) -> int:
    return loaded.table.num_rows - int(loaded.table["label"].null_count)
