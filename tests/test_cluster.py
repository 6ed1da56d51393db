"""Joining and leaving Ray. Sessions run in a process of their own, as the command line does."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ftrect_ray import cluster
from ftrect_ray.cluster import check_versions, cluster_session
from ftrect_ray.errors import EnvironmentFault
from ftrect_ray.layout import Node, Resources

TOKEN, OTHER_TOKEN = "a" * 64, "b" * 64

#: Opens a session, tells what it sees, and stays until it is told to go on.
SESSION = """
import json, os, sys
from ftrect_ray.cluster import cluster_session
from ftrect_ray.errors import FtrectError
try:
    with cluster_session(sys.argv[1] if len(sys.argv) > 1 else None) as info:
        import ray
        ray.get(ray.remote(lambda: 1).remote())
        token = os.environ.get("RAY_AUTH_TOKEN_PATH")
        print(json.dumps({
            "address": info.address, "started_here": info.started_here, "cpus": info.resources.cpus,
            "token": token, "token_mode": token and oct(os.stat(token).st_mode & 0o777),
        }), flush=True)
        sys.stdin.readline()
except FtrectError as error:
    print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
"""


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[str]:
    """A short path (sockets allow 107 characters) that tells this module's Ray processes from others."""
    with tempfile.TemporaryDirectory(prefix="rt", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def environment(ray_folder: str, **changes: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return clean | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": ray_folder, "TMPDIR": ray_folder} | changes


def start(ray_folder: str, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    env = environment(ray_folder, **changes)
    return subprocess.Popen(
        [sys.executable, "-c", SESSION, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env
    )


def says(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    return json.loads(line)


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate("\n", timeout=60)
    return errors


def left_over(ray_folder: str, seconds: float = 20) -> list[str]:
    """Processes of Ray under ``ray_folder`` that are still there after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and ray_folder in " ".join(process.cmdline()):
                    found.append(process.name())
            except psutil.Error:
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


# ------------------------------------------------------------------------------------------ a cluster of our own


@pytest.mark.ray
def test_a_local_session_needs_nothing_from_home_keeps_its_token_private_and_leaves_nothing(ray_folder, tmp_path):
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("")  # Ray alone would stumble over it
    process = start(ray_folder, HOME=str(home))
    told = says(process)
    assert told["started_here"] is True
    assert told["cpus"] == os.cpu_count()
    assert told["token_mode"] == "0o600"
    assert finish(process) == ""  # nothing on stderr: neither warnings nor progress
    assert process.returncode == 0
    assert not Path(str(told["token"])).exists()
    assert left_over(ray_folder) == []


@pytest.mark.ray
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_an_interrupted_session(ray_folder, kind):
    process = start(ray_folder)
    says(process)
    process.send_signal(kind)
    process.wait(timeout=30)
    process.communicate()
    assert process.returncode != 0
    assert left_over(ray_folder) == []


@pytest.mark.parametrize("said", ["The current node timed out during startup. This could happen\nas", ""])
def test_a_start_that_takes_too_long_is_told(monkeypatch, said):
    """Ray waits 30 s, and then raises a bare Exception."""

    def init(**_: object) -> None:
        raise Exception(said)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", init)
    reason = said.splitlines()[0] if said else "Exception"
    with pytest.raises(EnvironmentFault, match=f"Ray does not start: {reason}"), cluster_session():
        pass


# ------------------------------------------------------------------------------------------- a running cluster


@pytest.fixture(scope="module")
def running(ray_folder: str) -> Iterator[str]:
    """``host:port`` of a cluster that demands a token."""
    process = start(ray_folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    yield str(says(process)["address"])
    finish(process)


@pytest.mark.ray
@pytest.mark.parametrize("by_environment", [False, True])
def test_a_session_joins_a_running_cluster_and_leaves_it_standing(ray_folder, running, by_environment):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    for _ in range(2):
        if by_environment:
            process = start(ray_folder, **token, RAY_ADDRESS=running)
        else:
            process = start(ray_folder, running, **token)
        told = says(process)
        assert (told["started_here"], told["address"]) == (False, running)
        assert finish(process) == ""


@pytest.mark.ray
@pytest.mark.parametrize(
    "authentication",
    [{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": OTHER_TOKEN}, {"RAY_AUTH_MODE": "disabled"}, {}],
    ids=["wrong token", "disabled", "unset"],
)
def test_a_refused_token_is_an_environment_fault_that_names_the_variables(ray_folder, running, authentication):
    began = time.monotonic()
    process = start(ray_folder, running, **authentication)
    told = says(process)
    assert told["exit_code"] == 3
    mode = authentication.get("RAY_AUTH_MODE", "unset")
    assert told["error"] == (
        f"the cluster at {running} refuses the token (RAY_AUTH_MODE={mode}) — set RAY_AUTH_MODE=token, "
        "and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
    )
    assert finish(process) == ""
    assert time.monotonic() - began < 30


@pytest.mark.ray
def test_another_version_in_the_cluster_is_refused(ray_folder, running):
    rewrite = (
        "import json, sys; from ray._raylet import GcsClient; c = GcsClient(address=sys.argv[1]);"
        "c.internal_kv_put(b'CLUSTER_METADATA', sys.argv[2].encode(), True, namespace=b'cluster')"
    )
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    old = json.dumps({"ray_version": "2.40.0", "python_version": "3.9.1"})
    env = environment(ray_folder, **token)
    subprocess.run([sys.executable, "-c", rewrite, running, old], env=env, check=True)
    told = says(start(ray_folder, running, **token))
    assert told["exit_code"] == 3
    assert "the cluster has Ray 2.40.0 on Python 3.9.1, this environment Ray" in str(told["error"])


def test_equal_versions_pass():
    import platform

    import ray

    check_versions({"ray_version": ray.__version__, "python_version": platform.python_version()}, "head:6379")


# --------------------------------------------------------------------------------------------- no cluster there


def refused(address: str | None) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught, cluster_session(address):
        pass
    return caught.value


def test_a_closed_port_is_told_with_the_variable_that_named_it(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "no Ray cluster answers at RAY_ADDRESS=" in str(refused(None))
    assert "Connection refused — check RAY_ADDRESS and that the cluster runs ('ray status')" in str(refused(None))


def test_the_argument_goes_before_the_variable(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "no Ray cluster answers at --address=" in str(refused("127.0.0.1:2"))


def test_an_unknown_host_is_told():
    assert "no Ray cluster answers at --address=no-such-host.invalid:6379" in str(refused("no-such-host.invalid:6379"))


@pytest.mark.parametrize("address", ["nonsense", "ray://head:10001", "http://head:8265"])
def test_what_is_no_address_is_refused(address):
    message = str(refused(address))
    assert address in message
    assert message.startswith("--address")
    assert ("use 'ftrect submit'" in message) == ("://" in address)


def test_auto_without_a_cluster_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    none = functools.cache(set)  # other clusters may run on this host
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", none)
    assert str(refused("auto")) == (
        "--address=auto: no Ray cluster runs on this machine"
        " — start one with 'ray start --head', or leave --address out"
    )


def test_something_else_that_listens_is_told_before_a_deadline(monkeypatch):
    monkeypatch.setattr(cluster, "PROBE_SECONDS", 3.0)
    with socket.create_server(("0.0.0.0", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        message = str(refused(address))
    assert "does not answer like Ray — check --address" in message
    assert time.monotonic() - began < 10


@pytest.mark.ray
def test_a_session_inside_a_connected_program_leaves_its_connection(ray_folder):
    program = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
from ftrect_ray.cluster import cluster_session
with cluster_session() as info:
    assert not info.started_here
    assert [node.cpus for node in info.resources.nodes] == [1.0]
assert ray.is_initialized()
"""
    subprocess.run([sys.executable, "-c", program], env=environment(ray_folder), check=True, timeout=60)


def test_resources_are_read_machine_by_machine(monkeypatch):
    import ray

    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 1.0}},
        {"Alive": True, "Resources": {"memory": 1.0}},  # a head that offers nothing
        {"Alive": False, "Resources": {"CPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert cluster.resources() == Resources((Node(8, 2), Node(0, 0)))
