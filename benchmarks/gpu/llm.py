"""Throughput, memory and model FLOP utilisation of fine-tuning a causal LLM of 1.3 billion random weights on GPUs.

    python benchmarks/gpu/llm.py --output benchmarks/results                     (half an hour on one GPU)
    python benchmarks/gpu/llm.py --output DIR --device cpu --model tiny          (checks the script, says nothing)

Nothing is downloaded: model and tokenizer are made in a temporary folder. Every setting runs in processes of its own,
one a GPU, through the package's own training loop; the bare PyTorch loop does the same step on one GPU. Without a
GPU the script says so and exits with 3. Writes ``gpu.json`` and ``gpu.md``.

Model FLOP utilisation is what the model needs, over what the GPUs could do in the same time (Chowdhery et al., 2022,
'PaLM', appendix B). With N numbers in the model's matrices (its embeddings are looked up, and it has no output layer),
L layers, h numbers in all heads together, s tokens a text, a token needs

    full    6 N + 12 L h s      forward 2 N, backward 4 N; attention 4 L h s and twice that
    LoRA    4 N + 12 L h s      no gradient of the frozen matrices; the adapters' own work is left out

Padding and what is computed twice (checkpointing, accumulation) do not count as needed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from ftrect_ray.finetune.batching import epoch_batches
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.finetune.training import Fit, learning_rate_factor
from ftrect_ray.predictor import Predictor, Scale
from ftrect_ray.sizing import Cluster
from ftrect_ray.sizing.planner import Choice, Subject, plan_training
from ftrect_ray.study import Model, Training

sys.path.insert(0, str(Path(__file__).parents[1] / "finetune"))
from bare import Bare

NO_GPU = 3
WARM = 3
GIB = 2**30
FORECAST_WITHIN = 0.10
UTILISATION = 0.45

#: Dense bf16 FLOP/s of a GPU, by what its name contains (NVIDIA's data sheets); the first that fits counts.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Size:
    """A model to make, and what is measured with it."""

    config: dict[str, Any]
    tokens: int
    micro_batches: tuple[int, ...]


SIZES = {
    "1.3b": Size(
        {
            "vocab_size": 32_000,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 20,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 2048,
        },
        tokens=512,
        micro_batches=(8, 32),
    ),
    "tiny": Size(
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        },
        tokens=16,
        micro_batches=(2,),
    ),
}


@dataclass(frozen=True)
class Setting:
    """One measurement. ``shortest``: the texts' lengths are uniform from that share of the longest to the longest."""

    side: Literal["ours", "bare"]
    adapter: Literal["full", "lora"]
    zero_stage: Literal[2, 3]
    checkpointing: bool
    micro_batch: int
    shortest: float = 1.0

    @property
    def name(self) -> str:
        """For example ``ours full zero-2 checkpointed x8``."""
        words = [self.side, self.adapter, *([f"zero-{self.zero_stage}"] if self.side == "ours" else [])]
        words += ["checkpointed"] * self.checkpointing + ["padded"] * (self.shortest < 1)
        return " ".join([*words, f"x{self.micro_batch}"])


