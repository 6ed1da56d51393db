"""What a choice among many models costs the interval, where the labels that choose also rectify.

    .venv/bin/python benchmarks/estimators/selection.py --output benchmarks/results     (two minutes on one core)

Models that saw no label, all equally good, and so the hardest case: any that looks best does so by luck. The one with
the least variance of its errors on the labels is rectified by the same labels. Writes ``selection.json`` and
``selection.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ftrect_ray.estimators import mean
from ftrect_ray.storage import RunStorage

LABELS, CANDIDATES, TEXTS = (100, 300), (1, 3, 20), 2_000
#: Correlation of each model with the answers; their errors are independent of each other.
CORRELATION = 0.7
SIMULATIONS, ALPHA = 20_000, 0.05


def simulated(n: int, candidates: int, simulations: int, seed: int) -> dict[str, float]:
    """Share of intervals that hold the mean, with its Monte-Carlo error, and their mean length over the first model's.

    Parameters
    ----------
    n : int
        Labels.
    candidates : int
        Models among which the labels choose.
    """
    rng = np.random.default_rng([seed, n, candidates])
    spread = np.sqrt(1 - CORRELATION**2)
    hits, lengths, alone = 0, 0.0, 0.0
    for _ in range(simulations):
        y = rng.exponential(size=n) - 1
        models = CORRELATION * y[:, None] + spread * rng.normal(size=(n, candidates))
        texts = CORRELATION * (rng.exponential(size=TEXTS) - 1) + spread * rng.normal(size=TEXTS)
        best = int(np.argmin(np.var(y[:, None] - models, axis=0)))
        low, high = np.asarray(mean(y, models[:, best], texts, alpha=ALPHA).interval)
        hits += bool(low <= 0 <= high)
        lengths += float(high - low)
        first_low, first_high = np.asarray(mean(y, models[:, 0], texts, alpha=ALPHA).interval)
        alone += float(first_high - first_low)
    share = hits / simulations
    return {
        "labels": n,
        "candidates": candidates,
        "simulations": simulations,
        "coverage": share,
        "coverage_error": float(np.sqrt(share * (1 - share) / simulations)),
        "length_ratio": lengths / alone,
    }


def table(rows: list[dict[str, float]]) -> str:
    lines = [
        "# What a choice among models costs the interval",
        "",
        "Command: `python benchmarks/estimators/selection.py --output benchmarks/results`",
        "",
        f"Skewed answers, models of correlation {CORRELATION:g} with them, all equally good; the labels that choose",
        "the one with the least variance of its errors also rectify it. "
        f"{int(rows[0]['simulations']):,} simulations, 95 % intervals.",
        "",
        "| labels | models | coverage | length over that of a model named beforehand |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['labels']} | {row['candidates']} | {100 * row['coverage']:.1f} ± {100 * row['coverage_error']:.1f} % "
        f"| {row['length_ratio']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = [simulated(n, many, options.simulations, options.seed) for n in LABELS for many in CANDIDATES]
    RunStorage.open(options.output).write_json(rows, "selection.json")
    (options.output / "selection.md").write_text(table(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
