"""Which answers a target can have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ftrect_ray.errors import InputError
from ftrect_ray.streaming.questions import Question
from ftrect_ray.streaming.rows import Answers
from ftrect_ray.tables.wording import SHOWN_ROWS, count

Holds = Callable[[np.ndarray], np.ndarray]

RULES: dict[str, tuple[Holds, str]] = {
    "logistic": (lambda y: (y == 0) | (y == 1), "must be 0 or 1"),
    "poisson": (lambda y: y >= 0, "must not be negative"),
    "multinomial": (lambda y: (y >= 0) & (y == np.floor(y)), "must be options 0, 1, 2, …"),
}


def refuse_impossible(parts: Sequence[Answers], question: Question, where: str) -> None:
    """Raise where labels break the target's rule, or are outside the declared scale: how many, and the first of them.

    Raises
    ------
    InputError
    """
    rules = [RULES[question.target]] if question.target in RULES else []
    if question.scale is not None:
        low, high = question.scale
        rules.append((lambda y: (low <= y) & (y <= high), f"must be on the scale {low:g} to {high:g}"))
    for holds, rule in rules:
        wrong = [
            (int(row), float(value)) for part in parts for row, value in zip(*_where(~holds(part.Y), part), strict=True)
        ]
        if wrong:
            shown = ", ".join(f"row {row + 1} {value:g}" for row, value in sorted(wrong)[:SHOWN_ROWS])
            raise InputError(
                f"labels in {question.columns.label!r} {rule}; got {shown}"
                + (", …" if len(wrong) > SHOWN_ROWS else "")
                + f" ({count(len(wrong), 'such label')})",
                where=where,
                mend="correct them, or leave the cell empty where there is no label",
            )


def _where(wrong: np.ndarray, part: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Rows and values where ``wrong`` (n, c) is true."""
    rows, columns = np.nonzero(wrong)
    return part.row[rows], part.Y[rows, columns]
