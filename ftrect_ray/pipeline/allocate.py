"""From measured pilots to a decision, with the predicted variance of every design beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ftrect_ray.allocation import LawFit, Plan, fit_scaling_law, plan, s_star, s_star_interval
from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.spec import Coefficients, Rows
from ftrect_ray.pipeline.design import Decision, is_zero_shot
from ftrect_ray.study import Study

#: Points of the curve and its band that the report draws.
BAND_POINTS = 60


def fit_law(sizes: Sequence[int], variances: Sequence[float], n: int, seed: int) -> tuple[LawFit, dict[str, Any]]:
    """The scaling law and ``scaling_law.json``.

    Parameters
    ----------
    sizes, variances : sequences of equal length
        One entry a pilot: labels that it consumed, residual variance that it left.
    n : int
        The label budget, for s* and its interval.
    seed : int
        Of the bootstrap.

    Raises
    ------
    StatisticalRefusal
        Where no pilot was measured.
    """
    if not len(sizes):
        raise StatisticalRefusal(
            "no pilot was measured", where="pilots", mend="see pilots.parquet for the reasons, or name a design"
        )
    fit = fit_scaling_law(sizes, variances, seed=seed)
    interval = s_star_interval(fit, n)
    document = fit.to_dict()
    document |= document.pop("law")
    document["message"] = document.pop("reason")
    document["s_star"] = {
        "labels": n,
        "value": s_star(fit.law, n),
        "interval": None if interval is None else list(interval),
    }
    grid = np.geomspace(min(sizes), max(n, *sizes), BAND_POINTS)
    if len(fit.draws):
        a, alpha, b = (column[:, None] for column in fit.draws.T)
        low, high = np.percentile(a * grid**-alpha + b, [2.5, 97.5], axis=0)
        document["band"] = {"sizes": grid.tolist(), "low": low.tolist(), "high": high.tolist()}
    return fit, document


def decide(
    study: Study, fit: LawFit | None, *, rows: Rows, unlabeled: int, spent: int, predictions: np.ndarray | None
) -> tuple[Decision, dict[str, Any]]:
    """The decision and ``allocation.json``.

    Everything is compared in the unit of the objective: for the mean, Var Y without a model against Var(Y − f) with
    one; for coefficients, the variance of their classical influence against ν (see ``finetune.influence``).

    Parameters
    ----------
    study : Study
    fit : LawFit or None
        None where the study has no pilots; the design is then named by the study.
    rows : Rows
        The label budget, n rows.
    unlabeled : int
        Texts without an answer.
    spent : int
        Labels that the pilots trained on or were measured with.
    predictions : np.ndarray or None
        float64 (n,), the table's own predictions of the labelled rows.
    """
    n, answers = len(rows), np.asarray(rows.answers, dtype=np.float64)
    influence = Influence.of(study.objective, Coefficients.of(study.target, study.objective), rows)
    variance = influence.variance(rows, answers - influence.fitted)
    table = None
    if fit is not None and variance > 0:
        given = None if predictions is None else influence.variance(rows, answers - predictions)
        kinds = range(2, max(study.max_finetunes, study.folds, 2) + 1)
        table = plan(
            fit.law, labels=n, unlabeled=unlabeled, variance=variance, rectify_variance=given or None,
            folds=tuple(kinds), alpha=study.alpha, spent=spent,
        )  # fmt: skip
    decision, chosen, reason = _choose(study, table, predictions is not None)
    designs = [] if table is None else [_row(row, spent) for row in table.to_dict()["designs"]]
    facts = {
        "labels": n,
        "unlabeled": unlabeled,
        "variance": variance,
        "spent": spent,
        "max_finetunes": study.max_finetunes,
    }
    return decision, {"decision": decision.to_dict(), "chosen": chosen, "reason": reason, **facts, "designs": designs}


def _choose(study: Study, table: Plan | None, has_predictions: bool) -> tuple[Decision, str, str]:
    design = study.design
    if design == "auto":
        if table is None:
            return Decision("classical"), "classical", "all answers are equal: there is nothing to predict"
        runnable = ["classical", "split-after-pilots", "recycle"] + ["rectify-only"] * has_predictions
        runnable += [
            row.name
            for row in table.designs
            if row.name.startswith("crossfit-") and row.finetunes <= study.max_finetunes
        ]
        best = table.choose(study.max_finetunes, runnable)
        kind, _, folds = best.name.partition("-") if best.name.startswith("crossfit-") else (best.name, "", "0")
        kind = {"split-after-pilots": "split"}.get(kind, kind)
        trained = best.n_finetune if kind in ("split", "recycle") else 0
        return (
            Decision(kind, folds=int(folds), n_finetune=trained, selected_by_pilots=trained > 0),
            best.name,
            best.note,
        )
    reason = "named by the study"
    if design == "crossfit":
        return Decision(design, folds=study.folds), f"crossfit-{study.folds}", reason
    if design not in ("split", "recycle"):
        return Decision(design, zero_shot=is_zero_shot(study)), design, reason
    if study.finetune_labels is not None:
        return Decision(design, n_finetune=study.finetune_labels), design, f"{reason}; size by 'finetune_labels'"
    name = "split-after-pilots" if design == "split" else design
    if table is None or table[name].unavailable:
        why = "all answers are equal" if table is None else table[name].unavailable
        raise StatisticalRefusal(
            f"design {design!r} cannot be sized: {why}",
            where="design",
            mend="give 'finetune_labels', or use 'design: auto'",
        )
    return (
        Decision(design, n_finetune=table[name].n_finetune, selected_by_pilots=True),
        name,
        f"{reason}; size by the pilots' law",
    )


def _row(row: dict[str, Any], spent: int) -> dict[str, Any]:
    kept = {key: row[key] for key in ("name", "finetunes", "n_finetune", "variance", "std_error", "interval_length")}
    note = row["unavailable"]
    if row["name"] == "split" and spent and not note:
        note = f"if the {spent} labels of the pilots could still rectify"
    return kept | {"saved_labels": row["saved"], "note": note}
