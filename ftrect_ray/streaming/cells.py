"""Columns of one batch as NumPy arrays, checked; plain columns of numbers are not copied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.errors import InputError
from ftrect_ray.estimators.validation import LARGEST
from ftrect_ray.tables.columns import as_text, floats
from ftrect_ray.tables.lines import check_names
from ftrect_ray.tables.wording import count, missing_column, show_rows


@dataclass(frozen=True, eq=False)
class Cells:
    """The columns of a batch.

    Attributes
    ----------
    batch : pa.RecordBatch
    before : int
        Rows of the table that come before it, to count rows from the table's beginning.
    where : str
        The table's name in errors.
    missing : tuple of str
        Texts that stand for an empty cell.
    """

    batch: pa.RecordBatch
    before: int
    where: str
    missing: tuple[str, ...] = ()

    def column(self, name: str) -> pa.Array:
        """The column as it is, empty where a cell holds one of the ``missing`` texts."""
        try:
            column = self.batch.column(name)
        except KeyError:
            check_names(self.batch.schema.names, self.where)
            raise missing_column(name, "", self.batch.schema.names, self.where) from None
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if self.missing and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            absent = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(self.missing, column.type))
            column = pc.if_else(absent, pa.scalar(None, column.type), column)
        return column

    def empty(self, name: str) -> bool:
        """Whether all cells are."""
        column = self.column(name)
        return bool(column.null_count == len(column))

    def numbers(self, name: str) -> np.ndarray:
        """float64 (b,), NaN where the cell is empty."""
        column = self.column(name)
        if pa.types.is_float64(column.type) and column.null_count == 0:
            values = np.asarray(column.to_numpy())
            if float(values @ values) <= LARGEST**2:  # one pass over a column in which nothing is wrong; NaN is not ≤
                return values
        values = floats(column, name, self.where, self.before)
        huge = np.abs(values) > LARGEST
        if huge.any():
            raise self.wrong(name, huge, f"must not exceed {LARGEST:g} in size", "divide the numbers by a constant")
        return values

    def texts(self, name: str) -> np.ndarray:
        """Answers in words (b,) of type object, None where the cell is empty."""
        column, problems = as_text(self.column(name), name, self.where)
        if problems:
            raise problems[0]
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)

    def complete(self, name: str) -> np.ndarray:
        """:meth:`numbers` of a column in which no cell may be empty."""
        values = self.numbers(name)
        gaps = np.flatnonzero(np.isnan(values))
        if len(gaps):
            raise self._gaps(name, gaps)
        return values

    def at_least_0(self, name: str) -> np.ndarray:
        """:meth:`complete`, not negative."""
        values = self.complete(name)
        if len(values) and values.min() < 0:
            raise self.wrong(name, values < 0, "must not be negative", "")
        return values

    def labels(self, name: str) -> np.ndarray:
        """Names of strata or clusters (b,): whole numbers as they are, all else as text; none may be empty."""
        column = self.column(name)
        if pa.types.is_integer(column.type) and not column.null_count:
            return np.asarray(column.to_numpy(), dtype=np.int64)
        names, codes = self.coded(name)
        return np.array(names, dtype=str)[codes] if names else np.zeros(0, dtype=str)

    def coded(self, name: str) -> tuple[list[str], np.ndarray]:
        """The different names of a column and the place of each row's in them (b,); none may be empty."""
        column, problems = as_text(self.column(name), name, self.where)
        if problems:
            raise problems[0]
        gaps = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        if len(gaps):
            raise self._gaps(name, gaps)
        encoded = column.dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()

    def wrong(self, name: str, bad: np.ndarray, rule: str, mend: str) -> InputError:
        """The error for the rows in which ``bad`` (b,) is true."""
        rows = np.flatnonzero(bad)
        shown = show_rows(rows, self.batch.column(name), self.before)
        what = f"column {name!r} {rule}; got {shown} ({count(len(rows), 'such row')})"
        return InputError(what, where=self.where, mend=mend)

    def _gaps(self, name: str, rows: np.ndarray) -> InputError:
        return InputError(
            f"column {name!r} is empty in {count(len(rows), 'row')}: {show_rows(rows, None, self.before)}",
            where=self.where,
            mend="fill these cells or drop the rows",
        )
