"""Do 95 % intervals cover 95 %? Simulations of every target × design × n × predictor × outcome.

    python benchmarks/coverage/run.py --output benchmarks/results                     (the whole grid; hours)
    python benchmarks/coverage/run.py --output benchmarks/results --cells 'mean-split-*' --simulations 2000
    python benchmarks/coverage/run.py --output benchmarks/results --budget-minutes 60  (as many as fit, balanced)

Cells are simulated in turn, a chunk of each, on all cores; every finished chunk is a line of the scratch file, so a
killed run continues where it was. Seeds come from the cells' names and the chunk: the same on every machine, in any
order. The scratch file is named after the code of the estimators and of this benchmark, without docstrings: results
of different code never mix. Writes ``coverage.json`` (every cell) and ``coverage.md``.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from fnmatch import fnmatch
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cells import Cell, grid, simulate
from coverage_table import document, merged, table

ROOT = Path(__file__).parents[2]
CHUNK = 200


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument("--simulations", type=int, default=10_000, help="of each cell")
    parser.add_argument("--cells", nargs="+", default=["*"], metavar="PATTERN", help="such as 'mean-split-*-good-*'")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="stop then, with what there is")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="simulations drawn at once; part of the seed")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "ftrect-coverage", help="folder of the chunks"
    )
    options = parser.parse_args(arguments)
    chosen = [cell for cell in grid() if any(fnmatch(cell.name, pattern) for pattern in options.cells)]
    if not chosen:
        parser.error(f"no cell is called {' or '.join(options.cells)}")
    cells = list(dict.fromkeys(both for cell in chosen for both in (cell.classical, cell)))
    options.scratch.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.scratch / f"{code_digest()}-{options.chunk}.jsonl")
    chunks = -(-options.simulations // options.chunk)
    simulate_all(cells, chunks, journal, options)
    results = merged(line for line in journal.lines.values() if line["chunk"] < chunks)
    found = document(chosen, results)
    options.output.mkdir(parents=True, exist_ok=True)
    _write(options.output / "coverage.json", json.dumps(found, indent=1) + "\n")
    _write(options.output / "coverage.md", table(found))
    print(f"{options.output / 'coverage.md'} and coverage.json", file=sys.stderr)
    return 0


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    part.replace(path)


class Journal:
    """Finished chunks, one JSON line each; only this process writes. A line cut off by a kill is dropped."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[tuple[str, int], dict[str, Any]] = {}
        whole = 0
        if path.exists():
            for raw in path.read_bytes().splitlines(keepends=True):
                if not raw.endswith(b"\n"):
                    break
                line = json.loads(raw)
                self.lines[line["cell"], line["chunk"]] = line
                whole += len(raw)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def add(self, line: dict[str, Any]) -> None:
        """Keep one chunk."""
        self.lines[line["cell"], line["chunk"]] = line
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._file.flush()


def code_digest() -> str:
    """Of the estimators' code and this benchmark's, docstrings and comments aside."""
    digest = hashlib.sha256()
    paths = [*(ROOT / "ftrect_ray" / "estimators").glob("*.py"), *Path(__file__).parent.glob("*.py")]
    for path in sorted(paths):
        if path.name in ("run.py", "coverage_table.py", "__init__.py"):
            continue  # they change no number
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [  # type: ignore[attr-defined]
                    part for part in body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
                ]
        digest.update(path.name.encode() + ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def simulate_all(cells: list[Cell], chunks: int, journal: Journal, options: argparse.Namespace) -> None:
    """Every missing chunk, a chunk of each cell in turn, until all are there or the time is up."""
    todo = [(cell, chunk) for chunk in range(chunks) for cell in cells if (cell.name, chunk) not in journal.lines]
    for library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[library] = "1"  # for the workers, which load NumPy afresh: one core each
    progress = Progress(todo, journal, options.workers)
    stop = time.monotonic() + 60 * options.budget_minutes
    waiting: Iterator[tuple[Cell, int]] = iter(todo)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        running: set[Future[dict[str, Any]]] = set()
        while True:
            room = 2 * options.workers - len(running) if time.monotonic() < stop else 0
            running |= {pool.submit(simulate, cell, chunk, options.chunk) for cell, chunk in islice(waiting, room)}
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                journal.add(future.result())
                progress.show(future.result())
    progress.end()


class Progress:
    """How much is left, in chunks and in hours: from the seconds of each cell, else of its target."""

    def __init__(self, todo: list[tuple[Cell, int]], journal: Journal, workers: int) -> None:
        self._left: dict[str, int] = defaultdict(int)
        self._workers = workers
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._shown = time.monotonic()
        for cell, _ in todo:
            self._left[cell.name] += 1
        self._total = len(todo)
        for line in journal.lines.values():
            self._keep(line)

    def _keep(self, line: dict[str, Any]) -> None:
        for key in (line["cell"], line["cell"].split("-")[0], ""):
            self._seconds[key].append(line["seconds"])

    def show(self, line: dict[str, Any]) -> None:
        """Count a chunk; a line of text every five seconds."""
        self._keep(line)
        self._left[line["cell"]] -= 1
        if time.monotonic() - self._shown >= 5:
            self._shown = time.monotonic()
            self._print()

    def _print(self) -> None:
        left = sum(self._left.values())
        seconds = sum(self._typical(name) * count for name, count in self._left.items()) / self._workers
        text = f"coverage: {self._total - left} of {self._total} chunks, about {seconds / 60:.0f} min left"
        print(text, end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)

    def _typical(self, name: str) -> float:
        for key in (name, name.split("-")[0], ""):
            if self._seconds[key]:
                return sum(self._seconds[key]) / len(self._seconds[key])
        return 0.0

    def end(self) -> None:
        """The last line."""
        self._print()


if __name__ == "__main__":
    sys.exit(main())
