"""The Ray Serve application: replicas that hold finished runs, behind bounded queues.

``serve_runs`` is ``ftrect serve``; ``build`` is for Serve config files (``cluster/serve.yaml``).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftrect_ray.errors import EnvironmentFault, InputError
from ftrect_ray.serving.http import key_digest
from ftrect_ray.serving.schemas import ServeArgs
from ftrect_ray.storage import RunStorage

if TYPE_CHECKING:
    from ray.serve import Application

KEY_VARIABLE = "FTRECT_API_KEY"
SHORTEST_KEY = 16

#: Limits of one replica. An estimate is a few milliseconds of NumPy, so few run at once and some wait; the
#: rest is told to come back. ``cluster/serve.yaml`` may override them.
LIMITS: dict[str, Any] = {
    "max_ongoing_requests": 8,
    "max_queued_requests": 64,
    "backpressure_config": {"status_code": 429, "retry_after_s": 1},
    "health_check_period_s": 10,
    "graceful_shutdown_timeout_s": 20,
}

#: Seconds from a request's first byte to its answer; slower clients get 408.
REQUEST_TIMEOUT_S = 30


class Studies:
    """A replica: loads the runs when it starts, then only reads.

    Parameters
    ----------
    runs : sequence of str
        Folders or URIs.
    digest : bytes or None
        ``http.key_digest`` of the API key.
    loopback_only, docs : bool
        See ``api.create_api``.
    """

    def __init__(self, runs: Sequence[str], digest: bytes | None, loopback_only: bool, docs: bool) -> None:
        self.runs, self.digest, self.loopback_only, self.docs = list(runs), digest, loopback_only, docs

    def __serve_build_asgi_app__(self) -> Any:
        from ftrect_ray.serving.api import create_api
        from ftrect_ray.serving.runs import load_runs

        return create_api(load_runs(self.runs), digest=self.digest, loopback_only=self.loopback_only, docs=self.docs)


def build(args: ServeArgs) -> Application:
    """The application of a Serve config file.

    The key is read here, from the file or the variable FTRECT_API_KEY on the cluster, and only its digest
    goes on to the replicas.

    Raises
    ------
    InputError
        Without a key, unless the config says ``allow_without_key: true``.
    """
    key = read_key(args.api_key_file)
    if key is None and not args.allow_without_key:
        raise InputError(
            "there is no API key",
            where="args",
            mend=f"set {KEY_VARIABLE} or 'api_key_file', or 'allow_without_key: true' behind a gateway",
        )
    return _application(args.runs, key, loopback_only=False, docs=args.docs)


def serve_runs(
    run_dirs: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    blocking: bool = True,
) -> None:
    """Serve finished runs from this machine until interrupted.

    Parameters
    ----------
    run_dirs : sequence of str
        Folders or URIs.
    host, port
        Where to listen. A host that others can reach needs ``api_key``.
    api_key : str or None
    blocking : bool
        False returns once the server answers; Ray must be running then, and ``ray.serve.shutdown`` ends it.

    Raises
    ------
    InputError
        On a run that is not finished, or an open host without a key.
    EnvironmentFault
        Where the port is taken.
    """
    from ftrect_ray.cluster import cluster_session
    from ftrect_ray.serving.runs import load_runs

    loopback = _is_loopback(host)
    if api_key is None and not loopback:
        raise InputError(
            f"host {host!r} can be reached from other machines and there is no API key",
            where="--host",
            mend=f"set {KEY_VARIABLE}, or keep 127.0.0.1",
        )
    check_key(api_key)
    load_runs(run_dirs)  # a user's mistake is found here, in one line, and not by a replica
    _check_port(host, port)
    application = _application(
        [RunStorage.open(run).uri for run in run_dirs], api_key, loopback_only=api_key is None, docs=False
    )
    if not blocking:
        _start(application, host, port)
        return
    with cluster_session(None):
        _start(application, host, port)
        _wait_for_the_end()


def _application(runs: Sequence[str], key: str | None, *, loopback_only: bool, docs: bool) -> Application:
    from ray import serve

    deployment = serve.deployment(**LIMITS)(serve.ingress()(Studies))
    return deployment.bind(
        runs=list(runs), digest=None if key is None else key_digest(key), loopback_only=loopback_only, docs=docs
    )


def _start(application: Application, host: str, port: int) -> None:
    from ray import serve

    serve.start(http_options={"host": host, "port": port, "request_timeout_s": REQUEST_TIMEOUT_S})
    serve.run(application, name="ftrect", route_prefix="/")
    print(f"serving on http://{host}:{port}/v1/studies", file=sys.stderr, flush=True)


def _wait_for_the_end() -> None:
    """Until Ctrl-C or SIGTERM; then the replicas finish what they have begun."""
    from ray import serve

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        serve.shutdown()


def read_key(path: str | None) -> str | None:
    """The API key of a file, or of the variable FTRECT_API_KEY where no file is named."""
    key = os.environ.get(KEY_VARIABLE)
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                key = file.read(4096).strip()
        except (OSError, UnicodeDecodeError):
            raise InputError(
                "cannot read the API key's file", where=path, mend="give a readable text file with the key alone"
            ) from None
    check_key(key)
    return key


def check_key(key: str | None) -> None:
    """Refuse a key that is easily guessed or cannot stand in a header."""
    if key is not None and (len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key):
        raise InputError(
            f"the API key must be at least {SHORTEST_KEY} printable ASCII characters without spaces",
            where=KEY_VARIABLE,
            mend="make one with 'openssl rand -hex 32'",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_port(host: str, port: int) -> None:
    """Ray would try for minutes; one bind tells."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                raise InputError(
                    f"{host!r} is not an address of this machine",
                    where="--host",
                    mend="give an IP address or a host name of this machine",
                ) from None
            raise EnvironmentFault(
                f"cannot listen on {host}:{port}: {os.strerror(error.errno)}",
                where="--port",
                mend="choose another port",
            ) from None
