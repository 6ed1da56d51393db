"""The named data sets, read from the real package files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ftrect_ray.errors import EnvironmentFault, InputError
from ftrect_ray.sources import SOURCES, _member, _write, load_source


@pytest.fixture(scope="module")
def vader() -> pa.Table:
    return load_source("vader")


def test_vader_is_what_its_authors_describe(vader: pa.Table) -> None:
    assert vader.num_rows == SOURCES["vader"].rows == 23_703
    counts = {row["values"]: row["counts"] for row in pc.value_counts(vader["genre"].combine_chunks()).to_pylist()}
    assert counts == {"tweets": 4_200, "movie": 10_605, "nyt": 5_190, "amazon": 3_708}  # _README_.txt in the archive
    ratings = vader["rating"].to_numpy()
    assert np.var(ratings) == pytest.approx(2.705, abs=5e-4)
    low, high = SOURCES["vader"].scale
    assert low <= ratings.min() < ratings.max() <= high


def test_vader_rows_are_whole(vader: pa.Table) -> None:
    assert vader.schema == pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("rating", pa.float64()),
            ("genre", pa.string()),
            ("n_words", pa.int64()),
            ("is_tweet", pa.int64()),
        ]
    )
    assert pc.count_distinct(vader["id"]).as_py() == vader.num_rows
    assert all(column.null_count == 0 for column in vader.columns)
    assert vader.slice(1, 1).to_pylist() == [
        {
            "id": "tweets-2",
            "text": "Yay. Another good phone interview.",
            "rating": 1.443298969,
            "genre": "tweets",
            "n_words": 5,
            "is_tweet": 1,
        }
    ]
    last = vader.slice(vader.num_rows - 1, 1).to_pylist()[0]
    assert last["id"].startswith("amazon-")
    assert last["text"].endswith("out $ 300 for their piece of junk.")


def test_the_parsed_table_is_cached(vader: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTRECT_CACHE", str(tmp_path))
    source = SOURCES["vader"]
    cached = tmp_path / "sources" / f"vader-{source.artifact.sha256[:12]}-v{source.parser_version}.parquet"
    cached.parent.mkdir()
    pa.parquet.write_table(vader.slice(0, 3), cached)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert load_source("vader").num_rows == 3


def test_a_cache_that_cannot_be_written(vader: pa.Table) -> None:
    with pytest.raises(EnvironmentFault, match="cannot write to the cache: .*set FTRECT_CACHE to a writable folder"):
        _write(vader.slice(0, 3), Path("/dev/full/vader.parquet"))


def test_unknown_source() -> None:
    with pytest.raises(InputError, match=r"there is no data source 'vadr' — did you mean 'vader'\?"):
        load_source("vadr")


def test_fingerprint_names_file_and_reader() -> None:
    source = SOURCES["vader"]
    assert source.fingerprint == f"{source.artifact.sha256}-v{source.parser_version}"


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        whole = tarfile.TarInfo("file")
        whole.size = 3
        archive.addfile(whole, io.BytesIO(b"abc"))
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert _member(archive, "file") == b"abc"
        with pytest.raises(ValueError, match="link is not a file"):
            _member(archive, "link")
