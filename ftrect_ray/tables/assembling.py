"""The table of a study: its files read and checked together, joined, and cut to the label budget."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.errors import InputError, InputErrors
from ftrect_ray.sources import SOURCES, load_source
from ftrect_ray.study import Data
from ftrect_ray.tables.identity import check_ids
from ftrect_ray.tables.naming import OWN_NAMES, Kind, Part, conflicts, make_part
from ftrect_ray.tables.opening import locate
from ftrect_ray.tables.reading import read_any
from ftrect_ray.tables.wording import count

BUDGET_STREAM = 1


@dataclass(frozen=True)
class LoadedTable:
    """The table of a study.

    Attributes
    ----------
    table : pa.Table
        ``id`` string, ``text`` string (null where it cannot be built), ``label`` float64 (null: not to be
        known), ``prediction`` and ``weight`` float64, ``strata`` and ``cluster`` string if the study names
        them, then the user's other columns; features are float64.
    answers : pa.Table or None
        ``id`` and ``label`` of every row, if the origin answers every row. It is the truth: only an
        evaluation and the truth line of a report may see it.
    fingerprint : str
        64 hex digits that change with the content of the files.
    """

    table: pa.Table
    answers: pa.Table | None
    fingerprint: str

    @property
    def truth(self) -> dict[str, float | int] | None:
        """``{"mean": …, "rows": …}`` over all rows, if all answers are known."""
        if self.answers is None:
            return None
        return {"mean": float(pc.mean(self.answers["label"]).as_py()), "rows": self.answers.num_rows}


def load_table(data: Data, labels: int | None, seed: int, features: Sequence[str] = ()) -> LoadedTable:
    """Read the origin that ``data`` names and make the table of the study.

    The budget is a simple random sample without replacement: ``labels`` of the answered rows, drawn by
    ``numpy.random.default_rng([seed, BUDGET_STREAM])``. The other answered rows keep their place and lose
    their answer. Equal files, budget and seed give equal tables.

    Parameters
    ----------
    data : Data
    labels : int or None
        The budget; None keeps every answer.
    seed : int
        The study's seed.
    features : sequence of str
        Columns that the target needs as numbers, without gaps.

    Raises
    ------
    InputErrors
        Everything that is wrong with the content, at once.
    InputError
        A file cannot be read, or the prompt is no template.
    """
    problems = conflicts(data, features)
    parts, fingerprint = _read(data, features)
    problems += [problem for part in parts for problem in part.problems] + check_ids(parts)
    if not problems:
        problems = _check_budget(parts, labels)
    if problems:
        raise InputErrors(problems)
    table = _join(parts, data, features)
    answers = None if table["label"].null_count else table.select(["id", "label"])
    if labels is not None:
        column = table.column_names.index("label")
        table = table.set_column(column, "label", _within_budget(table["label"], labels, seed))
    return LoadedTable(table, answers, fingerprint)


def _read(data: Data, features: Sequence[str]) -> tuple[list[Part], str]:
    """The files of the origin, and one digest of their bytes in order."""
    if data.source is not None:
        part = make_part(load_source(data.source), f"source {data.source}", "all", data, features)
        return [part], _digest([SOURCES[data.source].fingerprint])
    paths: dict[Kind, str | None] = {"all": data.table, "labeled": data.labeled, "unlabeled": data.unlabeled}
    parts, digests = [], []
    for kind, path in paths.items():
        if path is not None:
            raw = read_any(path, max_rows=data.max_rows, max_bytes=data.max_bytes)
            parts.append(make_part(raw, path, kind, data, features))
            digests.append(locate(path).sha256())
    return parts, _digest(digests)


def _digest(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------- joining


def _join(parts: Sequence[Part], data: Data, features: Sequence[str]) -> pa.Table:
    """One table under one schema; the columns that the study uses come first, each once."""
    roles = {getattr(data, role) for role in OWN_NAMES}
    used = {*OWN_NAMES, *roles, *features}
    others = [name for name in dict.fromkeys(n for part in parts for n in part.raw.column_names) if name not in used]
    kinds = {name: _common_type(name, parts) for name in others}
    tables = []
    for part in parts:
        columns = dict(part.columns)
        for name in others:
            if name in part.raw.column_names:
                columns[name] = _cast(part, name, kinds[name])
            else:
                columns[name] = pa.chunked_array([pa.nulls(part.raw.num_rows, kinds[name])])
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables)
    if data.id is None:
        numbered = pa.array([f"row-{row:06d}" for row in range(1, table.num_rows + 1)], pa.string())
        table = table.add_column(0, "id", pa.chunked_array([numbered]))
    return table


def _cast(part: Part, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return part.raw[name].cast(kind)
    except pa.ArrowException:
        found = part.raw[name].type
        raise InputError(
            f"column {name!r} has the type {found} here and another in the other file",
            where=part.where,
            mend="drop the column",
        ) from None


def _common_type(name: str, parts: Sequence[Part]) -> pa.DataType:
    """The type of a column that the study does not use: its own, or text where the files differ."""
    kinds = {part.raw[name].type for part in parts if name in part.raw.column_names}
    if len(kinds) == 1:
        return kinds.pop()
    return pa.string()


# -------------------------------------------------------------------------------------------------- budget


def _check_budget(parts: Sequence[Part], labels: int | None) -> list[InputError]:
    answered = sum(len(part.columns["label"]) - part.columns["label"].null_count for part in parts)
    where = parts[0].where
    rows = count(answered, "row")
    if answered < 2:
        return [InputError(f"there are answers in only {rows}", where=where, mend="an interval needs at least two")]
    if labels is not None and labels > answered:
        mend = f"lower 'labels' to at most {answered}, or leave it out to use every answer"
        return [InputError(f"'labels' is {labels}, but there are answers in only {rows}", where=where, mend=mend)]
    return []


def _within_budget(label: pa.ChunkedArray, labels: int, seed: int) -> pa.ChunkedArray:
    """``label`` with all but a random ``labels`` of its answers removed."""
    answered = np.flatnonzero(label.is_valid().to_numpy())
    kept = np.zeros(len(label), dtype=bool)
    kept[np.random.default_rng([seed, BUDGET_STREAM]).choice(answered, size=labels, replace=False)] = True
    return pc.if_else(pa.array(kept), label, pa.scalar(None, pa.float64()))
