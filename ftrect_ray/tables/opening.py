"""Opening what a user names as a table: a regular local file, or a URI that pyarrow's filesystems know."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from ftrect_ray.errors import EnvironmentFault, InputError


@dataclass(frozen=True)
class TableFile:
    """A file that exists and may be read.

    Attributes
    ----------
    shown : str
        As the user wrote it, for messages.
    size : int
        Bytes.
    """

    shown: str
    filesystem: fs.FileSystem
    path: str
    size: int

    def open(self) -> pa.NativeFile:
        """A fresh reader from byte 0, with random access.

        Raises
        ------
        EnvironmentFault
            The file cannot be opened although it is there.
        """
        try:
            return self.filesystem.open_input_file(self.path)
        except OSError as error:
            raise EnvironmentFault(f"cannot open the file: {_reason(error)}", where=self.shown) from None

    def sha256(self) -> str:
        """64 hex digits of the content."""
        digest = hashlib.sha256()
        with self.open() as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()


def locate(path: str) -> TableFile:
    """Find ``path`` without reading it; anything but a regular file is refused (a FIFO would hang, a device never end).

    Raises
    ------
    InputError
        No such file, or not a file.
    EnvironmentFault
        The remote filesystem does not answer.
    """
    filesystem, inner = _filesystem(path)
    if isinstance(filesystem, fs.LocalFileSystem):
        return TableFile(path, filesystem, inner, _local_size(inner, path))
    try:
        info = filesystem.get_file_info(inner)
    except OSError as error:
        raise EnvironmentFault(
            f"the filesystem does not answer: {_reason(error)}",
            where=path,
            mend="check the network and the credentials",
        ) from None
    if info.type != fs.FileType.File:
        raise InputError("there is no such file", where=path, mend="check the URI")
    return TableFile(path, filesystem, inner, int(info.size))


def _filesystem(path: str) -> tuple[fs.FileSystem, str]:
    if "://" not in path:
        return fs.LocalFileSystem(), path
    try:
        filesystem, inner = fs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"cannot open the URI: {_reason(error)}",
            where=path,
            mend="use a local path, or file://, s3://, gs:// or hdfs://",
        ) from None
    return filesystem, inner


def _local_size(path: str, shown: str) -> int:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = (
            "there is no such file" if isinstance(error, FileNotFoundError) else f"cannot open it: {_reason(error)}"
        )
        raise InputError(reason, where=shown.replace("\0", "\\0"), mend="check the path") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise InputError(f"this is {kind}, not a file", where=shown, mend="name one csv, jsonl or parquet file")
    if not os.access(path, os.R_OK):
        raise InputError("the file is not readable", where=shown, mend="check its permissions")
    return status.st_size


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
