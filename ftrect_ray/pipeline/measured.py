"""What the pilots measured, as the law takes it: one variance a size and repetition, and how they err together.

Pilots that share validation rows share their luck: a replicate draws these rows anew once, for all pilots of all
candidates, and beside it the difference that training makes, as repetitions of one size show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.optimize import minimize_scalar

from ftrect_ray.allocation import LawFit, adjusted_variances, fit_scaling_law
from ftrect_ray.finetune.influence import Influence
from ftrect_ray.finetune.spec import Coefficients, Rows
from ftrect_ray.study import Study

#: Bootstrap replicates; the 2.5 % points of s* move by a few percent between seeds.
REPLICATES = 400

#: Parameters of the law: of so many pilots in all, one repetition each, the misfit tells nothing.
PARAMETERS = 3

#: Of the answers' variance, the least that counts as any: below it answers are equal, and a model is believed perfect.
LEAST_LEFT = 1e-9


@dataclass(frozen=True, eq=False)
class Measurement:
    """One pilot, or all folds of one that is measured in folds.

    Attributes
    ----------
    size : float
        Labels that the fine-tune consumed.
    nested : int
        Labels of the nested set.
    variance : float
        ν.
    count : int
        Rows that it was measured on.
    positions : ndarray (count,) of int
        Of these rows in the budget.
    influence : ndarray (count, d)
        u, whose covariance ν is a function of; see :func:`within_folds`.
    """

    size: float
    nested: int
    variance: float
    count: int
    positions: np.ndarray
    influence: np.ndarray


def existing_variance(influence: Influence, rows: Rows, residual: np.ndarray) -> float:
    """ν of predictions that no label has shaped, at the λ that suits them: what rectifying them will cost.

    Between the classical residual (λ = 0) and ``residual`` (λ = 1). Predictions of the right order and too large a
    spread are worth much, and so is an order without any level. The λ is found on the same rows, which costs a degree
    of freedom; else every second worthless model would seem to be worth something.

    Parameters
    ----------
    influence : Influence
        Of ``rows``.
    residual : ndarray (n,)
        Y − f, n ≥ 3.
    """
    classical = np.asarray(rows.answers, dtype=np.float64) - influence.fitted

    def at(lam: float) -> float:
        return influence.variance(rows, (1 - lam) * classical + lam * residual)

    n = len(rows)
    tuned = min(at(1.0), float(minimize_scalar(at, bounds=(0, 1), method="bounded").fun))
    return min(at(0.0), tuned * (n - 1) / max(n - 2, 1))


def measurements(
    pilots: Sequence[Mapping[str, Any]], residuals: pa.Table, rows: Rows, study: Study
) -> dict[str, list[Measurement]]:
    """By candidate, in the study's order; a candidate of which nothing was measured is left out.

    A pilot in folds counts where all of them were measured, and its variance is that of their residuals
    together, each less the level of its own model.

    Parameters
    ----------
    pilots : sequence of mapping
        Rows of ``pilots.parquet``; those of size 0 are passed over.
    residuals : pa.Table
        ``pilot_residuals.parquet``: ``pilot``, ``id``, ``residual``.
    rows : Rows
        The label budget.
    """
    kept = residuals_of(residuals, rows)
    found: dict[str, list[Measurement]] = {name: [] for name in study.contenders}
    trained = [row for row in pilots if row["size"] > 0 and row.get("candidate", "") in found]
    order = sorted(trained, key=lambda row: (list(found).index(row.get("candidate", "")), row["seed"], row["size"]))
    for (candidate, _, nested), group in groupby(
        order, lambda row: (row.get("candidate", ""), row["seed"], row["size"])
    ):
        folds = list(group)
        if any(row["status"] != "done" for row in folds):
            continue
        size = float(np.mean([row["consumed"] for row in folds]))
        places, left = zip(*(kept[row["name"]] for row in folds), strict=True)
        positions, residual = np.concatenate(places), np.concatenate(left)
        measure = rows.take(positions)
        weigh = measure if len(folds) == 1 else rows
        influence = Influence.of(study.objective, Coefficients.of(study.target, study.objective), weigh)
        ends = np.cumsum([len(own) for own in places])[:-1]
        u = within_folds(np.split(influence.residuals(measure, residual), ends))
        nu = _criterion(u, influence)
        found[candidate].append(Measurement(size, nested, nu, len(measure), positions, u))
    return {name: measured for name, measured in found.items() if measured}


def within_folds(parts: Sequence[np.ndarray]) -> np.ndarray:
    """u of K models, each measured on rows of its own, so that their covariance (ddof 1) is that within these rows.

    Each model errs by a level of its own, which no estimate pays for: a rectified mean takes from each prediction what
    the same model says of the texts. In the variance of all residuals together the K levels would count, those of the
    smallest pilots most, and a flat curve would seem to fall.

    Parameters
    ----------
    parts : sequence of K ndarrays (n_k, d)
        n rows in all, n > K.

    Returns
    -------
    ndarray (n, d)
        Each part less its own mean, times √((n − 1)/(n − K)). Of one part, that part centred.
    """
    centred = np.concatenate([part - part.mean(axis=0) for part in parts])
    return np.asarray(centred * np.sqrt((len(centred) - 1) / (len(centred) - len(parts))))


def residuals_of(residuals: pa.Table, rows: Rows) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Positions in the budget and residuals of each pilot, from ``pilot_residuals.parquet``."""
    place = {name: i for i, name in enumerate(rows.ids)}
    names, ids = (np.array(residuals[key].to_pylist(), dtype=object) for key in ("pilot", "id"))
    values = residuals["residual"].to_numpy()
    found = {}
    for name in dict.fromkeys(names):
        own = np.flatnonzero(names == name)
        found[str(name)] = (np.array([place[ids[i]] for i in own], dtype=np.intp), values[own])
    return found


