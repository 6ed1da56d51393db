"""Designs that pilots size or choose, every label of theirs charged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ftrect_ray.allocation import LawFit, Plan, plan
from ftrect_ray.allocation.pilot_rows import FOLDED, PilotDraw, Scheme, largest_size, pilot_draws
from ftrect_ray.allocation.planner import FOLDS
from ftrect_ray.allocation.ramp_up import next_size
from ftrect_ray.allocation.split import MINIMUM
from ftrect_ray.errors import StatisticalRefusal
from ftrect_ray.estimators import classical_mean
from ftrect_ray.estimators import recycle as recycled
from ftrect_ray.evaluation.designs.crossed import crossfit
from ftrect_ray.evaluation.designs.given import ppi_tuned, sample_mean
from ftrect_ray.evaluation.designs.replication import ORDER, PILOTS, Charge, DesignResult, PilotRule, Replication
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.pilot_plan import MIN_VALIDATION
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.ledger import Use
from ftrect_ray.pipeline.measured import Measurement, existing_variance, law_of, told_by, within_folds

#: The one model of a split, and how many sizes ``auto`` takes where none are named.
MODEL, SIZES = "split", 4


@dataclass
class Pilots:
    """Measured pilots of one replication, as a study's pipeline measures them."""

    replication: Replication
    measured: list[Measurement] = field(default_factory=list)
    refused: list[StatisticalRefusal] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)
    models: int = 0

    def run(self, scheme: Scheme, sizes: Sequence[int]) -> None:
        """``sizes``, some at least; under ``ramp-up`` one after the other, until the law says stop.

        Raises
        ------
        StatisticalRefusal
            There is none, or none could be measured.
        """
        replication, rule = self.replication, self.replication.pilots
        n, held = replication.n, _validation(rule, scheme, replication.n)
        if not sizes:
            raise StatisticalRefusal(f"{n} labels have no room for a pilot", mend="label more rows")
        seed = int(replication.rng(PILOTS).integers(2**31))
        draws = pilot_draws(n, sizes, rule.seeds, scheme, held, rule.folds, seed)
        if scheme == "ramp-up":
            self._climb(draws, sizes, held)
        else:
            self._measure(draws)
        if not self.measured:
            raise self.refused[0]

    def _climb(self, draws: Sequence[PilotDraw], sizes: Sequence[int], held: int) -> None:
        known: dict[int, list[float]] = {}
        size: int | None = sizes[0]
        while size is not None:
            self._measure([draw for draw in draws if draw.size == size])
            known[size] = [one.variance for one in self.measured if one.nested == size]
            size = next_size(sizes, known, held, self.replication.n - held)

    def _measure(self, draws: Sequence[PilotDraw]) -> None:
        """Train them and measure Var(Y − f) on the rows that each never saw, that of all folds of a size as one.

        What diverged was charged and tells nothing, as in a study.
        """
        together: dict[tuple[int, int], list[PilotDraw]] = {}
        for draw in draws:
            together.setdefault((draw.repetition, draw.size), []).append(draw)
            self.charges.append(Charge(Use.PILOT_TRAIN, draw.name, draw.own))
            self.charges.append(Charge(Use.PILOT_MEASURE, draw.name, draw.measure))
        self.models += len(draws)
        for folds in together.values():
            try:
                self.measured.append(self._measurement(folds))
            except StatisticalRefusal as refusal:
                self.refused.append(refusal)

    def _measurement(self, folds: Sequence[PilotDraw]) -> Measurement:
        """Of one pilot, or of all its folds."""
        replication = self.replication
        seeds = [replication.seed + 1 + draw.repetition for draw in folds]
        f = replication.learn([draw.own for draw in folds], seeds, replication.labeled)[replication.labeled]
        u = within_folds([(replication.y[d.measure] - f[d.measure, k])[:, None] for k, d in enumerate(folds)])
        places = np.concatenate([draw.measure for draw in folds])
        own = float(np.mean([len(draw.own) for draw in folds]))
        return Measurement(own, folds[0].size, float(np.var(u, ddof=1)), len(u), places, u)

    @property
    def spent(self) -> np.ndarray:
        """Places of all labels that trained or measured a pilot."""
        return np.unique(np.concatenate([charge.places for charge in self.charges]))

    @property
    def rows(self) -> Rows:
        """The budget."""
        names = tuple(map(str, range(self.replication.n)))
        return Rows(names, names, self.replication.y)

    def fit(self, places: np.ndarray) -> LawFit:
        """The scaling law with its doubt, as the labels at ``places`` (k,) tell it.

        Raises
        ------
        StatisticalRefusal
            All pilots were measured on equal answers.
        """
        replication, rows = self.replication, self.rows.take(places)
        influence = Influence.of(replication.objective, None, rows)
        told = told_by({"": self.measured}, places, rows, influence, replication.seed)
        if not told:
            raise StatisticalRefusal("all answers that the pilots were measured on are equal")
        own, redrawn = told[""]
        return law_of(own, replicates=redrawn, seed=replication.seed)

    def plan(self, folds: Sequence[int] = FOLDS) -> Plan:
        """What every design would give."""
        replication = self.replication
        y, spent = replication.y, self.spent
        existing = min(map(self.existing_variance, replication.existing), default=0.0)
        return plan(
            self.fit(np.arange(replication.n)),
            labels=replication.n,
            unlabeled=int(np.count_nonzero(replication.unlabeled)),
            variance=float(np.var(y, ddof=1)),
            rectify_variance=existing or None,
            folds=folds,
            alpha=replication.alpha,
            spent=len(spent),
            spent_law=self.fit(spent) if len(spent) < replication.n else None,
            spent_variance=float(np.var(y[spent], ddof=1)) or None,
        )

    def existing_variance(self, f: np.ndarray) -> float:
        """See ``measured.existing_variance``; ``f`` (N,)."""
        rows, replication = self.rows, self.replication
        influence = Influence.of(replication.objective, None, rows)
        return existing_variance(influence, rows, replication.y - f[replication.labeled])


