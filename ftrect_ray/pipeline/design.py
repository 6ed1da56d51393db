"""From a chosen design to fine-tunes and to the ledger's entries: who trains, who stops, who rectifies."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ftrect_ray.allocation.split import MINIMUM
from ftrect_ray.errors import InputError
from ftrect_ray.estimators.folds import draw_folds
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.pilot_plan import is_untrained
from ftrect_ray.finetune.spec import Coefficients, FitSpec, Rows
from ftrect_ray.ledger import GIVEN, NO_MODEL, ZERO_SHOT, Ledger, Use
from ftrect_ray.study import Study

#: Ledger uses that the final fine-tunes make, and that are dropped when these are planned anew.
FINAL_USES = (Use.SELECT, Use.FINETUNE, Use.EARLY_STOP, Use.RECTIFY, Use.CLASSICAL)

#: Ledger uses that the pilots make.
PILOT_USES = (Use.PILOT_TRAIN, Use.PILOT_STOP, Use.PILOT_MEASURE)


@dataclass(frozen=True)
class Decision:
    """What the allocation hands to the fine-tune.

    Attributes
    ----------
    design : {"crossfit", "split", "recycle", "rectify-only", "classical"}
    folds : int
        Folds of ``crossfit``; 0 elsewhere.
    n_finetune : int
        Labels that one fine-tune consumes; 0 where there is none.
    selected_by_pilots : bool
        The pilots chose ``n_finetune``: their labels may not rectify this model.
    zero_shot : bool
        What ``rectify-only`` rectifies is the study's model as it is, asked by its prompt with answer options; else
        the table's own predictions.
    candidate : str
        Which of the study's candidate models is fine-tuned or asked; empty where it has one model, or none is used.
    """

    design: str
    folds: int = 0
    n_finetune: int = 0
    selected_by_pilots: bool = False
    zero_shot: bool = False
    candidate: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As ``allocation.json`` has it."""
        return asdict(self)

    @property
    def model_names(self) -> list[str]:
        """Names of the models in the run."""
        if self.design == "crossfit":
            return [f"fold-{k}" for k in range(self.folds)]
        if self.zero_shot:
            return [ZERO_SHOT]
        return ["split"] if self.design in ("split", "recycle") else []


def is_zero_shot(study: Study) -> bool:
    """Whether the study's model answers its prompt untrained: ``rectify-only`` without predictions in the table."""
    return study.design == "rectify-only" and study.data.prediction is None


def spent_by_pilots(ledger: Ledger) -> set[str]:
    """Labels that pilots trained on or were measured with: what was chosen with them may include a split's size.

    Not those that measured a model as it is. What that chooses is a design, never anything inside a model.
    """
    return {
        name
        for use in PILOT_USES
        for model in ledger.models(use)
        if not is_untrained(model)
        for name in ledger.ids(use, model)
    }


def hold_back_stopping_rows(rows: Rows, fraction: float) -> tuple[Rows, Rows]:
    """Cut a fine-tune's own rows into (train, stop): the last ``fraction`` of them, two at least, choose the epoch."""
    n_stop = max(2, round(fraction * len(rows)))
    positions = np.arange(len(rows))
    return rows.take(positions[:-n_stop]), rows.take(positions[-n_stop:])


def plan_fits(decision: Decision, rows: Rows, study: Study, ledger: Ledger) -> list[FitSpec]:
    """The final fine-tunes of a decision, each label charged.

    Parameters
    ----------
    decision : Decision
    rows : Rows
        The whole label budget, n rows.
    study : Study
        The model and training of the decision's candidate, objective and seed are used.
    ledger : Ledger
        Earlier plans of final fine-tunes are dropped from it, pilots' entries stay.

    Returns
    -------
    list of FitSpec
        One a model; empty for ``classical`` and ``rectify-only``.

    Raises
    ------
    InputError
        Where a part of the budget would be too small.
    StatisticalRefusal, InputError
        Where a fine-tune's rows cannot carry the coefficients of its objective; see ``finetune.influence``.
    """
    ledger.forget(FINAL_USES)
    study = study.with_candidate(decision.candidate)
    if decision.design == "crossfit":
        return _cross_fits(decision, rows, study, ledger)
    if decision.design in ("split", "recycle"):
        return [_split_fit(decision, rows, study, ledger)]
    if decision.design == "rectify-only":
        ledger.record(Use.RECTIFY, ZERO_SHOT if decision.zero_shot else GIVEN, rows.ids)
    else:
        ledger.record(Use.CLASSICAL, NO_MODEL, rows.ids)
    return []