def settings(micro_batches: tuple[int, ...]) -> Iterator[Setting]:
    """What is measured: everything without padding, and ours with padding at the first micro-batch."""
    for adapter in ("full", "lora"):
        for micro_batch in micro_batches:
            for checkpointing in (False, True):
                for stage in (2, 3):
                    yield Setting("ours", adapter, stage, checkpointing, micro_batch)
                yield Setting("bare", adapter, 2, checkpointing, micro_batch)
        for side in ("ours", "bare"):
            yield Setting(side, adapter, 2, False, micro_batches[0], shortest=0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder of the table and its JSON")
    parser.add_argument("--model", choices=SIZES, default="1.3b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gpus", type=int, help="default: all; on a CPU, processes")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each setting")
    parser.add_argument("--settings", nargs="+", default=["*"], metavar="PATTERN", help="'ours full*', say")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 TFLOP/s of one GPU, where its name is not known")
    parser.add_argument("--worker", nargs=4, metavar="X", help=argparse.SUPPRESS)  # task, rank, world, store
    options = parser.parse_args()
    if options.worker:
        task, rank, world, store = options.worker
        return work(json.loads(Path(task).read_text()), int(rank), int(world), store)
    if options.output is None:
        parser.error("--output is needed")
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("error: torch finds no GPU here, so nothing is measured", file=sys.stderr)
        return NO_GPU
    machine = torch.cuda.get_device_name() if on_gpu else "CPU"
    named = next((peak for name, peak in PEAKS.items() if name in machine), None)
    peak = options.peak_tflops * 1e12 if options.peak_tflops else named
    if on_gpu and peak is None:
        parser.error(f"the peak of {machine!r} is not known: give --peak-tflops")
    gpus = options.gpus or (torch.cuda.device_count() if on_gpu else 1)
    size = SIZES[options.model]
    every = list(settings(size.micro_batches))
    chosen = [one for one in every if any(fnmatch.fnmatch(one.name, pattern) for pattern in options.settings)]
    if not chosen:
        parser.error(
            f"no setting is called {' or '.join(options.settings)}; there are: {', '.join(s.name for s in every)}"
        )
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = make_model(size, Path(place) / "model", "cuda" if on_gpu else "cpu")
        for setting in chosen:
            world = gpus if setting.side == "ours" else 1
            task = {"setting": asdict(setting), "model": str(folder), "device": options.device}
            measured = run({**task, "tokens": size.tokens, "steps": options.steps + WARM}, world, Path(place))
            rows.append(row(setting, measured, size, world, peak, folder))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    result = {"machine": machine, "gpus": gpus, "model": options.model, "peak_flops": peak, "rows": rows}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "gpu.md").write_text(table(result))
    print(table(result))
    return 0


# --------------------------------------------------------------------------------------------- what is trained


def make_model(size: Size, folder: Path, device: str) -> Path:
    """A Llama with random weights in bf16, and a tokenizer of as many words."""
    words = ["<unk>", "</s>", *(f"w{i}" for i in range(size.config["vocab_size"] - 2))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        model_max_length=size.config["max_position_embeddings"],
    ).save_pretrained(folder)
    torch.manual_seed(0)
    with torch.device(device):
        LlamaModel(LlamaConfig(**size.config, dtype="bfloat16")).bfloat16().save_pretrained(folder)
    return folder


def spec_of(task: dict[str, Any], world: int) -> FitSpec:
    """A fine-tune of ``steps`` steps in one epoch on random words."""
    setting, tokens = Setting(**task["setting"]), task["tokens"]
    batch, random = setting.micro_batch * world, np.random.default_rng(0)
    n = task["steps"] * batch
    lengths = random.integers(round(setting.shortest * tokens), tokens + 1, size=n)
    words = 2 + random.integers(0, 50, size=(n, tokens))
    texts = tuple(" ".join(f"w{i - 2}" for i in line[:length]) for line, length in zip(words, lengths, strict=True))
    train = Rows(tuple(f"r{i}" for i in range(n)), texts, random.normal(size=n))
    training = Training(
        workers=world,
        zero_stage=setting.zero_stage,
        gradient_checkpointing=setting.checkpointing,
        batch_size=batch,
        epochs=1,
        min_epochs=1,
        precision="bf16",
        learning_rate=1e-5,
    )
    model = model_of(task["model"], setting, tokens)
    return FitSpec("benchmark", train, train.take(np.arange(0)), model, training, "variance", seed=0)


def model_of(folder: str, setting: Setting, tokens: int) -> Model:
    return Model(name=folder, adapter=setting.adapter, max_tokens=tokens)


# ----------------------------------------------------------------------------------------------- in a process


def run(task: dict[str, Any], world: int, place: Path) -> dict[str, Any]:
    """The task in ``world`` processes; what the first answers, or ``{"error": …}``."""
    store = Path(tempfile.mkdtemp(dir=place))
    (store / "task").write_text(json.dumps(task))
    processes = []
    for rank in range(world):
        words = [sys.executable, __file__, "--worker", str(store / "task"), str(rank), str(world), str(store / "store")]
        environment = {**os.environ, "LOCAL_RANK": str(rank)}
        if task["device"] == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        processes.append(subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in processes]
    answer = store / "answer"
    if answer.exists():
        found: dict[str, Any] = json.loads(answer.read_text())
        return found
    return {"error": f"exit codes {codes}"}


