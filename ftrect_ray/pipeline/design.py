"""From a chosen design to fine-tunes and to the ledger's entries: who trains, who stops, who rectifies."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.ledger import Ledger, Use
from ftrect_ray.study import Study

#: Ledger uses that the final fine-tunes make, and that are dropped when these are planned anew.
FINAL_USES = (Use.SELECT, Use.FINETUNE, Use.EARLY_STOP, Use.RECTIFY, Use.CLASSICAL)

#: Ledger uses that the pilots make.
PILOT_USES = (Use.PILOT_TRAIN, Use.PILOT_STOP, Use.PILOT_MEASURE)

#: Fewest labels on either side of a cut: below this neither an epoch can be chosen nor a variance estimated.
SMALLEST_PART = 10


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
    """

    design: str
    folds: int = 0
    n_finetune: int = 0
    selected_by_pilots: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def model_names(self) -> list[str]:
        """The fine-tunes' names in the run."""
        if self.design == "crossfit":
            return [f"fold-{k}" for k in range(self.folds)]
        return ["split"] if self.design in ("split", "recycle") else []


def draw_folds(n: int, folds: int, seed: int) -> np.ndarray:
    """Fold of each label, int (n,), sizes equal to within one, by simple random sampling."""
    order = np.random.default_rng([seed, 11]).permutation(n)
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % folds
    return fold


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
        Its model, training, objective and seed are used.
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
    """
    ledger.forget(FINAL_USES)
    if decision.design == "crossfit":
        return _cross_fits(decision, rows, study, ledger)
    if decision.design in ("split", "recycle"):
        return [_split_fit(decision, rows, study, ledger)]
    ledger.record(
        Use.RECTIFY if decision.design == "rectify-only" else Use.CLASSICAL,
        "given" if decision.design == "rectify-only" else "none",
        rows.ids,
    )
    return []


def _cross_fits(decision: Decision, rows: Rows, study: Study, ledger: Ledger) -> list[FitSpec]:
    if len(rows) < decision.folds * SMALLEST_PART:
        raise InputError(
            f"{len(rows)} labels are too few for {decision.folds} folds of at least {SMALLEST_PART}",
            where="folds",
            mend="raise 'labels', lower 'folds', or use 'design: classical'",
        )
    fold = draw_folds(len(rows), decision.folds, study.seed)
    specs = []
    for k, name in enumerate(decision.model_names):
        order = np.random.default_rng([study.seed, 12, k]).permutation(np.flatnonzero(fold != k))
        specs.append(_charge(name, rows.take(order), study, ledger, seed=study.seed + 1000 * (k + 1)))
        ledger.record(Use.RECTIFY, name, rows.take(np.flatnonzero(fold == k)).ids)
    return specs


def _split_fit(decision: Decision, rows: Rows, study: Study, ledger: Ledger) -> FitSpec:
    if not SMALLEST_PART <= decision.n_finetune <= len(rows) - SMALLEST_PART:
        raise InputError(
            f"a split of {len(rows)} labels cannot fine-tune on {decision.n_finetune}: each part needs {SMALLEST_PART}",
            where="finetune_labels",
            mend="change 'finetune_labels' or raise 'labels'",
        )
    name = decision.model_names[0]
    spent = {i for use in PILOT_USES for i in ledger.ids(use)} if decision.selected_by_pilots else set()
    if spent:
        ledger.record(Use.SELECT, name, [i for i in rows.ids if i in spent])
    order = np.random.default_rng([study.seed, 13]).permutation(len(rows))
    order = np.array(sorted(order, key=lambda i: rows.ids[i] not in spent))
    chosen, rest = order[: decision.n_finetune], order[decision.n_finetune :]
    own = rows.take(np.random.default_rng([study.seed, 14]).permutation(chosen))
    spec = _charge(name, own, study, ledger, seed=study.seed + 1000)
    ledger.record(Use.RECTIFY, name, rows.take(rest).ids)
    if decision.design == "recycle":
        ledger.record(Use.CLASSICAL, name, own.ids)
    return spec


def _charge(name: str, own: Rows, study: Study, ledger: Ledger, *, seed: int) -> FitSpec:
    train, stop = hold_back_stopping_rows(own, study.training.stopping_fraction)
    ledger.record(Use.FINETUNE, name, train.ids)
    ledger.record(Use.EARLY_STOP, name, stop.ids)
    return FitSpec(name, train, stop, study.model, study.training, study.objective, seed)
