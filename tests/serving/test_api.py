"""The routes in process: what is answered, and that every mistake has a JSON body and is never a 5xx."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from ftrect_ray.serving.api import create_api
from ftrect_ray.serving.http import MAX_BODY_BYTES, key_digest
from ftrect_ray.serving.runs import load_runs
from ftrect_ray.storage import RunStorage

KEY = "correct-horse-battery-staple"
URL = "/v1/studies/tiny/estimate"
JSON = {"content-type": "application/json"}


def client_for(*runs: RunStorage, **settings: Any) -> TestClient:
    # raise_server_exceptions: a defect shows as itself, not as a 500
    return TestClient(create_api(load_runs([run.uri for run in runs]), **settings), base_url="http://127.0.0.1")


@pytest.fixture
def client(make_run: Callable[..., RunStorage]) -> TestClient:
    return client_for(make_run("crossfit"))


def refusal(response: Any, status: int) -> str:
    """The body of a refusal in one line, once its form is right."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error", "where", "mend"}
    return f"{body['error']} ({body['where']}) — {body['mend']}"


# ------------------------------------------------------------------------------------------- what is answered


def test_the_list_of_studies(make_run: Callable[..., RunStorage]) -> None:
    client = client_for(make_run("crossfit"), make_run("classical", name="plain"))
    assert client.get("/v1/studies").json()["studies"] == [
        {"id": "tiny", "target": {"kind": "mean"}, "labels": 120, "texts": 520, "design": "crossfit"},
        {"id": "plain", "target": {"kind": "mean"}, "labels": 120, "texts": 520, "design": "classical"},
    ]


def test_a_study_tells_its_columns_and_not_where_its_data_lie(client: TestClient) -> None:
    response = client.get("/v1/studies/tiny")
    found = response.json()
    kinds = {column["name"]: column["kind"] for column in found["columns"]}
    assert kinds == {"age": "number", "zip": "number", "region": "text", "urban": "boolean"}
    assert found["estimate"]["design"] == "crossfit"
    assert "somewhere.csv" not in response.text


def test_the_default_question_has_the_answer_of_the_run(client: TestClient) -> None:
    stored = client.get("/v1/studies/tiny").json()["estimate"]
    found = client.post(URL, json={}).json()
    assert {key: found[key] for key in stored} == stored
    assert found["filter"] == []
    assert found["classical"]["n"] == 120
    assert found["naive"]["m"] == 520


def test_other_targets_and_levels(client: TestClient) -> None:
    assert client.post(URL, json={"target": {"kind": "quantile", "q": 0.9}}).json()["target"] == "quantile 0.9"
    assert client.post(URL, json={"target": {"kind": "ols", "features": ["age"]}}).json()["names"] == [
        "intercept",
        "age",
    ]
    narrow, wide = (client.post(URL, json={"alpha": alpha}).json()["interval"] for alpha in (0.5, 0.01))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_filter_is_a_sub_population(client: TestClient) -> None:
    old = {"column": "age", "op": "ge", "value": 60}
    found = client.post(
        URL, json={"filter": [old, {"column": "region", "op": "in", "value": ["north", "south"]}]}
    ).json()
    everyone = client.post(URL, json={}).json()
    assert found["filter"][0] == old
    assert 2 < found["n"] < 60
    assert found["m"] < everyone["m"]
    assert found["value"] > everyone["value"]  # the fixture's answers rise with age


