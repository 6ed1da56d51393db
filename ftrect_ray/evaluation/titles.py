"""Designs in the words and the order of FTR's tables, and what each of them is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ftrect_ray.evaluation.summary import GRID_BEST, UNRECTIFIED, Row

#: Objectives as FTR's tables write them.
OBJECTIVES = {"variance": "Var", "mse": "MSE"}

#: Designs that train nothing: their rows are the same for every objective.
UNTRAINED = {"mean": "Sample mean", "ppi": "PPI only", "ppi++": "PPI++ only", "recalibrated": "Recalibrated PPI"}

#: Designs whose row begins with the objective, as in FTR's tables.
SPLITS = {"split-ramp-up": "PPI, ramp-up", GRID_BEST: "PPI, grid-best"}

#: Designs whose row ends with the objective.
TRAINED = {
    UNRECTIFIED: "Fine-tune only",
    "recycle": "Recycled",
    "sequential": "Sequential",
    "auto": "Chosen by the planner",
}

#: FTR's rows from above to below, then ours.
ORDER = [
    "mean", UNRECTIFIED, "ppi", "ppi++", "recalibrated", GRID_BEST, "split-ramp-up", "recycle", "sequential",
    "crossfit", "rotation", "auto",
]  # fmt: skip


@dataclass(frozen=True)
class TableRow:
    """One row of a table: a design with one objective, over the budgets.

    Attributes
    ----------
    title : str
    design, objective : str
    deployable : bool
        Nobody who knows the labels of one study alone could carry out the others.
    by_budget : dict of int to dict
        Rows of the summary.
    """

    title: str
    design: str
    objective: str
    deployable: bool
    by_budget: dict[int, Row]


def table_rows(summary: Sequence[Row], model: str) -> list[TableRow]:
    """Rows of the tables of one model, in their order; points of the grid stand in it by the best of them alone."""
    found: dict[tuple[str, str], TableRow] = {}
    for row in summary:
        design, objective = row["design"], row["objective"]
        if row["model"] != model or re.fullmatch(r"split-\d+", design):
            continue
        key = (design, "" if design in UNTRAINED else objective)
        entry = found.setdefault(key, TableRow(title(design, objective), *key, design != GRID_BEST, {}))
        entry.by_budget.setdefault(row["budget"], row)
    objectives = ["", *reversed(OBJECTIVES)]  # MSE above Var
    return sorted(found.values(), key=lambda row: (_rank(row.design), objectives.index(row.objective)))


def title(design: str, objective: str) -> str:
    """A design as the tables write it.

    >>> title("crossfit-5", "variance"), title("split-best", "mse"), title("rotation-2-5", "variance")
    ('Cross-fitted, K = 5 (Var)', 'MSE + PPI, grid-best', 'Rotation 2/5 (Var)')
    """
    if design in UNTRAINED:
        return UNTRAINED[design]
    of = OBJECTIVES[objective]
    if design in SPLITS:
        return f"{of} + {SPLITS[design]}"
    kind, _, numbers = design.partition("-")
    if kind == "crossfit":
        return f"Cross-fitted, K = {numbers} ({of})"
    if kind == "rotation":
        return f"Rotation {numbers.replace('-', '/')} ({of})"
    return f"{TRAINED.get(design, design)} ({of})"


def _rank(design: str) -> tuple[int, list[int]]:
    kinds = [design, design.partition("-")[0]]
    place = next((ORDER.index(kind) for kind in kinds if kind in ORDER), len(ORDER))
    return place, [int(number) for number in re.findall(r"\d+", design)]
