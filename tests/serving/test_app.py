"""Starting the server: what is refused before it listens, and one real server."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ftrect_ray.errors import EnvironmentFault, InputError
from ftrect_ray.serving import serve_runs
from ftrect_ray.serving.app import build, read_key
from ftrect_ray.serving.schemas import ServeArgs
from ftrect_ray.storage import RunStorage

KEY = "correct-horse-battery-staple"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_open_host_needs_a_key(host: str) -> None:
    with pytest.raises(InputError, match=r"can be reached from other machines and there is no API key.*FTRECT_API_KEY"):
        serve_runs(["nowhere"], host=host)


@pytest.mark.parametrize(
    "key", ["", "short", "fifteen-letters", "with a blank in it", "schlüssel-schlüssel", "line\nline-line-line"]
)
def test_a_weak_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match="at least 16 printable ASCII characters") as caught:
        serve_runs(["nowhere"], api_key=key)
    assert not key or key not in str(caught.value)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no finished run \(no estimate.json\).*ftrect run"):
        serve_runs([str(tmp_path)])


def test_two_runs_of_one_name_are_refused(make_run: Callable[..., RunStorage]) -> None:
    run = make_run("classical")
    with pytest.raises(InputError, match="two runs are named 'tiny'"):
        serve_runs([run.uri, run.uri])


def test_a_taken_port_is_said_at_once(make_run: Callable[..., RunStorage]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(EnvironmentFault, match="cannot listen on 127.0.0.1:.*choose another port"):
            serve_runs([make_run("classical").uri], port=other.getsockname()[1])


def test_a_config_without_a_key_must_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTRECT_API_KEY", raising=False)
    with pytest.raises(InputError, match="there is no API key"):
        build(ServeArgs(runs=["r"]))


def test_the_arguments_of_a_config_are_strict() -> None:
    for wrong in ({"runs": []}, {"runs": "r"}, {"runs": ["r"], "api_key": KEY}, {"runs": ["r"], "docs": "yes"}):
        with pytest.raises(ValidationError):
            ServeArgs.model_validate(wrong)


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTRECT_API_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("FTRECT_API_KEY", KEY)
    assert read_key(None) == KEY
    (tmp_path / "key").write_text("another-key-of-the-file\n")
    assert read_key(str(tmp_path / "key")) == "another-key-of-the-file"
    with pytest.raises(InputError, match="cannot read the API key's file"):
        read_key(str(tmp_path / "none"))


# ---------------------------------------------------------------------------------------------- a real server


@pytest.fixture
def server(make_run: Callable[..., RunStorage]) -> Iterator[str]:
    import ray
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        serve_runs([make_run("crossfit").uri], port=port, api_key=KEY, blocking=False)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def ask(url: str, body: bytes | None = None, key: str | None = KEY) -> tuple[int, Any]:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.ray
def test_a_real_server_answers_and_refuses(server: str) -> None:
    estimate = f"{server}/v1/studies/tiny/estimate"
    assert ask(f"{server}/healthz", key=None) == (200, {"status": "ok"})
    assert ask(f"{server}/v1/studies", key=None)[0] == 401
    status, stored = ask(f"{server}/v1/studies/tiny")
    assert status == 200
    status, found = ask(estimate, b"{}")
    assert (status, found["value"]) == (200, stored["estimate"]["value"])
    assert ask(estimate, b'{"filter": [{"column": "agee", "op": "eq", "value": 1}]}')[0] == 422
    assert ask(estimate, b'{"alpha": NaN}')[0] == 400
    assert ask(estimate, b'{"a":' * 10_000)[0] == 400
    assert ask(estimate, b" " * (1 << 20) + b"{}")[0] == 413
    assert ask(f"{server}/v1/studies/none")[0] == 404
    assert ask(estimate)[0] == 405
    assert ask(f"{server}/openapi.json")[0] == 404
