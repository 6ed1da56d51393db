"""``ftrect plan --model`` and ``ftrect init --preset``: what is printed, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftrect_ray.study import Study
from ftrect_ray.study_file import load_study, parse_study

MACHINE = ("--gpus", "2", "--gpu-memory", "24", "--tokens", "16")


@pytest.fixture
def only_config(tiny_llama: Path, tmp_path: Path) -> Path:
    """A folder with a model's configuration and no weights."""
    folder = tmp_path / "only-config"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    return folder


def test_the_arithmetic_is_shown_and_adds_up(ftrect: Any, only_config: Path) -> None:
    code, out, err = ftrect("plan", "--model", only_config, *MACHINE)
    assert (code, err) == (0, "")
    assert "train; bf16, 16 tokens; 2 GPUs of 24 GiB, 16 texts a step" in out
    for what in ("weights", "fp32 master weights", "AdamW's two moments", "activations", "bucket of gradients"):
        assert re.search(rf"^  {what} +[\d.]+  .* × ", out, re.MULTILINE), what
    fullest = out[out.index("(the fullest):") :].split("\n")[1:]
    ends = next(i for i, line in enumerate(fullest) if line.startswith("  needed"))
    sizes = [float(re.findall(r" (\d+\.\d\d)\b", line)[0]) for line in fullest[:ends]]
    assert sum(sizes) == pytest.approx(float(fullest[ends].split()[-1]), abs=0.05)


