"""One pilot: which labels it takes, and what it measures. No Ray here."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.finetune.pilot import PilotRecords, PilotResult, PilotSpec, measure
from ftrect_ray.finetune.pilot_plan import is_untrained, plan_all, plan_pilots, plan_untrained
from ftrect_ray.finetune.spec import Rows
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Model, Pilots, Training
from ftrect_ray.study_file import parse_study


def labels(n: int = 100) -> Rows:
    return Rows(tuple(f"r{i}" for i in range(n)), tuple(f"text {i}" for i in range(n)), np.arange(n, dtype=float))


def plan(
    n: int = 100, seed: int = 7, sizes: tuple[int, ...] = (10, 20, 40), seeds: int = 2, **settings
) -> list[PilotSpec]:
    pilots = Pilots(sizes=list(sizes), seeds=seeds, validation=settings.pop("validation", None))
    return plan_pilots(labels(n), pilots, Model(), Training(**settings), "variance", seed)


def consumed(spec: PilotSpec) -> tuple[str, ...]:
    return spec.fit.train.ids + spec.fit.stop.ids


def test_there_is_one_pilot_a_size_and_seed_and_it_consumes_its_size():
    specs = plan()
    assert [spec.name for spec in specs] == [f"pilot-s{s}-r{r}" for r in (0, 1) for s in (10, 20, 40)]
    assert [(len(consumed(spec)), spec.size, spec.seed) for spec in specs] == [
        (s, s, r) for r in (0, 1) for s in (10, 20, 40)
    ]
    assert all(spec.fit.name == spec.name and spec.fit.objective == "variance" for spec in specs)


def test_no_label_has_two_roles_in_a_pilot():
    for spec in plan():
        roles = [*consumed(spec), *spec.measure.ids]
        assert len(set(roles)) == len(roles)


def test_the_validation_rows_are_the_same_for_all_pilots_and_a_quarter_of_the_budget():
    specs = plan(n=200)
    assert {spec.measure.ids for spec in specs} == {specs[0].measure.ids}
    assert len(specs[0].measure) == 50
    assert len(plan(n=61)[0].measure) == 20  # no fewer than 20
    assert len(plan(validation=33)[0].measure) == 33


def test_sizes_are_nested_within_a_seed_and_drawn_anew_by_the_next():
    small, middle, large, other, *_ = plan()
    assert set(consumed(small)) < set(consumed(middle)) < set(consumed(large))
    assert set(consumed(small)) != set(consumed(other))


def test_the_last_rows_of_a_pilot_choose_its_epoch():
    large = plan(stopping_fraction=0.25)[2]
    assert len(large.fit.stop) == 10
    assert len(plan(stopping_fraction=0.01)[0].fit.stop) == 2  # one row has no variance


def test_more_sizes_and_seeds_keep_the_pilots_there_are():
    keys = {spec.name: spec.key for spec in plan(sizes=(10, 20, 30, 40), seeds=3)}
    assert {spec.name: spec.key for spec in plan(sizes=(10, 20, 40), seeds=2)}.items() <= keys.items()


def test_pilots_leave_all_labels_but_those_of_the_largest_and_the_validation_untouched():
    specs = plan(sizes=(10, 20, 40), seeds=5, n=200, validation=50)
    touched = {name for spec in specs for name in [*consumed(spec), *spec.measure.ids]}
    assert len(touched) == 90


def test_answers_and_texts_stay_with_their_ids():
    for part in (plan()[0].fit.train, plan()[0].fit.stop, plan()[0].measure):
        assert [f"r{int(answer)}" for answer in part.answers] == list(part.ids)
        assert [text.replace("text ", "r") for text in part.texts] == list(part.ids)


def test_a_plan_follows_from_its_seed():
    assert [spec.key for spec in plan()] == [spec.key for spec in plan()]
    assert {spec.key for spec in plan()}.isdisjoint(spec.key for spec in plan(seed=8))


def test_a_larger_plan_contains_the_smaller_one():
    keys = {spec.key for spec in plan()}
    assert keys < {spec.key for spec in plan(sizes=(10, 15, 20, 40), seeds=3)}


def test_the_key_is_that_of_the_measurement():
    first = plan()[0]
    assert first.key == plan(workers=4, cpus_per_worker=2, max_failures=9)[0].key  # a pilot is one process anyway
    assert first.key != plan(learning_rate=1e-3)[0].key
    other_answers = replace(first, measure=replace(first.measure, answers=first.measure.answers + 1))
    assert first.key != other_answers.key


@pytest.mark.parametrize(("n", "validation"), [(50, None), (100, 80), (15, None)])
def test_a_budget_that_is_too_small_is_refused_with_numbers(n, validation):
    held = validation or max(20, n // 4)
    with pytest.raises(InputError) as caught:
        plan(n=n, validation=validation)
    assert str(caught.value) == (
        f"'pilots.sizes' asks for 40 labels; of {n}, {held} are held for validation and {max(0, n - held)} left"
        " (pilots) — lower pilots.sizes or pilots.validation, raise labels, or set 'pilots: null' with a named design"
    )


def test_a_cross_validated_pilot_is_one_of_each_fold_and_needs_no_validation_rows():
    pilots = Pilots(scheme="cross-validated", sizes=[20, 40, 60], seeds=2, folds=3)
    specs = plan_pilots(labels(60), pilots, Model(), Training(), "variance", 7)
    assert [spec.name for spec in specs[:4]] == [
        "pilot-s20-r0-f0",
        "pilot-s20-r0-f1",
        "pilot-s20-r0-f2",
        "pilot-s40-r0-f0",
    ]
    assert len(specs) == pilots.fits
    for spec in specs:
        assert not set(consumed(spec)) & set(spec.measure.ids)
        assert spec.consumed + len(spec.measure) == spec.size
    with pytest.raises(InputError, match=r"'pilots.sizes' asks for 60 labels of 50 \(pilots\) — lower pilots.sizes"):
        plan_pilots(labels(50), pilots, Model(), Training(), "variance", 7)


STUDY = (
    "study: a\ndata: {source: vader, text: text, label: rating}\n"
    "pilots: {sizes: [10, 15, 20], seeds: 1, validation: 20}\n"
)
ASKED = "{name: smollm2, adapter: lora, options: {prompt: 'Good? {text}', answers: {bad: 0, good: 1}}}"


def test_candidates_get_the_same_rows_and_an_askable_one_is_measured_untrained_on_every_label():
    study = parse_study(STUDY + f"candidates: {{mini: {{model: {{name: minilm}}}}, llm: {{model: {ASKED}}}}}")
    untrained, *specs = plan_all(labels(), study)
    names = [f"pilot-{name}-s{size}-r0" for name in ("mini", "llm") for size in (10, 15, 20)]
    assert [spec.name for spec in specs] == names
    assert [spec.candidate for spec in specs] == ["mini"] * 3 + ["llm"] * 3
    assert [consumed(spec) for spec in specs[:3]] == [consumed(spec) for spec in specs[3:]]
    assert (untrained.name, untrained.size, untrained.consumed) == ("pilot-llm-s0", 0, 0)
    assert untrained.measure.ids == labels().ids
    assert is_untrained(untrained.name)
    assert not any(is_untrained(name) for name in names)


def test_a_record_of_the_only_model_serves_it_among_candidates():
    alone = plan_all(labels(), parse_study(STUDY))
    among = plan_all(labels(), parse_study(STUDY + "candidates: {mini: {model: {name: minilm}}}"))
    assert [spec.key for spec in alone] == [spec.key for spec in among]
    assert [spec.name for spec in alone] == ["pilot-s10-r0", "pilot-s15-r0", "pilot-s20-r0"]


def test_a_budget_that_just_suffices_is_taken():
    assert len(plan(n=60, validation=20)) == 6


# ------------------------------------------------------------------------------------------------ measuring


@pytest.fixture(scope="module")
def spec(tiny_bert, make_spec) -> PilotSpec:
    whole = make_spec(tiny_bert, train=40, stop=40, name="pilot-s40-r0")
    fit = replace(whole, train=whole.train.take(np.arange(34)), stop=whole.train.take(np.arange(34, 40)))
    return PilotSpec("pilot-s40-r0", 40, 0, fit, whole.stop)


@pytest.fixture(scope="module")
def result(spec) -> PilotResult:
    return measure(spec)


def test_the_residual_variance_is_that_of_rows_the_model_never_saw(spec, result):
    from ftrect_ray.finetune.training import fit_local

    predictor, fit = fit_local(spec.fit)
    predicted, _ = predictor.predict(spec.measure.texts)
    residual = spec.measure.answers - predicted
    n = len(residual)
    assert result.residual_variance == pytest.approx(((residual - residual.mean()) ** 2).sum() / (n - 1), rel=1e-6)
    assert result.variance_prediction == pytest.approx(((predicted - predicted.mean()) ** 2).sum() / (n - 1), rel=1e-6)
    assert result.correlation == pytest.approx(np.corrcoef(predicted, spec.measure.answers)[0, 1], rel=1e-6)
    assert result.slope == pytest.approx(np.polyfit(predicted, spec.measure.answers, 1)[0], rel=1e-5)
    assert (result.best_epoch, result.n_measure, result.status, result.error) == (fit.best_epoch, 40, "done", None)


def test_the_same_pilot_measures_the_same_after_others_in_one_process(spec, result):
    other = replace(spec, fit=replace(spec.fit, seed=99))
    assert measure(other).residual_variance != result.residual_variance
    assert measure(spec).residual_variance == result.residual_variance


def test_seconds_of_the_model_are_part_of_all_seconds(result):
    assert 0 < result.model_seconds <= result.seconds


def test_a_text_that_cannot_be_predicted_counts_with_the_training_mean(spec, result):
    blank = replace(spec, measure=replace(spec.measure, texts=("", *spec.measure.texts[1:])))
    found = measure(blank)
    assert found.n_measure == 40
    assert np.isfinite(found.residual_variance)
    assert found.residual_variance != result.residual_variance


def test_equal_answers_have_no_correlation(spec):
    flat = replace(spec, measure=replace(spec.measure, answers=np.full(40, 3.0)))
    found = measure(flat)
    assert found.correlation is None
    assert found.residual_variance == pytest.approx(found.variance_prediction)


# -------------------------------------------------------------------------------------------------- records


def test_a_record_is_read_back_by_the_same_pilot_and_no_other(tmp_path, spec, result):
    records = PilotRecords(RunStorage.open(tmp_path / "pilots"))
    assert records.load(spec) is None
    records.save(spec, result)
    assert records.load(spec) == result
    assert records.load(replace(spec, fit=replace(spec.fit, seed=99))) is None
    assert [path.name for path in (tmp_path / "pilots").iterdir()] == [f"{spec.key}.json"]


def test_residuals_are_kept_beside_the_measurement(tmp_path, spec, result):
    records = PilotRecords(RunStorage.open(tmp_path / "pilots"))
    assert records.residuals(spec) is None
    assert measure(spec, records).residual_variance == result.residual_variance
    kept = records.residuals(spec)
    assert kept["id"].to_pylist() == list(spec.measure.ids)
    assert np.var(kept["residual"].to_numpy(), ddof=1) == pytest.approx(result.residual_variance, rel=1e-12)


def test_a_record_is_found_by_another_candidate_of_the_same_content(tmp_path, spec, result):
    records = PilotRecords(RunStorage.open(tmp_path / "pilots"))
    records.save(spec, result)
    renamed = replace(spec, name="pilot-mini-s40-r0", candidate="mini")
    assert records.load(renamed) == replace(result, name="pilot-mini-s40-r0", candidate="mini")


def test_a_record_of_an_earlier_version_is_read(tmp_path, spec, result):
    records = PilotRecords(RunStorage.open(tmp_path / "pilots"))
    later = ("kind", "candidate", "consumed", "train_seconds", "predict_seconds")
    old = {key: value for key, value in asdict(result).items() if key not in later}
    records.storage.write_json(old, f"{spec.key}.json")
    assert records.load(spec).residual_variance == result.residual_variance


def test_a_failed_pilot_has_a_reason_and_no_numbers(spec):
    values = asdict(PilotResult.failed(spec, "because", "diverged"))
    assert (values["status"], values["error"], values["n_measure"]) == ("failed", "because", 40)
    assert values["residual_variance"] is None


# ------------------------------------------------------------------------------------------- untrained models


def test_an_untrained_pilot_is_one_pass_of_the_model_as_it_is(tiny_llama, spec, tmp_path):
    from ftrect_ray.finetune.untrained import untrained

    options = {"prompt": "the film {text} was", "answers": {"good": 8, "bad": 3}}
    model = Model(name=str(tiny_llama), max_tokens=24, adapter="lora", options=options)
    rows = replace(spec.measure, texts=("", *spec.measure.texts[1:]))
    asked = plan_untrained(rows, model, Training(precision="fp32"), "variance", None, "llm")
    records = PilotRecords(RunStorage.open(tmp_path))
    found = measure(asked, records)
    predicted, _ = untrained(model).predict(rows.texts)
    predicted = np.where(np.isnan(predicted), 5.5, predicted)  # the middle of the options: no answer has a part in it
    assert found.residual_variance == pytest.approx(np.var(rows.answers - predicted, ddof=1), rel=1e-6)
    assert (found.name, found.size, found.consumed, found.best_epoch) == ("pilot-llm-s0", 0, 0, 0)
    assert found.train_seconds == 0
    assert records.residuals(asked).num_rows == len(rows)


def test_only_a_model_that_answers_a_prompt_by_itself_can_be_asked_untrained():
    rows = labels(30)
    assert plan_untrained(rows, Model(), Training(), "variance") is None
    model = Model(name="smollm2", adapter="lora", options={"prompt": "{text}", "answers": {"a": 0, "b": 1}})
    first = plan_untrained(rows, model, Training(), "variance")
    assert first.key == plan_untrained(rows, model, Training(epochs=3), "variance").key  # training changes nothing
    assert first.key != plan_untrained(rows, model, Training(precision="fp32"), "variance").key
