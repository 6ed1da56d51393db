"""Everything that rows can come from gives the same estimate."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.streaming import Columns, estimate_stream

COLUMNS = Columns("y", "f", features=["x"], strata="stratum")


@pytest.fixture(scope="module")
def needed(survey: Any) -> pa.Table:
    return survey.table.select(["x", "stratum", "age", "y", "f"])


@pytest.fixture
def written(needed: pa.Table, tmp_path: Path) -> dict[str, Any]:
    pq.write_table(needed, tmp_path / "t.parquet", row_group_size=250)
    rows = needed.to_pylist()
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, needed.column_names)
        writer.writeheader()
        writer.writerows({k: repr(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    batches = needed.to_batches(max_chunksize=90)
    return {
        "parquet": str(tmp_path / "t.parquet"),
        "csv": tmp_path / "t.csv",
        "table": needed,
        "batches": batches,
        "tables": [pa.Table.from_batches([batch]) for batch in batches],
        "iterator": iter(batches),
        "reader": pa.RecordBatchReader.from_batches(needed.schema, batches),
        "dataset": ds.dataset(tmp_path / "t.parquet"),
    }


@pytest.mark.parametrize("kind", ["parquet", "csv", "tables", "batches", "iterator", "reader", "dataset"])
def test_every_source(written: dict[str, Any], same: Callable[..., None], kind: str) -> None:
    same(estimate_stream(written[kind], COLUMNS, "ols"), estimate_stream(written["table"], COLUMNS, "ols"), 1e-10)


def test_empty_batches_and_large_ones(survey: Any, same: Callable[..., None]) -> None:
    batches = survey.table.combine_chunks().to_batches()
    none = batches[0].slice(0, 0)
    same(estimate_stream([none, *batches, none], COLUMNS, "ols"), estimate_stream(survey.table, COLUMNS, "ols"), 1e-12)
    n = 3 * 65_536 + 5
    f = np.arange(n) % 7.0
    table = pa.table({"y": pa.array(f, mask=np.arange(n) % 1000 > 0), "f": f})
    assert estimate_stream(table.combine_chunks().to_batches(), Columns("y", "f")).m == n - 197


def test_an_iterator_is_read_once(written: dict[str, Any]) -> None:
    with pytest.raises(
        InputError,
        match=r"^this target reads its rows more than once, and an iterator gives them only once \(the batches\)",
    ):
        estimate_stream(written["iterator"], Columns("y", "f"), "quantile")


@pytest.mark.parametrize("kind", ["parquet", "csv", "table", "batches", "dataset"])
def test_a_column_that_is_not_there(written: dict[str, Any], kind: str) -> None:
    with pytest.raises(InputError, match=r"there is no column 'strtum'.* did you mean 'stratum'\?"):
        estimate_stream(written[kind], Columns("y", "f", strata="strtum"))


def test_what_is_no_source(written: dict[str, Any], tmp_path: Path) -> None:
    columns = Columns("y", "f")
    with pytest.raises(InputError, match=r"^cannot read rows from int. — give a path, an Arrow table, record batches"):
        estimate_stream(7, columns)
    with pytest.raises(InputError, match=r"^a source must give Arrow record batches; got dict.$"):
        estimate_stream([{"y": 1.0}], columns)
    with pytest.raises(InputError, match=r"^there are no batches \(the batches\) — give at least one"):
        estimate_stream([], columns)
    with pytest.raises(InputError, match=r"there is no such file"):
        estimate_stream(str(tmp_path / "none.parquet"), columns)
    with pytest.raises(InputError, match=r"more than 'data.max_rows' \(10\)"):
        estimate_stream(written["parquet"], columns, max_rows=10)
    with pytest.raises(InputError, match=r"more than 'data.max_bytes' \(100\)"):
        estimate_stream(written["parquet"], columns, max_bytes=100)


def test_neither_ray_nor_torch_is_loaded_without_need() -> None:
    code = "import sys, ftrect_ray.streaming; print(sorted({'ray', 'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_late_in_a_file_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("y,f\n" + "1,1\n2,2\n" + ",1\n" * 70_000 + "1,2,3\n")
    with pytest.raises(InputError, match="the header has 2 cells, but not 1 row: line 70004 has 3"):
        estimate_stream(path, Columns("y", "f"))
    path.write_text("y,f\n" + "1,1\n2,2\n" + ",1\n" * 70_000 + ",x\n")
    with pytest.raises(InputError, match="column 'f' is not a finite number in 1 row: row 70003 'x'"):
        estimate_stream(path, Columns("y", "f"))
