"""The REST API, version 1: which address does what. The work is done by the services beside this module.

Long operations answer with a stream of JSON lines (see plugins.server.operations). Errors have the form
{code, message, hint, details, exit_code}.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from lastwrite import __version__
from lastwrite.errors import LastwriteError, NotFoundError, UsageError
from plugins.models import (
    Health,
    HypervisorCheck,
    HypervisorInfo,
    HypervisorList,
    Marked,
    PointList,
    Removed,
    Status,
    VmList,
)
from plugins.server import hypervisors, points, recover
from plugins.server.context import Context
from plugins.server.operations import Operations, Work, error_body
from plugins.server.protect import ProtectRequest, protect
from plugins.server.unprotect import UnprotectRequest, unprotect

HTTP_STATUS = {1: 500, 2: 400, 3: 404, 4: 503, 5: 500, 6: 409, 7: 422}
UNDO_S = 10.0
Text = Annotated[str, Body(embed=True)]
MaybeText = Annotated[str | None, Body(embed=True)]


def create_app(context: Context) -> FastAPI:
    """Return the application over `context`."""
    operations = Operations()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        operations.end(UNDO_S)

    app = FastAPI(title="Lastwrite", version=__version__, lifespan=lifespan)
    _errors(app)
    _questions(app, context)
    _changes(app, context)
    _long_operations(app, context, operations)
    return app


def _errors(app: FastAPI) -> None:
    @app.exception_handler(LastwriteError)
    async def known(_request: Request, error: LastwriteError) -> Response:
        return _error_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _error_response(UsageError(f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def no_such_address(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"
        if error.status_code == 404:
            return _error_response(NotFoundError(f"there is no such address: {where}"))
        return _error_response(UsageError(f"{where}: {error.detail}"))

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, error: Exception) -> Response:
        return _error_response(LastwriteError(f"{type(error).__name__}: {error}"))


def _error_response(error: LastwriteError) -> Response:
    import json

    body = json.dumps(error_body(error), default=str)
    status = HTTP_STATUS.get(error.exit_code, 500)
    return Response(body, status_code=status, media_type="application/json")


def _questions(app: FastAPI, context: Context) -> None:
    @app.get("/v1/health")
    def health() -> Health:
        return Health(version=__version__, pid=os.getpid(), state_dir=str(context.settings.state_dir))

    @app.get("/v1/hypervisors")
    def hypervisor_list() -> HypervisorList:
        return hypervisors.listed(context)

    @app.get("/v1/hypervisors/{name}/check")
    def hypervisor_check(name: str) -> HypervisorCheck:
        return hypervisors.check(context, name)

    @app.get("/v1/vms")
    def vm_list(hypervisor: str | None = None) -> VmList:
        return hypervisors.vms(context, hypervisor)

    @app.get("/v1/status")
    def all_status() -> Status:
        return points.status(context)

    @app.get("/v1/vms/{vm}/status")
    def one_status(vm: str) -> Status:
        return points.status(context, vm)

    @app.get("/v1/vms/{vm}/points")
    def vm_points(vm: str, all: bool = False) -> PointList:
        return points.points(context, vm, all)


def _changes(app: FastAPI, context: Context) -> None:
    @app.post("/v1/hypervisors")
    def hypervisor_add(name: Text, url: Text) -> HypervisorInfo:
        return hypervisors.add(context, name, url)

    @app.delete("/v1/hypervisors/{name}")
    def hypervisor_remove(name: str) -> Removed:
        return hypervisors.remove(context, name)

    @app.post("/v1/vms/{vm}/bookmarks")
    def bookmark(vm: str, name: Text, at: MaybeText = None) -> Marked:
        return points.bookmark(context, vm, name, at)

    @app.post("/v1/vms/{vm}/appshots")
    def appshot(vm: str, name: MaybeText = None) -> Marked:
        return points.appshot(context, vm, name)


def _long_operations(app: FastAPI, context: Context, operations: Operations) -> None:
    def streamed(work: Work) -> StreamingResponse:
        return StreamingResponse(operations.stream(work), media_type="application/x-ndjson")

    @app.post("/v1/protect", response_model=None)
    async def begin_protection(request: ProtectRequest) -> StreamingResponse:
        return streamed(lambda emit: protect(context, request, emit))

    @app.post("/v1/unprotect", response_model=None)
    async def end_protection(request: UnprotectRequest) -> StreamingResponse:
        return streamed(lambda emit: unprotect(context, request, emit))

    @app.post("/v1/recover/file", response_model=None)
    async def recover_file(request: recover.FileRequest) -> StreamingResponse:
        return streamed(lambda emit: recover.to_file(context, request, emit))

    @app.post("/v1/recover/boot", response_model=None)
    async def recover_boot(request: recover.BootRequest) -> StreamingResponse:
        return streamed(lambda emit: recover.boot(context, request, emit))
