"""From records to what they say of each design: one row a model, objective, budget and design."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.evaluation import statistics as mc
from ftrect_ray.evaluation.designs import NEEDS_ZERO_SHOT
from ftrect_ray.evaluation.population import Population
from ftrect_ray.evaluation.spec import AUTO, CLASSICAL, EvaluationSpec

#: Splits at fixed shares of the budget: the grid that an allocation is compared with.
GRID = "split-"
#: The grid's best point, found over all replications: what nobody knows beforehand.
GRID_BEST = "split-best"
#: The model alone: its interval knows nothing of the model's errors, so that its variance saves nothing.
UNRECTIFIED = "finetune-only"

#: Under which name the planner chooses among the models too.
ANY = "any model"
#: Of an estimate's variance that the table's own deviation may be, where the error of an honest coverage is computed.
LARGEST_SHARE = 0.9

Row = dict[str, Any]


@dataclass(frozen=True)
class Replayed:
    """One design's records, as arrays over the R replications of one model, objective and budget; NaN: unavailable."""

    design: str
    value: np.ndarray
    std_error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_finetune: np.ndarray
    finetunes: np.ndarray
    pilots: np.ndarray
    predicted: np.ndarray
    chosen: tuple[str | None, ...]
    reasons: tuple[str | None, ...]

    @classmethod
    def of(cls, design: str, records: pa.Table) -> Replayed:
        """From its records, in the order of the replications."""

        def column(name: str) -> np.ndarray:
            return np.asarray(records[name].cast(pa.float64()).to_numpy())

        return cls(
            design,
            value=column("value"),
            std_error=column("std_error"),
            low=column("low"),
            high=column("high"),
            n_finetune=column("n_finetune"),
            finetunes=column("finetunes"),
            pilots=column("pilots"),
            predicted=column("predicted_length"),
            chosen=tuple(records["chosen"].to_pylist()),
            reasons=tuple(records["unavailable"].to_pylist()),
        )

    @property
    def there(self) -> np.ndarray:
        """bool (R,): replications with an estimate."""
        return ~np.isnan(self.value)

    @property
    def variance(self) -> np.ndarray:
        """Estimated, (R,)."""
        return self.std_error**2


def summarise(spec: EvaluationSpec, population: Population, records: pa.Table) -> list[Row]:
    """What the records of ``spec`` say, in the order of models, objectives, budgets and designs.

    With several candidates and ``auto``, rows of the model ``any model`` follow: the planner chooses the model too. Not
    where pilots ramp up: there each candidate spends other labels, and a study is charged with all of them.

    ``records`` are those of :class:`~.records.Records`; there may be more than ``spec`` asks for.

    Every number ``x`` has its Monte-Carlo standard error beside it as ``x_error``. Unless it says otherwise, a number
    counts against the mean of the population that the table was drawn from, see ``evaluation.statistics``.

    Returns
    -------
    list of dict
        ``model``, ``objective``, ``budget``, ``design``; ``replications`` with an estimate and ``unavailable`` ones
        with the commonest ``reason``; mean ``n_finetune``, ``finetunes`` and ``pilots``; ``bias``, ``rmse``, ``mae``;
        ``coverage``, ``coverage_honest`` (the Monte-Carlo error that honest intervals would have) and ``coverage_off``
        (its distance from 1 − alpha in such errors); ``table_coverage``
        against the table's own mean, with Wilson's ``table_coverage_low`` and ``_high``; ``length_ratio`` to the sample
        mean's interval;
        ``saved`` labels by estimated variance, ``saved_mse`` by realised errors; ``effective_labels``;
        ``predicted_ratio``, the planner's length over the realised one; ``regret_split`` over the best fixed split, and
        ``regret`` over the best design that a study of the model can have; ``chosen``, what the planner chose how
        often. What does not apply is absent or None.
    """
    found = []
    replayed = {
        (model, objective, budget): _replayed(spec, records, model, objective, budget)
        for model in spec.candidates
        for objective in spec.objectives
        for budget in spec.budgets
    }
    for (model, objective, budget), designs in replayed.items():
        rows = _of_one_budget(spec, population, budget, designs, _best(_possible(spec, model, designs)))
        found += [{"model": model, "objective": objective, "budget": budget, **row} for row in rows]
    if len(spec.candidates) > 1 and AUTO in spec.replayed:
        for objective in spec.objectives:
            for budget in spec.budgets:
                if spec.pilot_rule(budget).scheme == "ramp-up":
                    continue
                by_model = {model: replayed[model, objective, budget] for model in spec.candidates}
                best = _best(one for model, designs in by_model.items() for one in _possible(spec, model, designs))
                rows = _of_one_budget(spec, population, budget, _over_models(by_model), best)
                found += [{"model": ANY, "objective": objective, "budget": budget, **row} for row in rows]
    return found


def _replayed(spec: EvaluationSpec, records: pa.Table, model: str, objective: str, budget: int) -> list[Replayed]:
    """Every design of ``spec``."""
    of = pc.field
    own = (of("model") == model) & (of("objective") == objective) & (of("budget") == budget)
    part = records.filter(own & (of("replication") < spec.replications)).sort_by("replication")
    return [Replayed.of(design, part.filter(of("design") == design)) for design in spec.replayed]


def _of_one_budget(
    spec: EvaluationSpec, population: Population, budget: int, replayed: list[Replayed], best: Replayed | None
) -> Iterable[Row]:
    classical = next(one for one in replayed if one.design == CLASSICAL)
    grid = _best(one for one in replayed if _is_grid(one.design))
    for one in replayed:
        yield {"design": one.design, **_row(spec, population, budget, one, classical, grid, best), "is": None}
    if grid is not None:
        yield {"design": GRID_BEST, **_row(spec, population, budget, grid, classical, grid, best), "is": grid.design}


