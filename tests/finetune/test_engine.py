"""DeepSpeed as the fine-tune sets it up: what is held where, what is compiled, what comes back from the disk."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ftrect_ray.errors import EnvironmentFault
from ftrect_ray.finetune.training import Fit, fit_local
from ftrect_ray.predictor import Predictor
from ftrect_ray.study import Options

TEXTS = ["the film was good", "awful plot", "i love it", "not a dull actor was it", "great great great"]
COMPILERS = ["cc", "c++", "gcc", "g++", "clang", "clang++", "ninja", "nvcc", "hipcc", "ld"]
PROGRAM = """
import pickle, sys
from pathlib import Path
import torch
from ftrect_ray.errors import FtrectError
from ftrect_ray.finetune.training import fit_local
torch.set_num_threads(1)
for spec in pickle.loads(Path(sys.argv[1]).read_bytes()):
    try:
        predictor, _ = fit_local(spec)
    except FtrectError as error:
        sys.exit(f"error: {error}")
    print(*predictor.predict(["the film was good", "awful plot"])[0])
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def wide_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As tiny_bert, with matrices of more numbers than ZeRO-3 keeps whole on every rank (10⁵)."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("wide")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    config = BertConfig.from_pretrained(tiny_bert)
    config.update({"hidden_size": 320, "intermediate_size": 640, "num_hidden_layers": 2})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tied_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As tiny_llama, with one table for tokens in and out."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    folder = tmp_path_factory.mktemp("tied")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(tiny_llama)
    config.tie_word_embeddings = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


# ---------------------------------------------------------------------------------------------- who holds what


@pytest.mark.ray
def test_each_of_two_ranks_holds_half(wide_bert: Path, make_spec, ranks) -> None:
    """Optimiser states from stage 1 on, gradients from 2 on, weights at 3: measured on DeepSpeed's own tensors."""
    settings = [{"zero_stage": stage} for stage in (1, 2, 3)]
    settings += [{"zero_stage": 1, "offload": "optimizer"}, {"zero_stage": 3, "offload": "parameters"}]
    specs = [make_spec(wide_bert, train=8, stop=0, micro_batch_size=2, **some) for some in settings]
    across = 4 * 320 * 640  # a parameter that lies across the cut has its gradient on both sides
    for some, held_by in zip(settings, ranks("bytes_held", specs), strict=True):
        stage, offload = some["zero_stage"], some.get("offload", "none")
        for held in held_by:
            trained, everything = held["trained"], held["all"]
            assert held["master"] == pytest.approx(trained / 2, rel=0.01), (some, held)
            assert held["moments"] == pytest.approx(2 * trained / 2, rel=0.01), (some, held)
            gradients = trained / 2 if stage > 1 else trained
            assert gradients * 0.99 < held["gradients"] < gradients * 1.01 + across, (some, held)
            assert held["weights"] == pytest.approx(everything / (2 if stage == 3 else 1), rel=0.05), (some, held)
            assert held["offload"] == [
                stage < 3 and offload != "none",
                stage == 3 and offload != "none",
                offload == "parameters",
            ]
            assert held["devices"] == ["cpu"]


@pytest.mark.parametrize("stage", [1, 3])
def test_checkpointing_computes_each_layer_again_and_the_same(stage: int, tiny_llama: Path, make_spec) -> None:
    """With dropout, which must be drawn again as it was."""
    kept, counts = [], []
    for checkpointing in (False, True):
        spec = make_spec(
            tiny_llama,
            adapter="lora",
            lora={"dropout": 0.2},
            zero_stage=stage,
            gradient_checkpointing=checkpointing,
            micro_batch_size=8,
            epochs=2,
        )
        calls: list[int] = []
        with Fit.alone(spec) as fit:
            layer = fit.predictor.base.layers[1].self_attn.q_proj  # inside of what is computed again
            layer.register_forward_hook(lambda *_, fit=fit, calls=calls: calls.append(fit.predictor.training))
            fit.run()
        kept.append(fit.weights)
        counts.append(sum(calls))
    assert counts == [6, 12]
    for name, weight in kept[0].items():
        torch.testing.assert_close(kept[1][name], weight, rtol=0, atol=1e-6)


