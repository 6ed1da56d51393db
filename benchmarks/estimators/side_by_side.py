"""Speed and memory of the estimators, beside ppi_py and beside the least work that can be done.

    python benchmarks/estimators/side_by_side.py --output benchmarks/results          (about 15 minutes on two cores)
    python benchmarks/estimators/side_by_side.py --output benchmarks/results --quick  (a minute: smaller tables)

Every case has a process of its own, one core: all sides in turn on the same arrays, five times after a warm-up;
medians count. Peak memory is that of a fork for each side, beyond the process that holds the arrays. ppi_py's quantile
runs out of memory at 10⁶ rows and stays at 10⁵. The streamed table is a Parquet file of predictions with 1,000 labels;
its floor reads the same columns and does nothing. Writes ``estimators.json`` and ``estimators.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES, Call, draw, quick, rows_of, sides_of, write_stream
from goals import document, table

REPEATS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder of the table and its JSON")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--cases", nargs="+", metavar="KIND", help="of mean, ols, logistic, poisson, quantile, stream")
    for how in ("--draw", "--measure"):  # what this script asks of its own processes
        parser.add_argument(how, nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        _draw(options.draw[0], Path(options.draw[1]))
        return 0
    if options.measure:
        case, folder = options.measure
        print(json.dumps(_measure(case, Path(folder), options.repeats, options.quick)))
        return 0
    if options.output is None:
        parser.error("--output is needed")
    cases = [quick(case) if options.quick else case for case in CASES]
    found = {}
    for case in dict.fromkeys(cases):
        if options.cases is None or case.split()[0] in options.cases:
            with tempfile.TemporaryDirectory() as place:
                found[case] = _run(case, place, options.repeats, options.quick)
            print(case, json.dumps(found[case]["seconds"]), file=sys.stderr, flush=True)
    result = document(found, options.quick)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "estimators.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "estimators.md").write_text(table(result))
    print(table(result))
    return 0


def _run(case: str, place: str, repeats: int, smaller: bool) -> dict[str, Any]:
    """Seconds and peak bytes of each side of a case, from a process that draws and one that measures."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    printed = ""
    for how in ("draw", "measure"):
        words = [sys.executable, __file__, f"--{how}", case, place, "--repeats", str(repeats)]
        words += ["--quick"] if smaller else []
        finished = subprocess.run(words, env={**os.environ, **one}, stdout=subprocess.PIPE, text=True, check=True)
        printed = finished.stdout
    found: dict[str, Any] = json.loads(printed)
    return found


def _draw(case: str, folder: Path) -> None:
    if case.startswith("stream"):
        write_stream(folder / "table.parquet", rows_of(case))
    else:
        for name, array in draw(case).items():
            np.save(folder / f"{name}.npy", array)


def _measure(case: str, folder: Path, repeats: int, smaller: bool) -> dict[str, Any]:
    sides = sides_of(case, smaller)
    if case.startswith("stream"):
        arrays: Any = folder / "table.parquet"
        size, few = arrays.stat().st_size, None
    else:
        arrays = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}
        size, few = sum(array.nbytes for array in arrays.values()), {k: v[:200].copy() for k, v in arrays.items()}
        for call in sides.values():
            call(few)  # what they import does not count
    peaks = {side: _peak(call, arrays, few) for side, call in sides.items()}
    return {"rows": rows_of(case), "input_bytes": size, "peak": peaks, "seconds": _times(sides, arrays, repeats)}


def _times(sides: dict[str, Call], arrays: Any, repeats: int) -> dict[str, list[float]]:
    """Every side once for warmth, then all of them in turn, ``repeats`` times."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side, call in sides.items():
            start = time.perf_counter()
            call(arrays)
            if repeat:
                seconds[side].append(time.perf_counter() - start)
    return seconds


def _peak(call: Call, arrays: Any, few: Any) -> dict[str, int]:
    """Largest resident bytes of a fork that makes the call: all of them, and those beyond what it began with."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        if few is not None:
            call(few)  # the pages of its code are resident now
        before = _largest_resident()
        call(arrays)
        after = _largest_resident()
        os.write(writing, json.dumps({"resident": after, "beyond_input": after - before}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found: dict[str, int] = json.loads(pipe.read())
    os.waitpid(child, 0)
    return found


def _largest_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
