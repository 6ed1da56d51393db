"""A streamed estimate is that of the same arrays in memory, however the rows are cut and ordered."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftrect_ray.estimators.difference import difference
from ftrect_ray.estimators.glm import logistic, poisson
from ftrect_ray.estimators.mean import mean
from ftrect_ray.estimators.multinomial import multinomial
from ftrect_ray.estimators.ols import ols
from ftrect_ray.estimators.proportions import proportions
from ftrect_ray.estimators.quantile import quantile
from ftrect_ray.estimators.result import Estimate
from ftrect_ray.estimators.samples import Sample
from ftrect_ray.estimators.settings import Bootstrap
from ftrect_ray.streaming import Columns, estimate_stream

Same = Callable[..., None]
NAMES = ["intercept", "age", "x"]
DRAWN = {"weights": "weight", "strata": "strata", "clusters": "cluster", "density_ratio": "density_ratio"}
SAMPLES: dict[str, dict[str, str]] = {
    "simple": {},
    "weights": {"weights": "w"},
    "density ratio": {"weights": "w", "density_ratio": "ratio"},
    "strata": {"strata": "stratum"},
    "clusters": {"clusters": "cluster"},
    "weighted clusters": {"weights": "w", "clusters": "cluster"},
    "probabilities": {"probabilities": "pi"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "tuned": {"alpha": 0.1},
    "given": {"lam": 0.7, "alternative": "larger", "null": 1.0},
    "crossfit": {"lam": "crossfit", "quantiles": "normal"},
    "finite": {"population": "finite"},
}


def in_memory(survey: Any, target: str, folds: bool, options: dict[str, Any]) -> Estimate:
    """The estimator of the same name."""
    label, prediction, _ = TARGETS[target]
    Y, Yhat, unlabeled = survey.labels(label), survey.labels(prediction), survey.others(prediction)
    if folds:
        both = [prediction, OTHER_MODEL[prediction]]
        own = survey.labels("fold")
        Yhat = np.where(own == 0, survey.labels(both[0]), survey.labels(both[1]))
        unlabeled = np.column_stack([survey.others(name) for name in both])
        options = options | {"folds": own}
    if target in ("mean", "quantile", "proportions"):
        extra = {"q": 0.3} if target == "quantile" else {}
        function = {"mean": mean, "quantile": quantile, "proportions": proportions}[target]
        return function(Y, Yhat, unlabeled, **extra, **options)
    regression = {"ols": ols, "logistic": logistic, "poisson": poisson, "multinomial": multinomial}[target]
    return regression(survey.design(True), Y, Yhat, survey.design(False), unlabeled, names=NAMES, **options)


TARGETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mean": ("y", "f", {}),
    "proportions": ("word", "fword", {}),
    "quantile": ("y", "f", {"q": 0.3}),
    "ols": ("y", "f", {}),
    "logistic": ("yes", "p", {}),
    "poisson": ("count", "fcount", {}),
    "multinomial": ("option", "foption", {}),
}
OTHER_MODEL = {"f": "g", "fword": "word2", "p": "p2", "fcount": "fcount2", "foption": "foption2"}


def columns(target: str, folds: bool = False, **drawn: str) -> Columns:
    label, prediction, _ = TARGETS[target]
    features = NAMES[1:] if target in ("ols", "logistic", "poisson", "multinomial") else ()
    if folds:
        return Columns(label, [prediction, OTHER_MODEL[prediction]], fold="fold", features=features, **drawn)
    return Columns(label, prediction, features=features, **drawn)


def cut(table: pa.Table, rows: int) -> list[pa.RecordBatch]:
    return table.combine_chunks().to_batches(max_chunksize=rows)


@pytest.fixture(scope="session")
def crossed(survey: Any) -> Any:
    """The survey with a second model's predictions."""
    rng = np.random.default_rng(5)
    shuffled = {
        other: np.where(
            rng.random(len(survey.labelled)) < 0.7, survey.columns[name], rng.permutation(survey.columns[name])
        )
        for name, other in OTHER_MODEL.items()
        if other not in survey.columns
    }
    return type(survey)(survey.columns | shuffled, survey.labelled)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", SAMPLES)
