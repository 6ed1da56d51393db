"""The table of designs for one budget, and the choice among them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

from ftrect_ray.allocation.checks import count
from ftrect_ray.allocation.curves import Curve, DrawnLaw
from ftrect_ray.allocation.design import Design, as_table
from ftrect_ray.allocation.designs import NO_VARIANCE
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import feasibility
from ftrect_ray.errors import InputError, StatisticalRefusal, near_match

Population = Literal["infinite", "finite"]
WORTHWHILE = 0.01
"""A model, and any further fine-tune, must be predicted to save this share of the labels."""
TIE = 1e-9
ENOUGH_FOLDS = 5
"""More folds than these are not taken for a gain that nothing measured (stability; METHOD, cross-fitting)."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All designs for one budget, in order of their kind.

    Attributes
    ----------
    curve : Curve
        What the forecasts rest on.
    labels : int
        The budget n.
    unlabeled : int or None
        Texts m; None for endless.
    answer_variance : float or None
        Var(Y).
    spent : int
        Labels that pilots have trained or selected on.
    population : {"infinite", "finite"}
    """

    curve: Curve
    labels: int
    unlabeled: int | None
    answer_variance: float | None
    alpha: float
    spent: int
    population: Population
    designs: tuple[Design, ...]

    @property
    def law(self) -> ScalingLaw | None:
        """The scaling law; None where the plan rests on measured levels."""
        return self.curve.law if isinstance(self.curve, DrawnLaw) else None

    def __getitem__(self, name: str) -> Design:
        for design in self.designs:
            if design.name == name:
                return design
        raise InputError(f"unknown design {name!r}", mend=near_match(name, [d.name for d in self.designs]))

    def choose(self, max_finetunes: int | None = None, available: Collection[str] | None = None) -> Design:
        """The fewest fine-tunes among the designs whose predicted variance is within 1 % of the smallest.

        A design that saves less than 1 % of the labels is passed over for ``classical``, which means: the model is
        not worth it. With ``spent`` pilots' labels the ideal ``split`` cannot be chosen any more,
        only ``split-after-pilots``.

        Where the plan rests on measured levels that fall, designs that train beyond the largest pilot tie, since
        nothing is promised there. More labels leave no more, so the one that trains on most is then taken, of those
        with at most five fine-tunes.

        Parameters
        ----------
        max_finetunes : int, optional
            Most final fine-tunes; default no limit.
        available : collection of str, optional
            Names that the caller can run; default all.

        Returns
        -------
        Design
            With the reason in ``note``.

        Raises
        ------
        InputError
            An unknown name in ``available``.
        StatisticalRefusal
            No design can be had.
        """
        limit = inf if max_finetunes is None else count("max_finetunes", max_finetunes, 0)
        allowed = [self[name] for name in (available if available is not None else [d.name for d in self.designs])]
        candidates = [
            (design.variance, design.finetunes, self.designs.index(design))
            for design in allowed
            if design.variance is not None and design.finetunes <= limit and not (design.name == "split" and self.spent)
        ]
        if not candidates:
            names: dict[str, list[str]] = {}
            for design in allowed:
                if design.unavailable and design.finetunes <= limit:
                    names.setdefault(design.unavailable, []).append(design.name)
            reasons = "; ".join(f"{', '.join(who)}: {why}" for why, who in names.items())
            raise StatisticalRefusal(
                "no design can be had" + (f": {reasons}" if reasons else ""),
                mend="give it" if NO_VARIANCE in names else "label more rows",
            )
        ranked = [self.designs[index] for *_, index in sorted(candidates)]
        worthwhile = ranked
        if any(design.name == "classical" for design in ranked):
            worthwhile = [d for d in ranked if d.name == "classical" or d.saved is None or d.saved >= WORTHWHILE]
        best = self._sparing(worthwhile)
        others = [*worthwhile, *(design for design in ranked if design not in worthwhile)]
        others.remove(best)
        return replace(best, note=self._reason(best, others, limit))

    def _sparing(self, ranked: list[Design]) -> Design:
        """Of the designs as good as the first: the one with the fewest fine-tunes, or with the most labels."""
        smallest, known = ranked[0].variance or 0.0, self.curve.holds_beyond
        tied = [d for d in ranked if d.variance is not None and d.variance <= smallest * (1 + WORTHWHILE)]
        sparing = min(tied, key=lambda design: design.finetunes)
        if not self.curve.falls or sparing.finetunes == 0 or sparing.n_finetune < known:
            return sparing
        beyond = [d for d in tied if d.n_finetune >= known and d.finetunes <= max(ENOUGH_FOLDS, sparing.finetunes)]
        return max(beyond, key=lambda design: (design.n_finetune, -design.finetunes))

    def _reason(self, best: Design, others: list[Design], limit: float) -> str:
        if best.finetunes == 0:
            return "do not fine-tune: " + self._why_not(best, [design for design in others if design.finetunes > 0])
        saved = "" if best.saved is None else f", {100 * best.saved:.0f} % of the labels saved"
        if not others:
            return f"the only design that can be had{saved}"
        beyond = ""
        if best.n_finetune > self.curve.holds_beyond:
            beyond = f"; beyond {self.curve.holds_beyond:g} labels nothing was measured, and no gain is promised"
        within = "" if all(d.finetunes <= limit for d in self.designs) else f" with at most {limit:g} fine-tunes"
        what = f"smallest predicted variance{within}, {best.variance:.4g}"
        smallest = min((design for design in others if design.variance is not None), key=lambda d: d.variance or 0.0)
        if (smallest.variance or 0.0) < (best.variance or 0.0) * (1 - TIE):
            what = f"predicted variance {best.variance:.4g}, within 1 % of the smallest, with fewer fine-tunes"
        return f"{what}; next {others[0].name}, {others[0].variance:.4g}{saved}{beyond}"

    def _why_not(self, best: Design, tuned: list[Design]) -> str:
        """The best fine-tuned design; where its kind cannot win, the two sides of FTR's condition, and R²."""
        if not tuned:
            return "no fine-tune is allowed or possible"
        told = f"{tuned[0].name} would have variance {tuned[0].variance:.4g} against {best.variance:.4g}"
        sigma2 = self.answer_variance
        if sigma2 is None or best.name != "classical":
            return told
        if self.law is not None:
            verdict = feasibility(self.law, self.labels, sigma2)
            if not verdict:
                told += f"; no split beats the mean: b/σ² = {verdict.left:.3g} is not below {verdict.right:.3g}"
        size = max(design.n_finetune for design in tuned)
        left = self.curve.variance(size) / sigma2
        return f"{told}; a model of {size} labels leaves {100 * left:.0f} % of the variance"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "law": None if self.law is None else self.law.to_dict(),
            "curve": self.curve.to_dict(),
            "labels": self.labels,
            "unlabeled": self.unlabeled,
            "variance": self.answer_variance,
            "alpha": self.alpha,
            "spent": self.spent,
            "population": self.population,
            "designs": [design.to_dict() for design in self.designs],
        }

    def __str__(self) -> str:
        """A table for a terminal, one line a design; columns that nothing fills are left out."""
        return as_table(self.designs)
