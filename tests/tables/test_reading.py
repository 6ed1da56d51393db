"""Files as users and strangers write them: what is read, what is refused, and in which words."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pyarrow as pa
import pytest

from ftrect_ray.errors import FtrectError, InputError
from ftrect_ray.tables import lines, read_any

LIMITS = {"max_rows": 1000, "max_bytes": 1 << 20}


def write(path: Path, content: bytes | str) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(path: str) -> dict[str, list[object]]:
    return read_any(path, **LIMITS).to_pydict()


def refusal(path: str, **limits: int) -> str:
    with pytest.raises(FtrectError) as caught:
        read_any(path, **{**LIMITS, **limits})
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ what is read


def test_csv_text_stays_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,answer,x\n007,None,1e5\n008,NA,\n009,"null",""\n')
    assert read(path) == {"id": ["007", "008", "009"], "answer": ["None", "NA", "null"], "x": ["1e5", None, None]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\r\n"], ids=["lf", "crlf", "blank-lines"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_csv_line_ends_and_byte_order_mark(tmp_path: Path, end: str, mark: bytes) -> None:
    text = f'id,text{end}1,"two{end}lines"{end}2,"a ""quote"", 🎈"{end}'
    assert read(write(tmp_path / "a.csv", mark + text.encode())) == {
        "id": ["1", "2"],
        "text": [f"two{end}lines", 'a "quote", 🎈'],
    }


def test_csv_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", "id,text\n")) == {"id": [], "text": []}


def test_jsonl_keeps_the_digits_that_were_written(tmp_path: Path) -> None:
    rows = '{"id": 7, "y": 1.50, "t": "NA"}\n\n{"t": "x", "y": null, "id": "07", "late": true}\n'
    rows += '{"id": 12345678901234567890123}\n'
    assert read(write(tmp_path / "a.jsonl", rows)) == {
        "id": ["7", "07", "12345678901234567890123"],
        "y": ["1.50", None, None],
        "t": ["NA", "x", None],
        "late": [None, "true", None],
    }


def test_jsonl_odd_text_is_kept_row_by_row(tmp_path: Path) -> None:
    rows = '{"t": "a\\ud83c\\udf88b"}\n{"t": "half \\ud83c"}\n{"t": ""}\n{"t": "\\u202eשלום\\u200b"}\n'
    assert read(write(tmp_path / "a.jsonl", rows))["t"] == ["a🎈b", "half \ufffd", "", "\u202eשלום\u200b"]


def test_jsonl_nested_columns_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"id": 1, "meta": {"a": [1]}}\n{"id": 2, "meta": 3}\n')
    assert read(path) == {"id": ["1", "2"]}


def test_many_chunks_make_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH_BYTES", 16)
    rows = "".join('{"a": 5, "b5": 1}\n' if i == 5 else f'{{"a": {i}}}\n' for i in range(7))
    table = read_any(write(tmp_path / "a.jsonl", rows), **LIMITS)
    assert table["a"].to_pylist() == [str(i) for i in range(7)]
    assert table["b5"].to_pylist() == [None] * 5 + ["1", None]


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,text,rating\n1,a,2\n")
    assert read_any(path, columns=["rating", "id"], **LIMITS).to_pydict() == {"rating": ["2"], "id": ["1"]}
    with pytest.raises(InputError) as caught:
        read_any(path, columns=["ratng"], **LIMITS)
    assert str(caught.value) == (
        f"there is no column 'ratng'; the columns are: id, text, rating ({path}) — did you mean 'rating'?"
    )


def test_a_uri_is_a_path_too(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id\n1\n")
    assert read((tmp_path / "a.csv").as_uri()) == {"id": ["1"]}


# --------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3\n4,5\n6,7,8\n", "the header has 2 cells, but not 2 rows: line 3 has 1, line 5 has 3"),
        ('a,b\n1,2\n3,"open\n4,5\n', "a double quote in the row that begins on line 3 is never closed"),
        ('a,b\n1,"x"y\n', "line 2 has text after a closing double quote"),
        (b"a,b\n1,x\0y\n", "line 2 holds a NUL byte"),
        ("a,b\n1,café\n".encode("latin-1"), "line 2 is not UTF-8: byte 0xe9 at position 6"),
        ("a,b\n1,2\n".encode("utf-16"), "the file is UTF-16 text, not UTF-8 text"),
        (gzip.compress(b"a,b\n1,2\n"), "the file is compressed with gzip"),
        (b"PAR1" + bytes(20), "the file is parquet"),
        ("", "the file is empty"),
        ("a,b,a\n1,2,3\n", "two columns are called 'a'"),
        ("a,b\r1,2\r", "line 1: new-line character seen in unquoted field"),
        ("a\n" + "1\n" * 1001, "the table has more rows than 'data.max_rows' (1000)"),
        ("a" * 2_000_000, "the file has 2000000 bytes, more than 'data.max_bytes' (1048576)"),
        (",".join(map(str, range(10_001))) + "\n", "the table has more than 10000 columns"),
    ],
    ids=[
        "ragged",
        "open-quote",
        "after-quote",
        "nul",
        "latin-1",
        "utf-16",
        "gzip",
        "parquet",
        "empty",
        "twice",
        "cr",
        "rows",
        "bytes",
        "wide",
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes | str, message: str) -> None:
    path = write(tmp_path / "a.csv", content)
    text = refusal(path)
    assert text.startswith(message)
    assert f"({path}) — " in text


def test_a_latin_1_file_is_told_how_to_mend(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"a\nok\n\xe9\n")
    assert refusal(path).endswith("— save the file as UTF-8 (for a Latin-1 file: iconv -f latin1 -t utf-8)")


def test_one_endless_cell_or_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftrect_ray.tables.delimited.MAX_CELL_CHARACTERS", 1000)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 5000)
    path = write(tmp_path / "a.csv", 'a,b\n1,"' + "x\n" * 600)
    assert refusal(path).startswith("a cell in the row that begins on line 2 is longer than 1000 characters")
    path = write(tmp_path / "b.csv", "a,b\n1," + "x" * 6000)
    assert refusal(path).startswith("line 2 is longer than 5000 bytes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": }\n', "line 2 is not JSON: Expecting value at column 7"),
        ('[{"a": 1}]\n', "line 1 is not a JSON object"),
        ('{"a": 1, "a": 2}\n', "line 1: key 'a' is given twice"),
        ('{"a": ' + "[" * 100_000 + "\n", "line 1: nested too deeply"),
        ('{"\\ud800": 1}\n', "line 1: a key holds half a surrogate pair"),
        ("\n\n", "the file is empty"),
        ("{}\n", "the file is empty"),
        (b'{"a": "\xff"}\n', "line 1 is not UTF-8: byte 0xff at position 8"),
        ('{"a": 1}\n' * 1001, "the table has more rows than 'data.max_rows' (1000)"),
    ],
    ids=["broken", "array", "twice", "deep", "surrogate-key", "blank", "no-keys", "latin-1", "rows"],
)
def test_bad_jsonl(tmp_path: Path, content: bytes | str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", content)
    text = refusal(path)
    assert text.startswith(message)
    assert f"({path}) — " in text


# -------------------------------------------------------------------------------------------- what is no file


def test_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "absent.csv")
    assert refusal(path) == f"there is no such file ({path}) — check the path"


def test_unknown_ending(tmp_path: Path) -> None:
    for name in ("a.xlsx", "a.csv.gz", "a"):
        assert refusal(write(tmp_path / name, "x")).startswith("the file's ending names no format that can be read")


def test_pipes_devices_folders_and_loops_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    assert refusal(str(tmp_path / "pipe.csv")).startswith("this is a pipe or device, not a file")
    assert refusal((tmp_path / "pipe.csv").as_uri()).startswith("this is a pipe or device, not a file")
    assert refusal("/dev/zero").startswith("this is a pipe or device, not a file")
    (tmp_path / "folder.csv").mkdir()
    assert refusal(str(tmp_path / "folder.csv")).startswith("this is a folder, not a file")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    assert refusal(str(tmp_path / "loop.csv")).startswith("cannot open it: Too many levels of symbolic links")
    assert refusal("a\0.csv").startswith("cannot open it: embedded null byte")


def test_uris_that_cannot_be_opened() -> None:
    assert re.match(
        r"cannot open the URI: .*\(nope://x/a.csv\) — use a local path, or file://", refusal("nope://x/a.csv")
    )


def test_read_any_gives_text_columns_only_for_text_formats(tmp_path: Path) -> None:
    table = read_any(write(tmp_path / "a.csv", "a,b\n1,2.5\n"), **LIMITS)
    assert set(table.schema.types) == {pa.string()}


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_table_that_is_divided_otherwise(tmp_path: Path, mark: str) -> None:
    (tmp_path / "t.csv").write_text(f"text{mark}label\ngood{mark}1\n")
    with pytest.raises(InputError) as caught:
        read_any(str(tmp_path / "t.csv"), columns=["label"], max_rows=10, max_bytes=1000)
    assert "there is no column 'label'" in str(caught.value)
    assert str(caught.value).endswith(f"its cells are divided by {mark!r}: save the table with commas")
