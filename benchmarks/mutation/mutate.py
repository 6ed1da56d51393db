"""Would the tests of estimators/ notice a mistake? mutmut makes one small change at a time and runs them.

    pip install 'mutmut>=3.8,<4' (into the environment of the tests)
    python benchmarks/mutation/mutate.py --output benchmarks/results                 (a sample of 600 mutants)
    python benchmarks/mutation/mutate.py --output benchmarks/results --sample 0      (every mutant; many hours)

The code and its tests are copied to a scratch folder named after their contents; a killed run continues there, and
changed code or tests start a new one. A mutant meets the tests that reach its function, the fastest first, until one
fails. The sample is seeded and stratified: each module's share of the mutants, at least six of each. mutmut does
not change properties and other decorated functions. Writes ``mutation.json`` and ``mutation.md``, with every survivor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = "ftrect_ray.estimators"
LEAST = 6
"""Mutants of each module at least, where it has as many."""

GOAL = 0.85
STATUS = {0: "survived", 1: "killed", 3: "killed", 33: "no tests"}
"""pytest's exit code of the mutant; others are time limits and crashes, which a test run notices."""

SETTINGS = """
[tool.mutmut]
source_paths = ["ftrect_ray"]
only_mutate = ["ftrect_ray/estimators/*"]
pytest_add_cli_args_test_selection = ["tests/estimators"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "--import-mode=importlib", {deselected}]
use_git_change_detection = false

[tool.pytest.ini_options]
timeout = 60
markers = ["slow: long"]
filterwarnings = ["ignore::DeprecationWarning", "ignore::FutureWarning"]
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the table and its JSON")
    parser.add_argument("--sample", type=int, default=600, help="mutants; 0: all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="FILE", help="test files that take too long")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "ftrect-mutation")
    options = parser.parse_args()
    place = workspace(options.scratch, options.leave_out)
    words = ["run", "--max-children", str(options.workers)]
    if not (place / "generated").exists():
        run(place, [*words, f"{PACKAGE}.power_tuning.*"])  # one small module: makes the mutants of all
        (place / "generated").touch()
    every = gathered(place)
    chosen = sample(every, options.sample, options.seed)
    todo = [name for module, names in chosen.items() for name in names if every[module][name] is None]
    if todo:
        run(place, [*words, *todo])
    every = gathered(place)
    results = {module: {name: every[module][name] for name in names} for module, names in chosen.items()}
    found = document(place, every, results, options)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "mutation.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.output / "mutation.md").write_text(table(found))
    print(table(found).split("## Survivors")[0])
    return 0


def workspace(scratch: Path, left_out: list[str]) -> Path:
    """A copy of the package and of its tests, in a folder named after their contents."""
    sources = sorted((ROOT / "ftrect_ray").rglob("*.py"))
    tests = sorted((ROOT / "tests" / "estimators").glob("*.py"))
    digest = hashlib.sha256(repr(left_out).encode())
    for path in [*(p for p in sources if p.parent.name in ("estimators", "ftrect_ray")), *tests]:
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    place = scratch / digest.hexdigest()[:12]
    if not (place / "pyproject.toml").exists():
        shutil.copytree(
            ROOT / "ftrect_ray", place / "ftrect_ray", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copytree(
            ROOT / "tests" / "estimators",
            place / "tests" / "estimators",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        deselected = ", ".join(f'"--ignore=tests/estimators/{name}"' for name in left_out)
        (place / "pyproject.toml").write_text(SETTINGS.format(deselected=deselected))
    return place


def program() -> str:
    """mutmut, beside this interpreter."""
    found = Path(sys.executable).with_name("mutmut")
    if not found.exists():
        sys.exit("error: mutmut is not installed — pip install 'mutmut>=3.8,<4'")
    return str(found)


def run(place: Path, words: list[str]) -> None:
    """Run mutmut in ``place``, one core a process; its progress goes to stderr, its results are gathered as they come.

    mutmut rewrites its own files in place, so that a kill can leave one empty; what was gathered stays.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for path in metas(place):
        if not codes_in(path):
            path.unlink()  # mutmut makes both anew
            path.with_suffix("").unlink(missing_ok=True)
    with subprocess.Popen([program(), *words], cwd=place, env=environment, stdout=sys.stderr) as process:
        try:
            while process.poll() is None:
                time.sleep(5)
                gathered(place)
        finally:
            process.terminate()
    if process.returncode:
        sys.exit(f"error: mutmut ended with {process.returncode}; see above")


def metas(place: Path) -> list[Path]:
    """mutmut's results, a file a module."""
    return sorted((place / "mutants" / "ftrect_ray" / "estimators").glob("*.py.meta"))


