"""What every design would give, the choice among them, and how many labels a wished width costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

from ftrect_ray.allocation import designs
from ftrect_ray.allocation.checks import count, positive
from ftrect_ray.allocation.designs import Rule, Setting
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import MINIMUM
from ftrect_ray.errors import InputError, StatisticalRefusal, near_match
from ftrect_ray.estimators.result import normal_quantile
from ftrect_ray.estimators.validation import open_unit

FOLDS = (2, 5)
MAXIMUM_LABELS = 10_000_000
WORTHWHILE = 0.01
"""A design with a fine-tune must be predicted to save this share of the labels."""


@dataclass(frozen=True)
class Design:
    """One way to spend the labels.

    Attributes
    ----------
    name : str
        ``classical``, ``rectify-only``, ``split``, ``split-after-pilots`` (where pilots spent labels), ``recycle`` or
        ``crossfit-K``.
    finetunes : int
        Final fine-tunes that it costs.
    n_finetune : int
        Labels that train one of them.
    variance, std_error, interval_length : float or None
        Predicted, for the mean; the length at the plan's alpha; None where ``unavailable``.
    saved : float or None
        Saved labels, 1 − Var/Var_mean; negative where the design loses; None without Var(Y).
    unavailable : str
        Why the design cannot be had; empty where it can.
    note : str
        After :meth:`Plan.choose`: why this one.
    """

    name: str
    finetunes: int
    n_finetune: int
    variance: float | None
    std_error: float | None
    interval_length: float | None
    saved: float | None
    unavailable: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Plan:
    """All designs for one budget, in order of their fine-tunes.

    Attributes
    ----------
    labels : int
        The budget n.
    unlabeled : int or None
        Texts m; None for endless.
    answer_variance : float or None
        Var(Y).
    spent : int
        Labels that pilots have trained or selected on.
    """

    law: ScalingLaw
    labels: int
    unlabeled: int | None
    answer_variance: float | None
    alpha: float
    spent: int
    designs: tuple[Design, ...]

    def __getitem__(self, name: str) -> Design:
        for design in self.designs:
            if design.name == name:
                return design
        raise InputError(f"unknown design {name!r}", mend=near_match(name, [d.name for d in self.designs]))

    def choose(self, max_finetunes: int | None = None, available: Collection[str] | None = None) -> Design:
        """The smallest predicted variance among the designs that can be had; on a tie, fewer fine-tunes.

        A design that fine-tunes and saves less than 1 % of the labels is passed over for ``classical``, which
        means: do not fine-tune. With ``spent`` pilots' labels the ideal ``split`` cannot be chosen any more,
        only ``split-after-pilots``.

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
            reasons = "; ".join(f"{d.name}: {d.unavailable}" for d in allowed if d.unavailable)
            raise StatisticalRefusal(
                "no design can be had" + (f": {reasons}" if reasons else ""), mend="label more rows"
            )
        ranked = [self.designs[index] for *_, index in sorted(candidates)]
        worthwhile = [d for d in ranked if d.finetunes == 0 or d.saved is None or d.saved >= WORTHWHILE]
        if any(design.name == "classical" for design in ranked):
            ranked = worthwhile + [design for design in ranked if design not in worthwhile]
        return replace(ranked[0], note=self._reason(ranked))

    def _reason(self, ranked: list[Design]) -> str:
        best, others = ranked[0], ranked[1:]
        if best.finetunes == 0:
            tuned = [design for design in others if design.finetunes > 0]
            beside = (
                f"{tuned[0].name} would have variance {tuned[0].variance:.4g} against {best.variance:.4g}"
                if tuned
                else ""
            )
            return "do not fine-tune: " + (beside or "no fine-tune is allowed or possible")
        saved = "" if best.saved is None else f", {100 * best.saved:.0f} % of the labels saved"
        if not others:
            return f"the only design that can be had{saved}"
        return (
            f"smallest predicted variance, {best.variance:.4g}; next {others[0].name}, {others[0].variance:.4g}{saved}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "law": self.law.to_dict(),
            "labels": self.labels,
            "unlabeled": self.unlabeled,
            "variance": self.answer_variance,
            "alpha": self.alpha,
            "spent": self.spent,
            "designs": [design.to_dict() for design in self.designs],
        }

    def to_table(self) -> str:
        """A table for a terminal, one line a design."""
        width = max(len(design.name) for design in self.designs)
        lines = [f"{'design':<{width}}  fine-tunes  labels/fine-tune     ± half width  saved"]
        for design in self.designs:
            if design.interval_length is None:
                lines.append(f"{design.name:<{width}}  — {design.unavailable}")
                continue
            saved = "" if design.saved is None else f"{100 * design.saved:5.0f} %"
            numbers = f"{design.finetunes:>10}  {design.n_finetune:>16}  {design.interval_length / 2:>15.5g}"
            lines.append(f"{design.name:<{width}}  {numbers}  {saved}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_table()


def plan(
    law: ScalingLaw,
    *,
    labels: int,
    unlabeled: int | None = None,
    variance: float | None = None,
    rectify_variance: float | None = None,
    folds: Sequence[int] = FOLDS,
    alpha: float = 0.05,
    spent: int = 0,
    minimum: int = MINIMUM,
) -> Plan:
    """Predict every design for the mean, with λ = 1 or 0 (formulas: :mod:`~ftrect_ray.allocation.designs`).

    Parameters
    ----------
    law : ScalingLaw
    labels : int
        The budget n, ≥ 2.
    unlabeled : int, optional
        Texts m; default endless.
    variance : float, optional
        Var(Y). Without it ``classical``, ``recycle`` and the savings are unavailable, and the part of the
        texts, Var(f)/m, is left out.
    rectify_variance : float, optional
        Var(Y − f) of predictions that exist already.
    folds : sequence of int
        One crossfit-K for each K ≥ 2.
    spent : int
        Labels that pilots trained, selected or measured on. They may train the single model, but rectify
        neither ``split-after-pilots`` nor ``recycle``: there s ≥ ``spent``. Cross-fitting and rectify-only
        use them all, since none of their models has seen the rows that it rectifies.
    minimum : int
        Labels below which nothing is fine-tuned.

    Raises
    ------
    InputError
        An argument outside its range.

    Examples
    --------
    >>> wine = ScalingLaw(16.86, 0.553, 2.754)
    >>> plan(wine, labels=500, unlabeled=15000, variance=9.57).choose(max_finetunes=2).name
    'crossfit-2'
    """
    n, alpha, spent = count("labels", labels, 2), open_unit("alpha", alpha), count("spent", spent, 0)
    setting = _setting(law, unlabeled, variance, rectify_variance, minimum)
    z = normal_quantile(alpha)
    rows = tuple(_design(name, finetunes, rule, setting, n, z) for name, finetunes, rule in _rules(folds, spent))
    return Plan(law, n, unlabeled, setting.sigma2, alpha, spent, rows)


def labels_for_half_width(
    law: ScalingLaw,
    half_width: float,
    *,
    unlabeled: int | None = None,
    variance: float | None = None,
    rectify_variance: float | None = None,
    folds: Sequence[int] = FOLDS,
    alpha: float = 0.05,
    minimum: int = MINIMUM,
) -> dict[str, int | None]:
    """The fewest labels with which each design reaches ± ``half_width``; None where no number does.

    ``split`` holds nothing back for pilots. Found by bisection: every design's variance falls with n. With
    finite ``unlabeled``, the texts stay as many while the labels grow.

    Raises
    ------
    InputError
        An argument outside its range.

    Examples
    --------
    >>> labels_for_half_width(ScalingLaw(16.86, 0.553, 2.754), 0.2, variance=9.57)["classical"]
    920
    """
    alpha = open_unit("alpha", alpha)
    wished = (positive("half_width", half_width) / normal_quantile(alpha)) ** 2
    setting = _setting(law, unlabeled, variance, rectify_variance, minimum)
    return {name: _fewest(rule, setting, wished) for name, _, rule in _rules(folds, 0)}


def _fewest(rule: Rule, setting: Setting, wished: float) -> int | None:
    def enough(n: int) -> bool:
        variance = rule(setting, n).variance
        return variance is not None and variance <= wished

    if not enough(MAXIMUM_LABELS):
        return None
    low, high = 1, MAXIMUM_LABELS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _setting(
    law: ScalingLaw, unlabeled: int | None, variance: float | None, rectify_variance: float | None, minimum: int
) -> Setting:
    if unlabeled == 0 and variance is None:
        raise InputError("'variance' is needed where 'unlabeled' is 0.", mend="give the variance of the answers")
    return Setting(
        law=law,
        texts=inf if unlabeled is None else count("unlabeled", unlabeled, 0),
        sigma2=None if variance is None else positive("variance", variance),
        rectify_variance=None if rectify_variance is None else positive("rectify_variance", rectify_variance),
        minimum=count("minimum", minimum, 1),
    )


def _rules(folds: Sequence[int], spent: int) -> list[tuple[str, int, Rule]]:
    """Name, final fine-tunes and formula of each design, cheapest first."""
    kinds = sorted({count("folds", fold, 2) for fold in folds})
    return [
        ("classical", 0, designs.classical),
        ("rectify-only", 0, designs.rectify_only),
        ("split", 1, designs.split(0)),
        *([("split-after-pilots", 1, designs.split(spent))] if spent else []),
        ("recycle", 1, designs.recycle(spent)),
        *((f"crossfit-{fold}", fold, designs.crossfit(fold)) for fold in kinds),
    ]


def _design(name: str, finetunes: int, rule: Rule, setting: Setting, n: int, z: float) -> Design:
    predicted = rule(setting, n)
    if predicted.variance is None:
        return Design(name, finetunes, 0, None, None, None, None, predicted.unavailable)
    std_error = sqrt(predicted.variance)
    saved = None if setting.sigma2 is None else 1 - predicted.variance / (setting.sigma2 / n)
    return Design(name, finetunes, predicted.n_finetune, predicted.variance, std_error, 2 * z * std_error, saved)
