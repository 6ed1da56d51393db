"""What every design would give with n labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isinf, sqrt

from ftrect_ray.allocation import designs
from ftrect_ray.allocation.checks import count, positive
from ftrect_ray.allocation.costs import Compute, Prices
from ftrect_ray.allocation.curves import Curve, DrawnLaw
from ftrect_ray.allocation.design import Design
from ftrect_ray.allocation.designs import Prediction, Rule, Setting
from ftrect_ray.allocation.fitting import LawFit
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import MINIMUM
from ftrect_ray.allocation.table import Plan, Population
from ftrect_ray.allocation.verdict import percentiles
from ftrect_ray.errors import InputError
from ftrect_ray.estimators.result import normal_quantile
from ftrect_ray.estimators.validation import open_unit

FOLDS = tuple(range(2, 11))
BATCHES = 4
Rotation = tuple[int, int]


def plan(
    law: ScalingLaw | LawFit | Curve,
    *,
    labels: int,
    unlabeled: int | None = None,
    variance: float | None = None,
    rectify_variance: float | None = None,
    untrained: bool = False,
    folds: Sequence[int] = FOLDS,
    rotations: Sequence[Rotation] = (),
    batches: int = BATCHES,
    population: Population = "infinite",
    alpha: float = 0.05,
    effect: float = 1.0,
    spent: int = 0,
    spent_law: ScalingLaw | LawFit | Curve | None = None,
    spent_variance: float | None = None,
    minimum: int = MINIMUM,
    compute: Compute | None = None,
    prices: Prices | None = None,
) -> Plan:
    """Predict every design's variance and interval for the mean.

    Parameters
    ----------
    law : ScalingLaw, LawFit or Curve
        Of a fit, its ``curve``: the law where it is identified, else what was measured.
    labels : int
        The budget n, at least 2.
    unlabeled : int, optional
        Texts m without a label; default endless.
    variance : float, optional
        Var(Y); without it there is no ``classical``, ``recycle`` or ``sequential``, no ``saved``, and the texts are
        taken as endless.
    rectify_variance : float, optional
        The least Var(Y − λf) of predictions that exist already (zero-shot, or given in a table).
    untrained : bool
        Whether these are of a model that is yet to predict the texts, which costs a pass.
    folds : sequence of int
        K of the cross-fitted designs, each at least 2.
    rotations : sequence of (p, q)
        Rotations of q folds of which p train, 1 ≤ p < q.
    batches : int
        L of the sequential design, at least 3: with two batches it is ``recycle``.
    population : {"infinite", "finite"}
        ``finite``: the target is the mean of this very table, labelled and unlabelled rows; needs ``unlabeled``.
    alpha : float
        Intervals have level 1 − alpha.
    effect : float
        The design effect (Kish 1965) of how the labels were sampled: clusters, strata, weights. Every variance is
        multiplied by it.
    spent : int
        Labels that pilots trained on or selected with. They may train, but never rectify what they shaped, so
        neither ``split-after-pilots`` nor ``recycle``: there s ≥ ``spent``. The others use them all, since none of
        their models has seen the rows that it rectifies.
    spent_law : ScalingLaw, LawFit or Curve, optional
    spent_variance : float, optional
        The law, and Var(Y), as the ``spent`` labels alone tell them: the size of ``split-after-pilots`` and ``recycle``
        is chosen by these, for other labels rectify there. Default ``law`` and ``variance``.
    minimum : int
        Fewest labels that train a model, and that rectify one.
    compute : Compute, optional
        For ``gpu_hours``; needs ``unlabeled``.
    prices : Prices, optional
        For ``price``.

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
    effect = positive("effect", effect)
    n, alpha, spent = count("labels", labels, 2), open_unit("alpha", alpha), count("spent", spent, 0)
    setting = setting_of(law, n, unlabeled, variance, rectify_variance, minimum, population)
    setting = replace(setting, untrained=untrained)
    if compute is not None and unlabeled is None:
        raise InputError("'unlabeled' is needed with 'compute'.", mend="say how many texts are to be predicted")
    seen = setting_of(spent_law or law, n, unlabeled, spent_variance or variance, None, minimum, population)
    listed = rules(folds, rotations, batches, spent, seen)
    baseline = designs.classical(setting, n).variance
    z = normal_quantile(alpha)
    rows = tuple(
        _design(name, finetunes, rule(setting, n), setting, n, baseline, effect, z, compute, prices)
        for name, finetunes, rule in listed
    )
    return Plan(setting.curve, n, unlabeled, setting.sigma2, alpha, spent, population, rows)


def curve_of(law: ScalingLaw | LawFit | Curve) -> Curve:
    """What a plan may trust of ``law``."""
    if isinstance(law, ScalingLaw):
        return DrawnLaw(law)
    return law.curve if isinstance(law, LawFit) else law


