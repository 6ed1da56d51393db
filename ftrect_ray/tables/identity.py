"""One id, one row: repeated ids, contradicting answers, and rows that stand in both files."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.errors import InputError
from ftrect_ray.tables.columns import positions
from ftrect_ray.tables.naming import Part
from ftrect_ray.tables.wording import show_rows


def check_ids(parts: Sequence[Part]) -> list[InputError]:
    """Errors about ids inside each file, then between the labeled and the unlabeled one."""
    known = [part for part in parts if "id" in part.columns]
    problems = [problem for part in known for problem in _repeats(part)]
    if len(known) == 2:
        first, second = known
        shared = pc.unique(second.columns["id"].filter(pc.is_in(second.columns["id"], first.columns["id"].drop_null())))
        shared = shared.drop_null()
        if len(shared):
            problems.append(
                InputError(
                    f"{_ids(len(shared))} in both {first.where} and {second.where}: {_first(shared)}",
                    mend="a row is labelled or it is not: keep it in one file",
                )
            )
    return problems


def _repeats(part: Part) -> list[InputError]:
    ids = part.columns["id"]
    counts = pc.value_counts(ids.drop_null().combine_chunks())
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if not len(repeated):
        return []
    rows = positions(pc.is_in(ids, repeated))
    problems = [
        InputError(
            f"{_ids(len(repeated))} repeated: {_first(repeated)} ({show_rows(rows, ids)})",
            where=part.where,
            mend="give every row an id of its own, or set 'data.id: null' to number the rows",
        )
    ]
    if "label" in part.columns:
        problems += _contradictions(part, rows.tolist())
    return problems


def _contradictions(part: Part, rows: Sequence[int]) -> list[InputError]:
    """Repeated ids whose answers differ."""
    answers: dict[str, set[float]] = {}
    for row in rows:
        answer = part.columns["label"][row].as_py()
        if answer is not None:
            answers.setdefault(part.columns["id"][row].as_py(), set()).add(answer)
    torn = {name: sorted(values) for name, values in answers.items() if len(values) > 1}
    if not torn:
        return []
    name, values = next(iter(torn.items()))
    return [
        InputError(
            f"{_ids(len(torn))} labelled with conflicting answers: {name!r} has {', '.join(f'{v:g}' for v in values)}",
            where=part.where,
            mend="decide on one answer, for example the mean of the raters",
        )
    ]


def _ids(count: int) -> str:
    return "1 id is" if count == 1 else f"{count} ids are"


def _first(ids: pa.Array) -> str:
    return ", ".join(repr(name.as_py()) for name in ids[:5]) + (", …" if len(ids) > 5 else "")
