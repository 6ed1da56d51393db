"""Questions about an estimate, each against a margin that was fixed before anybody saw a result.

| check | measured | WARN | REFUSE |
|---|---|---|---|
| labels | n | below 30 | |
| variation | variance of the labels | 0 | |
| collapse | Var f over the labels' variance | below 10⁻⁴ | |
| calibration | slope Cov(Y, f)/Var f | more than 0.5 from 1 | |
| r2 | 1 − Var(Y − f)/Var Y | below 0 | |
| range | predictions outside the labels' range, n ≥ 30 | above 10 % | |
| unlabelled | m, where predictions are used | at most n | |
| balance | mean prediction, labelled less unlabelled | above 0.1 sd and 3 standard errors | 0.25 and 5 |
| represented | rows that the labels stand for, Σ1/π, over all | 0.05 off 1 and 3 standard errors | 0.25 and 5 |
| weights | effective labels (Kish) over n | below 50 % | below 10 % |
| influence | largest row's part of the variance, n ≥ 30 | above 25 % | above 50 % |
| rare | labels with the rarer of two answers, where it is less than a fifth | below 100 | below 5 |
| coverage | points below the level that skewness costs | above 1 | above 5 |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from ftrect_ray.estimators.moments import ClusterTotals, Moments
from ftrect_ray.estimators.samples import Drawn

State = Literal["PASS", "WARN", "REFUSE"]

FEW_LABELS = 30
COLLAPSED = 1e-4
SLOPE_MARGIN = 0.5
OUTSIDE_SHARE = 0.1
IMBALANCE = ((0.1, 3.0), (0.25, 5.0))
UNREPRESENTED = ((0.05, 3.0), (0.25, 5.0))
KISH_SHARE = (0.5, 0.1)
LARGEST_SHARE = (0.25, 0.5)
SHORTFALL = (0.01, 0.05)
RARE_SHARE = 0.2
RARE_LABELS = (100, 5)


@dataclass(frozen=True)
class Check:
    """One question about an estimate.

    Attributes
    ----------
    name : str
    state : {"PASS", "WARN", "REFUSE"}
        REFUSE: do not rely on the number until the remedy is applied.
    value : float or None
        What was measured; None where it has no meaning.
    margin : str
        What passes.
    text : str
        One sentence for the reader.
    remedy : str
    """

    name: str
    state: State
    value: float | None
    margin: str
    text: str
    remedy: str


def few_labels(n: int) -> Iterator[Check]:
    """Enough for the t approximation."""
    state: State = "WARN" if n < FEW_LABELS else "PASS"
    text = f"only {n} labels: the interval is rough below {FEW_LABELS}" if state == "WARN" else f"{n} labels"
    yield Check("labels", state, n, f"at least {FEW_LABELS}", text, "label more rows, or use the bootstrap")


def variation(Y: np.ndarray) -> Iterator[Check]:
    """Answers (n, d) that are all equal say nothing about others."""
    variances = np.diag(Moments.of(Y).covariance()) / len(Y)
    constant = bool((variances == 0).all())
    text = "the labels vary"
    if constant:
        value = f"{Y[0, 0]:g}" if Y.shape[1] == 1 else "one and the same"
        text = f"all labels equal {value}: the width of the interval says nothing about rarer answers"
    yield Check("variation", "WARN" if constant else "PASS", float(variances.sum()), "above 0", text, "label more rows")


def of_model(label: float, labeled: float, prediction: float, slope: float | None, r2: float | None) -> Iterator[Check]:
    margin, remedy = f"above {COLLAPSED:g} of the labels' variance", "fine-tune with other settings, or another model"
    if prediction == 0 and labeled == 0:
        text = "the predictions are constant: the model adds nothing to the labels"
        yield Check("collapse", "WARN", 0.0, margin, text, remedy)
        return
    if label == 0:
        return
    if prediction < COLLAPSED * label:
        compared = f"variance {prediction:.2g}, labels {label:.2g}"
        text = f"the predictions hardly vary ({compared}): the model has collapsed"
        yield Check("collapse", "WARN", prediction, margin, text, remedy)
    else:
        yield Check("collapse", "PASS", prediction, margin, "the predictions vary", remedy)
        if slope is not None:
            far = abs(slope - 1) > SLOPE_MARGIN
            text = f"the calibration slope Cov(Y, f)/Var f is {slope:.2f}" + (", far from 1" if far else "")
            yield Check(
                "calibration",
                "WARN" if far else "PASS",
                slope,
                f"within {SLOPE_MARGIN:g} of 1",
                text,
                "keep λ tuned, or recalibrate the predictions on labels that do not rectify",
            )
    if r2 is not None:
        worse = r2 < 0
        text = f"the model predicts worse than the mean label (R² = {r2:.2f})" if worse else f"R² is {r2:.2f}"
        yield Check("r2", "WARN" if worse else "PASS", r2, "at least 0", text, "keep λ tuned; fine-tune on more labels")


def in_range(Y: np.ndarray, Yhat: np.ndarray) -> Iterator[Check]:
    """Spread, calibration and fit of the predictions, from variances and the numbers of :func:`compare`."""
    """Predictions and answers (n, d) are on one scale."""
    if len(Y) < FEW_LABELS:
        return
    low, high = Y.min(axis=0), Y.max(axis=0)
    share = float(np.mean((Yhat < low) | (Yhat > high)))
    text = "the predictions lie in the range of the labels"
    if share > OUTSIDE_SHARE:
        bounds = f", {float(low[0]):g} to {float(high[0]):g}" if Y.shape[1] == 1 else ""
        text = f"{100 * share:.0f} % of the predictions lie outside the range of the labels{bounds}"
    yield Check(
        "range",
        "WARN" if share > OUTSIDE_SHARE else "PASS",
        share,
        f"at most {100 * OUTSIDE_SHARE:g} %",
        text,
        "check that predictions and answers are on one scale",
    )


def enough_rows(n: int, m: int) -> Iterator[Check]:
    """Predictions of few rows save little."""
    few = m <= n
    text = f"{m} unlabelled rows for {n} labels" + (": predictions can save little" if few else "")
    yield Check("unlabelled", "WARN" if few else "PASS", m, "more than the labels", text, "predict more rows")


def balance(n: int, m: int, control: np.ndarray, error: np.ndarray) -> Iterator[Check]:
    """Labelled and unlabelled predictions come from one population: then the control variate (d,) is near 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.nan_to_num(np.abs(control) / error, nan=0.0, posinf=np.inf)
    distance = score * np.sqrt(1 / n + 1 / max(m, 1))  # in standard deviations of one row
    state = _far_and_sure(distance, score, IMBALANCE)
    worst = int(np.argmax(score))
    text = "labelled and unlabelled rows look alike to the model"
    if state != "PASS":
        text = (
            f"predictions of labelled and unlabelled rows differ by {distance[worst]:.2f} standard deviations "
            f"({score[worst]:.1f} standard errors): the labels are no random sample of these rows"
        )
    far, sure = IMBALANCE[0]
    remedy = "sample labels at random, or give weights, strata, selection probabilities or density ratios"
    yield Check("balance", state, float(distance[worst]), f"{far:g} sd or {sure:g} standard errors", text, remedy)


