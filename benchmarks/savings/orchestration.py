"""What running pilots under Ray Tune costs beside the pilots themselves.

    python benchmarks/savings/orchestration.py --output benchmarks/results          (10 minutes on two cores)

Full fine-tunes of MiniLM on the default data, each of ten seconds or more, two at a time: one sweep of all sizes, and
a ramp-up that climbs to the end, size after size. Orchestration is 1 − (the pilots' own seconds / slots) /
wall seconds: starting workers, importing, loading what Tune needs, and slots that stand empty at the end. The goal is
less than 20 %. Writes ``orchestration.json`` and ``orchestration.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftrect_ray.cluster import cluster_session
from ftrect_ray.finetune.pilot import PilotResult, PilotSpec
from ftrect_ray.finetune.pilot_plan import plan_all
from ftrect_ray.finetune.pilots import Pace, refuse_failed, run_pilots
from ftrect_ray.pipeline.context import label_budget
from ftrect_ray.study_file import parse_study
from ftrect_ray.tables import load_table

STUDY = """
study: orchestration
data: {source: vader, text: text, label: rating, id: id, scale: [-4, 4]}
labels: 900
"""
SLOTS, GOAL = 2, 0.20


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[150, 200, 250])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    rows = []
    for scheme in ("shared", "ramp-up"):
        row = measured(scheme, options.sizes, options.seeds)
        rows.append(row)
        print(line(row), flush=True)
    if options.output is not None:
        write(options.output, rows, f"--sizes {' '.join(map(str, options.sizes))} --seeds {options.seeds}")
    return 0


def measured(scheme: str, sizes: Sequence[int], seeds: int) -> dict[str, Any]:
    """Run all pilots of ``sizes`` once, in a folder of their own."""
    study = parse_study(STUDY, [f"pilots={{scheme: {scheme}, sizes: {list(sizes)}, seeds: {seeds}}}"])
    specs = plan_all(label_budget(study, load_table(study.data, study.labels, study.seed).table), study)
    pace = Pace()
    with tempfile.TemporaryDirectory() as folder, cluster_session("local"):

        def following(known: Sequence[PilotResult]) -> list[PilotSpec]:
            """To the end, whatever the law would say: what is measured here is the climbing."""
            return [spec for spec in specs if spec.size == dict(enumerate(sizes)).get(len(known) // seeds)]

        results = run_pilots(
            specs,
            following if scheme == "ramp-up" else None,
            storage=folder,
            slots=SLOTS,
            max_failures=0,
            pace=pace,
        )
    refuse_failed(results)
    seconds = [result.seconds or 0.0 for result in results]
    return {
        "scheme": scheme,
        "pilots": len(results),
        "shortest": min(seconds),
        "median": float(np.median(seconds)),
        "wall": pace.wall,
        "ideal": pace.ideal,
        "orchestration": pace.orchestration,
        "load": os.getloadavg()[1],
    }


def line(row: dict[str, Any]) -> str:
    return (
        f"| {row['scheme']} | {row['pilots']} | {row['shortest']:.0f} | {row['median']:.0f} | {row['wall']:.0f} "
        f"| {row['ideal']:.0f} | {100 * row['orchestration']:.0f} % |"
    )


def write(folder: Path, rows: Sequence[dict[str, Any]], arguments: str) -> None:
    """The table with its command, and the numbers."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    load = max(row["load"] for row in rows)
    text = f"""# Orchestration of the pilots

    python benchmarks/savings/orchestration.py --output benchmarks/results {arguments}

{SLOTS} pilots at a time, full fine-tunes of MiniLM on the default data. Orchestration is 1 − ideal/wall, ideal being
the pilots' own seconds divided by {SLOTS}; the goal is less than {100 * GOAL:.0f} %. {machine}; a load average of up to
{load:.0f} when a scheme had ended, {SLOTS} of it these pilots: what else ran lengthens pilots and orchestration alike.

| scheme | pilots | shortest, s | median, s | wall, s | ideal, s | orchestration |
|---|---|---|---|---|---|---|
"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orchestration.md").write_text(text + "\n".join(map(line, rows)) + "\n", encoding="utf-8")
    (folder / "orchestration.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
