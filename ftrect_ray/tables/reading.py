"""Reading csv, jsonl and parquet without guessing: a cell of text stays the text that was written.

``NA``, ``None`` and ``007`` are text; only an empty csv cell and a JSON or parquet null are missing. Numbers
are made later, strictly, in :mod:`ftrect_ray.tables.columns`. Nested columns (lists, structs) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ftrect_ray.errors import InputError
from ftrect_ray.tables.delimited import read_csv
from ftrect_ray.tables.jsonlines import read_jsonl
from ftrect_ray.tables.opening import locate
from ftrect_ray.tables.parquet import read_parquet
from ftrect_ray.tables.wording import missing_column


def read_any(path: str, *, columns: Sequence[str] | None = None, max_rows: int, max_bytes: int) -> pa.Table:
    """A table from a csv, jsonl or parquet file.

    Parameters
    ----------
    path : str
        Local path or URI; its ending names the format.
    columns : sequence of str, optional
        Only these, in this order; default all flat columns.
    max_rows, max_bytes : int
        A table with more rows, or with more bytes once decoded, is refused before it fills the memory.

    Returns
    -------
    pa.Table
        csv and jsonl: every column is ``string`` (JSON numbers keep their digits). parquet: the file's own
        types, text as ``string``.

    Raises
    ------
    InputError
        Naming the file, and the line or column.
    """
    file = locate(path)
    readers = {".csv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".parquet": read_parquet}
    reader = next((readers[ending] for ending in readers if file.path.lower().endswith(ending)), None)
    if reader is None:
        raise InputError(
            "the file's ending names no format that can be read",
            where=path,
            mend="use .csv, .jsonl or .parquet, uncompressed",
        )
    if file.size > max_bytes:
        raise InputError(
            f"the file has {file.size} bytes, more than 'data.max_bytes' ({max_bytes})",
            where=path,
            mend="raise the limit if you trust the file",
        )
    table = reader(file, max_rows, max_bytes)
    if columns is None:
        return table
    for name in columns:
        if name not in table.column_names:
            raise missing_column(name, "", table.column_names, path)
    return table.select(list(columns))
