"""A run's model for those who do not have this package: its card's code is run, and merging changes nothing."""

from __future__ import annotations

import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from ftrect_ray.errors import EnvironmentFault, InputError
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.export import export
from ftrect_ray.storage import RunStorage
from ftrect_ray.study import Lora, Model, Options

TEXTS = ["the film was good", "bad", "a very dull plot and an awful actor but i love it", "great great great"]

MakeModelRun = Callable[..., RunStorage]


def outside(directory: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What the code of the folder's card says f(texts) is."""
    (code,) = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), flags=re.S)
    assert "ftrect" not in code
    names: dict[str, object] = {}
    monkeypatch.chdir(directory)
    exec(compile(code, "README.md", "exec"), names)
    return names["f"](texts).numpy()  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("adapter", ["full", "lora", "head"])
@pytest.mark.parametrize("merge", [False, True])
def test_an_export_predicts_as_the_run_with_and_without_this_package(
    kind: str,
    adapter: str,
    merge: bool,
    make_model_run: MakeModelRun,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = make_model_run(request.getfixturevalue(kind), adapter=adapter)
    expected, _ = Predictor.load(storage.path("model", "fold-0")).predict(TEXTS)
    facts = export(storage.root, tmp_path / "out", merge=merge)
    assert np.ptp(expected) > 0.1
    again = Predictor.load(tmp_path / "out")
    np.testing.assert_allclose(again.predict(TEXTS)[0], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(outside(tmp_path / "out", TEXTS, monkeypatch), expected, rtol=0, atol=1e-5)
    whole = merge or adapter == "full"
    assert again.model.adapter == facts["adapter"] == ("full" if whole else adapter)
    assert ("config.json" in facts["files"], "model.safetensors" in facts["files"]) == (whole, whole)
    assert ("adapter/adapter_model.safetensors" in facts["files"]) == (adapter == "lora" and not merge)
    assert (facts["note"] is None) == (not (merge and adapter == "full"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("merge", [False, True])
def test_answer_options_without_this_package(
    adapter: str,
    merge: bool,
    make_model_run: MakeModelRun,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With options of one and two tokens, one of which begins another."""
    answers = {"good": 1.0, "good good": 4.0, "bad": 2.0, "bad film was": 7.0}
    options = Options(prompt="the film {text} was", answers=answers)
    storage = make_model_run(tiny_llama, adapter=adapter, options=options)
    texts = ["good", "bad actor", "love it"]
    expected, _ = Predictor.load(storage.path("model", "fold-0")).predict(texts)
    export(storage.root, tmp_path / "out", merge=merge)
    assert np.ptp(expected) > 0.01
    again = Predictor.load(tmp_path / "out")
    np.testing.assert_allclose(again.predict(texts)[0], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(outside(tmp_path / "out", texts, monkeypatch), expected, rtol=0, atol=1e-5)
    assert not (tmp_path / "out" / "head.safetensors").exists()
    assert "offset = 0.25" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("adapter", "answers", "layer"), [("head", {}, None), ("head", {"good": 1, "bad": 0}, 1), ("lora", {}, 1)]
)
@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("merge", [False, True])
def test_a_prompted_head_on_the_first_layers_without_this_package(
    adapter: str,
    answers: dict[str, float],
    layer: int | None,
    prompted: bool,
    merge: bool,
    make_model_run: MakeModelRun,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = Options(prompt="the film {text} was", answers=answers) if prompted else None
    storage = make_model_run(tiny_llama, adapter=adapter, options=options, layer=layer)
    texts = ["good", "bad actor", "love it"]
    expected, _ = Predictor.load(storage.path("model", "fold-0")).predict(texts)
    export(storage.root, tmp_path / "out", merge=merge)
    assert np.ptp(expected) > 0.01
    again = Predictor.load(tmp_path / "out")
    assert again.base.config.num_hidden_layers == (layer or 2)
    np.testing.assert_allclose(again.predict(texts)[0], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(outside(tmp_path / "out", texts, monkeypatch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("merge", [False, True])
def test_half_precision(merge: bool, make_model_run: MakeModelRun, tiny_llama: Path, tmp_path: Path) -> None:
    storage = make_model_run(tiny_llama, adapter="lora")
    export(storage.root, tmp_path / "out", merge=merge, dtype="bf16")
    weights = load_file(tmp_path / "out" / ("model.safetensors" if merge else "adapter/adapter_model.safetensors"))
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert load_file(tmp_path / "out" / "head.safetensors")["weight"].dtype == torch.float32
    if merge:
        assert AutoModel.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    expected, _ = Predictor.load(storage.path("model", "fold-0")).predict(TEXTS)
    values, _ = Predictor.load(tmp_path / "out").predict(TEXTS)
    assert 0 < np.abs(values - expected).max() < 0.05 * np.ptp(expected)


def test_the_merged_folder_is_a_base_model_for_others(
    make_model_run: MakeModelRun, tiny_llama: Path, tmp_path: Path
) -> None:
    storage = make_model_run(tiny_llama, adapter="lora")
    export(storage.root, tmp_path / "out", merge=True)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token == "</s>"
    anew = Predictor.create(Model(name=str(tmp_path / "out"), max_tokens=16))
    assert anew.model.pooling == "last"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"alora_invocation_tokens": [1]}, "aLoRA does not support merging"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "predictions move by"),  # PEFT merges twice into what is shared
    ],
)
def test_an_adapter_that_cannot_be_merged(
    more: dict[str, object], message: str, make_model_run: MakeModelRun, tiny_bert: Path, tmp_path: Path
) -> None:
    storage = make_model_run(tiny_bert, adapter="lora", lora=Lora(more=more))
    with pytest.raises(InputError, match=f"the adapter cannot be merged: {message}"):
        export(storage.root, tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()


def test_the_card(make_model_run: MakeModelRun, tiny_bert: Path, tmp_path: Path) -> None:
    storage = make_model_run(tiny_bert, adapter="lora", objective="mse")
    export(storage.root, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front == {"base_model": str(tiny_bert), "license": "unknown", "library_name": "peft"}
    for part in (
        "# small, fold-0",
        "a low-rank adapter, on 9 labels; 3 more chose the epoch",
        "the mean square of the residual",
        "f(x) = center + spread · z(x) + offset = 5 + 2 · z(x) + 0.25",
        "averaged over the tokens",
        "A text is cut after 16 tokens",
    ):
        assert part in text, part


def test_the_card_of_a_named_model_has_its_licence(make_model_run: MakeModelRun, tmp_path: Path) -> None:
    storage = make_model_run("minilm", adapter="head")
    export(storage.root, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "licence of the base model: Apache-2.0" in text
    assert "AutoModel.from_pretrained('sentence-transformers/all-MiniLM-L6-v2', dtype=torch.float32)" in text
    assert yaml.safe_load(text.split("---")[1])["license"] == "apache-2.0"


def test_which_model(make_model_run: MakeModelRun, tiny_bert: Path, tmp_path: Path) -> None:
    storage = make_model_run(tiny_bert, adapter="head", models=["fold-0", "fold-1"])
    storage.write_bytes(b"{}", "model", ".fold-2.77", "readout.json")  # a copy that was broken off
    with pytest.raises(InputError, match=r"there are 2 models .* add --model fold-0\|fold-1"):
        export(storage.root, tmp_path / "out")
    for other in ("fold1", "../../etc", ".fold-2.77"):
        with pytest.raises(InputError, match=f"there is no model '{re.escape(other)}'"):
            export(storage.root, tmp_path / "out", model=other)
    assert not (tmp_path / "out").exists()
    assert export(storage.root, tmp_path / "out", model="fold-1")["model"] == "fold-1"
    for empty in (tmp_path / "nothing", tmp_path / "out"):
        with pytest.raises(InputError, match="there is no fine-tuned model"):
            export(empty, tmp_path / "other")


def test_nothing_is_overwritten_and_nothing_half_written(
    make_model_run: MakeModelRun, tiny_bert: Path, tmp_path: Path
) -> None:
    run = make_model_run(tiny_bert, adapter="lora").root
    home = tmp_path / "home"
    home.mkdir()
    (home / "full").mkdir()
    (home / "full" / "mine").write_text("x")
    with pytest.raises(InputError, match="the folder is not empty .* nothing was overwritten"):
        export(run, home / "full")
    with pytest.raises(InputError, match="there is a file of this name"):
        export(run, home / "full" / "mine")
    with pytest.raises(EnvironmentFault, match="cannot write the folder: Not a directory"):
        export(run, home / "full" / "mine" / "out")
    for odd in ("s3://bucket/x", "", "a\0b"):
        with pytest.raises(InputError, match="not a folder of this machine"):
            export(run, odd)
    assert [path.relative_to(home).as_posix() for path in home.rglob("*")] == ["full", "full/mine"]
    (home / "empty").mkdir()
    export(run, home / "empty")
    assert (home / "empty" / "README.md").is_file()


def test_a_damaged_model_is_refused_before_anything_is_written(
    make_model_run: MakeModelRun, tiny_bert: Path, tmp_path: Path
) -> None:
    storage = make_model_run(tiny_bert, adapter="lora")
    storage.write_bytes(b"{", "model", "fold-0", "readout.json")
    with pytest.raises(InputError, match="cannot read the model"):
        export(storage.root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", ["file", "fsspec+file"])  # the second is no local filesystem, as a bucket
def test_a_run_behind_a_uri(scheme: str, make_model_run: MakeModelRun, tiny_bert: Path, tmp_path: Path) -> None:
    storage = make_model_run(tiny_bert, adapter="lora")
    expected, _ = Predictor.load(storage.path("model", "fold-0")).predict(TEXTS)
    uri = f"{scheme}://{storage.root}"
    assert RunStorage.open(uri).is_local == (scheme == "file")
    export(uri, tmp_path / "out")
    np.testing.assert_allclose(Predictor.load(tmp_path / "out").predict(TEXTS)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("merge", [False, True])
def test_a_full_disk_leaves_nothing(merge: bool, make_model_run: MakeModelRun, tiny_bert: Path, tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk: the system refuses the write in the same place."""
    run = make_model_run(tiny_bert, adapter="lora").root
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(EnvironmentFault, match="cannot write the folder: .*File too large.* — free space"):
            export(run, tmp_path / "out", merge=merge)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
