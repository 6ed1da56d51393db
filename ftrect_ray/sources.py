"""Named data sets: tables with an answer in every row, for trying the method and for measuring it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ftrect_ray.download import Artifact, cache_dir, fetch, locked, make_folder, unwritable
from ftrect_ray.errors import InputError, near_match

MAX_MEMBER_BYTES = 64 << 20


@dataclass(frozen=True)
class Source:
    """A data set that arrives as a package file.

    Attributes
    ----------
    name, description, licence, citation : str
    rows : int
        Every row has a text and an answer.
    text, label, id : str
        What to write under ``data`` of a study.
    scale : tuple of float
        Lowest and highest possible answer.
    artifact : Artifact
    parser_version : int
        Raised when the same file is read differently; together with the file's digest it names the content.
    read : callable
        From the package file to the table.
    """

    name: str
    description: str
    licence: str
    citation: str
    rows: int
    text: str
    label: str
    id: str
    scale: tuple[float, float]
    artifact: Artifact
    parser_version: int
    read: Callable[[Path], pa.Table]

    @property
    def fingerprint(self) -> str:
        """Names the content: the package file's digest and the version of its reader."""
        return f"{self.artifact.sha256}-v{self.parser_version}"


def load_source(name: str) -> pa.Table:
    """The whole table of a named source, answers included; read once, then kept as Parquet in the cache.

    Raises
    ------
    InputError
        There is no such source.
    EnvironmentFault
        The package file cannot be fetched.
    """
    if name not in SOURCES:
        raise InputError(f"there is no data source {name!r}", mend=near_match(name, SOURCES))
    source = SOURCES[name]
    cached = cache_dir() / "sources" / f"{name}-{source.artifact.sha256[:12]}-v{source.parser_version}.parquet"
    if not cached.exists():
        make_folder(cached.parent)
        with locked(cached):
            if not cached.exists():
                _write(source.read(fetch(source.artifact)), cached)
    return pq.read_table(cached)


def _write(table: pa.Table, path: Path) -> None:
    partial = path.with_suffix(".tmp")
    try:
        pq.write_table(table, partial)
        os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from None


# -------------------------------------------------------------------------------------------------- vader

_VADER_GENRES = {
    "tweets": "tweets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """The bytes of one regular file of a tar; nothing is written to disk."""
    info = archive.getmember(name)
    if not info.isreg() or info.size > MAX_MEMBER_BYTES:
        raise ValueError(f"{name} is not a file of at most {MAX_MEMBER_BYTES} bytes")
    file = archive.extractfile(info)
    assert file is not None  # a regular member always has a body
    return file.read()


def _read_vader(path: Path) -> pa.Table:
    """id, text, rating, genre, n_words, is_tweet.

    A line of the files is ``ID TAB mean rating TAB text``; ids are unique inside a file, so the genre goes first.
    """
    with tarfile.open(path, "r:gz") as outer:
        inner = _member(outer, "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
    rows: list[tuple[str, str, float, str]] = []
    with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as archive:
        for genre, filename in _VADER_GENRES.items():
            lines = _member(archive, f"hutto_ICWSM_2014/{filename}").decode("utf-8-sig").split("\r\n")
            for number, rating, text in (line.split("\t", 2) for line in lines if line):
                rows.append((f"{genre}-{number}", text, float(rating), genre))
    ids, texts, ratings, genres = zip(*rows, strict=True)
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.string()),
            "rating": pa.array(ratings, pa.float64()),
            "genre": pa.array(genres, pa.string()),
            "n_words": pa.array([len(text.split()) for text in texts], pa.int64()),
            "is_tweet": pa.array([int(genre == "tweets") for genre in genres], pa.int64()),
        }
    )


SOURCES: dict[str, Source] = {
    source.name: source
    for source in [
        Source(
            name="vader",
            description="sentences from tweets, film, product and newspaper writing; "
            "the answer is the mean of about 20 human ratings of their sentiment",
            licence="MIT",
            citation="Hutto and Gilbert (2014), VADER, ICWSM-14",
            rows=23_703,
            text="text",
            label="rating",
            id="id",
            scale=(-4.0, 4.0),
            artifact=Artifact(
                project="vaderSentiment",
                version="3.3.2",
                filename="vaderSentiment-3.3.2.tar.gz",
                sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                size=2_466_783,
            ),
            parser_version=1,
            read=_read_vader,
        )
    ]
}
