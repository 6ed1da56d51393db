"""A run's storage: one folder, local or behind a URI, written only by whole files.

Every artifact appears by a rename, so a reader sees the old file or the new one and never a half. A lock
file that its owner keeps renewing keeps a second writer out.
"""

from __future__ import annotations

import io
import json
import os
import posixpath
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ftrect_ray.errors import EnvironmentFault, InputError

#: The lock file, and how often its owner renews it: a dead owner on another host is known after three beats.
LOCK, BEAT_SECONDS = ".lock", 10.0


@dataclass(frozen=True)
class RunStorage:
    """A folder of artifacts on a pyarrow filesystem.

    Attributes
    ----------
    filesystem : pyarrow.fs.FileSystem
    root : str
        Path inside the filesystem, absolute for local runs.
    uri : str
        What the user gave, made absolute for local paths: what other processes are told.
    """

    filesystem: pafs.FileSystem
    root: str
    uri: str

    @classmethod
    def open(cls, location: str | Path) -> RunStorage:
        """The storage at a local path or a URI such as ``s3://bucket/run``; nothing is created yet."""
        text = str(location)
        if "\0" in text or not text.strip():
            raise InputError(f"not a run folder: {text!r}", mend="give a local path or a URI")
        if "://" not in text:
            path = os.path.abspath(os.path.expanduser(text))
            return cls(pafs.LocalFileSystem(), path, path)
        try:
            filesystem, root = pafs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise InputError(
                f"cannot open {text!r}: {str(error).splitlines()[0]}",
                mend="use a path, file://, s3://, gs:// or hdfs://",
            ) from None
        return cls(filesystem, root.rstrip("/"), text)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        """The artifact's path inside the filesystem."""
        return posixpath.join(self.root, *parts)

    def url(self, *parts: str) -> str:
        """The artifact's path as other processes may open it (path or URI)."""
        return posixpath.join(self.uri, *parts)

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        InputError
            It is a file.
        EnvironmentFault
            Where it cannot be written.
        """
        self.refuse_file()
        with self._writing(""):
            self.filesystem.create_dir(self.root, recursive=True)
        self.write_bytes(b"", ".writable")
        self.delete(".writable")

    def refuse_file(self) -> None:
        """Raise an InputError where a file has the folder's name."""
        if self.filesystem.get_file_info(self.root).type == pafs.FileType.File:
            raise InputError("a file, and not a folder", where=self.uri, mend="choose another folder with -o")

    def exists(self, *parts: str) -> bool:
        return self.filesystem.get_file_info(self.path(*parts)).type != pafs.FileType.NotFound

    def list(self, *parts: str) -> list[str]:
        """Names of the files and folders in a folder, sorted; empty where there is none."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def delete(self, *parts: str) -> None:
        """Remove a file or a folder with what is in it; absent is fine."""
        path = self.path(*parts)
        kind = self.filesystem.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(path)
        elif kind != pafs.FileType.NotFound:
            self.filesystem.delete_file(path)

    # ------------------------------------------------------------------------------------------- whole files

    def write_bytes(self, content: bytes, *parts: str) -> None:
        """Write a file under a temporary name, then rename it."""
        target = self.path(*parts)
        with self._writing(target):
            self.filesystem.create_dir(posixpath.dirname(target), recursive=True)
            temporary = f"{target}.tmp-{os.getpid()}"
            with self.filesystem.open_output_stream(temporary) as stream:
                stream.write(content)
            self.filesystem.move(temporary, target)

    def read_bytes(self, *parts: str) -> bytes:
        """The file's content.

        Raises
        ------
        InputError
            Where there is no such file.
        """
        try:
            with self.filesystem.open_input_stream(self.path(*parts), compression=None) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{posixpath.join(*parts)!r} is not in the run",
                where=self.uri,
                mend="run the stage that makes it, or 'ftrect run'",
            ) from None

    def write_json(self, value: Any, *parts: str) -> None:
        self.write_bytes((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(), *parts)

    def read_json(self, *parts: str) -> Any:
        content = self.read_bytes(*parts)
        try:
            return json.loads(content)
        except ValueError:
            raise InputError(
                f"{posixpath.join(*parts)!r} is not JSON", where=self.uri, mend="delete it and run again"
            ) from None

    def write_table(self, table: pa.Table, *parts: str) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(sink.getvalue().to_pybytes(), *parts)

    def read_table(self, *parts: str) -> pa.Table:
        content = self.read_bytes(*parts)
        try:
            # Of threads, some outlive the interpreter at its end, and drop ``content`` when it is gone.
            return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        except pa.ArrowInvalid:
            raise InputError(
                f"{posixpath.join(*parts)!r} is not a Parquet file", where=self.uri, mend="delete it and run again"
            ) from None

    def write_array(self, array: np.ndarray, *parts: str) -> None:
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        self.write_bytes(content.getvalue(), *parts)

    def read_array(self, *parts: str) -> np.ndarray:
        try:
            found: np.ndarray = np.load(io.BytesIO(self.read_bytes(*parts)), allow_pickle=False)
        except (ValueError, EOFError):
            raise InputError(
                f"{posixpath.join(*parts)!r} is not a NumPy array", where=self.uri, mend="delete it and run again"
            ) from None
        return found

    @contextmanager
    def local_folder(self, *parts: str) -> Iterator[Path]:
        """A folder of this machine whose sub-folders end up in the run: the run's own where it is local.

        Behind a URI, each sub-folder is uploaded when the block ends, also by an error, under a temporary
        name first: what was finished is kept.
        """
        if self.is_local:
            place = Path(self.path(*parts))
            place.mkdir(parents=True, exist_ok=True)
            yield place
            return
        with tempfile.TemporaryDirectory(prefix="ftrect-") as folder:
            try:
                yield Path(folder)
            finally:
                for finished in sorted(path for path in Path(folder).iterdir() if not path.name.startswith(".")):
                    self._upload(finished, *parts, finished.name)

    @contextmanager
    def local_copy(self, *parts: str) -> Iterator[Path]:
        """A folder of the run itself where that is local, else a copy for as long as the block lasts."""
        if self.is_local:
            yield Path(self.path(*parts))
            return
        with tempfile.TemporaryDirectory(prefix="ftrect-") as copy:
            pafs.copy_files(
                self.path(*parts),
                copy,
                source_filesystem=self.filesystem,
                destination_filesystem=pafs.LocalFileSystem(),
            )
            yield Path(copy)

    def _upload(self, local: Path, *parts: str) -> None:
        target = self.path(*parts)
        with self._writing(target):
            temporary = f"{target}.tmp-{os.getpid()}"
            self.filesystem.create_dir(temporary, recursive=True)
            pafs.copy_files(
                str(local), temporary, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=self.filesystem
            )
            self.delete(*parts)
            self.filesystem.move(temporary, target)

    @contextmanager
    def _writing(self, target: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
            raise EnvironmentFault(
                f"cannot write the run: {reason}",
                where=target or self.uri,
                mend="free space or choose another folder with -o; what is finished stays",
            ) from None

    # -------------------------------------------------------------------------------------------------- lock

    @contextmanager
    def lock(self, beat: float = BEAT_SECONDS) -> Iterator[None]:
        """Hold the run for this process, and renew the lock every ``beat`` seconds while it is held.

        The lock of a process that has died is taken over: on this host at once, from another host when it has
        not been renewed for three beats (a job that was started anew on another node).

        Raises
        ------
        InputError
            Where another live process holds it.
        """
        me = {"host": socket.gethostname(), "pid": os.getpid(), "beat": 0}
        if self.exists(LOCK):
            self._refuse_if_alive(me, beat)
        self.delete(LOCK)
        self._claim(me)
        released = threading.Event()
        keeper = threading.Thread(target=self._renew, args=(me, beat, released), daemon=True, name="lock")
        keeper.start()
        try:
            yield
        finally:
            released.set()
            keeper.join()
            self.delete(LOCK)

    def _claim(self, me: dict[str, Any]) -> None:
        """Make the lock. Where it is local, a hard link is made or refused in one step, with the owner in it.

        Object stores have no exclusive create here: there it guards against mistakes, not against races.
        """
        if not self.is_local:
            self.write_json(me, LOCK)
            return
        with self._writing(self.path(LOCK)):
            descriptor, temporary = tempfile.mkstemp(dir=self.root, prefix=".lock-")
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(me, file)
                os.link(temporary, self.path(LOCK))
            except FileExistsError:
                mend = "try again"
                raise InputError("another process took the run at this moment", where=self.uri, mend=mend) from None
            finally:
                os.unlink(temporary)

    def _renew(self, me: dict[str, Any], beat: float, released: threading.Event) -> None:
        while not released.wait(beat):
            me["beat"] += 1
            with suppress(EnvironmentFault):  # a full disk is told by the stage that writes an artifact
                self.write_json(me, LOCK)

    def _refuse_if_alive(self, me: dict[str, Any], beat: float) -> None:
        owner = self._owner()
        if owner is None:
            return
        if owner["host"] == me["host"]:
            alive = _alive(int(owner["pid"]))
        else:
            time.sleep(3 * beat)
            alive = self._owner() not in (None, owner)
        if alive:
            mend = "wait for it, or use another folder with -o"
            raise InputError(f"the run is locked by pid {owner['pid']} on {owner['host']}", where=self.uri, mend=mend)

    def _owner(self) -> dict[str, Any] | None:
        try:
            return dict(self.read_json(LOCK))
        except InputError:  # released, or broken off while it was written
            return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def free_bytes(path: str | Path) -> int:
    """Free bytes of the volume that holds ``path`` or its nearest existing parent."""
    place = Path(path)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
