"""How much clusters, strata and unequal weights widen what a plan predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from ftrect_ray.finetune.spec import Coefficients
from ftrect_ray.study import MeanTarget, Study
from ftrect_ray.targets import Question

SAMPLING = ("weight", "strata", "cluster")


def design_effect(study: Study, table: pa.Table) -> float:
    """The classical variance of the labelled rows as they were sampled, over that of independent ones (Kish 1965).

    A plan is about rows one by one; all its variances are multiplied by this. Residuals need not cluster as answers
    do, so for a rectified estimate it is a guess; between designs it changes nothing.

    Parameters
    ----------
    study : Study
        Its objective says of what: of the mean answer, or of coefficients.
    table : pa.Table
        ``table.parquet``.
    """
    if not set(SAMPLING) & set(table.column_names):
        return 1.0
    aimed = Coefficients.of(study.target, study.objective)
    question = Question.of(MeanTarget() if aimed is None else study.target, study.alpha, table)
    rows = np.flatnonzero(table["label"].is_valid())
    answers = np.asarray(table["label"].to_numpy(), dtype=np.float64)[rows]
    plain = replace(question, weights=None, strata=None, clusters=None)
    none = np.arange(0)
    sampled, independent = (np.square(one.classical(answers, rows, none).std_error) for one in (question, plain))
    if not np.all(independent > 0):
        return 1.0
    if aimed is not None and aimed.coordinate is not None:
        return float(sampled[aimed.coordinate] / independent[aimed.coordinate])
    if study.objective == "determinant":
        return float(np.exp(np.mean(np.log(sampled / independent))))
    return float(np.sum(sampled) / np.sum(independent))
