"""A few columns, batch by batch: what is read, how little of it is held, and that nothing is refused less."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.tables import read_any, scan
from ftrect_ray.tables.columns import floats

LIMITS = {"max_rows": 1000, "max_bytes": 1 << 20}
CSV = 'id,text,y\n007,NA,1\n008,None,\n009,"",2.50\n010,"a,b",x\n011,null,3\n'
JSONL = (
    '{"y": 1, "id": "007", "text": "NA"}\n{"id": "008", "text": "None", "y": null}\n{"id": "009", "y": 2.50}\n'
    '{"id": "010", "text": "a,b", "y": "x"}\n{"id": "011", "text": "null", "y": 3}\n'
)
CELLS = {"y": ["1", None, "2.50", "x", "3"], "text": ["NA", "None", None, "a,b", "null"]}


def write(path: Path, content: bytes | str | pa.Table, **options: object) -> str:
    if isinstance(content, pa.Table):
        pq.write_table(content, path, **options)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.fixture
def written(tmp_path: Path) -> dict[str, str]:
    """The same table in every format."""
    typed = pa.table({"id": ["007", "008", "009", "010", "011"], "text": CELLS["text"], "y": CELLS["y"]})
    return {
        "csv": write(tmp_path / "a.csv", CSV),
        "jsonl": write(tmp_path / "a.jsonl", JSONL),
        "parquet": write(tmp_path / "a.parquet", typed, row_group_size=2),
    }


def refusal(path: str, columns: Sequence[str] = ("a",), **limits: int) -> str:
    """The message of a scan, which :func:`read_any` gives in the same words."""
    with pytest.raises(InputError) as whole:
        read_any(path, columns=columns, **{**LIMITS, **limits})
    with pytest.raises(InputError) as caught:
        list(scan(path, columns=columns, batch_rows=2, **{**LIMITS, **limits}))
    assert str(caught.value) == str(whole.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_columns_asked_for_in_their_order(written: dict[str, str], form: str) -> None:
    batches = list(scan(written[form], columns=["y", "text"], batch_rows=2, **LIMITS))
    assert [batch.num_rows for batch in batches] == [2, 2, 1]
    assert all(batch.schema == pa.schema([("y", pa.string()), ("text", pa.string())]) for batch in batches)
    assert pa.Table.from_batches(batches).to_pydict() == CELLS
    assert read_any(written[form], columns=["y", "text"], **LIMITS).to_pydict() == CELLS


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_iteration_begins_at_the_beginning(written: dict[str, str], form: str) -> None:
    rows = scan(written[form], columns=["y"], batch_rows=2, **LIMITS)
    first = next(iter(rows))
    assert first.to_pydict() == {"y": ["1", None]}
    assert [(left.equals(right)) for left, right in zip(rows, rows, strict=True)] == [True, True, True]
    assert pa.Table.from_batches(rows)["y"].to_pylist() == CELLS["y"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, mark: bytes) -> None:
    path = write(tmp_path / "a.csv", mark + CSV.encode())
    (batch,) = scan(path, columns=["id"], **LIMITS)
    assert batch["id"].to_pylist() == ["007", "008", "009", "010", "011"]


def test_a_table_without_rows_is_one_empty_batch(tmp_path: Path) -> None:
    (batch,) = scan(write(tmp_path / "a.csv", "a,b\n"), columns=["b"], **LIMITS)
    assert (batch.num_rows, batch.schema) == (0, pa.schema([("b", pa.string())]))
    empty = pa.table({"a": pa.array([], pa.large_string()), "b": pa.array([], pa.float32())})
    (batch,) = scan(write(tmp_path / "a.parquet", empty), columns=["b", "a"], **LIMITS)
    assert (batch.num_rows, batch.schema) == (0, pa.schema([("b", pa.float32()), ("a", pa.string())]))


def test_parquet_keeps_types_and_every_text_is_a_string(tmp_path: Path) -> None:
    texts = ["007", None, "NA"]
    columns = {str(kind): pa.array(texts, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())}
    columns["dictionary"] = pa.array(texts).dictionary_encode()
    path = write(tmp_path / "a.parquet", pa.table({**columns, "y": pa.array([1, None, 2], pa.int8()), "a.b": [1] * 3}))
    (batch,) = scan(path, columns=["a.b", "y", *columns], **LIMITS)
    assert batch.schema.types == [pa.int64(), pa.int8(), *[pa.string()] * 4]
    assert all(batch[name].to_pylist() == texts for name in columns)


def test_parquet_bytes_are_kept(tmp_path: Path) -> None:
    cells = [b"\xff", None, b"\xff"]
    columns = {str(kind): pa.array(cells, kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())}
    (batch,) = scan(write(tmp_path / "a.parquet", pa.table(columns)), columns=list(columns), **LIMITS)
    assert batch.schema.types == [pa.binary()] * 3
    assert all(batch[name].to_pylist() == cells for name in columns)


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3\n4,5\n6,7,8\n", "the header has 2 cells, but not 2 rows: line 3 has 1, line 5 has 3"),
        ('a,b\n1,2\n1,2\n1,2\n3,"open\n4,5\n', "a double quote in the row that begins on line 5 is never closed"),
        ('a,b\n1,2\n1,2\n1,"x"y\n', "line 4 has text after a closing double quote"),
        (b"a,b\n1,x\n1,x\n1,x\0y\n", "line 4 holds a NUL byte"),
        ('a,b\n1,"two\nlines"\n1,café\n'.encode("latin-1"), "line 4 is not UTF-8: byte 0xe9 at position 6"),
        ("", "the file is empty"),
        ("a,b,b\n1,2,3\n", "two columns are called 'b'"),
        ("a\n" + "1\n" * 1001, "the table has more rows than 'data.max_rows' (1000)"),
        ("a" * 2_000_000, "the file has 2000000 bytes, more than 'data.max_bytes' (1048576)"),
        ("aa,b\n1,2\n", "there is no column 'a'; the columns are: aa, b"),
    ],
    ids=["ragged", "open-quote", "after-quote", "nul", "latin-1", "empty", "twice", "rows", "bytes", "missing"],
)
def test_bad_csv_is_refused_although_the_fault_is_in_no_column_asked_for(
    tmp_path: Path, content: bytes | str, message: str
) -> None:
    assert refusal(write(tmp_path / "a.csv", content)).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n' * 3 + '{"a": }\n', "line 4 is not JSON: Expecting value at column 7"),
        ('{"a": 1}\n' * 3 + '{"b": 1, "b": 2}\n', "line 4: key 'b' is given twice"),
        (b'{"a": 1}\n' * 3 + b'{"b": "\xff"}\n', "line 4 is not UTF-8: byte 0xff at position 8"),
        ("\n\n", "the file is empty"),
        ('{"a": 1}\n' * 1001, "the table has more rows than 'data.max_rows' (1000)"),
        ('{"aa": 1}\n{"b": [1]}\n{"c": 1}\n', "there is no column 'a'; the columns are: aa, c"),
        ('{"a": 1, "b": 2}\n{"c": 1}\n{"a": [1]}\n{"d": 1}\n', "there is no column 'a'; the columns are: b, c, d"),
    ],
    ids=["broken", "twice", "latin-1", "blank", "rows", "missing", "nested"],
)
def test_bad_jsonl_is_refused(tmp_path: Path, content: bytes | str, message: str) -> None:
    assert refusal(write(tmp_path / "a.jsonl", content)).startswith(message)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_misspelt_column_is_refused_before_any_batch(written: dict[str, str], form: str) -> None:
    with pytest.raises(InputError) as caught:
        next(iter(scan(written[form], columns=["id", "txt"], batch_rows=1, **LIMITS)))
    listed = "y, id, text" if form == "jsonl" else "id, text, y"
    assert str(caught.value) == (
        f"there is no column 'txt'; the columns are: {listed} ({written[form]}) — did you mean 'text'?"
    )


def test_a_jsonl_column_may_appear_late(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}\n{"b": 3}\n')
    batches = list(scan(path, columns=["b"], batch_rows=1, **LIMITS))
    assert pa.Table.from_batches(batches)["b"].to_pylist() == [None, None, "3"]


def test_bad_parquet_is_refused(tmp_path: Path) -> None:
    table = pa.table({"a": ["x", "y"] * 50, "meta": [[1]] * 100})
    path = write(tmp_path / "a.parquet", table)
    assert refusal(path, max_rows=99).startswith("the table has 100 rows, more than 'data.max_rows' (99)")
    assert refusal(path, ["meta"]).startswith("there is no column 'meta'; the columns are: a ")
    whole = Path(path).read_bytes()
    assert refusal(write(tmp_path / "b.parquet", whole[:-7])).startswith("the file is not parquet, or its end is miss")
    damaged = whole[:4] + b"\xff" * 40 + whole[44:]
    assert refusal(write(tmp_path / "c.parquet", damaged)).startswith("cannot read the file as parquet: ")
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "b", "b"])
    assert refusal(write(tmp_path / "d.parquet", twice)).startswith("two columns are called 'b'")


@pytest.mark.parametrize("name", ["ray.data.arrow_pickled_object", "arrow.py_extension_type", "arrow.uuid"])
def test_extension_types_are_refused_in_columns_that_nobody_asked_for(tmp_path: Path, name: str) -> None:
    field = pa.field("x", pa.binary(16), metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": b""})
    table = pa.table([pa.array([b"0" * 16]), pa.array([1])], schema=pa.schema([field, ("a", pa.int64())]))
    path = write(tmp_path / "a.parquet", table)
    assert refusal(path).startswith("the parquet file has columns of an extension type (pickled objects, tensors, …)")


def test_what_is_no_table_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path, message in {
        str(tmp_path / "pipe.csv"): "this is a pipe or device, not a file",
        "/dev/zero": "this is a pipe or device, not a file",
        str(tmp_path / "absent.csv"): "there is no such file",
        write(tmp_path / "a.xlsx", "x"): "the file's ending names no format that can be read",
    }.items():
        with pytest.raises(InputError, match=message):
            scan(path, columns=["a"], **LIMITS)


# ------------------------------------------------------------------------------------------------ what is held


def test_a_parquet_column_that_nobody_asked_for_is_neither_read_nor_counted(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(20, 10_000))
    path = write(tmp_path / "a.parquet", pa.table({f"x{at}": column for at, column in enumerate(noise)}))
    limits = {"max_rows": 10_000, "max_bytes": 100_000}
    assert Path(path).stat().st_size > 1_000_000
    assert refusal(path, ["x3", "x4"], **limits).startswith("the table decodes to at least ")
    (batch,) = scan(path, columns=["x3"], **limits)
    assert np.array_equal(batch["x3"].to_numpy(), noise[3])
    content = Path(path).read_bytes()
    at = pq.read_metadata(path).row_group(0).column(4).data_page_offset
    broken = write(tmp_path / "b.parquet", content[:at] + b"\xff" * 40 + content[at + 40 :])
    assert next(iter(scan(broken, columns=["x3"], **limits))).equals(batch)
    assert refusal(broken, ["x4"], **limits).startswith("cannot read the file as parquet: ")


def test_a_long_row_group_is_not_held(tmp_path: Path) -> None:
    """Two million floats (16 MB) in one row group: the peak is that of a few batches."""
    table = pa.table({"y": np.random.default_rng(0).normal(size=2_000_000)})
    path = write(tmp_path / "a.parquet", table, row_group_size=2_000_000, use_dictionary=False)
    del table
    code = f"""
        import pyarrow as pa
        from ftrect_ray.tables import scan
        print(sum(batch.num_rows for batch in scan({path!r}, columns=["y"], max_rows=10**7, max_bytes=10**9)))
        print(pa.default_memory_pool().max_memory())
    """
    rows, peak = map(int, subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], text=True).split())
    assert rows == 2_000_000
    assert peak < 8 << 20


def test_batches_of_one_long_text_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand rows share one text of 10 kB: 100 MB unfolded, in pieces, up to the limit and no further."""
    monkeypatch.setattr("ftrect_ray.tables.folding.BATCH_BYTES", 1 << 20)
    path = write(tmp_path / "a.parquet", pa.table({"a": ["x" * 10_000] * 10_000, "row": range(10_000)}))
    seen = []
    for batch in scan(path, columns=["a", "row"], max_rows=10_000, max_bytes=1 << 30):
        assert batch.nbytes <= 1 << 20
        seen += batch["row"].to_pylist()
    assert seen == list(range(10_000))
    with pytest.raises(InputError, match="the table decodes to at least 10[0-9]{6} bytes, more than 'data.max_bytes'"):
        list(scan(path, columns=["a"], max_rows=10_000, max_bytes=10_000_000))


