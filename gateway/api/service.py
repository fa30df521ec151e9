"""The FastAPI service: everything but the model endpoints, with OpenAPI docs under /docs."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from budgets.errors import BudgetError
from gateway import __version__
from gateway.api.errors import refusal_of
from gateway.configuration import ConfigurationError
from gateway.errors import GatewayError, NoSuchPath
from gateway.wire.errors import InvalidRequest
from routing.errors import RoutingError

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_service(routers: Sequence[APIRouter], lifespan: Lifespan) -> FastAPI:
    """The service with these routers. Every error leaves it in OpenAI's envelope, by the one table."""
    service = FastAPI(title="Paymaster", version=__version__, lifespan=lifespan, redoc_url=None)
    for router in routers:
        service.include_router(router)
    for kind in (GatewayError, BudgetError, RoutingError, InvalidRequest, ConfigurationError):
        service.add_exception_handler(kind, _refuse)
    service.add_exception_handler(RequestValidationError, _refuse_fields)
    service.add_exception_handler(HTTPException, _refuse_path)
    return service


async def _refuse(_: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body(), refusal.status, refusal.headers())


async def _refuse_fields(request: Request, error: Any) -> Response:
    """Pydantic's findings as one sentence that names each field."""
    found = error.errors()
    where = [".".join(str(part) for part in each["loc"][1:]) or "body" for each in found]
    told = "; ".join(f"`{place}`: {each['msg']}" for place, each in zip(where, found, strict=True))
    return await _refuse(request, InvalidRequest(f"{told}.", where[0]))


async def _refuse_path(request: Request, error: Any) -> Response:
    return await _refuse(request, NoSuchPath(request.method, request.url.path))
