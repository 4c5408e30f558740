"""The routes of the service: photos in, results out; health, readiness, metrics, OpenAPI.

Input: a worker and limits. Output: an ASGI app behind its guard. Every error is {"error": {"kind",
"message"}}. The names that clients give to files are read by nobody. Knows nothing of the review page's data.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.routing import Match
from starlette.types import ASGIApp

from clipsam import __version__
from clipsam.errors import PhotoError, StoreError, UsageError
from clipsam.serve.guard import OPEN, Guard, Refused, refusal
from clipsam.serve.limits import Limits
from clipsam.serve.metrics import Metrics
from clipsam.serve.schemas import Batch, BatchItem, Error, Health, Inspection, Reason, inspection
from clipsam.serve.worker import Busy, Inspected, Worker

log = logging.getLogger(__name__)

PHOTO_STATUS = {"too-large": 413, "not-an-image": 415, "unsupported": 415}  # of a `PhotoError`; others: 422
_ONE = {"type": "string", "format": "binary", "description": "PNG, JPEG, BMP, TIFF, WebP, PGM or PPM"}
_REASONS = {
    400: "not understood",
    401: "no token, or another one",
    403: "from a page of another site, or to another name than localhost",
    404: "there is no such thing",
    405: "not with this method",
    408: "the upload took too long",
    413: "too many bytes or pixels",
    415: "not a photo of a kind that is read",
    422: "a photo that is damaged, or values that make no sense",
    500: "a fault of the service",
    503: "busy; try again after Retry-After seconds",
    504: "the models took too long",
}


def errors(*statuses: int, beside: str | None = None) -> dict[int | str, dict[str, Any]]:
    """What a route may refuse, for its OpenAPI; the guard's refusals are among them.

    `beside` is the content type of a route's answer where that is not JSON: refusals are JSON all the same.
    """
    guards = (400, 401, 403, 408, 413, 415, 503)
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*guards, *statuses}):
        found[status] = {"description": _REASONS[status]}
        if beside is None:
            found[status]["model"] = Error
        else:
            schema = {"$ref": "#/components/schemas/Error"}
            found[status]["content"] = {"application/json": {"schema": schema}}
    if beside is not None:
        found[200] = {"content": {beside: {"schema": {"type": "string"}}}}
    return found


def create_app(
    worker: Worker, limits: Limits | None = None, *, token: str | None = None
) -> tuple[FastAPI, ASGIApp]:
    """The service around a worker: the bare app, for routes to be added, and the app behind its guard."""
    limits = limits or Limits()
    metrics = Metrics(worker)
    app = FastAPI(
        title="clipsam",
        version=__version__,
        description="Finds and outlines defects in photos of products.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    _answer_errors(app)
    _add_state(app, worker, metrics)
    _add_inspection(app, worker, limits, metrics)
    if token is not None:
        _say_that_a_token_is_needed(app)
    guard = Guard(app, limits=limits, token=token, on_refusal=metrics.refused, on_answer=metrics.answered)
    return app, guard


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return refusal(error.status, error.kind, str(error), error.headers)

    @app.exception_handler(UsageError)
    async def misused(request: Request, error: UsageError) -> Response:
        return refusal(422, "usage", str(error))

    @app.exception_handler(StoreError)
    async def away(request: Request, error: StoreError) -> Response:
        return refusal(503, "store", str(error), {"Retry-After": "30"})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        return refusal(422, "invalid", f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else {}
        if error.status_code == 405:  # of all routes with this path, not of the first one alone
            matching = (route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE)
            allowed = {method for route in matching for method in getattr(route, "methods", None) or ()}
            headers["Allow"] = ", ".join(sorted(allowed))
        return refusal(error.status_code, "http", str(error.detail), headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return refusal(500, "failed", f"the service failed on this request: {type(error).__name__}")


def _say_that_a_token_is_needed(app: FastAPI) -> None:
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if path in OPEN else [{"token": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_state(app: FastAPI, worker: Worker, metrics: Metrics) -> None:
    @app.get("/healthz", responses=errors(), tags=["state"])
    async def healthz() -> Health:
        """The process lives and answers."""
        return Health()

    @app.get("/readyz", responses=errors(), tags=["state"])
    async def readyz() -> Health:
        """Photos will be inspected; 503 with the reason if not."""
        if worker.trouble is not None:
            raise Refused(503, "not-ready", worker.trouble, **{"Retry-After": "5"})
        return Health(status="ready")

    @app.get("/metrics", response_class=Response, responses=errors(beside="text/plain"), tags=["state"])
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_inspection(app: FastAPI, worker: Worker, limits: Limits, metrics: Metrics) -> None:
    part = {"type": "object", "properties": {"photo": _ONE}, "required": ["photo"]}
    raw = {kind: {"schema": _ONE} for kind in ("application/octet-stream", "image/png", "image/jpeg")}
    one = {**raw, "multipart/form-data": {"schema": part}}
    several = {"type": "array", "items": _ONE, "minItems": 1, "maxItems": limits.batch}
    many = {"type": "object", "properties": {"photos": several}, "required": ["photos"]}

    @app.post(
        "/inspect",
        responses=errors(405, 422, 500, 504),
        openapi_extra={"requestBody": {"required": True, "content": one}},
        tags=["inspection"],
    )
    async def inspect(
        request: Request,
        with_map: Annotated[bool, Query(alias="map", description="send the anomaly map too")] = False,
    ) -> Inspection:
        """Inspect one photo: the body itself, or the only file of a form."""
        (data,) = await _files(request, 1)
        try:
            outcome = await _answer(worker, data, limits.seconds)
        except Refused as reason:
            metrics.refused(reason.kind)
            metrics.failed()
            raise
        metrics.inspected(outcome)
        return await asyncio.to_thread(inspection, outcome, with_map=with_map)

    @app.post(
        "/inspect/batch",
        responses=errors(405, 422),
        openapi_extra={
            "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": many}}}
        },
        tags=["inspection"],
    )
    async def batch(request: Request) -> Batch:
        """Inspect the files of a form, in order; a photo that fails has its own error and harms no other."""
        results = []
        end = time.monotonic() + limits.batch_seconds
        for index, data in enumerate(await _files(request, limits.batch)):
            left = max(0.001, end - time.monotonic())
            try:
                outcome = await _answer(worker, data, min(limits.seconds, left), waits=True)
            except Refused as reason:
                metrics.refused(reason.kind)
                metrics.failed()
                fault = Reason(kind=reason.kind, message=str(reason))
                results.append(BatchItem(index=index, error=fault))
            else:
                metrics.inspected(outcome)
                results.append(BatchItem(index=index, result=await asyncio.to_thread(inspection, outcome)))
        return Batch(results=results)


async def _files(request: Request, most: int) -> list[bytes]:
    """The photos of a request: its body, or the files of its form; their names are not looked at."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        if most > 1:
            raise Refused(415, "unsupported", "expected a form: multipart/form-data with the photos as files")
        return [await request.body()]
    try:
        async with request.form(max_files=most, max_fields=4) as form:
            found = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    except (HTTPException, MultiPartException, ValueError, KeyError) as error:
        said = getattr(error, "detail", None) or getattr(error, "message", None) or str(error)
        raise Refused(400, "bad-form", f"the form cannot be read: {said}") from error
    if not found:
        raise Refused(422, "no-photo", "the form has no file; expected a photo as a file")
    return found