def split(replication: Replication, share: float) -> DesignResult:
    """The first ``share`` of the labels trains one model, the rest rectifies it."""
    size = round(share * replication.n)
    return _one_model(replication, np.arange(replication.n), size)


def split_ramp_up(replication: Replication) -> DesignResult:
    """FTR EC.2: V, nested pilots until one is as large as s*, and the single split that the law then likes best.

    As in a study, the labels of V and of the pilots train the final model: they may not rectify it.
    """
    return _after_ramp_up(replication, "split-after-pilots")


def recycle(replication: Replication) -> DesignResult:
    """The same, with the classical mean of the labels that trained the model beside (METHOD: recycling)."""
    return _after_ramp_up(replication, "recycle")


def auto(replication: Replication) -> DesignResult:
    """Pilots by the replication's rule, law, the plan's choice, and that design: as a study with ``design: auto``."""
    if np.ptp(replication.y) == 0:  # there is nothing to predict
        return replace(sample_mean(replication), chosen="classical")
    rule = replication.pilots
    pilots = Pilots(replication)
    pilots.run(rule.scheme, pilot_sizes(rule, replication.n))
    whole = pilots.plan(tuple(sorted({*FOLDS, *range(2, replication.max_finetunes + 1)})))
    runs: dict[str, Callable[[Replication], DesignResult]] = {
        "classical": sample_mean,
        "split-after-pilots": partial(_sized, pilots=pilots, whole=whole, name="split-after-pilots"),
        "recycle": partial(_sized, pilots=pilots, whole=whole, name="recycle"),
        **{f"crossfit-{k}": crossfit(k) for k in range(2, replication.max_finetunes + 1)},
    }
    if replication.existing:
        best = min(replication.existing, key=pilots.existing_variance)
        runs["rectify-only"] = lambda of: ppi_tuned(replace(of, zero_shot=best))
    there = {design.name for design in whole.designs}
    chosen = whole.choose(replication.max_finetunes, [name for name in runs if name in there])
    result = runs[chosen.name](replication)
    told = {charge.model for charge in result.charges}
    return replace(
        result,
        chosen=chosen.name,
        predicted_length=chosen.interval_length,
        pilots=pilots.models,
        charges=(*result.charges, *(charge for charge in pilots.charges if charge.model not in told)),
    )