def codes_in(path: Path) -> dict[str, int | None]:
    """Exit codes by mutant; none where the file is being written, or was when the run was killed."""
    try:
        codes: dict[str, int | None] = json.loads(path.read_text())["exit_code_by_key"]
    except json.JSONDecodeError:
        return {}
    return codes


def gathered(place: Path) -> dict[str, dict[str, int | None]]:
    """Of each module, every mutant's exit code (None where it was not run), of this run and earlier ones."""
    book = place / "results.json"
    every: dict[str, dict[str, int | None]] = json.loads(book.read_text()) if book.exists() else {}
    for path in metas(place):
        before = every.setdefault(path.name.removesuffix(".py.meta"), {})
        before.update({name: code for name, code in codes_in(path).items() if code is not None or name not in before})
    part = book.with_suffix(".part")
    part.write_text(json.dumps(every))
    part.replace(book)
    return {module: codes for module, codes in every.items() if codes}


def sample(every: dict[str, dict[str, int | None]], size: int, seed: int) -> dict[str, dict[str, int | None]]:
    """About ``size`` mutants, each module's share of them; all of them for 0. Same seed, same sample."""
    total = sum(map(len, every.values()))
    chosen = {}
    for module, codes in every.items():
        names = sorted(codes)
        wished = len(names) if size == 0 else max(LEAST, round(size * len(names) / total))
        drawn = random.Random(f"{seed} {module}").sample(names, min(wished, len(names)))
        chosen[module] = {name: codes[name] for name in sorted(drawn)}
    return chosen


def document(
    place: Path,
    every: dict[str, dict[str, int | None]],
    results: dict[str, dict[str, int | None]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Killed and survived in each module, the share killed among all mutants, and the survivors' changes."""
    rows, score, variance = [], 0.0, 0.0
    total = sum(map(len, every.values()))
    for module, codes in results.items():
        run = {name: STATUS.get(code, "killed") for name, code in codes.items() if code is not None}
        if not run:
            continue
        killed, size = sum(status == "killed" for status in run.values()), len(every[module])
        share, part = killed / len(run), size / total
        score += part * share
        variance += part**2 * share * (1 - share) / max(len(run) - 1, 1) * (1 - len(run) / size)
        rows.append(
            {
                "module": module,
                "mutants": size,
                "run": len(run),
                "killed": killed,
                "survived": sum(status == "survived" for status in run.values()),
                "no_tests": sum(status == "no tests" for status in run.values()),
                "survivors": {name: change(place, name) for name, status in run.items() if status != "killed"},
            }
        )
    return {
        "mutants": total,
        "run": sum(row["run"] for row in rows),
        "seed": options.seed,
        "sample": options.sample,
        "left_out": options.leave_out,
        "score": score,
        "error": variance**0.5,
        "modules": rows,
    }


def change(place: Path, name: str) -> list[str]:
    """The lines that a mutant takes away and puts in."""
    shown = subprocess.run([program(), "show", name], cwd=place, capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("---", "+++")]


def table(found: dict[str, Any]) -> str:
    """``document`` as Markdown."""
    left_out = f", without {', '.join(found['left_out'])}" if found["left_out"] else ""
    lines = [
        "# Mutation test of estimators/",
        "",
        f"Command: `python benchmarks/mutation/mutate.py --output benchmarks/results --sample {found['sample']} "
        f"--seed {found['seed']}`",
        f"{found['run']} of {found['mutants']} mutants were run{left_out}.",
        "",
        f"**Killed: {100 * found['score']:.1f} % ± {100 * found['error']:.1f}** of all mutants (goal: "
        f"{100 * GOAL:.0f} %, {'met' if found['score'] >= GOAL else 'missed'}); each module weighs as it has mutants.",
        "",
        "| module | mutants | run | killed | survived | no test reaches it | killed, % ± error |",
        "|" + "---|" * 7,
    ]
    for row in found["modules"]:
        share = row["killed"] / row["run"]
        error = (share * (1 - share) / max(row["run"] - 1, 1) * (1 - row["run"] / row["mutants"])) ** 0.5
        lines.append(
            f"| {row['module']} | {row['mutants']} | {row['run']} | {row['killed']} | {row['survived']} | "
            f"{row['no_tests']} | {100 * share:.0f} ± {100 * error:.0f} |"
        )
    lines += ["", "## Survivors", ""]
    kinds = defaultdict(list)
    for row in found["modules"]:
        for name, changed in row["survivors"].items():
            kinds[row["module"]].append((name.rsplit(".", 1)[-1], changed))
    for module, survivors in kinds.items():
        lines += [f"### {module}", ""]
        for name, changed in survivors:
            lines += [f"`{name}`", "```diff", *changed, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
