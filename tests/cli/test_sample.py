"""``ftrect sample``: draw, fill in, estimate; and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

ROWS, FIRST, MORE = 1200, 150, 200


@pytest.fixture(scope="module")
def world() -> dict[str, np.ndarray]:
    """A model that is far off at the ends of its scale."""
    rng = np.random.default_rng(5)
    f = rng.normal(size=ROWS)
    return {"f": f, "y": 1 + 0.9 * f + np.exp(1.2 * (np.abs(f) - 0.8)) * rng.normal(size=ROWS)}


@pytest.fixture
def table(world: dict[str, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "answers.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "comment", "trust", "guess"])
        for i in range(ROWS):
            answer = f"{world['y'][i]:.6f}" if i < FIRST else ""
            writer.writerow([f"r{i}", f'a "quoted", text {i}', answer, f"{world['f'][i]:.6f}"])
    return path


def words(table: Path, output: Path, *more: object) -> tuple[object, ...]:
    given = ("--label", "trust", "--prediction", "guess", "--labels", MORE, "-o", output)
    return ("sample", table, *given, *more)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_to_label(ftrect: Any, table: Path, tmp_path: Path) -> None:
    output = tmp_path / "label.csv"
    code, out, err = ftrect(*words(table, output, "--id", "id", "--columns", "comment"))
    assert (code, err) == (0, "")
    rows = read(output)
    assert list(rows[0]) == ["id", "comment", "probability"]
    assert len(rows) == len({row["id"] for row in rows}) == MORE
    assert all(int(row["id"][1:]) >= FIRST for row in rows)
    assert rows[0]["comment"] == f'a "quoted", text {rows[0]["id"][1:]}'
    assert f"{MORE} of {ROWS - FIRST} rows without a label" in out
    assert re.search(r"the 200 labels are forecast to be worth 2[1-9]\d drawn with equal probabilities", out)
    assert "'ftrect estimate --probability probability'" in out


@pytest.mark.parametrize("earlier", ["fixed", "random"])
def test_fill_in_and_estimate(
    ftrect: Any, world: dict[str, np.ndarray], table: Path, tmp_path: Path, earlier: str
) -> None:
    output = tmp_path / "next.csv"
    code, out, _ = ftrect(*words(table, output, "--id", "id", "--all-rows", "--earlier", earlier, "--json"))
    assert code == 0
    facts, rows = json.loads(out), read(output)
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(ROWS)]
    assert sum(row["chosen"] == "1" for row in rows) == MORE
    chance = np.array([float(row["probability"]) for row in rows])
    assert facts["probability"]["smallest"] == chance[FIRST:].min()
    assert (facts["labels"], facts["candidates"]) == (MORE, ROWS - FIRST)
    if earlier == "fixed":
        assert (chance[:FIRST] == 1).all()
        assert chance[FIRST:].sum() == pytest.approx(MORE)
    else:
        assert chance.sum() == pytest.approx(FIRST + MORE, rel=0.05)
    for i, row in enumerate(rows):
        if row["chosen"] == "1":
            row["trust"] = f"{world['y'][i]:.6f}"
    with open(output, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    code, out, err = ftrect(
        "estimate", output, "--label", "trust", "--prediction", "guess", "--probability", "probability", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["n"] == FIRST + MORE
    assert abs(found["value"] - world["y"].mean()) < 4 * found["std_error"]


def test_parquet_and_numbered_rows(ftrect: Any, table: Path, tmp_path: Path) -> None:
    source = tmp_path / "answers.parquet"
    columns = {name: [row[name] for row in read(table)] for name in ("comment", "trust", "guess")}
    columns = columns | {name: [float(x) if x else None for x in columns[name]] for name in ("trust", "guess")}
    pq.write_table(pa.table(columns), source)
    one, other = tmp_path / "one.parquet", tmp_path / "two.csv"
    assert ftrect(*words(source, one, "--seed", "3"))[0] == ftrect(*words(table, other, "--seed", "3"))[0] == 0
    found, again = pq.read_table(one), read(other)
    assert found.column_names == ["row", "comment", "guess", "probability"]
    assert [str(row) for row in found["row"].to_pylist()] == [row["row"] for row in again]
    assert all(int(row["id"][1:]) == int(row["row"]) - 1 for row in again)
    np.testing.assert_allclose(found["probability"], [float(row["probability"]) for row in again])


def test_the_seed_decides(ftrect: Any, table: Path, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a.csv", 1), ("b.csv", 1), ("c.csv", 2)):
        ftrect(*words(table, tmp_path / name, "--seed", seed))
        drawn.append((tmp_path / name).read_text())
    assert drawn[0] == drawn[1] != drawn[2]


def broken(table: Path, change: Any) -> Path:
    rows = read(table)
    change(rows)
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--labels", "1051"), "1051 labels cannot be bought: 1050 rows have none.* ask for 1050 at most"),
        (("--labels", "0"), "'--labels' must be >= 1; got 0"),
        (("--floor", "0"), "'--floor' must be a number > 0; got 0"),
        (("--floor", "1.5"), r"'floor' must be in \(0, 1\]; got 1.5"),
        (("--label", "trast"), "there is no column 'trast'.*did you mean 'trust'"),
        (("--id", "trust"), r"column 'trust' is empty in 1050 rows"),
        (("--columns", "texts"), "there is no column 'texts'"),
        (("--prediction", "comment"), "column 'comment' is not a finite number"),
        (("--earlier", "some"), "'--earlier' cannot be 'some'"),
    ],
)
def test_refusals(ftrect: Any, table: Path, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    code, out, err = ftrect(*words(table, tmp_path / "x.csv", *more))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(tmp_path.glob("*x.csv*"))


def test_refusals_of_the_table(ftrect: Any, table: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.csv"

    def expect(code: int, message: str, *more: object) -> None:
        got, _, err = ftrect(*words(table, output, *more))
        assert got == code
        assert re.search(message, err), err

    broken(table, lambda rows: rows[700].update(guess=""))
    expect(2, "column 'guess' must be given where there is no label; got row 701")
    broken(table, lambda rows: rows[700].update(guess="0.5"))
    broken(table, lambda rows: rows[5].update(guess=""))
    expect(2, "column 'guess' must be given; got row 6", "--earlier", "random")  # its probability hangs on it
    broken(table, lambda rows: rows[5].update(guess="0.5"))
    broken(table, lambda rows: rows[700].update(guess="0.5", id="r3"))
    expect(2, "column 'id' must name each row once; got rows? 4", "--id", "id")
    broken(table, lambda rows: [row.update(guess=row["trust"]) for row in rows[:ROWS] if row["trust"]])
    expect(4, "all residuals are equal, .* if it was trained on these labels, give predictions of one that was not")
    broken(table, lambda rows: [row.update(trust="") for row in rows[8:]])
    expect(4, "8 labelled rows with a prediction cannot tell where the model is far off; 10 can")
    broken(table, lambda rows: [row.update(trust="") for row in rows])
    expect(4, "0 labelled rows with a prediction cannot tell where the model is far off; 10 can")
    broken(table, lambda rows: [row.update(probability="1") for row in rows])
    expect(2, "the table has a column 'probability', which this command writes")
    table.write_text("id,comment,trust,guess\n")
    expect(2, f"the table has no rows .{re.escape(str(table))}.")


def test_the_page_about_it_can_be_followed(ftrect: Any, table: Path, tmp_path: Path, monkeypatch: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "next-labels.md").read_text()
    commands = [shlex.split(line)[1:] for line in re.findall(r"^\.venv/bin/ftrect .*$", page, re.MULTILINE)]
    assert [command[0] for command in commands] == ["sample", "estimate"]
    monkeypatch.chdir(tmp_path)
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header.replace("id", "respondent").replace("guess", "gpt_rating"), *lines]))
    for command in commands:
        code, _, err = ftrect(*command)
        assert code == 0, err


def test_all_rows_can_be_estimated_from_whatever_columns_are_named(ftrect: Any, table: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.csv"
    code, out, _ = ftrect(*words(table, output, "--all-rows", "--columns", "comment", "--earlier", "random"))
    assert code == 0
    assert list(read(output)[0]) == ["row", "comment", "guess", "trust", "probability", "chosen"]
    assert ", the draw from before included)" in out


def test_a_name_that_the_system_refuses(ftrect: Any, table: Path, tmp_path: Path) -> None:
    code, _, err = ftrect(*words(table, tmp_path / ("x" * 300 + ".csv")))
    assert code == 2
    assert re.fullmatch(r"error: File name too long \(.*\) — name another file or folder\n", err)


def test_a_table_that_csv_cannot_hold(ftrect: Any, table: Path, tmp_path: Path) -> None:
    given = tmp_path / "t.parquet"
    read_back = pc.read_csv(table)
    photo = pa.array([b"\xff\x00"] * read_back.num_rows, pa.binary())
    pq.write_table(read_back.append_column("photo", photo), given)
    code, _, err = ftrect(*words(given, tmp_path / "x.csv"))
    assert code == 2
    assert err.count("\n") == 1
    assert "write parquet, or name the columns to write with '--columns'" in err
    assert not list(tmp_path.glob("*x.csv*"))
    assert ftrect(*words(given, tmp_path / "x.parquet"))[0] == 0


def test_refusals_of_the_output(ftrect: Any, table: Path, tmp_path: Path) -> None:
    for output, message in (
        (tmp_path / "x.txt", "the file's ending names no format"),
        (table, "the file is there already"),
        (tmp_path / "none" / "x.csv", "there is no such folder"),
    ):
        code, _, err = ftrect(*words(table, output))
        assert code == 2
        assert message in err
