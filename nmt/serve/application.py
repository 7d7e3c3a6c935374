"""The application: all routes, and one form for errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

import nmt
from nmt.errors import ConfigError, DataError, NmtError
from nmt.runtime import logger
from nmt.serve.guard import Guard
from nmt.serve.keys import Keys
from nmt.serve.libretranslate import libretranslate_routes
from nmt.serve.limits import Limits, Refusal
from nmt.serve.models import Models
from nmt.serve.monitoring import Metrics
from nmt.serve.routes import own_routes

MOST_PROBLEMS = 5
LONGEST_PROBLEM = 300
"""Characters."""


def build_application(models: Models, limits: Limits, keys: Keys, metrics: Metrics) -> Guard:
    """Returns the ASGI application that answers for these models."""
    # No /docs: its page loads scripts from another server.
    application = FastAPI(
        title="nmt-serve",
        version=nmt.__version__,
        description="Translation by models of nmt, with scores and attention.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in (*own_routes(models, limits, keys, metrics), libretranslate_routes(models, limits, keys)):
        application.include_router(router)

    @application.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> JSONResponse:
        return _error(error.status, error.reason, error.headers)

    @application.exception_handler(RequestValidationError)
    @application.exception_handler(ValidationError)
    async def refuse_body(request: Request, error: RequestValidationError | ValidationError) -> JSONResponse:
        return _error(422, "; ".join(_problems(error.errors())))

    @application.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # FastAPI's answer to JSON that Python's parser gives up on
            return _error(422, "the body is no valid JSON")
        return _error(error.status_code, str(error.detail), error.headers)

    @application.exception_handler(NmtError)
    async def refuse_translation(request: Request, error: NmtError) -> JSONResponse:
        if isinstance(error, (ConfigError, DataError)):
            return _error(422, "; ".join(error.problems))
        logger.error("%s: %s", request.url.path, "; ".join(error.problems))
        return _error(500, "the model cannot translate this; the server's log has the reason")

    @application.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return _error(500, "internal error; the server's log has the reason")

    return Guard(application, limits, metrics.request)


def _problems(errors: Iterable[Any]) -> list[str]:
    """One text for each mistake in a body: its path and what is wrong, without the value."""
    problems = []
    for error in list(errors)[:MOST_PROBLEMS]:
        path = ".".join(str(part) for part in error["loc"] if part != "body")[:LONGEST_PROBLEM]
        message = error["msg"][:LONGEST_PROBLEM]
        problems.append(f"{path}: {message}" if path and error["type"] != "json_invalid" else message)
    return problems


def _error(status: int, reason: str, headers: Any = None) -> JSONResponse:
    # A name in it may have halves of characters (lone surrogates), which UTF-8 cannot hold.
    return JSONResponse({"error": reason.encode(errors="replace").decode()}, status, headers)