def representation(probabilities: np.ndarray, rows: int) -> Iterator[Check]:
    """Labels of known probabilities (n,) stand for all ``rows`` together: Σ1/π is that, but for chance.

    Rows that were chosen and never answered are missing from it. The standard error is that of independent choices
    (Poisson sampling), which is never less than that of a sample of fixed size.
    """
    share = float((1 / probabilities).sum()) / rows
    error = float(np.sqrt(((1 - probabilities) / probabilities**2).sum())) / rows
    off = abs(share - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        state = _far_and_sure(np.array([off]), np.array([off]) / error, UNREPRESENTED)
    text = f"by their probabilities the labels stand for {share * rows:.0f} of {rows} rows"
    if state != "PASS":
        text += ": chosen rows have no answer" if share < 1 else ": the probabilities are not those of the draw"
    far, sure = UNREPRESENTED[0]
    margin = f"within {100 * far:g} % or {sure:g} standard errors of all"
    remedy = (
        "answer all rows that were chosen; where it is chance who answers, multiply the drawn rows' probabilities by "
        "the share of them that was answered"
    )
    yield Check("represented", state, share, margin, text, remedy)


def weighing(weights: np.ndarray) -> Iterator[Check]:
    """Unequal weights (n,) cost information (Kish 1965)."""
    if (weights == weights[0]).all():
        return
    kish = float(weights.sum() ** 2 / (weights @ weights))
    state = _graded(kish / len(weights), KISH_SHARE, below=True)
    text = f"the weights leave {kish:.0f} of {len(weights)} labels' worth of information (Kish)"
    yield Check("weights", state, kish, f"at least {KISH_SHARE[0]:g} of the labels", text, "trim or rake the weights")


def rare_answers(Y: np.ndarray) -> Iterator[Check]:
    """Counts of a rare answer are lumpy: a t interval then holds less than even its skewness lets expect.

    Brown, Cai & DasGupta (2001, Interval Estimation for a Binomial Proportion).
    """
    n, low, high = len(Y), Y.min(axis=0), Y.max(axis=0)
    at_low, at_high = np.sum(low == Y, axis=0), np.sum(high == Y, axis=0)
    binary = (low < high) & (at_low + at_high == n)
    if not binary.any():
        return
    fewest = int(np.minimum(at_low, at_high)[binary].min())
    state = _graded(fewest, RARE_LABELS, below=True) if fewest < RARE_SHARE * n else "PASS"
    text = f"{fewest} of {n} labels have the rarer answer"
    if state != "PASS":
        text = f"only {text}: the interval holds somewhat less often than it says"
    margin = f"at least {RARE_LABELS[0]}, or {100 * RARE_SHARE:g} % of the labels"
    yield Check("rare", state, fewest, margin, text, "label more rows, or those where the answer is likely to be rare")


@dataclass(frozen=True, eq=False)
class Units:
    """Influences (u, d) of the labelled sampling units, less their stratum's mean; names (u,) of clusters."""

    values: np.ndarray
    clusters: np.ndarray | None


def units_of(influence: np.ndarray, drawn: Drawn) -> Units:
    """From the influence of each labelled row (n, d)."""
    values, strata, clusters = influence, drawn.strata, drawn.clusters
    names = None
    if clusters is not None:
        totals = ClusterTotals.of(values, clusters, strata)
        names, values, strata = totals.clusters, totals.totals, None if strata is None else totals.strata
    if strata is None:
        return Units(values - values.mean(axis=0), names)
    stratum = np.unique(strata, return_inverse=True)[1]
    count = np.bincount(stratum)
    level = np.array([np.bincount(stratum, weights=column) for column in values.T]).T / count[:, None]
    return Units(values - level[stratum], names)


def largest_influence(units: Units) -> Iterator[Check]:
    """The share of the squared influence that one sampling unit has."""
    if len(units.values) < FEW_LABELS:
        return
    squares = units.values**2
    total = squares.sum(axis=0)
    if not (total > 0).any():
        return
    shares = squares[:, total > 0] / total[total > 0]
    share = float(shares.max())
    unit = int(np.argmax(shares.max(axis=1)))
    name = (
        f"labelled row {unit + 1} of {len(units.values)}"
        if units.clusters is None
        else f"cluster {str(units.clusters[unit])!r}"
    )
    text = f"{name} alone carries {100 * share:.0f} % of the variance"
    remedy = "look at it; a bootstrap interval heeds it better"
    state = _graded(share, LARGEST_SHARE)
    yield Check("influence", state, share, f"at most {100 * LARGEST_SHARE[0]:g} %", text, remedy)


def expected_coverage(influence: np.ndarray, error: np.ndarray, alpha: float) -> Iterator[Check]:
    """The coverage that skewness and kurtosis of the influences let a t interval expect.

    Hall (1992, The Bootstrap and Edgeworth Expansion, §2.3): the two-sided studentised interval misses its level by
    2·z·φ(z)·(κ/12·(z² − 3) − γ²/18·(z⁴ + 2z² − 3))/n, beyond what the t quantile mends; γ and κ are the skewness and
    the excess kurtosis of one unit, here of the sum: Σz³ and Σz⁴ over powers of the standard error.
    ``influence`` is that of the sampling units, centred.
    """
    varies = error > 0
    if not varies.any():
        return
    scaled = influence[:, varies] / error[varies]
    squares = scaled**2
    skew = (squares * scaled).sum(axis=0)
    kurtosis = (squares**2).sum(axis=0) - 3 * squares.sum(axis=0) ** 2 / len(influence)
    z = -float(ndtri(alpha / 2))
    density = float(np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))
    change = 2 * z * density * (kurtosis / 12 * (z**2 - 3) - skew**2 / 18 * (z**4 + 2 * z**2 - 3))
    expected = float(np.clip(1 - alpha + change.min(), 0.0, 1.0))
    state = _graded(1 - alpha - expected, SHORTFALL)
    text = f"the labels are so skewed that a {100 * (1 - alpha):g} % interval holds about {100 * expected:.1f} %"
    if state == "PASS":
        text = f"the interval's expected coverage is {100 * expected:.1f} %"
    remedy = "label more rows, or use the studentised bootstrap"
    yield Check("coverage", state, expected, f"at most {100 * SHORTFALL[0]:g} points below the level", text, remedy)


def _graded(value: float, margins: tuple[float, float], below: bool = False) -> State:
    warn, refuse = (value < margin if below else value > margin for margin in margins)
    return "REFUSE" if refuse else "WARN" if warn else "PASS"


def _far_and_sure(distance: np.ndarray, score: np.ndarray, margins: tuple[tuple[float, float], ...]) -> State:
    """WARN or REFUSE where any distance is beyond its margin, and beyond chance by so many standard errors."""
    state: State = "PASS"
    levels: tuple[State, State] = ("WARN", "REFUSE")
    for level, (far, sure) in zip(levels, margins, strict=True):
        if ((distance > far) & (score > sure)).any():
            state = level
    return state
