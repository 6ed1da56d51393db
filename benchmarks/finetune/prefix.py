"""What it saves to compute the beginning that all prompts share once.

    python benchmarks/finetune/prefix.py --output benchmarks/results          (5 minutes on one core)

SmolLM2 asked by the few-shot prompt of ``evaluation.presets``, on texts of the default study, in the precision that
this processor is fastest in. Each measurement is taken with the shared beginning and without it, in turn, in one
process; seconds are those that the processor worked. Writes ``prefix.json`` and ``prefix.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftrect_ray.evaluation.presets import PROMPTS
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.finetune.training import Fit
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.precision import cast, resolve_precision
from ftrect_ray.predictor.prefix import Prefix
from ftrect_ray.sources import load_source
from ftrect_ray.study import Model, Training

TEXTS, ROWS, LAYER = 200, 45, 24
CPU = torch.device("cpu")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = load_source("vader")
    order = np.random.default_rng(0).permutation(table.num_rows)
    texts = [table["text"][int(i)].as_py() for i in order[:TEXTS]]
    asked = Model(name="smollm2", adapter="lora", max_tokens=192, options=PROMPTS["vader"])
    found = {
        f"{TEXTS} texts predicted by answer options": predicted(asked, texts, options.repeat),
        f"one epoch of {ROWS} rows, LoRA": epoch(asked, texts, options.repeat),
    }
    for layer in (None, LAYER):
        model = asked.model_copy(update={"adapter": "head", "layer": layer})
        depth = "all layers" if layer is None else f"the first {layer} layers"
        for batch_tokens, how in ((1, "each text alone"), (None, "in batches")):
            name = f"features of {TEXTS} texts, {depth}, {how}"
            found[name] = features(model, texts, batch_tokens, options.repeat)
    machine = f"{platform.machine()}, torch {torch.__version__}, {resolve_precision('auto', CPU)}"
    result = {"machine": machine, "tokens": tokens(asked, texts), "seconds": found}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "prefix.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "prefix.md").write_text(report(result))
    print(report(result))
    return 0


def in_turn(plain: Callable[[], Any], shared: Callable[[], Any], repeat: int) -> dict[str, list[float]]:
    """Processor seconds of both, ``repeat`` times each."""
    seconds: dict[str, list[float]] = {"plain": [], "shared": []}
    for _ in range(repeat):
        for name, call in (("plain", plain), ("shared", shared)):
            started = time.process_time()
            call()
            seconds[name].append(time.process_time() - started)
    return seconds


def both(predictor: Predictor, call: Callable[[], Any], repeat: int) -> dict[str, list[float]]:
    """``call`` with the plain pass and with the shared beginning."""
    own = predictor.prefix

    def run(prefix: Prefix) -> None:
        predictor.prefix = prefix
        call()

    return in_turn(lambda: run(Prefix()), lambda: run(own), repeat)


def loaded(model: Model) -> Predictor:
    predictor = Predictor.create(model)
    cast(predictor.backbone, resolve_precision("auto", CPU))
    return predictor


def predicted(model: Model, texts: list[str], repeat: int) -> dict[str, list[float]]:
    predictor = loaded(model)
    return both(predictor, lambda: predictor.predict(texts), repeat)


def features(model: Model, texts: list[str], batch_tokens: int | None, repeat: int) -> dict[str, list[float]]:
    predictor = loaded(model)
    encoded = predictor.encode(texts).tokens
    return both(predictor, lambda: predictor.features(encoded, batch_tokens), repeat)


def epoch(model: Model, texts: list[str], repeat: int) -> dict[str, list[float]]:
    """An epoch of a fine-tune by itself, without rows that choose it."""
    answers = np.random.default_rng(1).normal(size=ROWS)
    rows = Rows(tuple(f"r{i}" for i in range(ROWS)), tuple(texts[:ROWS]), answers)
    training = Training(workers=1, epochs=2 * repeat, min_epochs=1)
    spec = FitSpec("epoch", rows, rows.take(np.arange(0)), model, training, "variance", 0)
    with Fit.alone(spec) as fit:
        start = fit.under_way

        def train() -> None:
            fit.under_way = start
            fit.curve.append(fit._epoch(len(fit.curve) + 1, lambda *_: None))

        return both(fit.predictor, train, repeat)


def tokens(model: Model, texts: list[str]) -> dict[str, float]:
    predictor = Predictor.create(model)
    lengths = predictor.encode(texts).lengths
    return {"shared": len(predictor.prefix), "whole": float(lengths.mean())}


def report(result: dict[str, Any]) -> str:
    """The measurements as Markdown: the least of the repetitions, and their ratio."""
    lines = [
        "# The shared beginning of prompts",
        "",
        "Command: `python benchmarks/finetune/prefix.py --output benchmarks/results`",
        f"One core of {result['machine']}. SmolLM2-135M; {result['tokens']['shared']} of "
        f"{result['tokens']['whole']:.0f} tokens of a prompt are shared.",
        "Processor seconds, the least of the repetitions.",
        "",
        "| what | plain, s | shared, s | times as fast |",
        "|---|---|---|---|",
    ]
    for name, seconds in result["seconds"].items():
        plain, shared = min(seconds["plain"]), min(seconds["shared"])
        lines.append(f"| {name} | {plain:.1f} | {shared:.1f} | {plain / shared:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
