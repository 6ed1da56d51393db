"""Reading parquet from strangers: nothing is unpickled, and nothing is decoded before its size is known.

pyarrow rebuilds extension types while it opens a file, and a registered type may run what the file says
(CVE-2026-41486 was such a case). So the footer is searched for extension types before pyarrow sees the
file. And because equal texts are stored once, a small file can decode to hundreds of gigabytes: texts are
read in their stored form and measured first.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftrect_ray.errors import InputError
from ftrect_ray.tables.lines import check_names
from ftrect_ray.tables.opening import TableFile

MAGIC = b"PAR1"
MAGIC_ENCRYPTED = b"PARE"
BATCH_ROWS = 8192


def read_parquet(file: TableFile, max_rows: int, max_bytes: int) -> pa.Table:
    """All flat columns; text columns (plain, large or dictionary-encoded) as ``string``.

    Raises
    ------
    InputError
        Broken or encrypted file, extension types, or more rows or decoded bytes than allowed.
    """
    _refuse_extensions(_footer(file), file.shown)
    try:
        with file.open() as native:
            schema = pq.ParquetFile(native).schema_arrow
            names = [field.name for field in schema if not pa.types.is_nested(field.type)]
            check_names(names, file.shown)
            texts = [name for name in names if _is_text(schema.field(name).type)]
            parquet = pq.ParquetFile(native, read_dictionary=texts)
            _check_declared(parquet.metadata, max_rows, max_bytes, file.shown)
            batches = _stored(parquet, names, max_bytes, file.shown)
            plain = pa.schema([(name, _decoded_type(schema.field(name).type)) for name in names])
            return pa.Table.from_batches(_decoded(batches), schema=plain)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"cannot read the file as parquet: {str(error).splitlines()[0]}",
            where=file.shown,
            mend="write the file anew",
        ) from None


def _footer(file: TableFile) -> bytes:
    """The raw metadata at the end of the file: footer, 4 bytes of length, magic."""
    broken = InputError(
        "the file is not parquet, or its end is missing", where=file.shown, mend="copy or write the file anew"
    )
    if file.size < 12:
        raise broken
    with file.open() as native:
        start = native.read(4)
        native.seek(file.size - 8)
        (length,), magic = struct.unpack("<I", native.read(4)), native.read(4)
        if MAGIC_ENCRYPTED in (start, magic):
            raise InputError("the parquet file is encrypted", where=file.shown, mend="write it without encryption")
        if start != MAGIC or magic != MAGIC or length > file.size - 12:
            raise broken
        native.seek(file.size - 8 - length)
        return bytes(native.read(length))


def _refuse_extensions(footer: bytes, where: str) -> None:
    for schema in _arrow_schemas(footer):
        if b"ARROW:extension:name" in schema:
            raise InputError(
                "the parquet file has columns of an extension type (pickled objects, tensors, …), which are not read",
                where=where,
                mend="write plain columns: text and numbers",
            )


def _arrow_schemas(footer: bytes) -> Iterator[bytes]:
    """Every serialised Arrow schema in a footer: Thrift's key, then byte 0x18, a varint length, base64."""
    key, position = b"ARROW:schema", 0
    while (position := footer.find(key, position)) >= 0:
        position += len(key)
        length = shift = 0
        start = position + 1
        while start < len(footer):
            byte = footer[start]
            length |= (byte & 0x7F) << shift
            start, shift = start + 1, shift + 7
            if byte < 0x80:
                break
        try:
            yield base64.b64decode(footer[start : start + length])
        except ValueError:
            continue  # not a value that pyarrow could read either


def _check_declared(metadata: pq.FileMetaData, max_rows: int, max_bytes: int, where: str) -> None:
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if metadata.num_rows > max_rows:
        raise InputError(
            f"the table has {metadata.num_rows} rows, more than 'data.max_rows' ({max_rows})",
            where=where,
            mend="raise the limit if you trust the file",
        )
    if size > max_bytes:
        raise _too_large(size, max_bytes, where)


def _too_large(size: int, max_bytes: int, where: str) -> InputError:
    return InputError(
        f"the table decodes to at least {size} bytes, more than 'data.max_bytes' ({max_bytes})",
        where=where,
        mend="raise the limit if you trust the file",
    )


def _stored(parquet: pq.ParquetFile, names: list[str], max_bytes: int, where: str) -> list[pa.RecordBatch]:
    """All batches as they are stored, once it is known that they decode to at most ``max_bytes``."""
    batches, total = [], 0
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=names):
        batches.append(batch)
        total += sum(_decoded_bytes(column) for column in batch.columns)
        if total > max_bytes:
            raise _too_large(total, max_bytes, where)
    return batches


def _decoded(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Every row with its own text; ``batches`` is emptied on the way, so that memory holds the table once."""
    batches.reverse()
    while batches:
        batch = batches.pop()
        columns = [column.cast(_decoded_type(column.type)) for column in batch.columns]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _decoded_bytes(column: pa.Array) -> int:
    """Bytes of a column once every row holds its own text."""
    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0) + 4 * len(column)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _decoded_type(kind: pa.DataType) -> pa.DataType:
    if _is_text(kind):
        return pa.string()
    return kind.value_type if pa.types.is_dictionary(kind) else kind