def test_every_setting_has_a_row(ftrect: Any, only_config: Path) -> None:
    _, out, _ = ftrect("plan", "--model", only_config, *MACHINE)
    rows = re.findall(r"^(\d) +(none|optimizer|parameters) +(no|yes) +[\d.]+ .* yes$", out, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 14


def test_the_fragment_can_be_pasted(ftrect: Any, only_config: Path) -> None:
    _, out, _ = ftrect(
        "plan", "--model", only_config, *MACHINE, "--adapter", "lora", "--lora-rank", "3", "--batch", "6"
    )
    pasted = "study: x\ndata: {source: vader, text: text}\n" + out[out.index("in the study:\n\n") + 15 :]
    study: Study = parse_study(pasted)
    assert (study.model.adapter, study.model.lora.rank, study.model.max_tokens) == ("lora", 3, 16)
    assert (study.training.workers, study.training.batch_size, study.training.micro_batch_size) == (2, 6, 3)
    assert study.training.precision == "bf16"


def test_json_says_the_same(ftrect: Any, only_config: Path) -> None:
    code, out, err = ftrect("plan", "--model", only_config, *MACHINE, "--precision", "fp32", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    first = document["settings"][0]
    assert document["study"]["training"]["zero_stage"] == first["zero_stage"]
    assert first["fits"] is True
    fullest = max(first["gpu"], key=lambda moment: sum(line["bytes"] for line in moment["lines"]))
    assert sum(line["bytes"] for line in fullest["lines"]) == first["gpu_allocated_bytes"] < first["gpu_bytes"]
    assert document["parameters"]["trainable"] < document["parameters"]["total"]
    assert [line["what"] for line in document["disk"]][-1] == "finished model"


def test_choices_narrow_the_table(ftrect: Any, only_config: Path) -> None:
    words = ("--zero-stage", "3", "--offload", "none", "--gradient-checkpointing", "yes", "--json")
    _, out, _ = ftrect("plan", "--model", only_config, *MACHINE, *words)
    (setting,) = json.loads(out)["settings"]
    assert (setting["zero_stage"], setting["offload"], setting["checkpointing"]) == (3, "none", True)
    _, out, _ = ftrect("plan", "--model", only_config, *MACHINE, "--gradient-checkpointing", "auto", "--json")
    assert len(json.loads(out)["settings"]) == 14


def test_answer_options_and_a_head(ftrect: Any, only_config: Path) -> None:
    words = ("plan", "--model", only_config, *MACHINE, "--json", "--zero-stage", "2")
    with_options = json.loads(ftrect(*words, "--options", "5")[1])["parameters"]["total"]
    assert with_options > json.loads(ftrect(*words)[1])["parameters"]["total"]  # the output layer, for the head
    head = json.loads(ftrect(*words, "--adapter", "head")[1])
    assert len(head["settings"]) == 1
    assert head["parameters"]["trainable"] == 0


def test_what_does_not_fit_is_shown_and_cured(ftrect: Any, only_config: Path) -> None:
    words = ("plan", "--model", only_config, "--gpus", "1", "--gpu-memory", "0.5", "--tokens", "16")
    code, out, err = ftrect(*words)
    assert code == 3
    assert out.count("no: GPU") == 14
    assert "in the study" not in out
    assert re.search(r"^error: '.*' does not fit on 1 GPU of 0.5 GiB: the least setting needs \d\.\d\d GiB", err)
    assert "it would with " in err
    memory = re.findall(r"--gpu-memory (\d+)", err)[0]
    assert ftrect(*words, "--gpu-memory", memory)[0] == 0
    code, out, _ = ftrect(*words, "--json")
    assert (code, json.loads(out)["study"]) == (3, None)


def test_a_host_can_be_too_small(ftrect: Any, only_config: Path) -> None:
    code, out, err = ftrect("plan", "--model", only_config, *MACHINE, "--host-memory", "1")
    assert code == 3
    assert out.count("no: host") == 14
    needed = float(re.findall(r"of the settings that fit a GPU the least needs ([\d.]+) GiB of a host", err)[0])
    host = re.findall(r"--host-memory (\d+)", err)[0]
    assert needed <= int(host) <= needed + 1
    assert ftrect("plan", "--model", only_config, *MACHINE, "--host-memory", host)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "one of the arguments --law --model is required"),
        (("--model", "7b", "--law", "1,0.5,1"), "not allowed with argument"),
        (("--model", "7b", "--gpus", "1"), "'--model' needs '--gpu-memory'"),
        (("--model", "7b", "--gpu-memory", "80"), "'--model' needs '--gpus'"),
        (("--model", "7b", *MACHINE, "--labels", "100"), "'--labels' does not go with '--model'"),
        (("--law", "1,0.5,1"), "'--law' needs '--labels'"),
        (("--law", "1,0.5,1", "--labels", "100", "--gpus", "1"), "'--gpus' does not go with '--law'"),
        (("--model", "7b", "--gpus", "0", "--gpu-memory", "80"), "'--gpus' must be >= 1"),
        (("--model", "7b", "--gpus", "two", "--gpu-memory", "80"), "'--gpus' must be a whole number; got two"),
        (("--model", "7b", "--gpus", "1", "--gpu-memory", "nan"), "'--gpu-memory' must be a number > 0; got nan"),
        (("--model", "7b", *MACHINE, "--host-memory", "-1"), "'--host-memory' must be a number > 0"),
        (("--model", "7b", *MACHINE, "--lora-rank", "0"), "'--lora-rank' must be >= 1"),
        (("--model", "7b", *MACHINE, "--lora-rank", "4"), "'--lora-rank' is for '--adapter lora'"),
        (("--model", "7b", *MACHINE, "--zero-stage", "4"), "invalid choice: '?4"),
        (("--model", "7b", *MACHINE, "--offload", "all"), "'--offload' cannot be 'all'"),
        (("--model", "7b", *MACHINE, "--options", "1"), "'--options' must be >= 2"),
        (("--model", "7b", *MACHINE, "--adapter", "head", "--options", "3"), "'--options' has no head to train"),
        (("--model", "7b", *MACHINE, "--zero-stage", "1", "--offload", "parameters"), "offloaded at stage 3 only"),
        (("--model", "minilm", *MACHINE, "--tokens", "600"), "'minilm' reads 512 tokens at most; got 600"),
        (("--model", "minilm", *MACHINE, "--options", "3"), "a prompt needs a causal language model"),
        (("--model", "no such!", *MACHINE), "neither a preset nor a named model nor a folder nor a Hugging Face id"),
        (("--model", "", *MACHINE), "'--model' must not be empty"),
    ],
)
def test_refusals(ftrect: Any, words: tuple[str, ...], message: str) -> None:
    code, out, err = ftrect("plan", *words)
    assert (code, out) == (2, "")
    assert re.search(f"^error: .*{message}", err), err
    assert err.count("\n") == 1


@pytest.mark.parametrize("preset", ["0.5b", "7b", "70b"])
def test_init_writes_a_preset(ftrect: Any, tmp_path: Path, preset: str) -> None:
    path = tmp_path / "study.yaml"
    assert ftrect("init", path, "--preset", preset)[0] == 0
    study = load_study(path)
    assert study.model.pooling == "last"
    assert study.training.precision == "bf16"
    assert study.model.max_tokens == 512
    assert yaml.safe_load(path.read_text())["labels"] == 600  # the rest is the default study
    assert "# the budget" in path.read_text()


def test_init_refuses_another_preset(ftrect: Any, tmp_path: Path) -> None:
    code, _, err = ftrect("init", tmp_path / "study.yaml", "--preset", "8b")
    assert code == 2
    assert "'--preset' cannot be '8b'" in err
