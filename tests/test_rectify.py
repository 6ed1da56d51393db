"""A run's parts put together: which answers rectify which predictions, and what the document says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from ftrect_ray import estimators
from ftrect_ray.errors import InputError, StatisticalRefusal
from ftrect_ray.ledger import Ledger, Use
from ftrect_ray.rectify import load_evidence
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import MeanTarget, OlsTarget, QuantileTarget

MakeRun = Callable[..., RunStorage]
MEAN = MeanTarget()


def column(storage: RunStorage, *parts: str, name: str) -> np.ndarray:
    return np.asarray(storage.read_table(*parts)[name].to_numpy(), dtype=float)


def predictions(storage: RunStorage, model: str) -> np.ndarray:
    return np.concatenate(
        [
            column(storage, "predictions", model, shard, name="prediction")
            for shard in storage.list("predictions", model)
        ]
    )


def test_crossfit_takes_each_answer_with_the_model_that_never_saw_it(make_run: MakeRun) -> None:
    storage = make_run("crossfit", n=120, folds=3)
    answers = column(storage, "table.parquet", name="label")[:120]
    f = np.column_stack([predictions(storage, f"fold-{k}") for k in range(3)])
    folds = np.arange(120) % 3  # as the fixture charges them in the ledger
    expected = estimators.mean(answers, f[np.arange(120), folds], f[120:], alpha=0.1, folds=folds)
    found = load_evidence(storage).estimate(MEAN, 0.1)
    assert found["value"] == pytest.approx(expected.value, abs=1e-12)
    assert found["interval"] == pytest.approx(list(expected.interval), abs=1e-12)
    assert (found["design"], found["n"], found["m"]) == ("crossfit", 120, 400)


def test_split_rectifies_with_the_rest_and_compares_with_the_whole_budget(make_run: MakeRun) -> None:
    storage = make_run("split", n=120)
    answers, f = column(storage, "table.parquet", name="label")[:120], predictions(storage, "split")
    found = load_evidence(storage).estimate(MEAN, 0.05)
    expected, classical = estimators.mean(answers[40:], f[40:120], f[120:]), estimators.classical_mean(answers)
    assert found["value"] == pytest.approx(expected.value, abs=1e-12)
    assert found["classical"]["value"] == pytest.approx(answers.mean())
    assert found["interval_ratio"] == pytest.approx(expected.length / classical.length)
    assert found["naive"]["value"] == pytest.approx(f[40:].mean())


def test_recycle_adds_the_answers_that_trained(make_run: MakeRun) -> None:
    storage = make_run("recycle", n=120)
    answers, f = column(storage, "table.parquet", name="label")[:120], predictions(storage, "split")
    expected = estimators.recycle(
        estimators.classical_mean(answers[:40]), estimators.mean(answers[40:], f[40:120], f[120:])
    )
    found = load_evidence(storage).estimate(MEAN, 0.05)
    assert (found["design"], found["value"]) == ("recycle", pytest.approx(expected.value, abs=1e-12))


def test_a_quantile_is_not_recycled_and_says_so(make_run: MakeRun) -> None:
    found = load_evidence(make_run("recycle")).estimate(QuantileTarget(kind="quantile"), 0.05)
    assert any("a quantile cannot be recycled" in warning for warning in found["warnings"])
    assert found["n"] == 80


def test_rectify_only_uses_the_predictions_of_the_table(make_run: MakeRun) -> None:
    storage = make_run("rectify-only")
    answers, f = (
        column(storage, "table.parquet", name="label")[:120],
        column(storage, "table.parquet", name="prediction"),
    )
    found = load_evidence(storage).estimate(MEAN, 0.05)
    assert found["value"] == pytest.approx(estimators.mean(answers, f[:120], f[120:]).value, abs=1e-12)


def test_classical_has_no_model_beside_it(make_run: MakeRun) -> None:
    found = load_evidence(make_run("classical")).estimate(MEAN, 0.05)
    assert found["naive"] is None
    assert found["interval_ratio"] == 1.0
    assert found["value"] == found["classical"]["value"]


def test_ols_adds_the_intercept_and_names_the_coefficients(make_run: MakeRun) -> None:
    found = load_evidence(make_run()).estimate(OlsTarget(kind="ols", features=["age"]), 0.05)
    assert found["names"] == ["intercept", "age"]
    low, high = found["interval"]
    assert low[1] < 1 / 50 < high[1]  # the fixture's slope
    assert len(found["interval_ratio"]) == 2


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("late", r"feature 'late' is not a number in row 371 \(id 'r370'\): 'x'"),
        ("agee", "unknown feature 'agee' .* did you mean 'age'"),
        ("label", "unknown feature 'label'"),
        ("region", r"feature 'region' is not a number in row 1 \(id 'r0'\): 'north'"),
        ("half", r"feature 'half' is not a finite number in row 2 \(id 'r1'\)"),
    ],
)
def test_a_feature_must_be_a_number_in_every_row(make_run: MakeRun, feature: str, message: str) -> None:
    storage = make_run()
    table = storage.read_table("table.parquet")
    half = pa.array([None if i % 2 else 1.0 for i in range(table.num_rows)], pa.float64())
    late = pa.array(["x" if i >= 370 else "1.5" for i in range(table.num_rows)])
    storage.write_table(table.append_column("half", half).append_column("late", late), "table.parquet")
    with pytest.raises(InputError, match=message):
        load_evidence(storage).estimate(OlsTarget(kind="ols", features=[feature]), 0.05)


def test_a_sub_population_drops_a_fold_without_rows(make_run: MakeRun) -> None:
    """All rows of fold 1 filtered away: its model must not weigh on the estimate."""
    storage = make_run("crossfit", folds=2)
    evidence = load_evidence(storage)
    rows = np.arange(len(evidence.answers)) % 2 == 0
    answers, f = column(storage, "table.parquet", name="label"), predictions(storage, "fold-0")
    expected = estimators.mean(answers[:120:2], f[:120:2], f[120::2])
    assert evidence.estimate(MEAN, 0.05, rows)["value"] == pytest.approx(expected.value, abs=1e-12)


def test_too_few_answers_are_refused(make_run: MakeRun) -> None:
    evidence = load_evidence(make_run())
    rows = np.arange(len(evidence.answers)) >= 119
    with pytest.raises(StatisticalRefusal, match="1 answers are left to estimate from"):
        evidence.estimate(MEAN, 0.05, rows)


@pytest.mark.parametrize("design", ["crossfit", "rectify-only"])
def test_a_missing_prediction_becomes_a_constant_and_is_counted(make_run: MakeRun, design: str) -> None:
    storage = make_run(design, missing=10)
    evidence = load_evidence(storage)
    constant = 2.0 if design == "crossfit" else np.nanmean(column(storage, "table.parquet", name="prediction"))
    assert evidence.predictions[120:130] == pytest.approx(np.full((10, len(evidence.models)), constant))
    found = evidence.estimate(MEAN, 0.05)["diagnostics"]
    assert found["prediction_errors"] == 10
    assert list(found["prediction_errors_by_reason"].values()) == [10 * len(evidence.models)]


def test_too_many_missing_predictions_are_refused_with_their_reasons(make_run: MakeRun) -> None:
    storage = make_run("crossfit", missing=70)
    study = storage.read_bytes("study.yaml").decode().replace("max_error_share: 0.2", "max_error_share: 0.1")
    storage.write_bytes(study.encode(), "study.yaml")
    with pytest.raises(StatisticalRefusal, match=r"17.5% of the unlabelled texts have no prediction.*140 × empty text"):
        load_evidence(storage).estimate(MEAN, 0.05)


def test_each_model_is_diagnosed_out_of_fold(make_run: MakeRun) -> None:
    storage = make_run("crossfit")
    first = load_evidence(storage).estimate(MEAN, 0.05)["diagnostics"]["models"][0]
    answers, f = column(storage, "table.parquet", name="label")[:120:2], predictions(storage, "fold-0")
    assert first["name"] == "fold-0"
    assert first["r2"] == pytest.approx(1 - np.var(answers - f[:120:2]) / np.var(answers))
    assert first["calibration_slope"] == pytest.approx(np.cov(answers, f[:120:2])[0, 1] / np.var(f[:120:2], ddof=1))
    assert first["variance_prediction"] == pytest.approx(np.var(f[120:]))


def test_predictions_outside_the_scale_are_counted(make_run: MakeRun) -> None:
    storage = make_run("split")
    storage.write_bytes(storage.read_bytes("study.yaml").replace(b"- -5.0\n  - 8.0", b"- 1.8\n  - 8.0"), "study.yaml")
    share = load_evidence(storage).estimate(MEAN, 0.05)["diagnostics"]["outside_scale"]
    f = predictions(storage, "split")[120:]
    assert share == pytest.approx(np.mean((f < 1.8) | (f > 8)))
    assert 0.2 < share < 0.8


def test_shards_of_another_table_are_refused(make_run: MakeRun) -> None:
    storage = make_run("split")
    storage.delete("predictions", "split", "shard-00001.parquet")
    with pytest.raises(InputError, match="predictions of model 'split' do not match the table row by row"):
        load_evidence(storage)
    storage.delete("predictions", "split")
    with pytest.raises(InputError, match="there are no predictions of model 'split'"):
        load_evidence(storage)


def test_a_ledger_of_another_table_is_refused(make_run: MakeRun) -> None:
    storage = make_run("classical")
    ledger = Ledger(["r1", "r200"])
    ledger.record(Use.RECTIFY, "given", ["r1", "r200"])  # r200 has no answer in the table
    ledger.save(storage)
    with pytest.raises(InputError, match="id 'r200' of the ledger has no answer in the table"):
        load_evidence(storage)


def test_half_written_files_are_not_read(make_run: MakeRun) -> None:
    storage = make_run("split")
    before = load_evidence(storage).predictions
    storage.write_bytes(b"PAR1 half", "predictions", "split", "shard-00009.parquet.tmp-1")
    assert np.array_equal(load_evidence(storage).predictions, before)
