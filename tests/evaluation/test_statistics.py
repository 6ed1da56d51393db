"""Every Monte-Carlo number against a known truth, and its error against the spread of many evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest

from ftrect_ray.evaluation import statistics as mc
from ftrect_ray.evaluation.designs import DESIGNS, DesignResult, Replication
from ftrect_ray.evaluation.frozen import FrozenLearner
from ftrect_ray.evaluation.population import draw, replication_seed
from ftrect_ray.evaluation.statistics import Measured

EVALUATIONS, REPLICATIONS = 1500, 120
#: Of a paired design: errors of the sample mean and of a better design, correlated 0.7.
SD_MEAN, SD_OURS, CORRELATION = 0.10, 0.07, 0.7


def worlds() -> tuple[np.ndarray, np.ndarray]:
    """Errors (evaluations, replications) of both designs."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, EVALUATIONS, REPLICATIONS))
    return SD_MEAN * first, SD_OURS * (CORRELATION * first + math.sqrt(1 - CORRELATION**2) * second)


MEAN, OURS = worlds()
VARIANCES = OURS**2, MEAN**2
CASES: dict[str, tuple[Callable[[int], Measured], float]] = {
    "bias": (lambda i: mc.mean(OURS[i]), 0.0),
    "rmse": (lambda i: mc.root_mean_square(OURS[i]), SD_OURS),
    "rmse against the population": (lambda i: mc.root_mean_square(OURS[i], 0.05), math.hypot(SD_OURS, 0.05)),
    "mae": (lambda i: mc.mean_absolute(OURS[i]), SD_OURS * math.sqrt(2 / math.pi)),
    "mae against the population": (
        lambda i: mc.mean_absolute(OURS[i], 0.05), math.hypot(SD_OURS, 0.05) * math.sqrt(2 / math.pi),
    ),
    "coverage": (lambda i: mc.coverage(OURS[i] - 1.96 * SD_OURS, OURS[i] + 1.96 * SD_OURS, 0.0), 0.95),
    "coverage against the population": (
        lambda i: mc.coverage(OURS[i] - 1.96 * SD_OURS, OURS[i] + 1.96 * SD_OURS, 0.0, SD_OURS),
        math.erf(1.96 / math.sqrt(2) / math.sqrt(2)),
    ),
    "saved": (lambda i: mc.saved(VARIANCES[0][i], VARIANCES[1][i]), 1 - (SD_OURS / SD_MEAN) ** 2),
    "regret": (lambda i: mc.regret(VARIANCES[1][i], VARIANCES[0][i]), (SD_MEAN / SD_OURS) ** 2 - 1),
    "effective labels": (
        lambda i: mc.effective_labels(300, VARIANCES[0][i], VARIANCES[1][i]), 300 * (SD_MEAN / SD_OURS) ** 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_value_and_error_against_many_evaluations(name: str) -> None:
    """Values lie around the truth (ratios within their bias of order 1/R), errors say how far they scatter."""
    measure, truth = CASES[name]
    found = [measure(i) for i in range(EVALUATIONS)]
    values, errors = (np.array([getattr(one, field) for one in found]) for field in ("value", "error"))
    scatter = values.std(ddof=1)
    assert abs(values.mean() - truth) < 4 * scatter / math.sqrt(EVALUATIONS) + 3 * scatter**2 / max(abs(truth), scatter)
    assert np.mean(errors) == pytest.approx(scatter, rel=0.1)


def test_pairs_cancel_what_both_designs_share() -> None:
    """The error of a ratio knows the correlation: two designs of the same rows are told apart sooner."""
    rng = np.random.default_rng(5)
    paired = np.mean([mc.saved(OURS[i] ** 2, MEAN[i] ** 2).error for i in range(100)])
    other = rng.permutation(EVALUATIONS)
    unpaired = np.mean([mc.saved(OURS[i] ** 2, MEAN[other[i]] ** 2).error for i in range(100)])
    assert paired < 0.95 * unpaired


def test_a_finite_table_covers_its_own_mean_too_often_and_the_populations_as_promised() -> None:
    """Labels of 40 % of a table: the classical interval and a rectified one, 20,000 tables and draws."""
    rng = np.random.default_rng(11)
    n, rows, z = 80, 200, 1.959964
    hits, honest = np.zeros((2, 2)), np.zeros((2, 2))
    replications = 20_000
    for _ in range(replications):
        f = rng.normal(size=rows)
        y = f + rng.normal(size=rows)  # labels are the first n of an exchangeable table
        spread = y.std(ddof=1) / math.sqrt(rows)
        rest = f[n:]
        estimates = (
            (y[:n].mean(), y[:n].std(ddof=1) / math.sqrt(n)),
            (
                (y - f)[:n].mean() + rest.mean(),
                math.sqrt((y - f)[:n].var(ddof=1) / n + rest.var(ddof=1) / len(rest)),
            ),
        )
        for row, (value, error) in enumerate(estimates):
            low, high = np.array([value - z * error]), np.array([value + z * error])
            hits[row] += [low[0] <= y.mean() <= high[0], low[0] <= 0 <= high[0]]
            both = np.repeat(low, 2), np.repeat(high, 2)
            honest[row, 1] += mc.coverage(*both, float(y.mean()), spread).value
    table, population = hits.T / replications
    assert (table > 0.97).all()
    assert population == pytest.approx([0.95, 0.95], abs=0.006)
    assert honest[:, 1] / replications == pytest.approx(population, abs=0.004)


@pytest.mark.parametrize(("hits", "trials"), [(0, 30), (30, 30), (27, 30), (950, 1000)])
def test_wilson_is_scipys(hits: int, trials: int) -> None:
    theirs = binomtest(hits, trials).proportion_ci(method="wilson")
    assert mc.wilson(hits, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.6])
def test_error_of_honest_coverage_against_many_evaluations(share: float) -> None:
    rng = np.random.default_rng(9)
    errors = math.sqrt(1 - share) * rng.normal(size=(4000, 200))
    found = [mc.coverage(row - 1.959964, row + 1.959964, 0.0, math.sqrt(share)).value for row in errors]
    assert np.mean(found) == pytest.approx(0.95, abs=0.002)
    assert mc.honest_coverage_error(0.05, share, 200) == pytest.approx(np.std(found), rel=0.05)


def test_honest_coverage_has_an_error_however_high_the_level():
    for alpha in (0.5, 1e-3, 1e-5, 1e-9):
        assert mc.honest_coverage_error(alpha, 0.0, 100) == pytest.approx(np.sqrt(alpha * (1 - alpha) / 100))


def test_too_few_replications_have_no_error() -> None:
    assert math.isnan(mc.mean(np.array([1.0])).error)
    assert math.isnan(mc.ratio(np.array([1.0]), np.array([2.0])).value)
    assert math.isnan(mc.ratio(np.ones(3), np.zeros(3)).value)


def test_the_products_designs_hold_the_populations_mean_although_labels_are_a_large_part_of_the_table() -> None:
    """Two fifths of 1,000 rows labelled, 300 draws: hits of the table's mean are far too many, coverage is honest."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1000, 8)).astype(np.float32)
    answers = features @ rng.normal(size=8) / math.sqrt(8) + rng.normal(size=1000)
    spread, replications = answers.std(ddof=1) / math.sqrt(1000), 300
    learner, found = FrozenLearner(features, answers), dict[str, list[DesignResult]]()
    for number in range(replications):
        _, labeled = draw(1000, 400, None, 7, number)
        replication = Replication(labeled, answers, learner, seed=replication_seed(400, 7, number))
        for name in ("mean", "sequential", "crossfit-2"):
            found.setdefault(name, []).append(DESIGNS[name](replication))
    for name, results in found.items():
        low, high = np.array([result.interval for result in results]).T
        share = spread**2 / np.mean([result.std_error**2 for result in results])
        error = mc.honest_coverage_error(0.05, float(share), replications)
        assert abs(mc.coverage(low, high, answers.mean(), spread).value - 0.95) < 4 * error, name
        assert mc.coverage(low, high, answers.mean()).value > 0.97, name