def told_by(
    measured: Mapping[str, Sequence[Measurement]], places: np.ndarray, rows: Rows, influence: Influence, seed: int
) -> dict[str, tuple[list[Measurement], np.ndarray | None]]:
    """What some labels tell of each candidate's pilots: their variances, adjusted, and bootstrap versions of them.

    A candidate of which they tell nothing is left out: see :func:`adjusted`.

    Parameters
    ----------
    measured : mapping of candidate to measurements
    places : np.ndarray
        int (k,), rising: these labels' positions in the budget; all that pilots were measured on are among them.
    rows : Rows
        These labels.
    influence : Influence
        Of ``rows``.
    seed : int
        Of the bootstrap.
    """
    among = {
        name: [replace(one, positions=np.searchsorted(places, one.positions)) for one in own]
        for name, own in measured.items()
    }
    own = adjusted(among, rows, influence)
    redrawn = replicates(own, rows, influence, seed)
    return {name: (found, redrawn.get(name)) for name, found in own.items()}


def adjusted(
    measured: Mapping[str, Sequence[Measurement]], rows: Rows, influence: Influence
) -> dict[str, list[Measurement]]:
    """Each variance adjusted by what all answers of ``rows`` tell of those that it was measured on.

    See ``allocation.adjusted_variances``; ``influence`` is that of ``rows``. Without it "do not fine-tune" would hang
    on whether the few rows of V happen to be spread more than the others. Where all rows measure, nothing changes.

    What was measured on equal answers is left out: where nothing varies, any model looks perfect.
    """
    whole = _classical(rows, influence)
    variance, found = _criterion(whole, influence), {}
    for name, own in measured.items():
        there = [_criterion(whole[one.positions], influence) for one in own]
        kept = [
            replace(one, variance=max(float(adjusted_variances(one.variance, here, variance)), LEAST_LEFT * variance))
            for one, here in zip(own, there, strict=True)
            if here > LEAST_LEFT * variance
        ]
        if kept:
            found[name] = kept
    return found


def law_of(measured: Sequence[Measurement], **settings: Any) -> LawFit:
    """The scaling law of one candidate; ``settings`` as ``fit_scaling_law`` takes them."""
    sizes, variances, counts = zip(*((one.size, one.variance, one.count) for one in measured), strict=True)
    return fit_scaling_law(sizes, variances, counts=counts, **settings)


def _classical(rows: Rows, influence: Influence) -> np.ndarray:
    """u (n, d) of the labels without a model."""
    return influence.residuals(rows, np.asarray(rows.answers, dtype=np.float64) - influence.fitted)