def work(task: dict[str, Any], rank: int, world: int, store: str) -> int:
    """One rank. Writes seconds and real tokens of each step, and the largest allocation, beside the task."""
    on_gpu = task["device"] == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world
    )
    spec, setting = spec_of(task, world), Setting(**task["setting"])
    measure = _ours if setting.side == "ours" else _bare
    try:
        found = measure(spec, device)
    except torch.OutOfMemoryError:
        found = {"error": "out of memory"}
    if rank == 0:
        Path(store).with_name("answer").write_text(json.dumps(found))
    if "error" in found:
        os._exit(0)  # the other ranks wait for this one and cannot be told
    dist.destroy_process_group()
    return 0


def _ours(spec: FitSpec, device: torch.device) -> dict[str, Any]:
    with Fit(spec, device) as fit:
        lengths = fit.train_rows.lengths
        stopwatch = Stopwatch(device)
        fit.run(lambda fit, epoch_ended: None if epoch_ended else stopwatch())
        census = _census(fit.predictor)
    return {**stopwatch.answer(spec, lengths), **census}


def _bare(spec: FitSpec, device: torch.device) -> dict[str, Any]:
    predictor = Predictor.create(spec.model, seed=spec.seed, scale=Scale.of(spec.train.answers))
    encoded = predictor.encode(spec.train.texts)
    targets = torch.from_numpy((spec.train.answers - predictor.scale.center) / predictor.scale.spread)
    bare = Bare(predictor, spec.training, torch.bfloat16, device)
    batches = epoch_batches(len(spec.train), spec.training.batch_size, spec.seed, epoch=1)
    stopwatch = Stopwatch(device)
    for step, rows in enumerate(batches):
        rate = learning_rate_factor(step, len(batches), spec.training.warmup)
        bare.step([encoded.tokens[i] for i in rows], targets[rows], rate)
        stopwatch()
    return {**stopwatch.answer(spec, encoded.lengths), **_census(predictor)}


def _census(predictor: Predictor) -> dict[str, int]:
    """Numbers in the model's matrices: without the embeddings, norms, adapters and readout."""
    embeddings: Any = predictor.base.get_input_embeddings()
    counted = [
        getattr(parameter, "ds_numel", parameter.numel())  # ds_numel: whole, under ZeRO-3
        for name, parameter in predictor.base.named_parameters()
        if parameter is not embeddings.weight and "lora_" not in name and "norm" not in name
    ]
    return {"matrices": sum(counted)}


class Stopwatch:
    """Seconds between its calls, all work on the device done; and the most memory that was allocated meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.last = self._now()

    def __call__(self) -> None:
        now = self._now()
        self.seconds.append(now - self.last)
        self.last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def answer(self, spec: FitSpec, lengths: np.ndarray) -> dict[str, Any]:
        batches = epoch_batches(len(lengths), spec.training.batch_size, spec.seed, epoch=1)
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        tokens = [int(lengths[rows].sum()) for rows in batches]
        return {"seconds": self.seconds[WARM:], "tokens": tokens[WARM:], "peak_bytes": peak}


# ------------------------------------------------------------------------------------------------- the results


def row(
    setting: Setting, measured: dict[str, Any], size: Size, world: int, peak: float | None, folder: Path
) -> dict[str, Any]:
    """What was measured of a setting, and what follows from it."""
    found = {**asdict(setting), "world": world, **measured}
    if setting.side == "ours":
        found["forecast_bytes"] = forecast(setting, size, world, folder)
    if "error" in measured:
        return found
    rate = sum(measured["tokens"]) / sum(measured["seconds"])
    found |= {"tokens_per_second": rate, "step_seconds": float(np.median(measured["seconds"]))}
    needed = flops_per_token(setting.adapter, measured["matrices"], size)
    found["flops_per_token"] = needed
    found["utilisation"] = rate * needed / (peak * world) if peak else None
    return found


def flops_per_token(adapter: str, matrices: int, size: Size) -> int:
    """See the head of this file.

    >>> flops_per_token("full", 100, SIZES["tiny"]) == 6 * 100 + 12 * 2 * 32 * 16
    True
    """
    config = size.config
    attention = 12 * config["num_hidden_layers"] * config["hidden_size"] * size.tokens
    return (6 if adapter == "full" else 4) * matrices + attention


def forecast(setting: Setting, size: Size, world: int, folder: Path) -> int:
    """The planner's bytes of one GPU, as PyTorch counts them: without its reserve for what PyTorch does not count."""
    subject = Subject(model_of(str(folder), setting, size.tokens), "bf16")
    roomy = Cluster(gpus=world, gpus_per_node=world, gpu_bytes=2**50, host_bytes=None)
    choice = Choice(setting.zero_stage, "none", setting.checkpointing)
    plan = plan_training(subject, roomy, setting.micro_batch * world, choice)
    return int(plan.best.gpu_peak.bytes)


