"""The hostile side of HTTP: who may ask, how much may be sent, and one JSON body for every refusal."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY_BYTES = 1 << 20
OPEN_PATHS = ("/healthz",)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Refusal(Exception):
    """A request that is answered by a problem body: HTTP ``status``, what is wrong, where, how to mend it."""

    def __init__(
        self, status: int, error: str, *, where: str = "", mend: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.where, self.mend, self.headers = status, error, where, mend, headers


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """ASCII JSON: any text that came in, lone surrogates included, can go out again."""
    content = json.dumps(value, allow_nan=False).encode("ascii")
    return Response(
        content, status, media_type="application/json", headers={"cache-control": "no-store", **(headers or {})}
    )


def problem(refusal: Refusal) -> Response:
    """The JSON problem body ``{"error", "where", "mend"}``."""
    body = {"error": refusal.error[:2000], "where": refusal.where[:500], "mend": refusal.mend[:1000]}
    return json_response(body, refusal.status, refusal.headers)


def key_digest(key: str) -> bytes:
    """What the server keeps of its API key: neither Ray's store nor a dump of the process holds the key itself."""
    return hashlib.sha256(key.encode()).digest()


class Guard:
    """ASGI middleware that stands before every route but the health check.

    Parameters
    ----------
    app : ASGIApp
    digest : bytes or None
        :func:`key_digest` of the API key; None asks for no key.
    loopback_only : bool
        Accept only ``Host`` headers of this machine. A page in the user's own browser can reach 127.0.0.1
        under a foreign name (DNS rebinding); such a request names that host.
    """

    def __init__(self, app: ASGIApp, digest: bytes | None, loopback_only: bool) -> None:
        self.app, self.digest, self.loopback_only = app, digest, loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            refusal = self._refuse(scope["headers"])
            if refusal is not None:
                await problem(refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refuse(self, headers: list[tuple[bytes, bytes]]) -> Refusal | None:
        if self.loopback_only:
            host = next((value.decode("latin-1") for name, value in headers if name == b"host"), "")
            if host.rsplit(":", 1)[0] not in LOOPBACK_NAMES and host not in LOOPBACK_NAMES:
                return Refusal(
                    421,
                    "this server answers to local names only",
                    where="Host",
                    mend="ask 127.0.0.1, or start the server with an API key",
                )
        if self.digest is None:
            return None
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        right = hmac.compare_digest(hashlib.sha256(key.strip()).digest(), self.digest)
        if right and scheme.lower() == b"bearer":
            return None
        what = "the API key is missing" if not given else "the API key is wrong"
        return Refusal(
            401,
            what,
            where="Authorization",
            mend="send one header 'Authorization: Bearer KEY'",
            headers={"www-authenticate": 'Bearer realm="ftrect"'},
        )


async def read_json(request: Request) -> Any:
    """The JSON value of a request's body, read no further than the limit.

    Raises
    ------
    Refusal
        415 on another content type or an encoded body, 413 above :data:`MAX_BODY_BYTES` (declared or
        streamed), 400 on what is not JSON: NaN and Infinity, duplicate keys and deep nesting included.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refusal(
            415,
            f"the body must be JSON; got content type {media_type[:100]!r}",
            where="Content-Type",
            mend="send 'Content-Type: application/json'",
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "the body must not be compressed", where="Content-Encoding", mend="send it as it is")
    declared = request.headers.get("content-length", "0")
    too_large = Refusal(
        413,
        f"the body is larger than {MAX_BODY_BYTES} bytes",
        where="body",
        mend="send less",
        headers={"connection": "close"},
    )
    if declared.isascii() and declared.isdigit() and (len(declared) > 12 or int(declared) > MAX_BODY_BYTES):
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise too_large
    except ClientDisconnect:
        raise Refusal(400, "the connection closed within the body", where="body") from None
    return decode_json(bytes(body))


def decode_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, finite numbers, no key twice."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except RecursionError:
        raise Refusal(400, "the JSON is nested too deeply", where="body", mend="a request has three levels") from None
    except ValueError as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise Refusal(400, f"the body is not JSON: {reason[:300]}", where="body", mend="send one JSON object") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {counts.most_common(1)[0][0][:100]!r} is given twice")
    return found
