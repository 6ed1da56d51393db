"""The commands that need no model and no cluster: ``estimate`` and ``plan``."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.errors import InputError, InputErrors, StatisticalRefusal
from ftrect_ray.study import Data, MeanTarget, OlsTarget, QuantileTarget, Target
from ftrect_ray.tables import read_any
from ftrect_ray.tables.columns import numbers
from ftrect_ray.targets import Question


def estimate(options: Namespace) -> int:
    """Rectify the predictions of a table; only the columns that are needed are read."""
    target = _target(options)
    lam = _lam(options.lam)
    features = list(getattr(target, "features", ()))
    table = _read(options.table, [options.label, options.prediction, *features])
    answers = _column(table, options.label, options.table)
    predictions = _column(table, options.prediction, options.table)
    missing = int(np.isnan(predictions).sum())
    if missing:
        share = missing / len(predictions)
        raise StatisticalRefusal(
            f"{missing} of {len(predictions)} rows ({100 * share:.1f} %) have no prediction in {options.prediction!r}",
            where=options.table,
            mend="predict them, or give each a fixed value that does not depend on its label",
        )
    labelled = np.flatnonzero(~np.isnan(answers))
    others = np.flatnonzero(np.isnan(answers))
    if len(labelled) < 2:
        raise InputError(
            f"column {options.label!r} has {len(labelled)} answers; two are needed",
            where=options.table,
            mend="label more rows",
        )
    question = Question.of(target, options.alpha, table)
    rectified = question.rectified(
        answers[labelled], predictions[labelled], predictions[others], None, labelled, others, lam=lam
    )
    classical = question.classical(answers[labelled], labelled)
    if options.json:
        print(json.dumps(rectified.to_dict() | {"classical": classical.to_dict()}, indent=2, allow_nan=False))
    else:
        print(f"{rectified}\nwithout the predictions: {str(classical).splitlines()[0]}")
    return 0


def _target(options: Namespace) -> Target:
    if options.target == "quantile":
        return QuantileTarget(kind="quantile", q=options.q)
    if options.target == "ols":
        features = [name for name in options.features.split(",") if name]
        if not features:
            raise InputError("--target ols needs --features A,B", where="ftrect estimate", mend="name numeric columns")
        return OlsTarget(kind="ols", features=features)
    return MeanTarget()


def _lam(text: str) -> Any:
    if text == "tuned":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"'lam' must be 'tuned' or a number; got {text!r}", where="ftrect estimate") from None


def _read(path: str, columns: list[str]) -> pa.Table:
    limits = Data.model_fields
    return read_any(
        path,
        columns=list(dict.fromkeys(columns)),
        max_rows=limits["max_rows"].default,
        max_bytes=limits["max_bytes"].default,
    )


def _column(table: pa.Table, name: str, where: str) -> np.ndarray:
    """A numeric column as float64 (N,), NaN where the cell is empty."""
    values, problems = numbers(table[name], name, where)
    if problems:
        raise InputErrors(problems)
    return np.asarray(pc.fill_null(values, float("nan")).to_numpy(), dtype=np.float64)


def plan(options: Namespace) -> int:
    """What a law says about a budget of labels."""
    from ftrect_ray import allocation

    law = allocation.ScalingLaw(*options.law)
    n, m, variance = options.labels, options.unlabeled, options.variance
    designs = allocation.plan(law, labels=n, unlabeled=m, variance=variance, folds=(2, 3, 5), alpha=options.alpha)
    split = allocation.optimal_split(law, n, m, variance=variance)
    best = designs.choose()
    document: dict[str, Any] = designs.to_dict() | {
        "s_star": split.s_star,
        "n_finetune": split.n_finetune,
        "fraction": split.fraction,
        "n_times_variance": n * split.variance,
        "chosen": best.to_dict(),
        "feasible": None if variance is None else bool(allocation.feasibility(law, n, variance)),
    }
    if options.half_width is not None:
        document["labels_for_half_width"] = allocation.labels_for_half_width(
            law, options.half_width, unlabeled=m, variance=variance, folds=(2, 3, 5), alpha=options.alpha
        )
    if options.json:
        print(json.dumps(document, indent=2, allow_nan=False))
        return 0
    print(f"law {law}, {n} labels, {'unlimited' if m is None else m} unlabelled texts\n{designs}")
    print(f"best single split: s* = {split.s_star:.2f}, {split.n_finetune} labels ({100 * split.fraction:.1f} %) train")
    print(f"choice: {best.name} — {best.note}")
    if document["feasible"] is False:
        print("a single split loses to the plain mean at this budget")
    for name, labels in document.get("labels_for_half_width", {}).items():
        if not designs[name].unavailable:
            needed = "more labels than can be had" if labels is None else f"{labels} labels"
            print(f"± {options.half_width:g} needs {needed} with {name}")
    return 0
