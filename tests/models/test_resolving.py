"""From a name to a folder or an id."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.models import model_card, resolve_model


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "C:\\x",
        "",
        "x" * 300,
        "a\0b",
        "a/b/c",
        ".hidden",
        "a..b",
        "é",
        "a b",
        "/no/such/place",
    ],
)
def test_names_without_sound_form(name: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_model(name)
    message = str(caught.value)
    assert message.startswith("'model.name' ")
    assert "is neither a named model nor a folder nor a Hugging Face id" in message
    assert repr(name)[:70] in message
    assert "\0" not in message
    assert len(message) < 350


def test_a_folder_that_is_no_model_shows_only_the_name_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve_model("/etc")
    assert str(caught.value) == "model folder '/etc' has no config.json — name the folder that holds it"
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        resolve_model("./mine")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["bert-base-uncased", "FacebookAI/roberta-base", "Qwen/Qwen3-0.6B", "a_b/c.d-e"])
def test_hub_ids_pass_through(name: str) -> None:
    assert resolve_model(name, revision="main") == name


def test_a_near_miss_of_a_named_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"did you mean 'smollm2'\?"):
        resolve_model("smollm2!")


def test_revision_is_for_hub_ids() -> None:
    with pytest.raises(
        InputError, match="'model.revision' is for Hugging Face ids; 'minilm' has none — leave 'revision' out"
    ):
        resolve_model("minilm", revision="main")


def test_minilm_is_a_checked_folder_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(resolve_model("minilm"))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.parent.glob("*.tmp"))
    assert not list(folder.glob("*.py"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert resolve_model("minilm") == str(folder)
    monkeypatch.chdir(folder.parent)
    assert resolve_model(f"./{folder.name}") == str(folder)
    named, local = model_card("minilm"), model_card(str(folder))
    assert named["parameters"] == local["parameters"] == 22_713_216
    assert named["origin"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert named["licence"] == "Apache-2.0"


def test_resolving_loads_neither_torch_nor_transformers() -> None:
    resolve_model("minilm")
    code = (
        "import sys; from ftrect_ray.models import resolve_model as r; r(r('minilm')); r('a/b'); "
        "print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