def test_a_frozen_backbone_is_not_checkpointed(tiny_bert: Path, make_spec) -> None:
    with Fit.alone(make_spec(tiny_bert, adapter="head", gradient_checkpointing=True, epochs=1)) as fit:
        assert not any(getattr(module, "gradient_checkpointing", False) for module in fit.predictor.modules())
        ids, mask = fit.predictor.collate(fit.predictor.encode(TEXTS).tokens)
        assert not fit.predictor.backbone(input_ids=ids, attention_mask=mask).last_hidden_state.requires_grad


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_vectors_and_the_readout_do_not_decay(stage: int, tiny_bert: Path, make_spec) -> None:
    """With a learning rate for decay alone: no gradient passes a clip of nothing."""
    spec = make_spec(tiny_bert, zero_stage=stage, epochs=1, clip=1e-30, weight_decay=0.9, learning_rate=0.1, warmup=0.0)
    before = {name: weight.clone() for name, weight in Predictor.create(spec.model).trainable().items()}
    with Fit.alone(spec) as fit:
        fit.run()
    for name, weight in fit.weights.items():
        shrunk = (weight.norm() / before[name].norm()).item() if before[name].norm() else 1.0
        assert (shrunk < 0.9) == (weight.ndim > 1 and not name.startswith("head.")), (name, shrunk)


# ----------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_keeps_fp32_buffers_and_master_weights(stage: int, tiny_llama: Path, make_spec) -> None:
    spec = make_spec(tiny_llama, precision="bf16", zero_stage=stage, epochs=1)
    exact = Predictor.create(spec.model).base.rotary_emb.inv_freq
    with Fit.alone(spec) as fit:
        assert torch.equal(fit.predictor.base.rotary_emb.inv_freq, exact)
        assert {parameter.dtype for parameter in fit.predictor.parameters()} == {torch.bfloat16}
        fit.run()
        for group in fit.engine._engine.optimizer.optimizer.param_groups:
            assert {parameter.dtype for parameter in group["params"]} <= {torch.float32}
        states = fit.engine._engine.optimizer.optimizer.state.values()
        assert {state["exp_avg"].dtype for state in states} == {torch.float32}


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_bf16_is_close_to_fp32(stage: int, adapter: str, tiny_llama: Path, make_spec) -> None:
    """Whole fine-tunes: within a twentieth of the answers' standard deviation (0.01 was measured)."""
    spec = make_spec(tiny_llama, adapter=adapter, zero_stage=stage)
    exact, _ = fit_local(spec)
    rounded, _ = fit_local(replace(spec, training=spec.training.model_copy(update={"precision": "bf16"})))
    difference = rounded.predict(TEXTS)[0] - exact.predict(TEXTS)[0]
    assert 0 < np.abs(difference).max() < exact.scale.spread / 20


# ----------------------------------------------------------------------------------- whole models from their parts


