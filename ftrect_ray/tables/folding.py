"""Columns in which equal texts are stored once: how large they are unfolded, and unfolding them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from ftrect_ray.tables.limits import BATCH_BYTES


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of an unfolded column: one type for all texts, one for all bytes, any other as it is."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def is_folded(kind: pa.DataType) -> bool:
    """Whether a parquet column of this type is read with equal cells stored once."""
    return plain_type(kind) in (pa.string(), pa.binary())


def least_bytes(kind: pa.DataType) -> int:
    """What a cell of this type takes at least in memory."""
    return int(kind.byte_width) if pa.types.is_fixed_size_binary(kind) else 8


def _decoded_bytes(column: pa.Array) -> int:
    """Bytes of a column once every row holds its own text."""
    if not (pa.types.is_dictionary(column.type) and is_folded(column.type)):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0) + 4 * len(column)


def cut(batch: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, int]]:
    """A batch in parts that unfold to at most ``BATCH_BYTES``, or are one row; each with its bytes."""
    size = sum(_decoded_bytes(column) for column in batch.columns)
    if size <= BATCH_BYTES or batch.num_rows <= 1:
        yield batch, size
        return
    half = batch.num_rows // 2
    yield from cut(batch.slice(0, half))
    yield from cut(batch.slice(half))


def unfold(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Every row with its own text; a column that is plain already is not copied."""
    kinds = [plain_type(column.type) for column in batch.columns]
    columns = [
        column if column.type == kind else column.cast(kind) for column, kind in zip(batch.columns, kinds, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
