"""The FastAPI service: everything but the model endpoints, with OpenAPI docs under /docs."""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from budgets.errors import BudgetError, LedgerUnavailable
from gateway import __version__
from gateway.api.errors import refusal_of
from gateway.configuration import ConfigurationError
from gateway.errors import BodyTooLarge, GatewayError, NoSuchPath
from gateway.wire.errors import InvalidRequest
from gateway.wire.strict_json import parse_object
from routing.errors import RoutingError

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_service(routers: Sequence[APIRouter], lifespan: Lifespan, max_body_bytes: int) -> FastAPI:
    """The service with these routers. Every error leaves it in OpenAI's envelope, by the one table."""
    service = FastAPI(
        title="Paymaster",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        max_body_size=max_body_bytes,
    )
    for router in routers:
        service.include_router(router)
    for kind in (GatewayError, BudgetError, RoutingError, InvalidRequest, ConfigurationError, Exception):
        service.add_exception_handler(kind, _refuse)
    service.add_exception_handler(RedisError, _refuse_without_ledger)
    service.add_exception_handler(RequestValidationError, _refuse_fields)
    service.add_exception_handler(HTTPException, _refuse_http)
    return service


class StrictRoute(APIRoute):
    """A route whose bodies are JSON in which every reader sees the same value.

    Whatever content type a client names: `curl -d` names a form's, and there is nothing else they could be.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            headers = [line for line in request.scope["headers"] if line[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            return await handle(_StrictRequest(scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_object(await self.body())


async def _refuse(_: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body(), refusal.status, refusal.headers())


async def _refuse_fields(request: Request, error: Any) -> Response:
    """Pydantic's findings as one sentence that names each field."""
    found = error.errors()
    where = [".".join(str(part) for part in each["loc"][1:]) or "body" for each in found]
    told = "; ".join(f"`{place}`: {each['msg']}" for place, each in zip(where, found, strict=True))
    return await _refuse(request, InvalidRequest(f"{told}.", where[0]))


async def _refuse_without_ledger(request: Request, error: Exception) -> Response:
    return await _refuse(request, LedgerUnavailable(str(error)))


async def _refuse_http(request: Request, error: Any) -> Response:
    """What FastAPI refuses by itself: a body it could not read, for the reason behind it, and unknown paths."""
    if isinstance(error.__cause__, InvalidRequest):
        return await _refuse(request, error.__cause__)
    if error.status_code == 413:
        return await _refuse(request, BodyTooLarge(request.app.max_body_size))
    return await _refuse(request, NoSuchPath(request.method, request.scope["path"]))
