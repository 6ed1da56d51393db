"""Where a run computes: a Ray cluster that is joined, or one that is started and ends with the run."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftrect_ray.errors import EnvironmentFault
from ftrect_ray.layout import Layout, Node, Resources, plan_resources
from ftrect_ray.study import Study

#: Object store of a cluster of our own, bytes. Texts, predictions and one copy of the pilots' rows travel through
#: it, never weights; Ray's default of 30 % of the memory would be taken from the models.
OBJECT_STORE_BYTES = 512 * 2**20
CONNECT_SECONDS, PROBE_SECONDS = 5.0, 20.0
#: Asked of a cluster before ``ray.init``, which takes 20 s to notice a wrong token and minutes for a dead address.
_PROBE = (
    "import sys; from ray._raylet import GcsClient; "
    "print(GcsClient(address=sys.argv[1]).internal_kv_get(b'CLUSTER_METADATA', namespace=b'cluster').decode())"
)


@dataclass(frozen=True)
class ClusterInfo:
    """The cluster that this process is connected to; ``started_here``: it ends with this process."""

    address: str
    started_here: bool
    resources: Resources


# --------------------------------------------------------------------------------------------- connecting


@contextmanager
def cluster_session(address: str | None = None, *, verbose: bool = False) -> Iterator[ClusterInfo]:
    """Be connected to Ray inside the block; afterwards a cluster of our own is gone, another one stays.

    Parameters
    ----------
    address : str, optional
        ``host:port`` of a running cluster, ``auto`` for the one of this machine, ``local`` for a fresh one.
        Default: the environment's ``RAY_ADDRESS`` (a Ray job has it), else a fresh one.
    verbose : bool
        Show what Ray's processes log. Their Python parts always log to Ray's session folder.

    Raises
    ------
    EnvironmentFault
        Within 30 s, where the cluster cannot be used; it names the variable to look at.
    """
    import ray

    # The workers of Tune and Train would change into a folder of their own, and relative paths would break there.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    if ray.is_initialized():  # by the program around us, whose connection it stays
        yield ClusterInfo(ray.get_runtime_context().gcs_address, False, resources())
        return
    try:
        yield _connect(address, verbose)
    finally:  # also of a start that was interrupted half-way, which leaves processes behind
        ray.shutdown()


def _connect(address: str | None, verbose: bool) -> ClusterInfo:
    import ray

    origin = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {
        "logging_level": logging.INFO if verbose else logging.ERROR,
        "log_to_driver": verbose,
    }
    if not verbose:  # Ray's C++ part writes warnings that no user can mend straight to stderr
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address == "local":
        _authenticate_local()
        # Without its dashboard Ray starts as fast, and holds 0.7 GB instead of 1.7 GB.
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    else:
        options["address"] = _locate(address, origin)
        _probe(options["address"], origin)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with nullcontext() if verbose else _deaf_stderr():
            ray.init(**options)
    except Exception as error:  # of no class in particular where the start takes too long
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        mend = "read the logs under /tmp/ray/session_latest/logs"
        raise EnvironmentFault(f"Ray does not start: {reason}", where=f"address {address}", mend=mend) from error
    finally:  # Ray takes the signal for itself, also where the program has a handler of its own, and ends with a dump
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    return ClusterInfo(ray.get_runtime_context().gcs_address, address == "local", resources())


@contextmanager
def _deaf_stderr() -> Iterator[None]:
    """Nothing reaches file descriptor 2 in the block: Ray's C++ part announces there that it was told to be silent."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _authenticate_local() -> None:
    """Give Ray a token of this process's own, whatever lies in the home folder; the user's settings stay.

    Left alone, Ray 2.60 writes ``~/.ray/auth_token`` for everybody to read, and fails where home is read-only.
    ``RAY_AUTH_MODE`` itself is left to ``ray.init``: a mode that appears after ``import ray`` goes unnoticed.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None or (mode == "token" and not (Path.home() / ".ray" / "auth_token").exists()):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token_folder() / "auth_token")


@functools.cache
def _token_folder() -> Path:
    """A private folder with a token in it, until the process ends: Ray reads its token once."""
    folder = Path(tempfile.mkdtemp(prefix="ftrect-"))  # mode 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with open(os.open(folder / "auth_token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return folder


def _locate(address: str, origin: str) -> str:
    """``host:port`` of the cluster's control store."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    if "://" in address:
        raise EnvironmentFault(
            f"{origin} takes host:port of a cluster that this machine belongs to; got {address!r}",
            mend="from outside the cluster use 'ftrect submit'",
        )
    try:
        return str(canonicalize_bootstrap_address_or_die(address))
    except (ConnectionError, ValueError) as error:
        reason = "no Ray cluster runs on this machine" if address == "auto" else str(error)
        mend = f"start one with 'ray start --head', or leave {origin} out"
        raise EnvironmentFault(f"{origin}={address}: {reason}", mend=mend) from None


def _probe(target: str, origin: str) -> None:
    """Ask the cluster for its versions, with a deadline, in a process whose log lines nobody sees."""
    host, _, port = target.rpartition(":")
    mend = f"check {origin} and that the cluster runs ('ray status')"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise EnvironmentFault(f"no Ray cluster answers at {origin}={target}: {reason}", mend=mend) from None
    try:
        command = [sys.executable, "-c", _PROBE, target]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(f"what listens at {origin}={target} does not answer like Ray", mend=mend) from None
    if asked.returncode == 0:
        return check_versions(json.loads(asked.stdout), target)
    if "auth" in asked.stderr.lower():
        raise EnvironmentFault(
            f"the cluster at {target} refuses the token",
            where=f"RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'unset')}",
            mend="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token",
        )
    reason = asked.stderr.strip().splitlines()[-1][:200] if asked.stderr.strip() else f"exit {asked.returncode}"
    raise EnvironmentFault(f"what listens at {origin}={target} is not a Ray cluster: {reason}", mend=mend)


def check_versions(cluster: dict[str, str], target: str) -> None:
    """Refuse a cluster of another Ray or Python: objects would not unpickle there.

    Raises
    ------
    EnvironmentFault
        With both pairs of versions.
    """
    import ray

    theirs = cluster["ray_version"], cluster["python_version"]
    ours = ray.__version__, platform.python_version()
    if theirs != ours:
        raise EnvironmentFault(
            f"the cluster has Ray {theirs[0]} on Python {theirs[1]}, "
            f"this environment Ray {ours[0]} on Python {ours[1]}",
            where=target,
            mend="use the same versions on both sides",
        )


def resources() -> Resources:
    """What the connected cluster has now, machine by machine (a cluster that can grow counts as it stands)."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Resources(tuple(Node(float(have.get("CPU", 0)), float(have.get("GPU", 0))) for have in alive))


def layout_for(study: Study, finetunes: int, candidates: int = 1) -> Layout:
    """:func:`ftrect_ray.layout.plan_resources` for the connected cluster."""
    return plan_resources(study.training, study.pilots, study.inference, finetunes, resources(), candidates)