def _after_ramp_up(replication: Replication, name: str) -> DesignResult:
    pilots = Pilots(replication)
    pilots.run("ramp-up", ramp_sizes(replication.pilots, replication.n))
    return _sized(replication, pilots, pilots.plan(), name)


def _sized(replication: Replication, pilots: Pilots, whole: Plan, name: str) -> DesignResult:
    """``split-after-pilots`` or ``recycle`` with the size that the plan gives it; the pilots' labels train first.

    Raises
    ------
    StatisticalRefusal
        The plan cannot have it.
    """
    design = whole[name]
    if design.unavailable:
        raise StatisticalRefusal(f"{name}: {design.unavailable}", mend="label more rows, or lower the pilots' sizes")
    order = np.concatenate([pilots.spent, np.setdiff1d(np.arange(replication.n), pilots.spent)])
    result = _one_model(replication, order, design.n_finetune, recycles=name == "recycle")
    selected = Charge(Use.SELECT, MODEL, pilots.spent)
    return replace(
        result,
        predicted_length=design.interval_length,
        pilots=pilots.models,
        charges=(*pilots.charges, selected, *result.charges),
    )


def _one_model(replication: Replication, order: np.ndarray, size: int, *, recycles: bool = False) -> DesignResult:
    """A model of the first ``size`` places of ``order``, rectified by the others."""
    own = replication.rng(ORDER).permutation(order[:size])
    rest = order[size:]
    f = replication.learn([own], [replication.seed])[:, 0]
    charges = [Charge(Use.FINETUNE, MODEL, own), Charge(Use.RECTIFY, MODEL, rest)]
    if not recycles:
        return DesignResult.of(replication.rectified(rest, f), charges, n_finetune=size, finetunes=1)
    beside = classical_mean(replication.y[own], alpha=replication.alpha)
    estimate = recycled(beside, replication.rectified(rest, f))
    charges.append(Charge(Use.CLASSICAL, MODEL, own))
    return DesignResult.of(estimate, charges, n_finetune=size, finetunes=1)


def pilot_sizes(rule: PilotRule, n: int) -> tuple[int, ...]:
    """Sizes of ``auto``'s pilots that a budget of ``n`` labels has room for, perhaps none."""
    return _fitting(rule.sizes, rule, rule.scheme, n)


def ramp_sizes(rule: PilotRule, n: int) -> tuple[int, ...]:
    """The same of a ramp-up, whatever the scheme of ``rule``."""
    return _fitting(rule.ramp, rule, "ramp-up", n)


def _fitting(named: tuple[int, ...] | None, rule: PilotRule, scheme: Scheme, n: int) -> tuple[int, ...]:
    """Of the sizes ``named``, else of a ramp-up's that rise by a twentieth of the budget, or others' that halve."""
    room = largest_size(n, scheme, _validation(rule, scheme, n), rule.folds)
    if scheme == "ramp-up":
        sizes = named or [round(step * n / 20) for step in range(1, 20)]
        room -= MINIMUM  # to rectify
    else:
        sizes = named or sorted({room // 2**k for k in range(SIZES)})
    return tuple(size for size in sizes if MINIMUM <= size <= room)


def _validation(rule: PilotRule, scheme: Scheme, n: int) -> int:
    """Labels of V; none where folds measure."""
    return 0 if scheme in FOLDED else max(MIN_VALIDATION, round(rule.validation * n))
