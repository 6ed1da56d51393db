"""The default study under ten seeds: does the interval cover, and how short is it?

    make bench                                            (about an hour on two cores)
    .venv/bin/python benchmarks/ten_seeds.py --output benchmarks/results [--seeds 7-16] [--set key=value]

Each seed draws its own 600 labelled rows from the 23,703 rated texts; the mean over all of them, which no stage
sees, is the truth. A seed that is done is not run again. Writes ``ten_seeds.json`` and ``ten_seeds.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scipy.stats import binom

STUDY = Path(__file__).parents[1] / "ftrect_ray" / "default_study.yaml"
STAGES = ("tables", "pilot", "allocate", "finetune", "predict", "rectify", "report")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument("--seeds", default="7-16", help="first-last")
    parser.add_argument(
        "--runs", type=Path, default=Path(tempfile.gettempdir()) / "ftrect-ten-seeds", help="folder of the runs"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    first, last = (int(part) for part in options.seeds.split("-"))
    rows = [run(seed, options.runs, options.set) for seed in range(first, last + 1)]
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "ten_seeds.json").write_text(json.dumps(rows, indent=1) + "\n")
    (options.output / "ten_seeds.md").write_text(table(rows, options.set))
    print(table(rows, options.set))
    return 0


def run(seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """One study in a process of its own, and what it found."""
    place = folder / f"seed-{seed}"
    words = [sys.executable, "-m", "ftrect_ray", "run", str(STUDY), "-o", str(place), "--set", f"seed={seed}"]
    subprocess.run(
        [*words, *(word for pair in overrides for word in ("--set", pair))], check=True, stdout=subprocess.DEVNULL
    )
    estimate, record = (json.loads((place / name).read_text()) for name in ("estimate.json", "run.json"))
    truth = json.loads((place / "truth.json").read_text())["value"]
    stages = record["stages"]
    return {
        "seed": seed,
        "truth": truth,
        **{
            key: estimate[key]
            for key in ("design", "value", "std_error", "interval", "lam", "effective_n", "interval_ratio")
        },
        "covers": covers(estimate, truth),
        "classical_covers": covers(estimate["classical"], truth),
        "naive_covers": covers(estimate["naive"], truth),
        "naive_value": estimate["naive"]["value"],
        "classical_value": estimate["classical"]["value"],
        "seconds": {name: stages[name]["seconds"] for name in STAGES if name in stages},
        "cpu_seconds": {name: stages[name]["cpu_seconds"] for name in STAGES if name in stages},
        "model_seconds": {name: stages[name].get("model_seconds", 0.0) for name in STAGES if name in stages},
        "peak_bytes": max(stage["peak_bytes"] for stage in stages.values()),
    }


def covers(part: dict[str, Any], truth: float) -> bool:
    low, high = part["interval"]
    return bool(low <= truth <= high)


def table(rows: list[dict[str, Any]], overrides: list[str]) -> str:
    """The rows as Markdown, and what ten seeds can and cannot say."""
    changed = "".join(f" --set {override}" for override in overrides)
    lines = [
        "# The default study under ten seeds",
        "",
        f"Command: `python benchmarks/ten_seeds.py --output benchmarks/results{changed}`",
        f"Truth (mean of all rated texts): {rows[0]['truth']:.4f}",
        "",
        "| seed | design | rectified | 95 % interval | covers | classical | covers "
        "| model alone | covers | length ratio | worth labels | minutes |",
        "|" + "---|" * 12,
    ]
    for row in rows:
        low, high = row["interval"]
        marks = {key: "yes" if row[key] else "**no**" for key in ("covers", "classical_covers", "naive_covers")}
        lines.append(
            f"| {row['seed']} | {row['design']} | {row['value']:.4f} | [{low:.4f}, {high:.4f}] | {marks['covers']} | "
            f"{row['classical_value']:.4f} | {marks['classical_covers']} | "
            f"{row['naive_value']:.4f} | {marks['naive_covers']} | "
            f"{row['interval_ratio']:.3f} | {row['effective_n']:.0f} | {sum(row['seconds'].values()) / 60:.1f} |"
        )
    n, hits = len(rows), sum(row["covers"] for row in rows)
    ratio = statistics.mean(row["interval_ratio"] for row in rows)
    worth = statistics.mean(row["effective_n"] for row in rows)
    errors = [(row["value"] - row["truth"]) / row["std_error"] for row in rows]
    rms = statistics.fmean(error**2 for error in errors) ** 0.5
    lines += [
        "",
        f"Covered: {hits} of {n}. An honest 95 % interval covers {hits} or fewer of {n} with probability "
        f"{binom.cdf(hits, n, 0.95):.3f}.",
        f"Mean interval length, rectified / classical: {ratio:.3f}; mean worth: {worth:.0f} labels.",
        f"Root mean square of the standardised errors: {rms:.2f} (1 is honest).",
        f"Largest resident memory of all processes: {max(row['peak_bytes'] for row in rows) / 2**30:.2f} GiB.",
        "",
        "| stage | seconds | CPU seconds | seconds of the model itself |",
        "|---|---|---|---|",
    ]
    for name in STAGES:
        if name in rows[0]["seconds"]:
            cells = (
                statistics.median(row[key].get(name, 0.0) for row in rows)
                for key in ("seconds", "cpu_seconds", "model_seconds")
            )
            lines.append(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    lines.append("")
    lines.append("Medians over the seeds. Model seconds: those in which the model computed, averaged over the workers.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