def table(result: dict[str, Any]) -> str:
    """The results as Markdown; the goals first."""
    lines = [
        "# Fine-tuning a causal LLM on GPUs",
        "",
        f"Command: `python benchmarks/gpu/llm.py --output benchmarks/results --model {result['model']}`",
        f"{result['gpus']} × {result['machine']}, bf16; random weights, {SIZES[result['model']].tokens} tokens a text.",
    ]
    if result["peak_flops"] is None:
        lines += ["", "**Not on a GPU: this checks the script, and says nothing of speed or memory.**"]
    else:
        lines.append(
            f"Model FLOP utilisation: of {result['peak_flops'] / 1e12:.0f} TFLOP/s a GPU; formula in the script."
        )
        lines += ["", "| goal | bound | measured | |", "|---|---|---|---|", *_goals(result["rows"])]
    lines += [
        "",
        "| weights | ZeRO | checkpointing | texts at a time | padding | tokens/s | step, ms | utilisation | peak, GiB "
        "| forecast, GiB | error | rate to bare |",
        "|" + "---|" * 12,
    ]
    for found in result["rows"]:
        zero = f"{found['zero_stage']}" if found["side"] == "ours" else "bare"
        padded = "no" if found["shortest"] == 1 else f"lengths from {found['shortest']:.0%}"
        cells = [found["adapter"], zero, "yes" if found["checkpointing"] else "no", str(found["micro_batch"]), padded]
        if "error" in found:
            cells += [found["error"], *[""] * 6]
        else:
            cells += [f"{found['tokens_per_second']:,.0f}", f"{1e3 * found['step_seconds']:.1f}"]
            cells.append("" if found["utilisation"] is None else f"{found['utilisation']:.1%}")
            cells.append(_gib(found["peak_bytes"]))
            cells += [_gib(found.get("forecast_bytes")), _signed(_error(found)), _to_bare(found, result["rows"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _goals(rows: list[dict[str, Any]]) -> Iterator[str]:
    errors = [error for found in rows if (error := _error(found)) is not None]
    if errors:
        worst = max(errors, key=abs)
        yield _goal(
            "forecast of the peak memory, the worst",
            f"± {FORECAST_WITHIN:.0%}",
            f"{worst:+.1%}",
            abs(worst) <= FORECAST_WITHIN,
        )
    full = [
        found["utilisation"]
        for found in rows
        if found["side"] == "ours" and found["adapter"] == "full" and "utilisation" in found
    ]
    if full:
        best = max(full)
        yield _goal(
            "model FLOP utilisation, full, the best", f"≥ {UTILISATION:.0%}", f"{best:.1%}", best >= UTILISATION
        )


def _goal(what: str, bound: str, measured: str, met: bool) -> str:
    return f"| {what} | {bound} | {measured} | {'met' if met else '**missed**'} |"


def _error(found: dict[str, Any]) -> float | None:
    """Of the forecast, relative to what was measured; padded texts are not what is forecast."""
    if found.get("peak_bytes") is None or "forecast_bytes" not in found or found["shortest"] < 1:
        return None
    return float(found["forecast_bytes"] / found["peak_bytes"] - 1)


def _to_bare(found: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Tokens a second and GPU, over those of the bare loop."""
    same = ("adapter", "checkpointing", "micro_batch", "shortest")
    for other in rows:
        twin = other["side"] == "bare" and all(other[key] == found[key] for key in same) and "error" not in other
        if found["side"] == "ours" and twin:
            return f"{found['tokens_per_second'] / found['world'] / other['tokens_per_second']:.3f}"
    return ""


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"


def _signed(share: float | None) -> str:
    return "" if share is None else f"{share:+.1%}"


if __name__ == "__main__":
    sys.exit(main())