def test_health_is_open(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_docs_only_where_asked(make_run: Callable[..., RunStorage]) -> None:
    run = make_run()
    assert "no such route" in refusal(client_for(run).get("/openapi.json"), 404)
    assert refusal(client_for(run).get("/docs"), 404)
    asked = client_for(run, docs=True)
    assert asked.get("/docs").status_code == 200
    body = asked.get("/openapi.json").json()["paths"]["/v1/studies/{study}/estimate"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["additionalProperties"] is False


# ------------------------------------------------------------------------------------------------ bad bodies

BAD_JSON = {
    "empty": b"",
    "broken": b'{"alpha": 0.1',
    "not utf-8": b'{"alpha": "\xff\xfe"}',
    "utf-16": '{"alpha": 0.1}'.encode("utf-16"),
    "NaN": b'{"alpha": NaN}',
    "Infinity": b'{"alpha": -Infinity}',
    "10,000 levels": b'{"filter":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "duplicate key": b'{"alpha": 0.1, "alpha": 0.2}',
    "huge integer": b'{"alpha": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_what_is_not_json_is_400(client: TestClient, body: bytes) -> None:
    refusal(client.post(URL, content=body, headers=JSON), 400)


def test_a_duplicate_key_is_named(client: TestClient) -> None:
    assert "key 'alpha' is given twice" in refusal(
        client.post(URL, content=BAD_JSON["duplicate key"], headers=JSON), 400
    )


BAD_VALUES: dict[str, tuple[str, str]] = {
    "null": ("null", "input should be a valid dictionary"),
    "list": ("[]", "input should be a valid dictionary"),
    "extra key": ('{"alhpa": 0.1}', r"alhpa: unknown key (alhpa) — did you mean 'alpha'?"),
    "text for number": ('{"alpha": "0.1"}', "alpha: input should be a valid number"),
    "bool for number": ('{"alpha": true}', "alpha: input should be a valid number"),
    "overflow": ('{"alpha": 1e999}', "alpha: input should be"),
    "closed end": ('{"alpha": 1}', "alpha: input should be less than 1"),
    "huge integer": ('{"alpha": 1' + "0" * 400 + "}", "alpha: input should be"),
    "unknown target": ('{"target": {"kind": "median"}}', "'kind' must be one of 'mean', 'quantile', 'ols'"),
    "key of another target": ('{"target": {"kind": "mean", "q": 0.5}}', "target.q: unknown key"),
    "q": ('{"target": {"kind": "quantile", "q": 1.2}}', "target.q: input should be less than 1"),
    "no features": ('{"target": {"kind": "ols", "features": []}}', "target.features: list should have at least 1 item"),
    "unknown feature": (
        '{"target": {"kind": "ols", "features": ["agee"]}}',
        "unknown feature 'agee' (target.features) — did you mean 'age'?",
    ),
    "same feature twice": (
        '{"target": {"kind": "ols", "features": ["age", "age"]}}',
        "target.features: a feature may be named once; got ['age', 'age']",
    ),
    "filter is no list": ('{"filter": {"column": "age"}}', "filter: input should be a valid list"),
    "incomplete": ('{"filter": [{"column": "age", "op": "eq"}]}', "filter.0.value: field required"),
    "operator": ('{"filter": [{"column": "age", "op": "like", "value": 1}]}', "filter.0.op: input should be 'eq'"),
    "null value": (
        '{"filter": [{"column": "age", "op": "eq", "value": null}]}',
        "filter.0.value: must be a finite number",
    ),
    "infinite value": (
        '{"filter": [{"column": "age", "op": "eq", "value": 1e999}]}',
        "filter.0.value: must be a finite number",
    ),
    "unknown column": (
        '{"filter": [{"column": "agee", "op": "eq", "value": 1}]}',
        "unknown column 'agee' (filter.0.column) — did you mean 'age'?",
    ),
    "answers": ('{"filter": [{"column": "label", "op": "gt", "value": 1}]}', "unknown column 'label'"),
    "lone surrogate": ('{"filter": [{"column": "\\ud800", "op": "eq", "value": 1}]}', "filter.0.column"),
    "surrogate key": ('{"\\ud800": 1}', "unicode string"),
    "nothing left": (
        '{"filter": [{"column": "age", "op": "gt", "value": 1000}]}',
        "0 answers are left to estimate from",
    ),
    "21 conditions": (
        json.dumps({"filter": [{"column": "age", "op": "gt", "value": 1}] * 21}),
        "filter: list should have at most 20 items",
    ),
    "long text": (
        json.dumps({"filter": [{"column": "region", "op": "eq", "value": "x" * 2000}]}),
        "filter.0.value: must be",
    ),
}


@pytest.mark.parametrize(("body", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_wrong_value_is_422_and_named(client: TestClient, body: str, message: str) -> None:
    assert message in refusal(client.post(URL, content=body, headers=JSON), 422)


def test_several_problems_come_at_once(client: TestClient) -> None:
    text = refusal(client.post(URL, json={"alpha": 2, "filters": [], "target": {"kind": "quantile", "q": 0}}), 422)
    assert all(part in text for part in ("alpha:", "filters: unknown key", "target.q:"))


@pytest.mark.parametrize(
    "content_type", ["text/plain", "", "application/x-www-form-urlencoded", "application/json-patch"]
)
def test_another_content_type_is_415(client: TestClient, content_type: str) -> None:
    assert "the body must be JSON" in refusal(
        client.post(URL, content=b"{}", headers={"content-type": content_type}), 415
    )


def test_a_compressed_body_is_415(client: TestClient) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert "must not be compressed" in refusal(
        client.post(URL, content=bomb, headers={**JSON, "content-encoding": "gzip"}), 415
    )


def test_a_body_over_the_limit_is_413_by_its_declared_length(client: TestClient) -> None:
    assert "larger than 1048576 bytes" in refusal(
        client.post(URL, content=b" " * (MAX_BODY_BYTES + 1), headers=JSON), 413
    )
    assert refusal(client.post(URL, content=b"{}", headers={**JSON, "content-length": "9" * 400}), 413)
    assert client.post(URL, content=b"{}" + b" " * (MAX_BODY_BYTES - 2), headers=JSON).status_code == 200


async def post_raw(api: Any, chunks: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the application itself sends back to a POST whose body comes as ``chunks``."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(chunks)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": URL,
        "query_string": b"",
    }
    scope |= {"raw_path": URL.encode(), "root_path": "", "headers": [(b"content-type", b"application/json")]}
    await api(scope, receive, send)
    return sent


def test_an_endless_stream_is_413_and_is_not_read_on(make_run: Callable[..., RunStorage]) -> None:
    """A chunked body has no declared length."""
    counted = itertools.count(1)
    chunks = ({"type": "http.request", "body": b" " * 65536, "more_body": True} for _ in counted)
    sent = asyncio.run(post_raw(create_api(load_runs([make_run().uri])), chunks))
    assert sent[0]["status"] == 413
    assert next(counted) <= MAX_BODY_BYTES // 65536 + 2


def test_a_client_that_hangs_up_is_no_error_of_ours(make_run: Callable[..., RunStorage]) -> None:
    chunks = iter([{"type": "http.request", "body": b'{"al', "more_body": True}, {"type": "http.disconnect"}])
    sent = asyncio.run(post_raw(create_api(load_runs([make_run().uri])), chunks))
    assert sent[0]["status"] == 400


# ------------------------------------------------------------------------------------------------- bad routes


def test_unknown_studies_and_routes_are_404(client: TestClient) -> None:
    assert "unknown study 'tinny' (study) — did you mean 'tiny'?" in refusal(client.get("/v1/studies/tinny"), 404)
    assert "unknown study" in refusal(client.post("/v1/studies/x/estimate", json={}), 404)
    for path in (
        "/",
        "/v1",
        "/v1/studies/",
        "/v1/studies/tiny/",
        "/v1/studies/..%2f..%2fetc%2fpasswd",
        "/v1/studies/a/b/c",
        "/" + "x" * 5000,
    ):
        refusal(client.get(path), 404)


def test_a_wrong_method_is_405_and_names_the_right_one(client: TestClient) -> None:
    response = client.get(URL)
    assert "this route does not take this method (request line) — allowed: POST" in refusal(response, 405)
    assert response.headers["allow"] == "POST"
    for method, path in (
        ("DELETE", "/v1/studies"),
        ("PUT", URL),
        ("PATCH", "/healthz"),
        ("TRACE", "/v1/studies"),
        ("POST", "/v1/studies"),
    ):
        refusal(client.request(method, path), 405)


# ------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", KEY)],
        [("authorization", f"Basic {KEY}")],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer " + "x" * 100_000)],
        [("authorization", "Bearer")],
        [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")],
        [("authorization", "Bearer schl\u00fcssel".encode())],
    ],
)
def test_without_the_right_key_everything_is_401(make_run: Callable[..., RunStorage], headers: Any) -> None:
    client = client_for(make_run(), digest=key_digest(KEY))
    for path in ("/v1/studies", "/v1/studies/tiny", "/no/such/route", "/docs"):
        response = client.get(path, headers=headers)
        assert "API key is" in refusal(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert client.get("/healthz").status_code == 200


def test_with_the_key_all_is_open(make_run: Callable[..., RunStorage]) -> None:
    client = client_for(make_run(), digest=key_digest(KEY))
    assert client.get("/v1/studies", headers={"authorization": f"bearer {KEY}"}).status_code == 200
    assert client.post(URL, json={}, headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_foreign_host_name_is_refused_where_there_is_no_key(make_run: Callable[..., RunStorage]) -> None:
    client = client_for(make_run(), loopback_only=True)
    assert "local names only" in refusal(client.get("/v1/studies", headers={"host": "evil.example:8000"}), 421)
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost"):
        assert client.get("/v1/studies", headers={"host": host}).status_code == 200
