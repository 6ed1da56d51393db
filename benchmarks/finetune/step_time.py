"""How long an optimiser step takes, beside the same step in PyTorch alone.

    python benchmarks/finetune/step_time.py --output benchmarks/results          (20 minutes on one core)
    python benchmarks/finetune/step_time.py --output benchmarks/results --cases 'minilm*'

Both sides train the same model on the same batches in one process, in turn, step by step: what else the machine does
falls on both. Every case has a process of its own, one core. The texts are those of the default study, sixteen a step;
the answers are drawn at random. Writes ``step_time.json`` and ``step_time.md``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bare import Bare

from ftrect_ray.finetune import training
from ftrect_ray.finetune.batching import deal, epoch_batches, passes
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.finetune.training import Fit, learning_rate_factor
from ftrect_ray.models import resolve_model
from ftrect_ray.predictor import Predictor
from ftrect_ray.predictor.precision import resolve_precision
from ftrect_ray.predictor.pretrained import load_tokenizer
from ftrect_ray.predictor.tokens import encode
from ftrect_ray.sources import load_source
from ftrect_ray.study import Model, Training

WARM = 3
BATCH = 16
MICRO = 4
GOAL = 1.10


@dataclass(frozen=True)
class Case:
    """A model, and the settings that our side has; of these the bare loop shares the precision alone.

    ``one_pass``: ours too pads all rows of a step to its longest.
    """

    model: str
    adapter: str
    precision: str
    ours: dict[str, Any] = field(default_factory=dict)
    bound: float | None = None
    note: str = ""
    one_pass: bool = False


ENCODER = ("minilm", "full", "fp32")
CAUSAL = ("smollm2", "lora", "fp32")
CASES = {
    "minilm full fp32": Case(*ENCODER, bound=GOAL),
    "minilm full bf16": Case("minilm", "full", "bf16", bound=GOAL),
    "smollm2 lora fp32": Case(*CAUSAL, bound=GOAL),
    "smollm2 lora bf16": Case("smollm2", "lora", "bf16", bound=GOAL),
    "minilm fp32, one pass": Case(*ENCODER, one_pass=True),
    "minilm bf16, one pass": Case("minilm", "full", "bf16", one_pass=True),
    "smollm2 bf16, one pass": Case("smollm2", "lora", "bf16", one_pass=True),
    "minilm zero-1": Case(*ENCODER, {"zero_stage": 1}),
    "minilm zero-3": Case(*ENCODER, {"zero_stage": 3}),
    "minilm accumulated": Case(*ENCODER, {"micro_batch_size": MICRO}, note="theory 1.33"),
    "smollm2 accumulated": Case(*CAUSAL, {"micro_batch_size": MICRO}, note="theory 1.50"),
    "minilm checkpointed": Case(*ENCODER, {"gradient_checkpointing": True}, note="theory 1.33"),
    "smollm2 checkpointed": Case(*CAUSAL, {"gradient_checkpointing": True}, note="theory 1.50"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument("--cases", nargs="+", default=["*"], metavar="PATTERN", help=f"of {', '.join(CASES)}")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each side")
    parser.add_argument("--texts", type=Path, help="one text a line (default: the default study's)")
    parser.add_argument("--encoder", default="minilm", help="what stands for minilm")
    parser.add_argument("--tokens", type=int, default=128, help="longer texts are cut")
    parser.add_argument("--causal", default="smollm2", help="what stands for smollm2")
    parser.add_argument("--measure", metavar="CASE", help=argparse.SUPPRESS)  # what this script asks of its processes
    options = parser.parse_args()
    models = {"minilm": options.encoder, "smollm2": options.causal}
    if options.measure:
        texts = texts_of(options.texts)
        if CASES[options.measure].one_pass:
            training.PASS_TOKENS = math.inf
        spec = spec_of(CASES[options.measure], models, texts, options.tokens, options.steps + WARM)
        print(json.dumps(measure(spec)))
        return 0
    chosen = [name for name in CASES if any(fnmatch.fnmatch(name, pattern) for pattern in options.cases)]
    if not chosen:
        parser.error(f"no case is called {' or '.join(options.cases)}")
    found = {name: _run(name) for name in chosen}
    result = document(found, padding(texts_of(options.texts), models["minilm"], options.tokens))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "step_time.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "step_time.md").write_text(table(result))
    print(table(result))
    return 0


def _run(case: str) -> dict[str, Any]:
    """The case measured in a process of its own, with the words of this one."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    words = [sys.executable, __file__, *sys.argv[1:], "--measure", case]
    finished = subprocess.run(words, env={**os.environ, **one}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    print(case, f"{np.median(ratios(found, 'wall')):.3f}", file=sys.stderr, flush=True)
    return found


def texts_of(file: Path | None) -> list[str]:
    if file is not None:
        return file.read_text(encoding="utf-8").splitlines()
    texts: list[str] = load_source("vader")["text"].to_pylist()
    return texts


def spec_of(case: Case, models: dict[str, str], texts: list[str], tokens: int, steps: int) -> FitSpec:
    """A fine-tune of ``steps`` steps in one epoch, whose last weights are kept."""
    random = np.random.default_rng(0)
    drawn = random.choice(len(texts), size=steps * BATCH, replace=steps * BATCH > len(texts))
    train = Rows(
        tuple(f"r{i}" for i in range(len(drawn))), tuple(texts[i] for i in drawn), random.normal(size=len(drawn))
    )
    model = Model(name=models[case.model], adapter=case.adapter, max_tokens=tokens)
    settings = {"batch_size": BATCH, "epochs": 1, "min_epochs": 1, "workers": 1, "precision": case.precision}
    of_training = Training(**{**settings, **case.ours})
    return FitSpec(case.model, train, train.take(np.arange(0)), model, of_training, "variance", seed=0)


def measure(spec: FitSpec) -> dict[str, Any]:
    """Seconds and losses of each step on both sides; our step is all that a fine-tune does between two steps."""
    sides: dict[str, list[Clock]] = {"ours": [], "bare": []}
    losses: dict[str, list[float]] = {"ours": [], "bare": []}
    with Fit.alone(spec) as fit:
        plain = spec.training.model_copy(update={"gradient_checkpointing": False})
        dtype = resolve_precision(plain.precision, fit.device)
        bare = Bare(Predictor.create(spec.model, seed=spec.seed, scale=fit.scale), plain, dtype, fit.device)
        data = fit.train_rows
        batches = epoch_batches(len(data.ids), plain.batch_size, spec.seed, epoch=1)
        started = Clock.now(fit.device)

        def beside(fit: Fit, epoch_ended: bool) -> None:
            nonlocal started
            if epoch_ended:
                return
            ended, step = Clock.now(fit.device), len(losses["bare"])
            rows = batches[step]
            tokens, rate = [data.tokens[i] for i in rows], learning_rate_factor(step, len(batches), plain.warmup)
            begun = Clock.now(fit.device)
            losses["bare"].append(bare.step(tokens, data.targets[rows], rate))
            losses["ours"].append(fit.under_way.losses[-1])
            sides["ours"].append(ended - started)
            started = Clock.now(fit.device)
            sides["bare"].append(started - begun)

        fit.run(beside)
    clocks = {
        kind: {side: [getattr(one, kind) for one in spent[WARM:]] for side, spent in sides.items()}
        for kind in Clock._fields
    }
    return {"losses": losses, **clocks}


class Clock(NamedTuple):
    """Seconds on the wall, and those that the processor worked for this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls, device: torch.device) -> Clock:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, earlier: Clock) -> Clock:
        return Clock(self.wall - earlier.wall, self.cpu - earlier.cpu)


def ratios(found: dict[str, Any], kind: str) -> np.ndarray:
    """Ours over bare, step by step."""
    return np.array(found[kind]["ours"]) / np.array(found[kind]["bare"])


def padding(texts: list[str], model: str, tokens: int, ranks: int = 2) -> list[dict[str, Any]]:
    """Tokens of one epoch on ``ranks`` ranks, padding included, in all and on the rank that the others wait for.

    As the fine-tune deals them, on a processor (in passes) and on a GPU, and in the order in which they were drawn.
    """
    texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:600]]
    lengths = encode(load_tokenizer(resolve_model(model), None, model), texts, tokens).lengths
    rows = []
    for micro in (None, MICRO):
        for order, keys, overhead in (
            ("by length, in passes", lengths, training.PASS_TOKENS),
            ("by length", lengths, math.inf),
            ("as drawn", np.zeros_like(lengths), math.inf),
        ):
            shapes = [
                [len(own[part]) * int(lengths[own[part]].max(initial=0)) for own in ranks_of_piece]
                for batch in epoch_batches(len(texts), BATCH, seed=0, epoch=1)
                for ranks_of_piece in deal(batch, keys, ranks, micro)
                for part in passes(keys[ranks_of_piece[0]], overhead)
            ]
            rows.append(
                {
                    "micro_batch_size": micro,
                    "dealt": order,
                    "tokens": int(lengths.sum()),
                    "padded": sum(map(sum, shapes)),
                    "waited_for": ranks * sum(map(max, shapes)),
                }
            )
    return rows


def document(found: dict[str, Any], padded: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything measured, with the medians and quartiles of the ratios."""
    cases = {}
    for name, measured in found.items():
        spread = {kind: np.quantile(ratios(measured, kind), [0.5, 0.25, 0.75]).tolist() for kind in Clock._fields}
        named = {kind: dict(zip(("median", "low", "high"), three, strict=True)) for kind, three in spread.items()}
        cases[name] = {"ratios": named, "bound": CASES[name].bound, **measured}
    machine = f"{platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}"
    return {"machine": machine, "batch_size": BATCH, "cases": cases, "padding": padded}


def table(result: dict[str, Any]) -> str:
    """``document`` as Markdown."""
    lines = [
        "# Time of an optimiser step",
        "",
        "Command: `python benchmarks/finetune/step_time.py --output benchmarks/results`",
        f"One core of {result['machine']}; {result['batch_size']} texts of the default study a step, ZeRO-2 where "
        "nothing else is said.",
        "The bare loop does the plain step (no accumulation, no checkpointing of activations) in the same precision",
        "and pads all rows of a step to its longest; so does ours where it says one pass, and at ZeRO-3. Else a step",
        "of ours makes passes of rows alike in length, whose gradient is the same.",
        "Ratios: medians over the steps of the paired ratios, with their quartiles. The processor's seconds count;",
        "those on the wall include what else the machine does.",
        "",
        "| case | ours, ms | bare PyTorch, ms | ratio | on the wall | bound | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in result["cases"].items():
        ours, bare = (1e3 * float(np.median(case["cpu"][side])) for side in ("ours", "bare"))
        bound, verdict = CASES[name].note, ""
        if case["bound"] is not None:
            met = case["ratios"]["cpu"]["median"] <= case["bound"]
            bound, verdict = f"≤ {case['bound']:.2f}", "met" if met else "**missed**"
        cells = [name, f"{ours:.0f}", f"{bare:.0f}", *(_spread(case["ratios"][kind]) for kind in ("cpu", "wall"))]
        lines.append(f"| {' | '.join([*cells, bound, verdict])} |")
    lines += [
        "",
        "Theory: a forward pass is a third of a step in which all weights train, and half of one of adapters. A step "
        "that is accumulated",
        "or recomputes its activations has one more; the optimiser's own time makes the ratio smaller.",
        "",
        "## Padding on two ranks",
        "",
        "Tokens of one epoch of 600 texts over their tokens without padding: those computed in all, and twice those",
        "on the rank that the other waits for, pass by pass.",
        "",
        "| rows at a time | dealt | computed | waited for |",
        "|---|---|---|---|",
    ]
    for row in result["padding"]:
        computed, waited = row["padded"] / row["tokens"], row["waited_for"] / row["tokens"]
        lines.append(f"| {row['micro_batch_size'] or 'all'} | {row['dealt']} | {computed:.2f} | {waited:.2f} |")
    return "\n".join(lines) + "\n"


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


if __name__ == "__main__":
    sys.exit(main())
