"""Model folders that are wrong: one line and exit code 2 from ``ftrect validate``, before a weight is read."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftrect_ray.cli import main
from ftrect_ray.errors import InputError, InputErrors
from ftrect_ray.models import MODELS
from ftrect_ray.models.named import place
from ftrect_ray.pipeline.check import check_base
from ftrect_ray.pipeline.runner import run_study
from ftrect_ray.predictor import Predictor
from ftrect_ray.study import Model
from ftrect_ray.study_file import load_study

Damage = Callable[[Path], object]


@pytest.fixture
def study(tmp_path: Path) -> Callable[[str], Path]:
    """``study(model)``: a study of 200 rows, 80 of them answered, with that model."""

    def make(name: str) -> Path:
        rows = [f"r{i},good film {i},{i % 5 if i < 80 else ''}" for i in range(200)]
        (tmp_path / "t.csv").write_text("\n".join(["id,text,label", *rows]) + "\n")
        settings = {
            "study": "small",
            "data": {"table": str(tmp_path / "t.csv"), "text": "text", "label": "label", "id": "id"},
            "design": "crossfit",
            "pilots": None,
            "model": {"name": name, "max_tokens": 16},
        }
        (tmp_path / "study.yaml").write_text(json.dumps(settings))
        return tmp_path / "study.yaml"

    return make


def configured(**settings: Any) -> Damage:
    return lambda folder: _update(folder / "config.json", settings)


def tokenizing(**settings: Any) -> Damage:
    return lambda folder: _update(folder / "tokenizer_config.json", settings)


def _update(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def written(change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(change(weights.read_bytes()))

    return damage


def stored(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(folder: Path) -> None:
        weights = folder / "model.safetensors"
        save_file(change(load_file(weights)), weights, metadata={"format": "pt"})

    return damage


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def adapter_alone(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def vocabulary(token: str, number: int) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["vocab"][token] = number
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return damage


LAYER = "encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled, r"safetensors required: .* it has pytorch_model.bin, which can run code"),
        (written(lambda whole: struct.pack("<Q", 2**63) + whole[8:]), "a header of 9223372036854775808 bytes"),
        (written(lambda whole: whole[:-9]), "not a sound safetensors file: .* incomplete metadata"),
        (written(lambda whole: whole.replace(b'"F32"', b'"I32"')), "'embeddings.LayerNorm.bias' holds I32, not float"),
        (written(lambda whole: whole.replace(b'"F32"', b'"Z32"', 1)), "unknown variant `Z32`"),
        (stored(lambda t: t | {LAYER: torch.zeros(3, 3)}), rf"'{LAYER}' ha(s|ve) shape \(3, 3\).*\(16, 32\)"),
        (stored(lambda t: {name: w for name, w in t.items() if name != LAYER}), f"its weights lack '{LAYER}'"),
        (configured(hidden_size=32), r"shape \(16,\).*\(32,\)"),
        (configured(vocab_size=10**12), r"shape \(20, 16\).*\(1000000000000, 16\)"),
        (configured(num_hidden_layers=3), r"its weights lack 'encoder.layer.2.* and 15 more"),
        (configured(num_hidden_layers=1), r"'encoder.layer.1.*', a layer that the configuration leaves out"),
        (configured(hidden_size="x"), r"'hidden_size': .*expected int, got str"),
        (configured(hidden_size=-16), "negative dimension"),
        (configured(num_attention_heads=0), "by zero"),
        (configured(hidden_act="os.system"), "unknown name 'os.system'"),
        (configured(model_type="nope"), "model type `nope`"),
        (configured(model_type="t5"), "cannot load|neither an encoder nor a causal model"),
        (configured(auto_map={"AutoModel": "evil.Model"}), r"'auto_map' in config.json\), which is never run"),
        (configured(quantization_config={"quant_method": "gptq", "bits": 4}), "cannot load the model"),
        (configured(max_position_embeddings=8), r"shape \(32, 16\).*\(8, 16\)|reads 8 tokens at most"),
        (tokenizing(auto_map={"AutoTokenizer": ["evil.T", None]}), r"'auto_map' in tokenizer_config.json"),
        (tokenizing(model_max_length="x"), "'model_max_length' of the tokenizer of .* is 'x'"),
        (tokenizing(model_max_length=8), "'max_tokens' is 16, but .* reads 8 tokens at most"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot load the tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot load the tokenizer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        (vocabulary("extra", 20), "has 21 tokens, its weights know 20"),
        (vocabulary("good", 10**6), "has 1000001 tokens, its weights know 20"),
        (adapter_alone, "this is an adapter; name the folder of a whole model"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "has an adapter beside the model"),
    ],
)
def test_one_line_before_any_work(
    damage: Damage,
    message: str,
    tiny_bert: Path,
    tmp_path: Path,
    study: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "m"))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    damage(folder)
    assert main(["validate", str(study(str(folder)))]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.search(message, line), line
    with pytest.raises(InputError) as caught:
        Predictor.create(Model(name=str(folder), max_tokens=16))
    assert "\n" not in str(caught.value)


def test_a_good_folder_passes(
    tiny_bert: Path, tiny_llama: Path, study: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tiny_bert, tiny_llama):
        assert main(["validate", str(study(str(folder)))]) == 0
        assert "good — 80 labels" in capsys.readouterr().out


def test_a_tokenizer_without_any_token_to_pad_with(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "m"))
    tokenizing(eos_token=None)(folder)
    with pytest.raises(InputError, match="has neither a padding nor an end-of-text token .* add pad_token to its"):
        Predictor.create(Model(name=str(folder), max_tokens=16))


def test_a_run_stops_before_ray_starts(tiny_bert: Path, tmp_path: Path, study: Callable[[str], Path]) -> None:
    import ray

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "m"))
    configured(num_hidden_layers=3)(folder)
    with pytest.raises(InputErrors, match="its weights lack"):
        run_study(load_study(study(str(folder))), str(tmp_path / "run"))
    assert not ray.is_initialized()
    assert not (tmp_path / "run" / "table.parquet").exists()


def test_a_model_that_is_not_needed_is_not_looked_at(study: Callable[[str], Path]) -> None:
    path = study("/no/such/place")
    assert check_base(load_study(path))
    assert not check_base(load_study(path, ["design=classical"]))
    assert not check_base(load_study(path, ["design=rectify-only", "data.prediction=p"]))
    options = 'model.options={prompt: "{text}", answers: {"a": 1, "b": 2}}'
    assert check_base(load_study(path, ["design=rectify-only", options, "model.adapter=lora"]))


def test_a_named_model_in_the_cache_is_held_against_the_settings(
    tiny_bert: Path, tmp_path: Path, study: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTRECT_CACHE", str(tmp_path / "cache"))
    options = 'model.options={prompt: "{text}", answers: {"a": 1, "b": 2}}'
    asked = load_study(study("minilm"), ["design=rectify-only", options, "model.adapter=lora"])
    assert not check_base(asked)  # not fetched for this
    place(MODELS["minilm"]).parent.mkdir(parents=True)
    place(MODELS["minilm"]).symlink_to(tiny_bert)
    [error] = check_base(asked)
    assert "a prompt needs a causal language model" in str(error)