def _over_models(by_model: Mapping[str, list[Replayed]]) -> list[Replayed]:
    """The sample mean, and the planner's choice among models too: the least predicted length in each replication.

    That is what ``allocation.choose_model`` does with the plans of several candidates, whose pilots have the same
    labels.
    """
    autos = {model: next(one for one in designs if one.design == AUTO) for model, designs in by_model.items()}
    lengths = np.array([np.where(np.isnan(auto.predicted), np.inf, auto.predicted) for auto in autos.values()])
    pick = np.argmin(lengths, axis=0)
    at = pick, np.arange(len(pick))

    def picked(name: str) -> np.ndarray:
        return np.array([getattr(auto, name) for auto in autos.values()])[at]

    models = list(autos.items())
    taken = [(*models[model], number) for number, model in enumerate(pick)]
    auto = Replayed(
        AUTO,
        value=picked("value"),
        std_error=picked("std_error"),
        low=picked("low"),
        high=picked("high"),
        n_finetune=picked("n_finetune"),
        finetunes=picked("finetunes"),
        pilots=np.nansum([auto.pilots for auto in autos.values()], axis=0),
        predicted=picked("predicted"),
        chosen=tuple(auto.chosen[i] and f"{name}: {auto.chosen[i]}" for name, auto, i in taken),
        reasons=tuple(auto.reasons[i] for _, auto, i in taken),
    )
    first = next(iter(by_model.values()))
    return [next(one for one in first if one.design == CLASSICAL), auto]


def _possible(spec: EvaluationSpec, model: str, designs: Iterable[Replayed]) -> list[Replayed]:
    """Designs that a study of ``model`` could have: not the model alone, nor answers of another model than it."""
    own = spec.study.data.prediction is not None or spec.candidates[model].model.has_answers
    without = {UNRECTIFIED, *(() if own else NEEDS_ZERO_SHOT)}
    return [one for one in designs if one.design not in without]


def _is_grid(design: str) -> bool:
    return design.startswith(GRID) and design.removeprefix(GRID).isdigit()


def _best(designs: Iterable[Replayed]) -> Replayed | None:
    """Of those that were always available, the one with the least mean estimated variance."""
    whole = [one for one in designs if one.there.all()]
    return min(whole, key=lambda one: float(one.variance.mean()), default=None)


def _row(
    spec: EvaluationSpec,
    population: Population,
    budget: int,
    one: Replayed,
    classical: Replayed,
    grid: Replayed | None,
    best: Replayed | None,
) -> Row:
    both = one.there & classical.there
    reasons = [reason for reason in one.reasons if reason is not None]
    reason = Counter(reasons).most_common(1)
    row: Row = {
        "replications": int(both.sum()),
        "unavailable": len(reasons),
        "reason": reason[0][0] if reason else None,
    }
    if row["replications"] < 2:
        return row
    truth, spread, alpha = population.truth, population.spread, spec.study.alpha
    error, theirs = one.value[both] - truth, classical.value[both] - truth
    low, high = one.low[both], one.high[both]
    length, classical_length = high - low, (classical.high - classical.low)[both]
    variance, classical_variance = one.variance[both], classical.variance[both]
    coverage = mc.coverage(low, high, truth, spread)
    share = 0.0 if one.design == UNRECTIFIED else min(spread**2 / max(float(variance.mean()), 1e-300), LARGEST_SHARE)
    hits = int(((low <= truth) & (truth <= high)).sum())
    honest = mc.honest_coverage_error(alpha, share, len(error))
    wilson = mc.wilson(hits, len(error), alpha)
    row |= {
        "n_finetune": float(one.n_finetune[both].mean()),
        "finetunes": float(one.finetunes[both].mean()),
        "pilots": float(one.pilots[both].mean()),
        **_numbers("bias", mc.mean(error)),
        **_numbers("rmse", mc.root_mean_square(error, spread)),
        **_numbers("mae", mc.mean_absolute(error, spread)),
        **_numbers("coverage", coverage),
        "coverage_honest": honest,
        "coverage_off": (coverage.value - (1 - alpha)) / honest if honest > 0 else None,
        **_numbers("table_coverage", mc.coverage(low, high, truth)),
        "table_coverage_low": wilson[0],
        "table_coverage_high": wilson[1],
        **_numbers("length_ratio", mc.ratio(length, classical_length)),
        **_numbers("saved_mse", mc.saved(error**2 + spread**2, theirs**2 + spread**2)),
    }
    if one.design != UNRECTIFIED:
        row |= _numbers("saved", mc.saved(variance, classical_variance))
        row |= _numbers("effective_labels", mc.effective_labels(budget, variance, classical_variance))
        for name, reference in (("regret_split", grid), ("regret", best)):
            if reference is not None:
                row |= _numbers(name, mc.regret(variance, reference.variance[both]))
    predicted = ~np.isnan(one.predicted[both])
    if predicted.sum() >= 2:
        row |= _numbers("predicted_ratio", mc.ratio(one.predicted[both][predicted], length[predicted]))
    counts = Counter(chosen for chosen in one.chosen if chosen is not None)
    often = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))
    row["chosen"] = ", ".join(f"{name} × {count}" for name, count in often) or None
    return row


def _numbers(name: str, measured: mc.Measured) -> Row:
    return {
        name: None if math.isnan(measured.value) else measured.value,
        f"{name}_error": None if math.isnan(measured.error) else measured.error,
    }