def test_samples(survey: Any, same: Same, target: str, kind: str) -> None:
    chosen = SAMPLES[kind]
    drawn = {{"probabilities": "probability", **DRAWN}[name]: column for name, column in chosen.items()}
    mine = Sample(**{name: survey.labels(column) for name, column in chosen.items()})
    theirs = Sample(**{name: survey.others(column) for name, column in chosen.items() if name != "probabilities"})
    expected = in_memory(survey, target, False, {"sample": mine, "sample_unlabeled": theirs})
    found = estimate_stream(cut(survey.table, 130), columns(target, **drawn), target, **TARGETS[target][2])
    same(found, expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", OPTIONS)
def test_options(survey: Any, same: Same, target: str, kind: str) -> None:
    expected = in_memory(survey, target, False, OPTIONS[kind])
    found = estimate_stream(cut(survey.table, 77), columns(target), target, **TARGETS[target][2], **OPTIONS[kind])
    same(found, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_cross_fitted(crossed: Any, same: Same, target: str) -> None:
    expected = in_memory(crossed, target, True, {})
    found = estimate_stream(cut(crossed.table, 100), columns(target, True), target, **TARGETS[target][2])
    same(found, expected)


def test_a_labelled_row_needs_the_prediction_of_its_own_fold_alone(crossed: Any, same: Same) -> None:
    own = crossed.columns["fold"]
    blank = {
        name: pa.array(crossed.columns[name], mask=crossed.labelled & (own != k)) for k, name in enumerate(("f", "g"))
    }
    table = crossed.table
    for name, column in blank.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    same(estimate_stream(table, columns("mean", True)), in_memory(crossed, "mean", True, {}))


def test_paired_difference(survey: Any, same: Same) -> None:
    arrays = [survey.labels("y"), survey.labels("f"), survey.others("f")]
    arrays += [survey.labels("z"), survey.labels("fz"), survey.others("fz")]
    found = estimate_stream(
        cut(survey.table, 50), Columns("y", "f", label_other="z", prediction_other="fz"), "difference"
    )
    same(found, difference(*arrays, paired=True))
    assert found.target == "difference"


@pytest.mark.parametrize(
    "options", [{}, {"lam": 0.5, "null": 0.2, "alternative": "smaller", "alpha": 0.2}, {"lam": [0.3, 0.9]}]
)
def test_difference_of_groups(survey: Any, same: Same, options: dict[str, Any]) -> None:
    first = survey.columns["side"] == "control"
    arrays, samples = [], []
    for group in (first, ~first):
        n, m = group & survey.labelled, group & ~survey.labelled
        arrays += [survey.columns["y"][n], survey.columns["f"][n], survey.columns["f"][m]]
        samples += [Sample(clusters=survey.columns["cluster"][rows]) for rows in (n, m)]
    names = ("sample", "sample_unlabeled", "sample_other", "sample_unlabeled_other")
    expected = difference(*arrays, **dict(zip(names, samples, strict=True)), **options)
    asked = Columns("y", "f", groups="side", cluster="cluster")
    same(estimate_stream(cut(survey.table, 130), asked, "difference", **options), expected)


def test_bootstrap_holds_the_rows(survey: Any, same: Same) -> None:
    bootstrap = Bootstrap(replications=199, seed=3)
    for target in ("mean", "proportions"):
        expected = in_memory(survey, target, False, {"bootstrap": bootstrap})
        same(estimate_stream(cut(survey.table, 100), columns(target), target, bootstrap=bootstrap), expected)


def test_all_rows_labelled_or_no_prediction_worth_anything(survey: Any, same: Same) -> None:
    table = survey.table.filter(pa.array(survey.labelled))
    found = estimate_stream(table, columns("mean"))
    same(found, mean(survey.labels("y"), survey.labels("f"), []))
    assert (found.m, found.lam) == (0, 0.0)


# ----------------------------------------------------------------------------------------- cutting and ordering


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("target", ["mean", "proportions", "ols"])
def test_cuts_and_order_do_not_matter(survey: Any, same: Same, target: str, sizes: list[int], seed: int) -> None:
    table = survey.table.combine_chunks()
    starts = np.cumsum([0, *sizes])
    batches = [table.slice(a, b - a) for a, b in zip(starts, [*starts[1:], table.num_rows], strict=True)]
    order = np.random.default_rng(seed).permutation(len(batches))
    drawn = columns(target, weight="w", strata="stratum")
    whole, parts = (
        estimate_stream(source, drawn, target, lam="per-coordinate") for source in (table, [batches[i] for i in order])
    )
    same(parts, whole, 1e-10)


def test_means_of_1e9_keep_their_digits(survey: Any) -> None:
    rng = np.random.default_rng(0)
    y, labelled = rng.normal(size=200_000), np.arange(200_000) % 100 == 0
    f = y + 0.5 * rng.normal(size=200_000)
    far = pa.table({"y": pa.array(y + 1e9, mask=~labelled), "f": f + 1e9})
    near = pa.table({"y": pa.array(y, mask=~labelled), "f": f})
    one, two = (estimate_stream(cut(table, 5000), Columns("y", "f")) for table in (far, near))
    assert one.value - 1e9 == pytest.approx(two.value, abs=1e-6)
    assert one.std_error == pytest.approx(two.std_error, rel=1e-6)
    assert one.lam == pytest.approx(two.lam, rel=1e-6)


# -------------------------------------------------------------------------------------------- passes and memory


class Counted:
    """Batches that count how often they are read."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.passes += 1
        return iter(self.batches)


@pytest.mark.parametrize(
    ("target", "most"),
    [("mean", 1), ("proportions", 1), ("ols", 1), ("quantile", 3), ("logistic", 8), ("poisson", 8), ("multinomial", 8)],
)
def test_how_often_a_source_is_read(survey: Any, target: str, most: int) -> None:
    source = Counted(cut(survey.table, 200))
    estimate_stream(source, columns(target), target)
    assert 1 <= source.passes <= most
    assert source.passes > 1 or most == 1


def test_memory_holds_one_batch_and_the_labels() -> None:
    rng = np.random.default_rng(0)
    f = rng.normal(size=65_536)
    labels = [pa.array(f + 1, mask=np.arange(65_536) % 6000 > 0), pa.nulls(65_536, pa.float64())]
    batches = [pa.record_batch({"y": labels[i > 0], "f": f}) for i in range(40)]  # 20 MB, if they were held
    estimate_stream(batches, Columns("y", "f"))
    tracemalloc.start()
    found = estimate_stream(batches, Columns("y", "f"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.m == 40 * 65_536 - found.n
    assert peak < 5e6


@pytest.mark.parametrize("target", ["mean", "quantile", "ols"])
def test_strata_of_a_finite_population_at_unequal_rates(survey: Any, same: Same, target: str) -> None:
    options = {"population": "finite", "lam": 0.8}
    mine, theirs = Sample(strata=survey.labels("stratum")), Sample(strata=survey.others("stratum"))
    expected = in_memory(survey, target, False, options | {"sample": mine, "sample_unlabeled": theirs})
    batches = cut(survey.table, 97)
    found = estimate_stream(batches, columns(target, strata="stratum"), target, **TARGETS[target][2], **options)
    same(found, expected)
