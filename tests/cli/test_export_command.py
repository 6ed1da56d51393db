"""``ftrect export``: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ftrect_ray.predictor import Predictor
from ftrect_ray.storage import RunStorage

Ftrect = Callable[..., tuple[int, str, str]]
TEXTS = ["the film was good", "bad"]


def test_an_adapter_and_a_merged_model(
    ftrect: Ftrect, make_model_run: Callable[..., RunStorage], tiny_llama: Path, tmp_path: Path
) -> None:
    run = make_model_run(tiny_llama, adapter="lora").root
    code, out, _ = ftrect("export", run, "-o", tmp_path / "adapter")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'adapter'}: the adapter of 'fold-0' in fp32, ")
    assert out.endswith("MB; see its README.md\n")
    code, out, err = ftrect("export", run, "-o", tmp_path / "whole", "--merge", "--json")
    facts = json.loads(out)
    assert code == 0
    assert "note" not in err
    assert (facts["model"], facts["adapter"], facts["dtype"], facts["note"]) == ("fold-0", "full", "fp32", None)
    assert {"config.json", "model.safetensors", "head.safetensors", "readout.json", "README.md"} <= set(facts["files"])
    assert facts["bytes"] == sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    parts, whole = (Predictor.load(tmp_path / name).predict(TEXTS)[0] for name in ("adapter", "whole"))
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


def test_nothing_to_merge(
    ftrect: Ftrect, make_model_run: Callable[..., RunStorage], tiny_bert: Path, tmp_path: Path
) -> None:
    run = make_model_run(tiny_bert, adapter="full").root
    code, out, err = ftrect("export", run, "-o", tmp_path / "out", "--merge", "--dtype", "bf16")
    assert code == 0
    assert err.splitlines()[-1] == "note: the model was trained whole: there is nothing to merge"
    assert "the whole model of 'fold-0' in bf16" in out


def test_refusals(ftrect: Ftrect, make_model_run: Callable[..., RunStorage], tiny_bert: Path, tmp_path: Path) -> None:
    run = make_model_run(tiny_bert, adapter="head", models=("fold-0", "fold-1")).root
    out = tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    for words, code, message in [
        ([run, "-o", out], 2, "there are 2 models"),
        ([run, "-o", out, "--model", "fold-7"], 2, "there is no model 'fold-7'"),
        ([run, "-o", tmp_path / "full", "--model", "fold-0"], 2, "the folder is not empty"),
        ([run, "-o", tmp_path / "full" / "mine" / "x", "--model", "fold-0"], 3, "cannot write the folder"),
        ([tmp_path / "nowhere", "-o", out], 2, "there is no fine-tuned model"),
        (["zz://bucket/run", "-o", out], 2, "cannot open 'zz://bucket/run'"),
        ([run, "-o", out, "--model", "fold-0", "--dtype", "fp8"], 2, "'--dtype' cannot be 'fp8'"),
        ([run], 2, "required: -o/--output"),
        ([run, "-o", out, "--merged"], 2, "unknown option '--merged' .* did you mean '--merge'?"),
    ]:
        got, stdout, err = ftrect("export", *words)
        assert (got, stdout) == (code, ""), err
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert all(part in line for part in message.split(" .* ")), line
    assert not out.exists()
