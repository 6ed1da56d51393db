"""Whole files, one writer."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from ftrect_ray.errors import EnvironmentFault, InputError
from ftrect_ray.storage import RunStorage


def test_round_trips_and_no_temporary_file_is_left(tmp_path) -> None:
    storage = RunStorage.open(tmp_path / "run")
    storage.create()
    storage.write_json({"a": [1, 2.5]}, "sub", "x.json")
    storage.write_table(pa.table({"id": ["a"]}), "t.parquet")
    assert storage.read_json("sub", "x.json") == {"a": [1, 2.5]}
    assert storage.read_table("t.parquet").to_pydict() == {"id": ["a"]}
    storage.write_array(np.arange(6.0).reshape(2, 3), "a.npy")
    assert storage.read_array("a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert storage.list() == ["a.npy", "sub", "t.parquet"]
    storage.delete("sub")
    storage.delete("absent")
    assert not storage.exists("sub")


def test_a_uri_works_like_a_path(tmp_path) -> None:
    storage = RunStorage.open(f"file://{tmp_path}/run")
    storage.create()
    storage.write_json({}, "a.json")
    assert (tmp_path / "run" / "a.json").exists()
    with pytest.raises(InputError, match="cannot open 'zz://x'"):
        RunStorage.open("zz://x")


def test_nan_never_reaches_a_file(tmp_path) -> None:
    storage = RunStorage.open(tmp_path)
    with pytest.raises(ValueError, match="Out of range float"):
        storage.write_json({"a": float("nan")}, "a.json")
    assert storage.list() == []


def test_missing_and_broken_files_are_one_line(tmp_path) -> None:
    storage = RunStorage.open(tmp_path)
    with pytest.raises(InputError, match="'estimate.json' is not in the run"):
        storage.read_json("estimate.json")
    storage.write_bytes(b"{", "a.json")
    with pytest.raises(InputError, match="'a.json' is not JSON"):
        storage.read_json("a.json")
    storage.write_bytes(b"PAR1", "a.parquet")
    with pytest.raises(InputError, match="'a.parquet' is not a Parquet file"):
        storage.read_table("a.parquet")


@pytest.mark.parametrize("content", [b"", b"neither", pickle.dumps([1])], ids=["empty", "text", "pickle"])
def test_nothing_but_an_array_is_read_as_one(tmp_path, content: bytes) -> None:
    storage = RunStorage.open(tmp_path)
    storage.write_bytes(content, "a.npy")
    with pytest.raises(InputError, match="'a.npy' is not a NumPy array"):
        storage.read_array("a.npy")
    with pytest.raises(ValueError, match="Object arrays"):
        storage.write_array(np.array([{}]), "b.npy")
    assert storage.list() == ["a.npy"]


def test_an_unwritable_place_is_the_environment(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentFault, match="cannot write the run"):
        RunStorage.open(tmp_path / "file" / "run").create()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_keeps_the_old_file(tmp_path) -> None:
    """The write fails before the rename, so what was there stays."""

    class Full(pafs.LocalFileSystem):
        def open_output_stream(self, path: str, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
            return super().open_output_stream("/dev/full")

    good = RunStorage.open(tmp_path)
    good.write_json({"old": 1}, "estimate.json")
    full = RunStorage(Full(), str(tmp_path), str(tmp_path))
    with pytest.raises(EnvironmentFault, match="cannot write the run: No space left on device") as caught:
        full.write_bytes(b"x" * 100_000, "estimate.json")
    assert caught.value.exit_code == 3
    assert good.read_json("estimate.json") == {"old": 1}


def test_the_lock_names_its_live_owner_and_is_taken_from_a_dead_one(tmp_path) -> None:
    storage = RunStorage.open(tmp_path)
    with storage.lock(), pytest.raises(InputError, match=f"the run is locked by pid {os.getpid()}"), storage.lock():
        pass
    assert storage.list() == []
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    storage.write_json({"host": socket.gethostname(), "pid": int(dead.stdout), "beat": 3}, ".lock")
    with storage.lock():
        assert storage.read_json(".lock")["pid"] == os.getpid()
    storage.write_bytes(b"{", ".lock")  # broken off while it was written
    with storage.lock():
        pass


def test_a_lock_of_another_host_counts_while_it_is_renewed(tmp_path) -> None:
    storage = RunStorage.open(tmp_path)
    foreign = {"host": "elsewhere", "pid": 1, "beat": 0}
    storage.write_json(foreign, ".lock")
    renewal = threading.Timer(0.1, lambda: storage.write_json(foreign | {"beat": 1}, ".lock"))
    renewal.start()
    with pytest.raises(InputError, match="locked by pid 1 on elsewhere"), storage.lock(beat=0.2):
        pass
    renewal.join()
    with storage.lock(beat=0.05):  # nobody renews it any more: a job that was moved to another node goes on
        time.sleep(0.2)
        held = storage.read_json(".lock")
        assert held["pid"] == os.getpid()
        assert held["beat"] >= 1
    assert storage.list() == []