def _cross_fits(decision: Decision, rows: Rows, study: Study, ledger: Ledger) -> list[FitSpec]:
    if len(rows) < decision.folds * MINIMUM:
        raise InputError(
            f"{len(rows)} labels are too few for {decision.folds} folds of at least {MINIMUM}",
            where="folds",
            mend="raise 'labels', lower 'folds', or use 'design: classical'",
        )
    fold = draw_folds(len(rows), decision.folds, [study.seed, 11], clusters=rows.clusters)
    specs = []
    for k, name in enumerate(decision.model_names):
        order = np.random.default_rng([study.seed, 12, k]).permutation(np.flatnonzero(fold != k))
        specs.append(_charge(name, rows.take(order), study, ledger, seed=study.seed + 1000 * (k + 1)))
        ledger.record(Use.RECTIFY, name, rows.take(np.flatnonzero(fold == k)).ids)
    return specs


def _split_fit(decision: Decision, rows: Rows, study: Study, ledger: Ledger) -> FitSpec:
    if not MINIMUM <= decision.n_finetune <= len(rows) - MINIMUM:
        raise InputError(
            f"a split of {len(rows)} labels cannot fine-tune on {decision.n_finetune}: each part needs {MINIMUM}",
            where="finetune_labels",
            mend="change 'finetune_labels' or raise 'labels'",
        )
    name = decision.model_names[0]
    spent = spent_by_pilots(ledger) if decision.selected_by_pilots else set()
    if spent:
        ledger.record(Use.SELECT, name, [i for i in rows.ids if i in spent])
    order = rows.shuffled(np.random.default_rng([study.seed, 13]))
    order = np.array(sorted(order, key=lambda i: rows.ids[i] not in spent))
    chosen, rest = _whole_clusters(rows, order, decision.n_finetune)
    own = rows.take(np.random.default_rng([study.seed, 14]).permutation(chosen))
    spec = _charge(name, own, study, ledger, seed=study.seed + 1000)
    ledger.record(Use.RECTIFY, name, rows.take(rest).ids)
    if decision.design == "recycle":
        ledger.record(Use.CLASSICAL, name, own.ids)
    return spec


def _whole_clusters(rows: Rows, order: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``order`` after ``size`` rows; rows of a cluster that was cut go with its first part."""
    chosen, rest = order[:size], order[size:]
    if rows.clusters is None:
        return chosen, rest
    torn = np.isin(rows.clusters[rest], rows.clusters[chosen])
    if np.count_nonzero(~torn) < MINIMUM:
        raise InputError(
            f"a fine-tune on {size} labels touches so many clusters that {np.count_nonzero(~torn)} labels are left",
            where="data.cluster",
            mend="use 'design: crossfit', or lower 'finetune_labels'",
        )
    return np.concatenate([chosen, rest[torn]]), rest[~torn]


def _charge(name: str, own: Rows, study: Study, ledger: Ledger, *, seed: int) -> FitSpec:
    train, stop = hold_back_stopping_rows(own, study.training.stopping_fraction)
    ledger.record(Use.FINETUNE, name, train.ids)
    ledger.record(Use.EARLY_STOP, name, stop.ids)
    coefficients = Coefficients.of(study.target, study.objective)
    spec = FitSpec(name, train, stop, study.model, study.training, study.objective, seed, coefficients)
    Influence.of_fit(spec)  # what cannot be weighted is refused before any work
    return spec