def _criterion(u: np.ndarray, influence: Influence) -> float:
    """ν of u (n, d), ddof 1."""
    return float(influence.criterion(np.atleast_2d(np.cov(u, rowvar=False))))


def replicates(
    measured: Mapping[str, Sequence[Measurement]], rows: Rows, influence: Influence, seed: int
) -> dict[str, np.ndarray]:
    """Bootstrap versions (B, p) of each candidate's p variances, which are :func:`adjusted`.

    Of none whose pilots are too few to tell what training does: without repetitions, no more than the law has
    parameters.

    The rows of the budget (whole clusters, where there are any) get exponential weights, once a replicate for
    everything that was measured on them: the Bayesian bootstrap (Rubin 1981), which never loses the few rows that a
    variance may rest on. The mean over repetitions is then multiplied by 1 + e, where e is drawn from the relative
    differences between repetitions, less what the rows explain of them; with one repetition, from the misfit to the
    law.
    """
    rng = np.random.default_rng([seed, 31])
    units, unit = np.unique(np.arange(len(rows)) if rows.clusters is None else rows.clusters, return_inverse=True)
    weights = rng.standard_exponential((REPLICATES, len(units)))[:, unit]
    whole = _classical(rows, influence)
    answers, found = _weighted(whole, weights, influence), {}
    for candidate, own in measured.items():
        repeated = len({one.nested for one in own}) < len(own)
        if not (repeated or len(own) > PARAMETERS):
            continue
        redrawn = np.stack([_redrawn(one, weights, whole, answers, influence) for one in own], axis=1)
        found[candidate] = _with_training_noise(own, redrawn, rng)
    return found


def _redrawn(
    one: Measurement, weights: np.ndarray, whole: np.ndarray, answers: np.ndarray, influence: Influence
) -> np.ndarray:
    """What ν (B,) may be, from ν* under ``weights`` (B, n) of the rows: ν·(ν/ν*).

    As far above what was measured as ν* lies below it: of normal residuals that is (n − 1)s²/χ², and intervals hold
    the true ν more often than those of ν* itself. ``whole`` (n, d) are the answers' own u and ``answers``
    (B,) their ν*, which adjust ν* like ν.
    """
    tiny, own = 1e-9 * one.variance, weights[:, one.positions]
    left = np.maximum(_weighted(one.influence, own, influence), tiny)
    there = np.maximum(_weighted(whole[one.positions], own, influence), tiny)
    return np.asarray(one.variance**2 / adjusted_variances(left, there, np.maximum(answers, tiny)))


def _weighted(u: np.ndarray, weights: np.ndarray, influence: Influence) -> np.ndarray:
    """ν* (B,) of u (n, d) under weights (B, n) that are exponential draws: on average ν."""
    shares = weights / weights.sum(axis=1, keepdims=True)
    (n, d), mean = u.shape, shares @ u
    second = (shares @ (u[:, :, None] * u[:, None, :]).reshape(n, d * d)).reshape(-1, d, d)
    return influence.criterion((second - mean[:, :, None] * mean[:, None, :]) * ((n + 1) / (n - 1)))


def _with_training_noise(own: Sequence[Measurement], redrawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    variances, nested = np.array([one.variance for one in own]), np.array([one.nested for one in own])
    same = (nested[:, None] == nested).astype(float)
    times = same.sum(axis=0)
    mean, means = variances @ same / times, redrawn @ same / times
    repeated = times > 1
    if repeated.any():
        grow = np.sqrt(times / np.maximum(times - 1, 1))
        noise = ((variances / mean - 1) * grow)[repeated]
        by_rows = ((redrawn / np.maximum(means, 1e-300) - variances / mean) * grow)[:, repeated]
        share = 1 - np.mean(by_rows**2) / max(float(np.mean(noise**2)), 1e-300)
        noise = noise * np.sqrt(np.clip(share, 0.0, 1.0))
    else:
        sizes = np.array([one.size for one in own])
        law = fit_scaling_law(sizes, variances, counts=[one.count for one in own], bootstrap=0).law
        noise = (variances / law.variance(sizes) - 1) * np.sqrt(len(own) / (len(own) - PARAMETERS))
    return np.asarray(np.maximum(means * (1 + rng.choice(noise, size=redrawn.shape)), 1e-9 * mean))
