"""Reading parquet from strangers: nothing is unpickled, and nothing is decoded before its size is known.

pyarrow rebuilds extension types while it opens a file, and a registered type may run what the file says
(CVE-2026-41486 was such a case). So the footer is searched for extension types before pyarrow sees the
file. And because equal texts are stored once, a small file can decode to hundreds of gigabytes: texts are
read in their stored form (:mod:`ftrect_ray.tables.folding`) and measured first.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ftrect_ray.errors import InputError
from ftrect_ray.tables.folding import cut, is_folded, least_bytes, plain_type
from ftrect_ray.tables.limits import BATCH_BYTES, Limits
from ftrect_ray.tables.lines import check_names, chosen
from ftrect_ray.tables.opening import TableFile

MAGIC = b"PAR1"
MAGIC_ENCRYPTED = b"PARE"
BUFFER_BYTES = 1 << 20  # of a column's stored bytes; pyarrow's default is all of them, and it keeps them to the end


def read_parquet(file: TableFile, columns: Sequence[str] | None, limits: Limits) -> Iterator[pa.RecordBatch]:
    """Flat columns in their stored form: texts and bytes are dictionary-encoded.

    Only the columns asked for are read, and only they count as bytes.

    Raises
    ------
    InputError
        Broken or encrypted file, extension types, or more rows or decoded bytes than allowed.
    """
    _refuse_extensions(_footer(file), file.shown)
    try:
        with file.open() as native:
            yield from _stored(native, columns, limits, file.shown)
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


def _stored(
    native: pa.NativeFile, columns: Sequence[str] | None, limits: Limits, where: str
) -> Iterator[pa.RecordBatch]:
    metadata = pq.read_metadata(native)
    schema = metadata.schema.to_arrow_schema()
    flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
    check_names(flat, where)
    names = chosen(columns, flat, where)
    kinds = [schema.field(name).type for name in names]
    total, widest = _declared(metadata, names)
    if metadata.num_rows > limits.max_rows:
        raise limits.too_many_rows(f"{metadata.num_rows} rows, more than", where)
    if total > limits.max_bytes:
        raise _too_large(total, limits, where)
    parquet = pq.ParquetFile(
        native,
        metadata=metadata,
        read_dictionary=[name for name, kind in zip(names, kinds, strict=True) if is_folded(kind)],
        buffer_size=min(BUFFER_BYTES, BATCH_BYTES // max(1, len(names))),
        pre_buffer=False,
    )
    width = max(1, widest + sum(map(least_bytes, kinds)))
    rows = max(1, min(limits.batch_rows, BATCH_BYTES // width))
    read = (batch.select(names) for batch in parquet.iter_batches(batch_size=rows, columns=names))
    batches = _measured(read, limits, where)
    plain = pa.schema(zip(names, map(plain_type, kinds), strict=True))
    yield next(batches, pa.RecordBatch.from_pylist([], schema=plain))
    yield from batches


def _declared(metadata: pq.FileMetaData, names: Sequence[str]) -> tuple[int, int]:
    """Bytes of these columns as the footer declares them: in all, and of one row where rows are widest."""
    wanted = set(names)
    places = [at for at in range(metadata.num_columns) if metadata.schema.column(at).path in wanted]
    total = widest = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = sum(group.column(at).total_uncompressed_size for at in places)
        total += size
        widest = max(widest, size // max(group.num_rows, 1))
    return total, widest


def _measured(batches: Iterator[pa.RecordBatch], limits: Limits, where: str) -> Iterator[pa.RecordBatch]:
    """Batches that each unfold to about ``BATCH_BYTES``, as long as they unfold to at most ``max_bytes`` together."""
    rows = total = 0
    for batch in batches:
        rows += batch.num_rows
        if rows > limits.max_rows:
            raise limits.too_many_rows("more rows than", where)
        for part, size in cut(batch):
            total += size
            if total > limits.max_bytes:
                raise _too_large(total, limits, where)
            yield part


def _too_large(size: int, limits: Limits, where: str) -> InputError:
    return limits.too_many_bytes(f"the table decodes to at least {size}", where)
