"""The coverage benchmark: a run that was cut off continues to the same numbers as a run in one go."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "coverage" / "run.py"
CELLS = ("mean-split-50-good-normal", "mean-crossfit-200-biased-skewed", "proportions-finite-50-useless-rare")


def run(place: Path, simulations: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(SCRIPT),
        "--output",
        str(place),
        "--scratch",
        str(place / "scratch"),
        "--chunk",
        "10",
    ]
    return subprocess.run(
        [*command, "--simulations", str(simulations), "--workers", "1", *(words or ("--cells", *CELLS))],
        capture_output=True,
        text=True,
        timeout=120,
    )


def without_clock(place: Path) -> dict[str, object]:
    found = json.loads((place / "coverage.json").read_text())
    del found["milliseconds"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    finished = run(place, 20)
    assert finished.returncode == 0, finished.stderr
    return place


def test_a_cut_off_run_continues_to_the_same_numbers(whole, tmp_path):
    assert run(tmp_path, 10).returncode == 0
    (journal,) = (tmp_path / "scratch").iterdir()
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])  # killed in the middle of a line

    finished = run(tmp_path, 20)

    assert finished.returncode == 0, finished.stderr
    assert len(journal.read_bytes().splitlines()) == 2 * 6  # three cells and their classical ones, two chunks each
    assert without_clock(tmp_path) == without_clock(whole)


def test_every_cell_is_counted_and_the_table_shows_it(whole):
    found = without_clock(whole)
    assert sorted(cell["cell"] for cell in found["cells"]) == sorted(CELLS)
    for cell in found["cells"]:
        assert cell["simulations"] == 20
        assert round(20 * cell["coverage"]) == pytest.approx(20 * cell["coverage"])
        assert cell["coverage"] == pytest.approx(0.95 + cell["z"] * cell["error"])
    text = (whole / "coverage.md").read_text()
    assert "### mean, crossfit" in text
    assert "20 simulations each" in text


def test_a_pattern_that_fits_no_cell_is_refused(tmp_path):
    finished = run(tmp_path, 10, "--cells", "median-*")
    assert finished.returncode == 2
    assert "no cell is called median-*" in finished.stderr