@pytest.mark.ray
def test_two_ranks_make_the_model_that_one_makes(
    tiny_bert: Path, tiny_llama: Path, wide_bert: Path, tied_llama: Path, make_spec, ranks, tmp_path: Path
) -> None:
    """The folder says on one CPU what the two ranks say, and both say what one process at stage 1 says.

    fp32, whole fine-tunes without dropout (each rank draws its own). Sums in another order are another rounding, and
    Adam makes steps of it where a gradient is nearly zero. Of twelve weights at random for each model and six sets of
    a CPU's instructions the worst was 9·10⁻⁶ standard deviations of the answers (26·10⁻⁶ was seen on another CPU); a
    learning rate of 1 % more shows as 600·10⁻⁶ at least. The bound lies between.
    """
    options = Options(prompt="{text} the film was", answers={"bad": 0, "good": 10, "great great": 20})
    cases = [
        (tiny_bert, {"freeze_embeddings": True}),
        (tiny_bert, {"freeze_embeddings": False, "offload": "parameters"}),
        (wide_bert, {"gradient_checkpointing": True, "learning_rate": 1e-4}),
        (tiny_llama, {"adapter": "lora", "lora": {"dropout": 0.0}}),
        (
            tiny_llama,
            {"adapter": "lora", "lora": {"dropout": 0.0}, "offload": "optimizer", "gradient_checkpointing": True},
        ),
        (tied_llama, {"options": options, "freeze_embeddings": False}),
        (tied_llama, {"options": options, "adapter": "lora", "lora": {"dropout": 0.0}, "offload": "parameters"}),
        (tiny_bert, {"zero_stage": 1, "offload": "optimizer"}),
        (tiny_bert, {"zero_stage": 2, "offload": "optimizer", "micro_batch_size": 1}),
    ]
    work = [
        (make_spec(folder, **{"zero_stage": 3} | settings), str(tmp_path / f"model-{number}"), TEXTS)
        for number, (folder, settings) in enumerate(cases)
    ]
    for (spec, folder, _), told in zip(work, ranks("finished_fits", work), strict=True):
        loaded = Predictor.load(folder)
        spread = loaded.scale.spread
        np.testing.assert_allclose(loaded.predict(TEXTS)[0], told, rtol=0, atol=2e-5 * spread)  # one pass: 4e-6 seen
        plain = {"zero_stage": 1, "offload": "none", "gradient_checkpointing": False}
        alone, _ = fit_local(replace(spec, training=spec.training.model_copy(update=plain)))
        np.testing.assert_allclose(alone.predict(TEXTS)[0], told, rtol=0, atol=2e-4 * spread)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_at_stage_3_no_whole_model_is_loaded(precision: str, wide_bert: Path, make_spec, monkeypatch) -> None:
    """From the moment that it is made, each large parameter is a part of itself."""
    seen: list[nn.Parameter] = []
    create = Predictor.create

    def look(*args, **settings) -> Predictor:
        predictor = create(*args, **settings)
        seen.extend(predictor.backbone.parameters())
        return predictor

    monkeypatch.setattr(Predictor, "create", look)
    with Fit.alone(make_spec(wide_bert, zero_stage=3, precision=precision, epochs=1)) as fit:
        assert all(parameter.numel() == 0 and parameter.ds_tensor.numel() for parameter in seen)
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        assert {parameter.ds_tensor.dtype for parameter in seen} == {dtype}
        fit.run()
    seen.clear()
    with Fit.alone(make_spec(wide_bert, zero_stage=2, epochs=1)):  # the next one, at another stage
        assert all(parameter.numel() and not hasattr(parameter, "ds_tensor") for parameter in seen)


# ------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    "settings",
    [
        {"zero_stage": 1, "offload": "optimizer"},
        {"zero_stage": 2, "offload": "optimizer", "gradient_checkpointing": True},
        {"zero_stage": 3, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "parameters", "gradient_checkpointing": True},
        {"zero_stage": 2, "precision": "bf16"},
        {"zero_stage": 3, "precision": "bf16", "offload": "parameters"},
    ],
    ids=str,
)
def test_resumed_is_as_if_never_stopped(settings, tiny_llama: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(tiny_llama, adapter="lora", epochs=2, micro_batch_size=3, **settings)
    saved: list[bool] = []

    def save(fit: Fit, epoch_ended: bool) -> None:
        saved.append(epoch_ended)
        if len(saved) == 2:
            fit.save(tmp_path)

    with Fit.alone(spec) as whole:
        whole.run(save)
    with Fit.alone(spec) as again:
        again.resume(tmp_path)
        again.run()
    assert [epoch.train_loss for epoch in again.curve] == [epoch.train_loss for epoch in whole.curve]
    for name, weight in whole.weights.items():
        assert torch.equal(again.weights[name], weight), name


@pytest.mark.ray
def test_two_ranks_resume_and_one_refuses(wide_bert: Path, tiny_llama: Path, make_spec, ranks, tmp_path: Path) -> None:
    specs = [
        make_spec(tiny_llama, adapter="lora", epochs=2, zero_stage=3, offload="parameters"),
        make_spec(wide_bert, epochs=2, zero_stage=3, learning_rate=1e-4),
        make_spec(wide_bert, epochs=2, zero_stage=2, offload="optimizer", learning_rate=1e-4),
    ]
    work = [(spec, str(tmp_path / str(number))) for number, spec in enumerate(specs)]
    for _, folder in work:
        Path(folder).mkdir()
    for whole, again in ranks("resumed_fits", work):
        assert whole == again
    for spec, folder in work:
        with (
            Fit.alone(spec) as alone,
            pytest.raises(EnvironmentFault, match="the checkpoint is of 2 workers, the run has 1") as caught,
        ):
            alone.resume(Path(folder))
        assert "training.workers: 2" in str(caught.value)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_checkpoint_has_no_frozen_weights(stage: int, wide_bert: Path, make_spec, tmp_path: Path) -> None:
    spec = make_spec(wide_bert, adapter="lora", zero_stage=stage, epochs=1)
    with Fit.alone(spec) as fit:
        fit.run(lambda fit, epoch_ended: fit.save(tmp_path) if epoch_ended else None)
        trained = sum(weight.numel() for weight in fit.engine.weights().values())
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.pt"))
    assert 3 * 4 * trained < size < 5 * 4 * trained + 200_000  # master weights, two moments, weights; the frozen: 7 MB


def test_a_forged_checkpoint_runs_nothing(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    class Forged:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    with Fit.alone(make_spec(tiny_bert, epochs=1)) as fit:
        fit.save(tmp_path)
        (file,) = (tmp_path / "engine").glob("*_model_states.pt")
        content = torch.load(file)
        torch.save(content | {"ds_version": Forged()}, file)
        with pytest.raises(pickle.UnpicklingError, match="mkdir"):
            fit.resume(tmp_path)
    assert not (tmp_path / "harm").exists()


# ------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("settings", [{}, {"zero_stage": 3}, {"zero_stage": 3, "offload": "parameters"}], ids=str)
def test_a_closed_engine_leaves_nothing(settings, tiny_bert: Path, make_spec) -> None:
    held = []
    for _ in range(4):
        with Fit.alone(make_spec(tiny_bert, train=8, epochs=1, **settings)) as fit:
            fit.run()
        del fit
        gc.collect()
        storages = (thing.untyped_storage() for thing in gc.get_objects() if isinstance(thing, torch.Tensor))
        held.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))
    assert held[-1] - held[0] < 3 * 1000  # buffers of modules that DeepSpeed's caches keep; the weights are 25 kB


