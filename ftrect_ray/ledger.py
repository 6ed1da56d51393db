"""Which label was spent on what, and the rule that makes the interval honest.

A label may not rectify a model that has seen it: trained on it, chose an epoch by it, or had its size
chosen with it (FTR section 2; cross-fitting, Zrnic & Candès 2024). Every use is recorded under the name
of the model that it served, and a forbidden pair raises, whichever of the two came first.

A pilot's labels belong to the pilot's own model. They touch a final model only if they chose something
inside it, such as the split's size; that is the use ``select``, recorded under the final model's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.storage import RunStorage

#: "Models" that no label of the study shapes: the table's own predictions, the study's model as it is, and none.
GIVEN, ZERO_SHOT, NO_MODEL = "given", "zero-shot", "none"


class Use(str, Enum):
    """What a label was spent on."""

    PILOT_TRAIN = "pilot_train"
    PILOT_STOP = "pilot_stop"
    PILOT_MEASURE = "pilot_measure"
    SELECT = "select"
    FINETUNE = "finetune"
    EARLY_STOP = "early_stop"
    RECTIFY = "rectify"
    CLASSICAL = "classical"

    __str__ = str.__str__


#: Uses by which a model sees an answer. ``classical`` averages the answer itself: no model is involved.
SEEING = frozenset({Use.PILOT_TRAIN, Use.PILOT_STOP, Use.PILOT_MEASURE, Use.SELECT, Use.FINETUNE, Use.EARLY_STOP})


class Ledger:
    """The uses of every labelled id.

    Parameters
    ----------
    ids : iterable of str
        The label budget: no other id may be used for anything.

    Raises
    ------
    InputError
        On a duplicate id.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        listed = list(ids)
        self.budget = frozenset(listed)
        if len(self.budget) != len(listed):
            doubled = next(name for name, count in Counter(listed).items() if count > 1)
            raise InputError(f"id {doubled!r} is in the label budget twice", mend="give every labelled row its own id")
        self._uses: dict[tuple[Use, str], dict[str, None]] = {}

    def record(self, use: Use, model: str, ids: Iterable[str]) -> None:
        """Charge ``ids`` with ``use`` for ``model``; recording the same again changes nothing.

        Raises
        ------
        InputError
            When an id is outside the budget, or would both shape and rectify ``model``. Nothing is recorded then.
        """
        wanted = dict.fromkeys(ids)
        strangers = [name for name in wanted if name not in self.budget]
        if strangers:
            raise InputError(
                f"{len(strangers)} ids are outside the label budget, the first {strangers[0]!r}",
                where=f"{use} of {model}",
                mend="use labelled rows only",
            )
        forbidden = [Use.RECTIFY] if use in SEEING else sorted(SEEING) if use == Use.RECTIFY else []
        for other in forbidden:
            both = wanted.keys() & self._uses.get((other, model), {}).keys()
            if both:
                order = f"{other}, then {use}"
                raise InputError(
                    f"{len(both)} labels would both shape and rectify model {model!r} ({order}), "
                    f"the first {min(both)!r}",
                    where="ledger",
                    mend="rectify with labels that the model never saw",
                )
        self._uses.setdefault((use, model), {}).update(wanted)

    def ids(self, use: Use, model: str | None = None) -> list[str]:
        """The ids charged with ``use`` (for one model, or for any), in the order of recording, each once."""
        found: dict[str, None] = {}
        for (kind, name), ids in self._uses.items():
            if kind == use and model in (None, name):
                found.update(ids)
        return list(found)

    def models(self, use: Use) -> list[str]:
        """Names of the models that have labels under ``use``, in the order of recording."""
        return list(dict.fromkeys(name for kind, name in self._uses if kind == use))

    def counts(self) -> list[dict[str, str | int]]:
        """One row a use and model: ``{"use", "model", "count"}``."""
        return [{"use": str(use), "model": model, "count": len(ids)} for (use, model), ids in self._uses.items()]

    def forget(self, uses: Iterable[Use]) -> None:
        """Drop all records of ``uses``: the stage that made them is about to run anew."""
        dropped = set(uses)
        self._uses = {key: ids for key, ids in self._uses.items() if key[0] not in dropped}

    # ------------------------------------------------------------------------------------------- as a table

    def to_table(self) -> pa.Table:
        """Columns ``id``, ``use``, ``model``; a label without a use has one row with both null."""
        rows: list[tuple[str, str | None, str | None]] = []
        for (use, model), ids in self._uses.items():
            rows += [(name, str(use), model) for name in ids]
        used = {name for name, _, _ in rows}
        rows += [(name, None, None) for name in sorted(self.budget - used)]
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        return pa.table(
            {key: pa.array(values, pa.string()) for key, values in zip(("id", "use", "model"), columns, strict=True)}
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Ledger:
        """The inverse of :meth:`to_table`; every record is checked again."""
        rows = list(zip(*(table[name].to_pylist() for name in ("id", "use", "model")), strict=True))
        ledger = cls(dict.fromkeys(name for name, _, _ in rows))
        charged: dict[tuple[str, str], list[str]] = {}
        for name, use, model in rows:
            if use is not None:
                charged.setdefault((use, model), []).append(name)
        for (use, model), ids in charged.items():
            ledger.record(Use(use), model, ids)
        return ledger

    def save(self, storage: RunStorage) -> None:
        storage.write_table(self.to_table(), "ledger.parquet")

    @classmethod
    def load(cls, storage: RunStorage) -> Ledger:
        return cls.from_table(storage.read_table("ledger.parquet"))
