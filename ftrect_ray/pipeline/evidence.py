"""What a run's pilots say, in the form that a plan takes: laws with their doubt, zero-shot variances, seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftrect_ray.allocation import Compute, LawFit, fit_scaling_law, s_star, s_star_interval
from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.spec import Coefficients, Rows
from ftrect_ray.pipeline.context import Run
from ftrect_ray.pipeline.measured import Measurement, existing_variance, law_of, measurements, residuals_of, told_by
from ftrect_ray.study import Study

#: Points of the curve and its band that the report draws.
BAND_POINTS = 60


@dataclass(frozen=True, eq=False)
class Evidence:
    """By candidate; ``""`` where the study has one model.

    Attributes
    ----------
    laws : mapping of name to (LawFit, dict)
        The fit and its part of ``scaling_law.json``.
    spent_laws : mapping of name to LawFit
        As the labels that the pilots spent tell them, without those that may rectify.
    zero_shot : mapping of name to float
        ν of the model as it is, on every label.
    compute : mapping of name to Compute
        Device-seconds.
    """

    laws: Mapping[str, tuple[LawFit, dict[str, Any]]]
    spent_laws: Mapping[str, LawFit]
    zero_shot: Mapping[str, float]
    compute: Mapping[str, Compute]

    @classmethod
    def none(cls) -> Evidence:
        """Of a study without pilots."""
        return cls({}, {}, {}, {})


def gather_evidence(run: Run, spent: np.ndarray) -> Evidence:
    """From ``pilots.parquet`` and ``pilot_residuals.parquet``; of equal answers there is none.

    Parameters
    ----------
    run : Run
    spent : np.ndarray
        int (k,), rising: positions in the budget of the labels that the pilots trained on or were measured with.

    Raises
    ------
    StatisticalRefusal
        Where no pilot was measured, or on equal answers only.
    """
    study, rows, storage = run.study, run.labeled, run.storage
    if np.ptp(rows.answers) == 0:
        return Evidence.none()
    pilots = storage.read_table("pilots.parquet").to_pylist()
    residuals = storage.read_table("pilot_residuals.parquet")
    raw = measurements(pilots, residuals, rows, study)
    if not raw:
        raise StatisticalRefusal(
            "no pilot was measured", where="pilots", mend="see pilots.parquet for the reasons, or name a design"
        )
    coefficients = Coefficients.of(study.target, study.objective)
    told = _told(raw, np.arange(len(rows)), rows, study, coefficients)
    if not told:
        raise StatisticalRefusal(
            "all answers that the pilots were measured on are equal, so that they tell nothing",
            where="pilots",
            mend="raise 'pilots.validation', use 'pilots.scheme: cross-fitted', or name a design",
        )
    laws = {
        candidate: fit_law(
            [one.size for one in own],
            [one.variance for one in own],
            len(rows),
            study.seed,
            counts=[one.count for one in own],
            replicates=redrawn,
        )
        for candidate, (own, redrawn) in told.items()
    }
    of_spent = _told(raw, spent, rows, study, coefficients)
    spent_laws = {name: law_of(own, replicates=redrawn, seed=study.seed) for name, (own, redrawn) in of_spent.items()}
    done = [row for row in pilots if row["status"] == "done"]
    places = residuals_of(residuals, rows)
    zero_shot = {}
    for row in (row for row in done if row["size"] == 0):
        positions, residual = places[row["name"]]
        whole = rows.take(positions)
        weights = Influence.of(study.objective, coefficients, whole)
        zero_shot[row["candidate"]] = existing_variance(weights, whole, residual)
    devices = run.record.content["stages"].get("pilot", {}).get("devices", 1)
    trained = {name: [row for row in done if row["size"] and row.get("candidate", "") == name] for name in laws}
    frozen = {name for name, contender in study.contenders.items() if contender.model.adapter == "head"}
    compute = {name: compute_of(own, devices, frozen=name in frozen) for name, own in trained.items()}
    return Evidence(laws, spent_laws, zero_shot, compute)


def _told(
    raw: Mapping[str, Sequence[Measurement]],
    places: np.ndarray,
    rows: Rows,
    study: Study,
    coefficients: Coefficients | None,
) -> dict[str, tuple[list[Measurement], np.ndarray | None]]:
    """See ``measured.told_by``."""
    those = rows.take(places)
    return told_by(raw, places, those, Influence.of(study.objective, coefficients, those), study.seed)


def fit_law(
    sizes: Sequence[float],
    variances: Sequence[float],
    n: int,
    seed: int,
    *,
    counts: Sequence[int] | None = None,
    replicates: np.ndarray | None = None,
) -> tuple[LawFit, dict[str, Any]]:
    """The scaling law and ``scaling_law.json``.

    Parameters
    ----------
    sizes, variances : sequences of equal length
        One entry a pilot: labels that it consumed, residual variance that it left.
    n : int
        The label budget, for s* and its interval.
    seed : int
        Of the bootstrap.
    counts : sequence of int, optional
        Rows that each variance was measured on.
    replicates : ndarray (B, p), optional
        Bootstrap versions of the variances.
    """
    fit = fit_scaling_law(sizes, variances, counts=counts, replicates=replicates, seed=seed)
    interval = s_star_interval(fit, n)
    document = fit.to_dict()
    document |= document.pop("law")
    document["message"] = document.pop("reason")
    document["curve"] = fit.curve.to_dict()
    document["s_star"] = {
        "labels": n,
        "value": s_star(fit.law, n),
        "interval": None if interval is None else list(interval),
    }
    grid = np.geomspace(min(sizes), max(n, *sizes), BAND_POINTS)
    draws = fit.curve.draws_at(grid)
    if len(draws):
        low, high = np.percentile(draws, [2.5, 97.5], axis=0)
        document["band"] = {"sizes": grid.tolist(), "low": low.tolist(), "high": high.tolist()}
    return fit, document


def law_document(evidence: Evidence, candidate: str) -> dict[str, Any]:
    """``scaling_law.json``: the law of the ``candidate`` that was chosen, and under ``candidates`` all of them."""
    documents = {name: document for name, (_, document) in evidence.laws.items()}
    chosen = documents.get(candidate) or next(iter(documents.values()))
    return chosen if list(documents) == [""] else {**chosen, "candidates": documents}


def compute_of(pilots: Sequence[Mapping[str, Any]], devices: float, *, frozen: bool = False) -> Compute:
    """Device-seconds that one candidate's ``pilots`` took, those that were measured and not untrained.

    Predicting is as slow as for the slowest pilot: others may have found their features computed already.
    """
    trained, consumed = (sum(row[key] for row in pilots) for key in ("train_seconds", "consumed"))
    return Compute(
        train_seconds_per_label=devices * trained / consumed,
        predict_seconds_per_text=devices * max(row["predict_seconds"] / row["n_measure"] for row in pilots),
        seconds_per_finetune=devices * max(0.0, float(np.median([r["seconds"] - r["model_seconds"] for r in pilots]))),
        one_pass=frozen,
    )