def test_wide_rows_and_long_cells_make_short_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftrect_ray.tables.parquet.BATCH_BYTES", 80_000)
    monkeypatch.setattr("ftrect_ray.tables.lines.BATCH_BYTES", 5000)
    names = [f"x{at}" for at in range(100)]
    wide = write(tmp_path / "a.parquet", pa.table({name: np.zeros(300) for name in names}))
    batches = list(scan(wide, columns=names, **LIMITS))
    assert sum(batch.num_rows for batch in batches) == 300
    assert max(batch.num_rows for batch in batches) <= 100
    long = write(tmp_path / "a.csv", "a\n" + ("x" * 1000 + "\n") * 12)
    assert [batch.num_rows for batch in scan(long, columns=["a"], **LIMITS)] == [5, 5, 2]


def test_the_limit_of_the_csv_module_is_ours_only_while_reading(written: dict[str, str]) -> None:
    before = csv.field_size_limit()
    for _ in scan(written["csv"], columns=["y"], batch_rows=1, **LIMITS):
        assert csv.field_size_limit() == before


# ----------------------------------------------------------------------------------------------------- numbers


def test_floats_of_a_text_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,y\n1, 1 \n2,\n3,-2.5e1\n")
    (batch,) = scan(path, columns=["y"], **LIMITS)
    assert np.array_equal(floats(batch["y"], "y", path), [1.0, np.nan, -25.0], equal_nan=True)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.int8(), pa.null()], ids=str)
