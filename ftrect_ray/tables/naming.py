"""The columns that a study names, found in one file and made into what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.errors import InputError
from ftrect_ray.study import Data
from ftrect_ray.tables.columns import (
    as_text,
    complete_numbers,
    fill_prompt,
    identifiers,
    numbers,
    positions,
    prompt_fields,
)
from ftrect_ray.tables.wording import count, missing_column, show_rows

OWN_NAMES = ("id", "text", "label", "prediction", "weight", "strata", "cluster")
Kind = Literal["all", "labeled", "unlabeled"]
Maker = Callable[[pa.ChunkedArray, str, str], tuple[pa.ChunkedArray, list[InputError]]]


@dataclass(frozen=True)
class Part:
    """One file of a study's origin.

    Attributes
    ----------
    raw : pa.Table
        As it was read.
    where : str
        Its name in messages.
    kind : {"all", "labeled", "unlabeled"}
        Which rows have an answer: some or all; every one; none.
    columns : dict of pa.ChunkedArray
        The own ones (``id``, ``text``, ``label``, …) and the features, as far as they could be made.
    problems : tuple of InputError
        What stood in the way.
    """

    raw: pa.Table
    where: str
    kind: Kind
    columns: dict[str, pa.ChunkedArray]
    problems: tuple[InputError, ...]


def conflicts(data: Data, features: Sequence[str]) -> list[InputError]:
    """The answer must not come back as an input of the model or of the estimator."""
    fields = prompt_fields(data.prompt) if data.prompt is not None else []
    roles: dict[str, Sequence[str | None]] = {
        "data.text": [data.text],
        "data.prompt": fields,
        "data.id": [data.id],
        "data.prediction": [data.prediction],
        "data.weight": [data.weight],
        "data.strata": [data.strata],
        "data.cluster": [data.cluster],
        "target.features": features,
    }
    problems = [
        InputError(
            f"{role!r} uses the column {data.label!r}, which holds the answers ('data.label')",
            mend="an answer cannot also be an input: name another column",
        )
        for role, names in roles.items()
        if data.label in names
    ]
    for name in features:
        if name in OWN_NAMES and name != data.label and not name == "prediction" == data.prediction:
            problems.append(InputError(f"a feature cannot be called {name!r}", mend="rename the column in the table"))
    return problems


def make_part(raw: pa.Table, where: str, kind: Kind, data: Data, features: Sequence[str]) -> Part:
    """Make every column that the study names, and collect what is wrong with them."""
    problems: list[InputError] = []

    def make(role: str, name: str, maker: Maker) -> pa.ChunkedArray | None:
        if name not in raw.column_names:
            problems.append(_missing(name, role, raw.column_names, where))
            return None
        column, wrong = maker(raw[name], name, where)
        problems.extend(wrong)
        return column

    columns: dict[str, pa.ChunkedArray | None] = {}
    if data.id is not None:
        columns["id"] = make("data.id", data.id, identifiers)
    if data.text is not None:
        columns["text"] = make("data.text", data.text, as_text)
    if data.prompt is not None:
        filled = {name: make("data.prompt", name, as_text) for name in dict.fromkeys(prompt_fields(data.prompt))}
        known = {name: column for name, column in filled.items() if column is not None}
        columns["text"] = fill_prompt(data.prompt, known) if len(known) == len(filled) else None
    if kind == "unlabeled" and data.label not in raw.column_names:
        columns["label"] = pa.chunked_array([pa.nulls(raw.num_rows, pa.float64())])
    else:
        columns["label"] = make("data.label", data.label, partial(_answers, kind=kind, scale=data.scale))
    if data.prediction is not None:
        columns["prediction"] = make("data.prediction", data.prediction, numbers)
    for role, maker in (("weight", _weights), ("strata", _groups), ("cluster", _groups)):
        if (name := getattr(data, role)) is not None:
            columns[role] = make(f"data.{role}", name, maker)
    for name in features:
        columns[name] = make("target.features", name, complete_numbers)
    if raw.num_rows == 0:
        problems.append(InputError("the table has no rows", where=where, mend="a header alone is not enough"))
    return Part(
        raw, where, kind, {name: column for name, column in columns.items() if column is not None}, tuple(problems)
    )


def _missing(name: str, role: str, names: Sequence[str], where: str) -> InputError:
    error = missing_column(name, role, names, where)
    if role == "data.id":
        return InputError(error.what, where=where, mend=f"{error.mend}, or set 'data.id: null' to number the rows")
    return error


def _weights(column: pa.ChunkedArray, name: str, where: str) -> tuple[pa.ChunkedArray, list[InputError]]:
    """Survey weights: a number in every row, never negative."""
    values, problems = complete_numbers(column, name, where)
    negative = positions(pc.less(values, 0))
    if len(negative):
        rows = f"{count(len(negative), 'row')}: {show_rows(negative, values)}"
        problems.append(InputError(f"the weight {name!r} is negative in {rows}", where=where, mend="mend the weights"))
    return values, problems


def _groups(column: pa.ChunkedArray, name: str, where: str) -> tuple[pa.ChunkedArray, list[InputError]]:
    """Strata or clusters: a name in every row."""
    names, problems = as_text(column, name, where)
    missing = positions(pc.equal(pc.fill_null(names, ""), ""))
    if len(missing) and not problems:
        rows = f"{count(len(missing), 'row')}: {show_rows(missing)}"
        problems.append(
            InputError(f"column {name!r} is empty in {rows}", where=where, mend="give these rows a group of their own")
        )
    return names, problems


def _answers(
    column: pa.ChunkedArray, name: str, where: str, *, kind: Kind, scale: tuple[float, float] | None
) -> tuple[pa.ChunkedArray, list[InputError]]:
    """The answers of one file: numbers on the declared scale, there where they should be and nowhere else."""
    if kind == "unlabeled":
        answered = positions(pc.is_valid(column))
        problem = InputError(
            f"the unlabeled file has answers in {name!r}: {show_rows(answered, column)}",
            where=where,
            mend="drop the column, or name one 'data.table' with all rows",
        )
        return pa.chunked_array([pa.nulls(len(column), pa.float64())]), [problem] if len(answered) else []
    values, problems = numbers(column, name, where)
    unanswered = positions(pc.is_null(column))
    if kind == "labeled" and len(unanswered):
        problems.append(
            InputError(
                f"the labeled file has no {name!r} in {count(len(unanswered), 'row')}: {show_rows(unanswered)}",
                where=where,
                mend="move them to the unlabeled file, or name one 'data.table' with all rows",
            )
        )
    if scale is not None:
        outside = positions(pc.or_(pc.less(values, scale[0]), pc.greater(values, scale[1])))
        if len(outside):
            rows = count(len(outside), "row")
            problems.append(
                InputError(
                    f"column {name!r} is outside the scale [{scale[0]:g}, {scale[1]:g}] in {rows}: "
                    f"{show_rows(outside, values)}",
                    where=where,
                    mend="mend the answers or 'data.scale'",
                )
            )
    return values, problems
