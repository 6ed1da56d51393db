"""The comparison: what fits, what is chosen, and that a study takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from ftrect_ray.errors import InputError
from ftrect_ray.sizing.planner import Choice, Forecast, Plan, Subject, plan_training, remedies
from ftrect_ray.sizing.presets import PRESETS
from ftrect_ray.sizing.states import GIB, Cluster
from ftrect_ray.study import Model, Study
from ftrect_ray.study_file import default_study_text, dump_sections, parse_study

MIB = 2**20
ROOM = Cluster(gpus=2, gpus_per_node=2, gpu_bytes=40 * GIB, host_bytes=None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Four wide layers (0.2 billion parameters), all trained, on texts of 256 tokens."""
    folder = tmp_path_factory.mktemp("small")
    sizes = {"vocab_size": 50_000, "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 4}
    LlamaConfig(**sizes, num_attention_heads=12, num_key_value_heads=4).save_pretrained(folder)
    return Subject(Model(name=str(folder), max_tokens=256), "bf16")


def planned(subject: Subject, gpu_gib: float, *, batch: int = 64, choice: Choice | None = None, **cluster: Any) -> Plan:
    machine = replace(ROOM, gpu_bytes=int(gpu_gib * GIB), **cluster)
    return plan_training(subject, machine, batch, choice or Choice())


def named(plan: Plan, stage: int, offload: str, checkpointing: bool) -> Forecast:
    found = [f for f in plan.forecasts if f.setting.zero_stage == stage and f.setting.offload == offload]
    return next(f for f in found if f.setting.checkpointing == checkpointing)


def test_every_setting_is_compared(small: Subject) -> None:
    settings = [forecast.setting for forecast in planned(small, 40).forecasts]
    assert len(set(settings)) == len(settings) == 2 * (2 + 2 + 3)
    assert all(setting.zero_stage == 3 for setting in settings if setting.offload == "parameters")


def test_the_largest_micro_batch_fits_and_one_more_does_not(small: Subject) -> None:
    """At the very edge: with the memory that a forecast says, its micro-batch is the largest; with less, it is not."""
    for forecast in planned(small, 5, batch=2000).forecasts:
        if forecast.most and forecast.micro_batch == forecast.most:
            choice = Choice(forecast.setting.zero_stage, forecast.setting.offload, forecast.setting.checkpointing)
            needed = (forecast.gpu_bytes + MIB) / GIB
            assert planned(small, needed, batch=2000, choice=choice).forecasts[0].most >= forecast.most
            assert planned(small, needed - 0.02, batch=2000, choice=choice).forecasts[0].most < forecast.most


def test_more_memory_never_fits_less(small: Subject) -> None:
    most: dict[Any, int] = {}
    for gib in (2, 3, 4, 6, 8, 16, 80):
        for forecast in planned(small, gib, batch=4096).forecasts:
            assert forecast.most >= most.get(forecast.setting, 0)
            most[forecast.setting] = forecast.most


def test_the_fastest_that_fits(small: Subject) -> None:
    roomy, tight = planned(small, 80), planned(small, 4.5)
    assert (roomy.best.setting.offload, roomy.best.setting.checkpointing, roomy.best.passes) == ("none", False, 1)
    assert roomy.best.setting.zero_stage == 2
    assert roomy.best.micro_batch == 32  # the whole share of one GPU
    assert tight.best.setting.offload == "none"
    assert tight.best.passes == 2
    assert [f.rank for f in tight.fitting] == sorted(f.rank for f in tight.fitting)


def test_a_step_is_cut_evenly(small: Subject) -> None:
    """33 texts a GPU, of which 20 fit, are 17 and 16, and not 20 and 13."""
    forecast = named(planned(small, 80, batch=66), 2, "none", False)
    enough = forecast.gpu_bytes / GIB
    cut = next(
        f
        for f in (named(planned(small, enough - 0.1 * i, batch=66), 2, "none", False) for i in range(9))
        if f.passes == 2
    )
    assert cut.micro_batch == 17
    assert cut.most <= 32


def test_checkpointing_and_zero_3_and_offload_need_less_of_a_gpu(small: Subject) -> None:
    plan = planned(small, 80)
    plain = named(plan, 2, "none", False)
    assert named(plan, 2, "none", True).gpu_bytes < plain.gpu_bytes
    assert named(plan, 2, "optimizer", False).gpu_bytes < plain.gpu_bytes
    assert named(plan, 3, "parameters", True).gpu_bytes < named(plan, 3, "optimizer", True).gpu_bytes
    assert named(plan, 2, "optimizer", False).host_peak.bytes > plain.host_peak.bytes


def test_more_gpus_need_less_each(small: Subject) -> None:
    needs = [named(planned(small, 80, gpus=gpus, batch=gpus), 2, "none", True).gpu_bytes for gpus in (1, 2, 4, 8)]
    assert needs == sorted(needs, reverse=True)


def test_a_host_that_is_too_small_refuses(small: Subject) -> None:
    plan = planned(small, 2.4, host_bytes=2 * GIB)
    assert not plan.fitting
    assert {forecast.refusal for forecast in plan.forecasts if forecast.most} == {"host"}
    assert planned(small, 2.4, host_bytes=400 * GIB).fitting


def test_choices_are_kept(small: Subject) -> None:
    plan = planned(small, 40, choice=Choice(zero_stage=3, checkpointing=True))
    assert {(f.setting.zero_stage, f.setting.checkpointing) for f in plan.forecasts} == {(3, True)}
    assert len(plan.forecasts) == 3


def test_an_impossible_choice(small: Subject) -> None:
    with pytest.raises(InputError, match="parameters are offloaded at stage 3 only"):
        planned(small, 40, choice=Choice(zero_stage=2, offload="parameters"))


def test_a_head_has_one_setting_and_no_optimiser() -> None:
    subject = Subject(Model(name="minilm", adapter="head"), "fp32")
    plan = plan_training(subject, ROOM, 16, Choice())
    (forecast,) = plan.forecasts
    assert {moment.name for moment in forecast.gpu} == {"end of the forward pass"}
    assert plan.disk() == ()
    assert subject.census.trainable == 0


@pytest.mark.parametrize("adapter", ["full", "lora", "head"])
def test_the_fragment_is_part_of_a_study(adapter: str, small_folder: Path) -> None:
    subject = Subject(Model(name=str(small_folder), adapter=adapter, max_tokens=64), "bf16")
    plan = plan_training(subject, ROOM, 24, Choice())
    sections = {"study": "x", "data": {"source": "vader", "text": "text"}, **plan.fragment()}
    study = parse_study(dump_sections(sections))
    assert study.model.adapter == adapter
    assert study.model.name == str(small_folder)
    assert (study.training.workers, study.training.batch_size) == (2, 24)
    assert study.training.micro_batch_size == 12


@pytest.mark.parametrize(
    ("preset", "cluster"),
    [
        ("0.5b", Cluster(1, 1, 24 * GIB, 32 * GIB)),
        ("7b", Cluster(1, 1, 40 * GIB, 64 * GIB)),
        ("70b", Cluster(8, 8, 80 * GIB, 512 * GIB)),
    ],
)
def test_presets_fit_the_machines_that_they_are_meant_for(preset: str, cluster: Cluster) -> None:
    study: Study = parse_study(default_study_text(PRESETS[preset].settings))
    assert study.model.name == PRESETS[preset].model
    subject = Subject(study.model.model_copy(update={"name": preset}), "bf16")
    training = study.training
    assert training.workers == cluster.gpus
    choice = Choice(training.zero_stage, training.offload, training.gradient_checkpointing)
    plan = plan_training(subject, cluster, training.batch_size, choice)
    assert plan.fitting
    assert plan.best.most >= (training.micro_batch_size or training.batch_size // training.workers)
    assert study.pilots is None or not plan.pilot.refusal


def test_cures_cure(small: Subject) -> None:
    choice = Choice(zero_stage=2, offload="none", checkpointing=False)
    plan = planned(small, 2.6, choice=choice)
    assert not plan.fitting
    cures = remedies(small, plan, choice)
    assert "leave --zero-stage, --offload and --gradient-checkpointing out" in cures
    assert "--adapter lora" in cures
    memory = next(int(cure.split()[1]) for cure in cures if cure.startswith("--gpu-memory"))
    assert planned(small, memory, choice=choice).fitting
    assert not planned(small, memory - 1, choice=choice).fitting
    gpus = next(int(cure.split()[1]) for cure in cures if cure.startswith("--gpus"))
    assert planned(small, 2.6, choice=choice, gpus=gpus).fitting
    assert not planned(small, 2.6, choice=choice, gpus=gpus // 2).fitting


def test_a_model_that_cannot_checkpoint_is_planned_without(a_model: Callable[..., Model], small: Subject) -> None:
    base = type(small.predictor.base)
    supported, base.supports_gradient_checkpointing = base.supports_gradient_checkpointing, False
    try:
        assert not any(forecast.setting.checkpointing for forecast in planned(small, 40).forecasts)
    finally:
        base.supports_gradient_checkpointing = supported
