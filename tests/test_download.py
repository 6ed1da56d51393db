"""Downloads against a real index on 127.0.0.1 that can drop connections and serve wrong bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ftrect_ray import download
from ftrect_ray.download import Artifact, cache_dir, fetch
from ftrect_ray.errors import EnvironmentFault

BODY = np.random.default_rng(0).bytes(300_000)
ARTIFACT = Artifact("Some_Data.pkg", "1.0", "some_data-1.0.tar.gz", hashlib.sha256(BODY).hexdigest(), len(BODY))


class Index(ThreadingHTTPServer):
    """A simple index with one project and one file; the attributes are its moods."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = BODY
        self.cut_after: int | None = None  # bytes of the next file response, then the connection ends
        self.ranges = True
        self.as_json = False
        self.requests: list[tuple[str, str | None, str | None]] = []  # path, Range, Authorization

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"

    def file_ranges(self) -> list[str | None]:
        return [given for path, given, _ in self.requests if path.startswith("/files/")]


class _Handler(BaseHTTPRequestHandler):
    server: Index
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        index = self.server
        index.requests.append((self.path, self.headers["Range"], self.headers["Authorization"]))
        if self.path == "/simple/some-data-pkg/":
            link = f"../../files/{ARTIFACT.filename}"
            if index.as_json:
                page = json.dumps({"files": [{"filename": ARTIFACT.filename, "url": link}]})
                self._answer(200, page.encode(), {"Content-Type": download.JSON_INDEX})
            else:
                page = f'<a href="other-1.0.zip">x</a><a href="{link}#sha256={ARTIFACT.sha256}">{ARTIFACT.filename}</a>'
                self._answer(200, page.encode(), {"Content-Type": "text/html"})
        elif self.path == f"/files/{ARTIFACT.filename}":
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
            if start and index.ranges:
                span = f"bytes {start}-{len(index.body) - 1}/{len(index.body)}"
                self._answer(206, index.body[start:], {"Content-Range": span}, cut=True)
            else:
                self._answer(200, index.body, {}, cut=True)
        else:
            self._answer(404, b"no", {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if cut and self.server.cut_after is not None:
            body, self.server.cut_after = body[: self.server.cut_after], None
            self.close_connection = True
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Index]:
    index = Index()
    thread = threading.Thread(target=index.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield index
    finally:
        index.shutdown()
        thread.join()
        index.server_close()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    with serving() as running:
        monkeypatch.setenv("PIP_INDEX_URL", running.url)
        monkeypatch.setenv("FTRECT_CACHE", str(tmp_path / "cache"))
        yield running


def part_file() -> Path:
    return cache_dir() / "downloads" / f"{ARTIFACT.filename}.part"


@pytest.mark.parametrize("as_json", [False, True])
def test_fetches_once(index: Index, as_json: bool) -> None:
    index.as_json = as_json
    path = fetch(ARTIFACT)
    assert path == cache_dir() / "downloads" / ARTIFACT.filename
    assert path.read_bytes() == BODY
    seen = len(index.requests)
    assert fetch(ARTIFACT) == path
    assert len(index.requests) == seen
    assert not part_file().exists()


def test_a_cut_connection_is_continued(index: Index) -> None:
    index.cut_after = 100_000
    with pytest.raises(EnvironmentFault, match="ended after 100000 of 300000 bytes of some_data-1.0.tar.gz") as caught:
        fetch(ARTIFACT)
    assert "run the command again; it continues there" in str(caught.value)
    assert part_file().read_bytes() == BODY[:100_000]
    assert fetch(ARTIFACT).read_bytes() == BODY
    assert index.file_ranges() == [None, "bytes=100000-"]


def test_a_server_without_ranges_starts_over(index: Index) -> None:
    index.ranges = False
    index.cut_after = 100_000
    with pytest.raises(EnvironmentFault, match="ended after 100000"):
        fetch(ARTIFACT)
    assert fetch(ARTIFACT).read_bytes() == BODY


def test_a_whole_part_needs_no_network(index: Index) -> None:
    part_file().parent.mkdir(parents=True)
    part_file().write_bytes(BODY)
    assert fetch(ARTIFACT).read_bytes() == BODY
    assert index.requests == []


@pytest.mark.parametrize("body", [BODY[:-1] + b"\0", BODY + b"more"], ids=["changed", "longer"])
def test_wrong_bytes_are_refused_and_removed(index: Index, body: bytes) -> None:
    index.body = body
    with pytest.raises(EnvironmentFault, match="has sha256") as caught:
        fetch(ARTIFACT)
    message = str(caught.value)
    assert f"expected {ARTIFACT.sha256}" in message
    assert hashlib.sha256(body).hexdigest() in message or len(body) > len(BODY)
    assert "the partial file was deleted" in message
    assert [path.name for path in part_file().parent.iterdir()] == [f"{ARTIFACT.filename}.lock"]


def test_a_wrong_file_of_the_user_is_kept(index: Index) -> None:
    placed = part_file().with_suffix("")
    placed.parent.mkdir(parents=True)
    placed.write_bytes(b"not it")
    with pytest.raises(EnvironmentFault, match="delete the file and run the command again"):
        fetch(ARTIFACT)
    assert placed.read_bytes() == b"not it"


def test_a_placed_file_serves_without_network(index: Index) -> None:
    placed = part_file().with_suffix("")
    placed.parent.mkdir(parents=True)
    placed.write_bytes(BODY)
    index.shutdown()
    assert fetch(ARTIFACT) == placed


def test_offline_says_which_file_to_place_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving() as gone:
        url = gone.url
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("FTRECT_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="cannot download some_data-1.0.tar.gz: .*[Rr]efused") as caught:
        fetch(ARTIFACT)
    assert f"put the file some_data-1.0.tar.gz into {tmp_path}/downloads" in str(caught.value)
    assert caught.value.exit_code == 3


def test_absent_project_and_absent_file(index: Index) -> None:
    with pytest.raises(EnvironmentFault, match="cannot download x.whl: Not Found"):
        fetch(Artifact("nowhere", "1", "x.whl", "0" * 64, 1))
    with pytest.raises(EnvironmentFault, match="the package index has no file x.whl of Some.Data_pkg 2"):
        fetch(Artifact("Some.Data_pkg", "2", "x.whl", "0" * 64, 1))


def test_credentials_travel_as_a_header_and_stay_out_of_messages(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//reader:se%40cret@"))
    fetch(ARTIFACT)
    assert {header for _, _, header in index.requests} == {"Basic cmVhZGVyOnNlQGNyZXQ="}
    with pytest.raises(EnvironmentFault) as caught:
        fetch(Artifact("some-data-pkg", "2", "x.whl", "0" * 64, 1))
    assert "se%40cret" not in str(caught.value)
    assert "se@cret" not in str(caught.value)


def test_two_processes_download_once(index: Index) -> None:
    call = f"from ftrect_ray.download import *; print(fetch({ARTIFACT!r}))"
    running = [subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].strip() for process in running}
    assert paths == {str(cache_dir() / "downloads" / ARTIFACT.filename)}
    assert len(index.file_ranges()) == 1


def test_the_index_is_pips_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = http://127.0.0.1:9/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert download.index_url() == "http://127.0.0.1:9/simple"
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert download.index_url().startswith("https://")


def test_an_unwritable_cache_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FTRECT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EnvironmentFault, match="cannot write to the cache: Not a directory.*set FTRECT_CACHE"):
        fetch(ARTIFACT)


def test_cache_dir_defaults_to_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FTRECT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "ftrect"