# ----------------------------------------------------------------------------------------------------- compilers


def _run_elsewhere(specs: list, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh process whose extensions would be built in ``tmp_path/built``."""
    (tmp_path / "specs").write_bytes(pickle.dumps(specs))
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "specs")],
        env={**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "built"), **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_nothing_is_compiled(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    """Each compiler on the path notes that it was called, and fails."""
    traps = tmp_path / "bin"
    traps.mkdir()
    for name in COMPILERS:
        (traps / name).write_text(f"#!/bin/sh\necho {name} $* >> {tmp_path / 'called'}\nexit 1\n")
        (traps / name).chmod(0o755)
    settings = [{}, {"zero_stage": 2, "offload": "optimizer"}, {"zero_stage": 3, "offload": "parameters"}]
    specs = [make_spec(tiny_bert, epochs=1, **some) for some in settings]
    run = _run_elsewhere(specs, tmp_path, PATH=f"{traps}{os.pathsep}{os.environ['PATH']}", CC="cc", CXX="c++")
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == len(specs)
    assert not (tmp_path / "called").exists(), (tmp_path / "called").read_text()
    assert not (tmp_path / "built").exists()
    assert run.stderr == ""


def test_deepspeeds_optimiser_without_a_compiler(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    run = _run_elsewhere([make_spec(tiny_bert, epochs=1, optimizer="deepspeed")], tmp_path, PATH=str(tmp_path))
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error: DeepSpeed's AdamW cannot be compiled here: ")
    assert "(training.optimizer)" in last
    assert "set training.optimizer: torch" in last
    assert "Traceback" not in run.stderr


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("ninja")), reason="needs g++ and ninja")
def test_deepspeeds_optimiser_is_torchs(tiny_bert: Path, make_spec, tmp_path: Path) -> None:
    """The compilation takes 80 seconds of CPU."""
    settings = [{}, {"zero_stage": 2, "offload": "optimizer"}, {"zero_stage": 3, "offload": "parameters"}]
    specs = [make_spec(tiny_bert, optimizer="deepspeed", **some) for some in settings]
    run = _run_elsewhere(specs, tmp_path)
    assert run.returncode == 0, run.stderr
    answers = [line.split() for line in run.stdout.splitlines() if line[:1].isdigit()]
    expected, _ = fit_local(make_spec(tiny_bert))
    for answer in answers[-3:]:
        np.testing.assert_allclose(np.array(answer, float), expected.predict(TEXTS[:2])[0], rtol=1e-4)
    assert list((tmp_path / "built").rglob("*.so"))
