"""The routes. Every answer is JSON; every refusal has a JSON body with its reason; a user's mistake is never a 5xx."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ftrect_ray.errors import EnvironmentFault, FtrectError, InputError, StatisticalRefusal, near_match
from ftrect_ray.serving.http import Guard, Refusal, json_response, problem, read_json
from ftrect_ray.serving.runs import Run
from ftrect_ray.serving.schemas import EstimateRequest, parse_request


def create_api(
    runs: dict[str, Run], *, digest: bytes | None = None, loopback_only: bool = False, docs: bool = False
) -> FastAPI:
    """The ASGI application over loaded runs.

    Parameters
    ----------
    runs : dict of str to Run
        By study name.
    digest : bytes or None
        ``http.key_digest`` of the API key; None asks for no key.
    loopback_only : bool
        Refuse ``Host`` headers that do not name this machine.
    docs : bool
        Answer on /docs and /openapi.json.
    """
    api = FastAPI(
        title="ftrect",
        version="1",
        docs_url="/docs" if docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
        redirect_slashes=False,
    )
    api.add_middleware(Guard, digest=digest, loopback_only=loopback_only)
    _add_refusals(api)

    def find(study: str) -> Run:
        if study not in runs:
            raise Refusal(404, f"unknown study {study[:128]!r}", where="study", mend=near_match(study[:128], runs))
        return runs[study]

    @api.get("/healthz")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @api.get("/v1/studies")
    async def list_studies() -> Response:
        return json_response({"studies": [run.summary() for run in runs.values()]})

    @api.get("/v1/studies/{study}")
    async def show_study(study: str) -> Response:
        return json_response(find(study).details())

    request_body = {"content": {"application/json": {"schema": EstimateRequest.model_json_schema()}}}

    @api.post("/v1/studies/{study}/estimate", openapi_extra={"requestBody": request_body})
    async def estimate(study: str, request: Request) -> Response:
        run = find(study)
        wanted = parse_request(await read_json(request))
        return json_response(await run_in_threadpool(run.estimate, wanted))

    return api


def _add_refusals(api: FastAPI) -> None:
    """One handler for each family of errors."""

    async def refused(_: Request, error: Any) -> Response:
        return problem(error)

    async def ours(_: Request, error: Any) -> Response:
        status = (
            422
            if isinstance(error, (InputError, StatisticalRefusal))
            else 503
            if isinstance(error, EnvironmentFault)
            else 500
        )
        return problem(Refusal(status, error.what, where=error.where, mend=error.mend))

    async def routing(_: Request, error: Any) -> Response:
        what = {404: "there is no such route", 405: "this route does not take this method"}.get(
            error.status_code, str(error.detail)
        )
        mend = {
            404: "GET /v1/studies lists the studies",
            405: f"allowed: {(error.headers or {}).get('Allow', '')}",
        }.get(error.status_code, "")
        return problem(
            Refusal(error.status_code, what, where="request line", mend=mend, headers=dict(error.headers or {}))
        )

    async def defect(_: Request, error: Exception) -> Response:
        return problem(Refusal(500, "an error inside the server", mend="the server's log has the details"))

    api.add_exception_handler(Refusal, refused)
    api.add_exception_handler(FtrectError, ours)
    api.add_exception_handler(HTTPException, routing)
    api.add_exception_handler(Exception, defect)