async def _answer(worker: Worker, data: bytes, seconds: float, *, waits: bool = False) -> Inspected:
    """What the worker finds, waited for at most `seconds`; raises `Refused` with the reason.

    `waits`: for room in the queue too, as the photos of a batch do.
    """
    try:
        async with asyncio.timeout(seconds):
            future = await _submitted(worker, data) if waits else worker.submit(data)
            return await asyncio.wrap_future(future)
    except Busy as error:
        raise Refused(503, "busy", str(error), **{"Retry-After": str(worker.retry_after)}) from error
    except TimeoutError as error:
        raise Refused(
            504, "too-slow", f"no answer within {seconds:g} s; the service is overloaded"
        ) from error
    except PhotoError as error:
        raise Refused(PHOTO_STATUS.get(error.kind, 422), error.kind, str(error)) from error
    except asyncio.CancelledError:
        if worker.trouble is None:
            raise
        raise Refused(503, "busy", "the service is shutting down", **{"Retry-After": "5"}) from None
    except Exception as error:
        raise Refused(500, "failed", f"the service failed on this photo: {type(error).__name__}") from error


async def _submitted(worker: Worker, data: bytes) -> Future[Inspected]:
    while True:
        try:
            return worker.submit(data)
        except Busy:
            if worker.trouble is not None:
                raise
            await asyncio.sleep(0.05)