def test_floats_of_a_typed_column(kind: pa.DataType) -> None:
    cells = [None, None] if kind == pa.null() else [3, None]
    values = floats(pa.array(cells, kind), "y", "")
    assert values.dtype == np.float64
    assert np.array_equal(values, np.array(cells, dtype=np.float64), equal_nan=True)


def test_a_float_column_is_not_copied(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"y": [1.5, 2.5]}))
    (batch,) = scan(path, columns=["y"], **LIMITS)
    assert floats(batch["y"], "y", path).ctypes.data == batch["y"].buffers()[1].address


def test_wrong_numbers_are_counted_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "y\n1\n2\n3\nNA\n5\n1e999\n")
    before, read = 0, []
    with pytest.raises(InputError) as caught:  # noqa: PT012
        for batch in scan(path, columns=["y"], batch_rows=3, **LIMITS):
            read += floats(batch["y"], "y", path, before).tolist()
            before += batch.num_rows
    assert read == [1.0, 2.0, 3.0]
    assert str(caught.value) == (
        f"column 'y' is not a finite number in 2 rows: row 4 'NA', row 6 '1e999' ({path})"
        " — write numbers like 1.5, and leave the cell empty where there is none"
    )


def test_a_column_that_holds_no_numbers() -> None:
    with pytest.raises(InputError, match="column 'y' has the type bool, a number is needed .* — write 1 and 0"):
        floats(pa.array([True]), "y", "a.parquet")
    with pytest.raises(InputError, match="column 'y' is not a finite number in 1 row: row 8 nan"):
        floats(pa.array([float("nan")]), "y", "a.parquet", before=7)