def setting_of(
    law: ScalingLaw | LawFit | Curve,
    labels: int | None,
    unlabeled: int | None,
    variance: float | None,
    rectify_variance: float | None,
    minimum: int,
    population: Population,
) -> Setting:
    """The checked arguments that all designs share; ``labels`` matter for a finite population's rows alone.

    Raises
    ------
    InputError
        An argument outside its range.
    """
    if population not in ("infinite", "finite"):
        raise InputError(f"'population' must be 'infinite' or 'finite'; got {population!r}.")
    if population == "finite" and not unlabeled:
        raise InputError("a finite population needs 'unlabeled'.", mend="give the number of texts without a label")
    if population == "finite" and labels is None:
        raise InputError("a finite population needs 'labels'.", mend="give the number of rows with a label")
    if unlabeled == 0 and variance is None:
        raise InputError("'variance' is needed where 'unlabeled' is 0.", mend="give the variance of the answers")
    return Setting(
        curve=curve_of(law),
        texts=inf if unlabeled is None else count("unlabeled", unlabeled, 0),
        sigma2=None if variance is None else positive("variance", variance),
        rectify_variance=None if rectify_variance is None else positive("rectify_variance", rectify_variance),
        minimum=count("minimum", minimum, 1),
        rows=count("labels", labels, 2) + count("unlabeled", unlabeled, 1) if population == "finite" else None,
    )


def rules(
    folds: Sequence[int], rotations: Sequence[Rotation], batches: int, spent: int = 0, seen: Setting | None = None
) -> list[tuple[str, int, Rule]]:
    """Name, fine-tunes and formula of each design; ``seen`` is the setting as ``spent`` labels tell it.

    Raises
    ------
    InputError
        Folds or batches that are too few, or a rotation that is none.
    """
    kinds = sorted({count("folds", fold, 2) for fold in folds})
    turns = [(count("rotations", p, 1), count("rotations", q, 2)) for p, q in rotations]
    wrong = [turn for turn in turns if turn[0] >= turn[1]]
    if wrong:
        raise InputError(f"'rotations' must be (p, q) with p < q; got {wrong[0]}.", mend="p of q folds train")
    return [
        ("classical", 0, designs.classical),
        ("rectify-only", 0, designs.rectify_only),
        ("split", 1, designs.split(0)),
        *([("split-after-pilots", 1, designs.split(spent, seen))] if spent else []),
        ("recycle", 1, designs.recycle(spent, seen)),
        ("sequential", count("batches", batches, 3) - 1, designs.sequential(batches)),
        *((f"crossfit-{fold}", fold, designs.crossfit(fold)) for fold in kinds),
        *((f"rotation-{p}-{q}", q, designs.rotation(p, q)) for p, q in turns),
    ]


def hours_of(predicted: Prediction, setting: Setting, n: int, compute: Compute | None) -> float | None:
    """Device-hours of a design with n labels; None where they cannot be told."""
    if compute is None or isinf(setting.texts):
        return None
    return compute.hours(predicted.sizes, predicted.models, setting.texts_beside(n), predicted.rectified)


def price_of(hours: float | None, predicted: Prediction, n: int, prices: Prices | None) -> float | None:
    """Price of a design; None where it cannot be told."""
    return None if prices is None else prices.of(n, hours if predicted.models else 0.0)


def _design(
    name: str,
    finetunes: int,
    predicted: Prediction,
    setting: Setting,
    n: int,
    baseline: float | None,
    effect: float,
    z: float,
    compute: Compute | None,
    prices: Prices | None,
) -> Design:
    if predicted.variance is None:
        return Design(name, finetunes, 0, None, None, None, None, unavailable=predicted.unavailable)
    variance = effect * predicted.variance
    std_error = sqrt(variance)
    lengths = saved = None
    if len(predicted.draws):
        low, high = percentiles(predicted.draws)
        lengths = 2 * z * sqrt(effect * low), 2 * z * sqrt(effect * high)
        saved = None if baseline is None else (_saved(high, baseline, setting, n), _saved(low, baseline, setting, n))
    hours = hours_of(predicted, setting, n, compute)
    return Design(
        name,
        finetunes,
        max(predicted.sizes, default=0),
        variance,
        std_error,
        2 * z * std_error,
        None if baseline is None else _saved(predicted.variance, baseline, setting, n),
        interval_length_range=lengths,
        saved_range=saved,
        sizes=predicted.sizes,
        gpu_hours=hours,
        price=price_of(hours, predicted, n, prices),
    )


def _saved(variance: float, baseline: float, setting: Setting, n: int) -> float:
    """Share of the n labels that a design of this ``variance`` could do without at the sample mean's precision.

    Its variance at n' labels is ∝ 1/n', and in a finite population of N rows ∝ 1/n' − 1/N.
    """
    ratio = variance / baseline
    known = n / setting.rows if setting.rows else 0.0
    return 1 - ratio / (1 - known + known * ratio)
