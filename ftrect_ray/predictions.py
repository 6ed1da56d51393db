"""A model's predictions of every row, as ``inference`` wrote them or as they came with the table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftrect_ray.errors import InputError
from ftrect_ray.storage import RunStorage

#: Float64 values (N,), a constant where the prediction is missing, and the reason (N,), null where it is not.
Predictions = tuple[np.ndarray, pa.ChunkedArray]


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """float64 (N,) with NaN for null."""
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float64)


def given_predictions(table: pa.Table, storage: RunStorage) -> Predictions:
    """The table's own predictions. A missing one becomes the mean of the others, which no answer has a part in."""
    if "prediction" not in table.column_names:
        raise InputError(
            "the table has no column 'prediction'",
            where=storage.url("table.parquet"),
            mend="name it in 'data.prediction' and run again",
        )
    values = floats(table["prediction"])
    missing = np.isnan(values)
    constant = values[~missing].mean() if not missing.all() else 0.0
    reason = pc.if_else(pa.array(missing), pa.scalar("no prediction in the table"), pa.scalar(None, pa.string()))
    return np.where(missing, constant, values), pa.chunked_array([reason])


def model_predictions(model: str, table: pa.Table, storage: RunStorage) -> Predictions:
    """One model's shards in order; they must hold the table's ids, each once, in the table's order."""
    shards = sorted(
        (
            name
            for name in storage.list("predictions", model)
            if name.startswith("shard-") and name.endswith(".parquet")
        ),
        key=lambda name: (len(name), name),
    )
    where, mend = storage.url("predictions", model), "run 'ftrect predict' again"
    if not shards:
        raise InputError(f"there are no predictions of model {model!r}", where=where, mend=mend)
    parts = []
    for name in shards:
        with storage.filesystem.open_input_file(storage.path("predictions", model, name)) as file:
            parts.append(pq.read_table(file, columns=["id", "prediction", "error"]))
    rows = pa.concat_tables(parts)
    if rows.num_rows != table.num_rows or not pc.all(pc.equal(rows["id"], table["id"])).as_py():
        raise InputError(
            f"the predictions of model {model!r} do not match the table row by row", where=where, mend=mend
        )
    values = floats(rows["prediction"])
    missing = np.isnan(values)
    constant = float(storage.read_json("model", model, "readout.json")["train_mean"]) if missing.any() else 0.0
    reason = pc.if_else(
        pa.array(missing), pc.coalesce(rows["error"], pa.scalar("no prediction")), pa.scalar(None, pa.string())
    )
    return np.where(missing, constant, values), reason


def reason_codes(reasons: list[pa.ChunkedArray], rows: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reasons as int16 (N, K), 0 for none, and their names."""
    names = sorted({name for column in reasons for name in pc.unique(column).to_pylist() if name is not None})
    if not names:
        return np.zeros((rows, len(reasons)), dtype=np.int16), ()
    coded = [pc.fill_null(pc.index_in(column, value_set=pa.array(names)), -1).to_numpy() + 1 for column in reasons]
    return np.column_stack(coded).astype(np.int16), tuple(names)
