"""The application: routes, the door before them, and errors in OpenAI's shape."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forethought import __version__
from forethought.serve import chat, completions, responses
from forethought.serve.background import Background
from forethought.serve.config import ModelConfig, ServerConfig
from forethought.serve.errors import ApiError, unreadable
from forethought.serve.house import House, house_of
from forethought.serve.jobs import Jobs
from forethought.serve.limits import Door, Gate, Keys
from forethought.serve.metrics import Metrics
from forethought.serve.models import Models, opened
from forethought.serve.seal import Seal


def create(
    config: ServerConfig,
    models: Sequence[ModelConfig] | Models,
    *,
    routers: Sequence[APIRouter] = (),
    open_paths: Collection[str] = (),
) -> FastAPI:
    """The application that serves `models`: configurations, opened when it starts, or models that are open already.

    `routers` are asked after the API's own, so that they can shadow none of it; `open_paths` need no key.

    Raises ValueError for a file of keys that cannot be read; what is wrong with a model is raised at the start.
    """
    keys = Keys.read(config.keys, config.requests_per_minute) if config.keys else None
    seal = Seal.read(config.seal) if config.seal else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _open(models) as there:
            gate = Gate(config.running, config.waiting)
            jobs = _jobs(config)
            house = app.state.house = House(config, there, gate, Metrics(gate), Background(), seal, jobs)
            gc.freeze()  # a pass of the collector over all that is loaded by now blocks everybody for 0.2 s
            try:
                await responses.resume(house)
                yield
            finally:
                gc.unfreeze()
                await house.background.stop()
                if jobs is not None:
                    jobs.close()

    # FastAPI's pages of documentation would load scripts from others' servers.
    app = FastAPI(title="forethought", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(chat.router)
    app.include_router(completions.router)
    app.include_router(responses.router)
    _plain_routes(app)
    for router in routers:
        app.include_router(router)
    _error_handlers(app)
    limits = {"rate": config.requests_per_minute, "body_bytes": config.body_bytes}
    app.add_middleware(Door, keys=keys, open_paths=open_paths, **limits)
    app.add_middleware(_Counted, state=app.state)
    return app


def _jobs(config: ServerConfig) -> Jobs | None:
    return Jobs(config.store, days=config.store_days, mib=config.store_mib) if config.store else None


@asynccontextmanager
async def _open(models: Sequence[ModelConfig] | Models) -> AsyncIterator[Models]:
    if isinstance(models, Models):
        yield models
    else:
        async with opened(models) as there:
            yield there


def _plain_routes(app: FastAPI) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Is the server there, its models open?"""
        return {"status": "ok", "version": __version__}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """What it has counted, for Prometheus."""
        return Response(house_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """Every name that can be asked for."""
        models = house_of(request).models
        return {"object": "list", "data": [models.card(name) for name in models.names()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str, request: Request) -> dict[str, Any]:
        """One of them."""
        models = house_of(request).models
        models.find(name)
        return models.card(name)


def _error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.reply()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return unreadable(error.errors()).reply()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "unknown_url", 413: "request_too_large"}
        said = f"Invalid URL ({request.method} {request.url.path})." if error.status_code == 404 else str(error.detail)
        return ApiError(error.status_code, said, code=codes.get(error.status_code)).reply()

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "The server had an error while processing your request.", code="internal_error").reply()


class _Counted:
    """ASGI middleware: each answer is counted by its route and status."""

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start" and (house := getattr(self.state, "house", None)):
                route = scope.get("route")
                house.metrics.requests.labels(getattr(route, "path", "other"), str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting if scope["type"] == "http" else send)
