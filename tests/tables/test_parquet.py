"""Parquet from strangers: broken, hostile, or merely typed."""

from __future__ import annotations

import datetime
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftrect_ray.errors import InputError
from ftrect_ray.tables import read_any

LIMITS = {"max_rows": 1_000_000, "max_bytes": 64 << 20}


def write(path: Path, table: pa.Table, **options: object) -> str:
    pq.write_table(table, path, **options)
    return str(path)


def run(code: str, **environment: str) -> str:
    """What the code prints in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.check_output(command, text=True, env={**os.environ, **environment})


def refusal(path: str, **limits: int) -> str:
    with pytest.raises(InputError) as caught:
        read_any(path, **{**LIMITS, **limits})
    assert f"({path})" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_types_are_kept_and_text_is_plain(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array(["007", None, "NA"], pa.large_string()),
            "kind": pa.array(["a", "b", None]).dictionary_encode(),
            "grade": pa.array([3, 1, 3]).dictionary_encode(),
            "y": pa.array([1.5, None, 2.0], pa.float32()),
            "day": pa.array([datetime.date(2024, 1, 2)] * 3),
            "meta": [[1], [2], []],
        }
    )
    read = read_any(write(tmp_path / "a.parquet", table), **LIMITS)
    assert read.schema.names == ["id", "kind", "grade", "y", "day"]
    assert read.schema.types == [pa.string(), pa.string(), pa.int64(), pa.float32(), pa.date32()]
    assert read["id"].to_pylist() == ["007", None, "NA"]
    assert read["kind"].to_pylist() == ["a", "b", None]
    assert read["grade"].to_pylist() == [3, 1, 3]


def test_no_rows(tmp_path: Path) -> None:
    table = pa.table({"id": pa.array([], pa.large_string()), "y": pa.array([], pa.float64())})
    read = read_any(write(tmp_path / "a.parquet", table), **LIMITS)
    assert read.schema == pa.schema([("id", pa.string()), ("y", pa.float64())])
    assert read.num_rows == 0


def test_many_row_groups(tmp_path: Path) -> None:
    table = pa.table({"id": [str(i) for i in range(30_000)]})
    assert read_any(write(tmp_path / "a.parquet", table, row_group_size=700), **LIMITS)["id"].equals(table["id"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "the file is not parquet, or its end is missing"),
        (lambda _: b"id,text\n1,this is a csv file\n", "the file is not parquet, or its end is missing"),
        (lambda whole: whole[:-7], "the file is not parquet, or its end is missing"),
        (lambda whole: whole[:-8] + b"\xff\xff\xff\x7fPAR1", "the file is not parquet, or its end is missing"),
        (lambda whole: whole[:-4] + b"PARE", "the parquet file is encrypted"),
        (lambda whole: whole[:-60] + bytes(52) + whole[-8:], "cannot read the file as parquet: "),
        (lambda whole: whole[:4] + b"\xff" * 40 + whole[44:], "cannot read the file as parquet: "),
    ],
    ids=["empty", "csv", "truncated", "length", "encrypted", "footer", "pages"],
)
def test_broken_files(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = Path(write(tmp_path / "a.parquet", pa.table({"id": ["a", "b"] * 50})))
    path.write_bytes(damage(path.read_bytes()))
    assert refusal(str(path)).startswith(message)


def test_declared_size_is_refused_before_decoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"y": list(range(5000))}), compression="zstd")
    assert refusal(path, max_rows=4999).startswith("the table has 5000 rows, more than 'data.max_rows' (4999)")
    size = Path(path).stat().st_size
    message = refusal(path, max_bytes=size)
    assert message.startswith("the table decodes to at least ")
    assert f"bytes, more than 'data.max_bytes' ({size})" in message


def test_a_small_file_of_one_long_text_is_not_unfolded(tmp_path: Path) -> None:
    """A million rows share one text of 10 kB: 10 GB decoded. The reader's memory must stay near the file's."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array(["x" * 10_000]))
    path = write(tmp_path / "bomb.parquet", pa.table({"text": column.cast(pa.dictionary(pa.int32(), pa.string()))}))
    assert Path(path).stat().st_size < 1 << 20
    code = f"""
        import pyarrow as pa
        from ftrect_ray.tables import read_any
        try:
            read_any({path!r}, max_rows=10**6, max_bytes=10**9)
        except Exception as error:
            print(pa.default_memory_pool().max_memory(), error)
    """
    peak, _, message = run(code).partition(" ")
    assert message.startswith("the table decodes to at least 10")
    assert int(peak) < 64 << 20


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert refusal(write(tmp_path / "a.parquet", table)).startswith("two columns are called 'a'")


EXTENSION = "the parquet file has columns of an extension type"


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path(self.path).touch, ()


def test_pickled_columns_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    """Even with Ray's extension types registered and its opt-in set, the canary does not appear."""
    canary = tmp_path / "canary"
    payload = pickle.dumps(Canary(str(canary)))
    for name in ("ray.data.arrow_pickled_object", "arrow.py_extension_type", "ray.data.arrow_tensor"):
        marks = {"ARROW:extension:name": name, "ARROW:extension:metadata": payload}
        field = pa.field("x", pa.large_binary(), metadata=marks)
        table = pa.table(
            [pa.array([payload], pa.large_binary()), pa.array(["a"])], schema=pa.schema([field, ("id", pa.string())])
        )
        path = write(tmp_path / f"{name}.parquet", table)
        assert refusal(path).startswith(EXTENSION)
    code = f"""
        import glob, ray.data, pyarrow.parquet
        import ray.data._internal.object_extensions.arrow
        from ftrect_ray.tables import read_any
        from ftrect_ray.errors import InputError
        for path in sorted(glob.glob({str(tmp_path)!r} + "/*.parquet")):
            try:
                read_any(path, max_rows=10, max_bytes=10**6)
            except InputError as error:
                print(error)
        print(glob.glob({str(canary)!r}))
        pyarrow.parquet.read_table({str(tmp_path / "ray.data.arrow_pickled_object.parquet")!r}).to_pylist()
    """
    asked = {"RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR": "1", "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE": "1"}
    printed = run(code, **asked)
    assert printed.count(EXTENSION) == 3
    assert printed.endswith("[]\n")
    assert canary.exists()  # the file was dangerous: the careless reader of the last line ran it


def test_any_extension_type_is_refused(tmp_path: Path) -> None:
    table = pa.table({"u": pa.array([b"0" * 16], pa.uuid())})
    assert refusal(write(tmp_path / "a.parquet", table)).startswith(EXTENSION)
