"""Is anything lost? SIGKILL of a worker, of the node, of the driver, at seeded points of a fine-tune.

    python benchmarks/kill/kill.py --output benchmarks/results                  (ten points of each; half an hour)
    python benchmarks/kill/kill.py --output benchmarks/results --points 2 --kinds worker driver

Two workers on one machine; the default model is made here, of two layers and random weights. A point is a moment,
told from the files that the fine-tune writes, and how many such moments go before it:

    step        right after an optimiser step, while a checkpoint is written
    upload      while a checkpoint is copied to the storage
    commit      all of it is there, and Ray has not yet put it on its list
    evaluation  an epoch's steps are done, and its stop rows are being predicted
    save        while the finished model is written

``worker``: one of the two, in turn; Ray starts both again. ``node``: the Ray node with all its workers; an empty one
joins. ``driver``: the process that asked for the fine-tune; its Ray goes with it, and the same command is given again.
Then the model's predictions are compared with those of the same fine-tune undisturbed, and the epochs that were
committed before the kill must be in the curve with the seconds that they took then: nothing was done twice.
A run of this program that was cut off continues; changed code starts anew. Writes ``kill.json`` and ``kill.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))

from moments import MOMENTS, Place, Traces, family, kill, train_workers, wait_for

import ftrect_ray
from ftrect_ray.finetune.spec import FitSpec, Rows
from ftrect_ray.study import Model, Training, digest

CODE = Path(ftrect_ray.__file__).parent
KINDS = ("worker", "node", "driver")
TOLERANCE = 1e-6
END_SECONDS = 600.0
TRAIN, STOP, BATCH, EPOCHS = 48, 200, 8, 3
WORDS = ["the", "film", "was", "good", "bad", "dull", "great", "awful"]
WORDS += ["plot", "actor", "love", "hate", "it", "a", "not", "i"]
TINY = "tiny"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument("--points", type=int, default=10, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--moments", nargs="+", choices=list(MOMENTS), default=list(MOMENTS), help="in turn")
    parser.add_argument("--model", default=TINY, help="a Hugging Face model instead of the tiny one")
    parser.add_argument("--zero-stage", type=int, choices=(1, 2, 3), default=2)
    parser.add_argument("--checkpoint-steps", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "ftrect-kill")
    options = parser.parse_args()

    code = [path.read_text() for room in ("finetune", "predictor") for path in sorted((CODE / room).glob("*.py"))]
    settings = [
        options.model,
        options.zero_stage,
        options.checkpoint_steps,
        options.seed,
        *options.moments,
        digest(code),
    ]
    scratch = options.scratch / digest(settings)
    scratch.mkdir(parents=True, exist_ok=True)
    spec = make_spec(options, scratch)
    reference = undisturbed(spec, scratch)
    record = options.output / "kill.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    rows = known["points"] if known.get("settings") == settings else {}
    for kind in options.kinds:
        for point in range(options.points):
            key = f"{kind}-{point}"
            if key not in rows:
                rows[key] = one_point(kind, point, options, spec, reference, scratch / key)
                print(line(rows[key]), flush=True)
                write(options, settings, rows)
    write(options, settings, rows)
    wrong = [key for key, row in rows.items() if not row["as_undisturbed"]]
    print(f"{len(rows)} kills, {len(wrong)} with another result" + (": " + ", ".join(wrong) if wrong else ""))
    return int(bool(wrong))


# ------------------------------------------------------------------------------------------------ the fine-tune


def make_spec(options: argparse.Namespace, scratch: Path) -> FitSpec:
    random = np.random.default_rng(options.seed)
    value = {"good": 1, "great": 1, "love": 1, "bad": -1, "awful": -1, "hate": -1}
    texts = [" ".join(random.choice(WORDS, size=random.integers(2, 12))) for _ in range(TRAIN + STOP)]
    level = np.array([sum(value.get(word, 0) for word in text.split()) for text in texts])
    answers = 10 + 2 * level + random.normal(0, 0.5, len(texts))
    rows = Rows(tuple(f"r{i}" for i in range(len(texts))), tuple(texts), answers)
    model = tiny_model(scratch / "base") if options.model == TINY else options.model
    training = Training(
        workers=2,
        zero_stage=options.zero_stage,
        precision="fp32",
        batch_size=BATCH,
        epochs=EPOCHS,
        min_epochs=1,
        patience=EPOCHS,
        learning_rate=1e-2 if options.model == TINY else 5e-5,
        head_learning_rate=1e-2 if options.model == TINY else 1e-3,
        checkpoint_steps=options.checkpoint_steps,
        max_failures=3,
    )
    parts = [rows.take(np.arange(*bounds)) for bounds in ((0, TRAIN), (TRAIN, TRAIN + STOP))]
    return FitSpec(
        "kill", parts[0], parts[1], Model(name=str(model), max_tokens=16), training, "variance", options.seed
    )


def tiny_model(folder: Path) -> Path:
    """A BERT of two layers and 16 dimensions without dropout, and its tokenizer."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    sizes |= {"vocab_size": len(vocabulary), "max_position_embeddings": 32}
    config = BertConfig(**sizes, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertModel(config).save_pretrained(folder)
    return folder


def start(spec: FitSpec, place: Path, in_cluster: bool) -> subprocess.Popen[str]:
    place.mkdir(parents=True, exist_ok=True)
    (place / "spec").write_bytes(pickle.dumps(spec))
    command = [sys.executable, str(Path(__file__).with_name("victim.py"))]
    command += [str(place / name) for name in ("spec", "storage", "model")]
    command += ["--node", str(place / "node")] if in_cluster else []
    environment = {
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        **os.environ,
    }
    with (place / "log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)


def finished(process: subprocess.Popen[str], place: Path) -> None:
    """Wait for its end; its Ray processes go too."""
    processes = family(process.pid)
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        code = -1
    gone(processes + family(process.pid))
    if code:
        raise RuntimeError(f"the fine-tune in {place} ended with {code}:\n{(place / 'log').read_text()[-3000:]}")


def gone(processes: list[psutil.Process], patience: float = 5.0) -> None:
    """Ray's processes end with their driver; those that do not within ``patience`` seconds are killed."""
    _, left = psutil.wait_procs(processes, timeout=patience)
    kill(left)
    psutil.wait_procs(left, timeout=patience)


def outcome(spec: FitSpec, place: Path) -> tuple[np.ndarray, dict[str, Any]]:
    from ftrect_ray.predictor import Predictor

    folder = place / "model" / spec.name
    values, _ = Predictor.load(folder).predict([*spec.train.texts, *spec.stop.texts])
    return values, json.loads((folder / "fit.json").read_text())


def undisturbed(spec: FitSpec, scratch: Path) -> tuple[np.ndarray, dict[str, Any]]:
    place = scratch / "undisturbed"
    if not (place / "model" / spec.name).exists():
        finished(start(spec, place, in_cluster=False), place)
    return outcome(spec, place)


# ---------------------------------------------------------------------------------------------------- a point


def one_point(
    kind: str, point: int, options: argparse.Namespace, spec: FitSpec, reference: Any, place: Path
) -> dict[str, Any]:
    """Run, kill, let it end, compare."""
    random = np.random.default_rng([options.seed, KINDS.index(kind), point])
    moment = options.moments[point % len(options.moments)]
    steps = EPOCHS * (TRAIN // BATCH)
    times = {"save": 1, "evaluation": EPOCHS}.get(moment, EPOCHS + steps // options.checkpoint_steps - 2)
    occurrence = int(random.integers(1, times + 1))
    shutil.rmtree(place, ignore_errors=True)
    process = start(spec, place, in_cluster=kind == "node")
    traces = Traces(spec, place / "storage")
    ranks = [] if kind == "driver" else [point % spec.training.workers]
    if not wait_for(moment, occurrence, traces, lambda: process.poll() is None):
        finished(process, place)
        raise RuntimeError(f"{place}: the fine-tune ended before moment {moment!r} number {occurrence}")
    if kind == "worker":
        kill([train_workers(process.pid)[ranks[0]]])
    elif kind == "node":
        kill(family(json.loads((place / "node").read_text())["pid"]))
    else:
        processes = family(process.pid)
        kill(processes[:1])
    killed, before = time.monotonic(), traces.place()
    if kind == "driver":
        process.wait()
        gone(processes)
        process = start(spec, place, in_cluster=False)
    finished(process, place)
    row = compare(spec, reference, outcome(spec, place), before)
    left = [str(path) for path in [*traces.storage.glob("kill-*/*"), *traces.scratch("", rank="*")]]
    shutil.rmtree(place)
    return {
        "kind": kind + (f" (rank {ranks[0]})" if kind == "worker" else ""),
        "moment": f"{moment} {occurrence}",
        "committed": f"epoch {before.epochs + 1}, step {before.steps}" if before.epochs + before.steps else "nothing",
        "seconds": round(time.monotonic() - killed, 1),
        **row,
        "left": left,
    }


def compare(spec: FitSpec, reference: Any, now: Any, before: Place) -> dict[str, Any]:
    (wanted, calm), (values, result) = reference, now
    difference = float(np.abs(values - wanted).max())
    seconds = [epoch["seconds"] for epoch in result["curve"]][: before.epochs]
    curve = max(abs(a["stop_metric"] - b["stop_metric"]) for a, b in zip(calm["curve"], result["curve"], strict=True))
    kept = np.array_equal(seconds, before.seconds) and result["best_epoch"] == calm["best_epoch"]
    return {
        "difference": difference,
        "curve_difference": curve,
        "epochs_kept": before.epochs if kept else 0,
        "as_undisturbed": bool(difference <= TOLERANCE and kept),
    }


# ---------------------------------------------------------------------------------------------------- the table


def write(options: argparse.Namespace, settings: list[Any], rows: dict[str, dict[str, Any]]) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    content = {"settings": settings, "points": rows}
    (options.output / "kill.json").write_text(json.dumps(content, indent=1) + "\n")
    head = "| killed | moment | last checkpoint on the list | to the end, s | largest difference | epochs kept |"
    wrong = sum(not row["as_undisturbed"] for row in rows.values())
    worst = max((row["difference"] for row in rows.values()), default=0.0)
    text = [
        "# Kills",
        "",
        f"`python benchmarks/kill/kill.py --output benchmarks/results --points {options.points}` —"
        f" model {options.model}, two workers, ZeRO-{options.zero_stage}, fp32, {EPOCHS} epochs of {TRAIN // BATCH}"
        f" steps, a checkpoint every {options.checkpoint_steps} steps and after each epoch.",
        "",
        f"{len(rows)} kills; {wrong} with another result. Largest difference of a prediction from the undisturbed "
        f"run's: {worst:.1e} (goal {TOLERANCE:g}).",
        "",
        head,
        "|---|---|---|---|---|---|",
        *(line(row) for row in rows.values()),
    ]
    (options.output / "kill.md").write_text("\n".join(text) + "\n")


def line(row: dict[str, Any]) -> str:
    shown = (
        row["kind"],
        row["moment"],
        row["committed"],
        row["seconds"],
        f"{row['difference']:.1e}",
        row["epochs_kept"],
    )
    return "| " + " | ".join(str(cell) for cell in shown) + " |"


if __name__ == "__main__":
    sys.exit(main())
