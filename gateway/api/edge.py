"""The door: model endpoints are plain ASGI, caught here; everything else goes to the FastAPI service.

FastAPI's routing, validation and injection cost more CPU than all of the rest of a request.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping

from gateway.api.errors import UNFORESEEN, Refusal, refusal_of
from gateway.api.exchange import Exchange, Message, Receive, Scope, Send
from gateway.errors import CallerGone, NoSuchPath, UpstreamFailed
from gateway.ids import sequential_ids
from gateway.settings import Settings
from gateway.telemetry.record import RequestRecord, Telemetry
from gateway.wire import sse

log = logging.getLogger(__name__)

Endpoint = Callable[[Exchange, RequestRecord], Awaitable[None]]
Service = Callable[[Scope, Receive, Send], Awaitable[None]]

ADMIN_PREFIX = "/admin"

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{8,128}")


class Edge:
    """The ASGI application. Errors of a model request become an answer here, in the outermost frame, and once."""

    def __init__(
        self,
        endpoints: Mapping[str, tuple[str, Endpoint]],
        service: Service,
        telemetry: Telemetry,
        settings: Settings,
    ) -> None:
        """`endpoints`: by path, the operation's name and what serves a POST there."""
        self._endpoints = endpoints
        self._service = service
        self._telemetry = telemetry
        self._max_body_bytes = settings.server.max_body_bytes
        self._new_id = sequential_ids("req_")
        self._budget_status = settings.refusals.budget_status
        self._admin_port = settings.admin.port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            endpoint = self._endpoints.get(scope["path"]) if scope["method"] == "POST" else None
            if endpoint is not None:
                exchange = Exchange(scope, receive, send, self._request_id(scope), self._max_body_bytes)
                return await self._model_request(exchange, *endpoint)
            if self._admin_port is not None and not self._at_its_listener(scope):
                exchange = Exchange(scope, receive, send, self._request_id(scope), self._max_body_bytes)
                refusal = refusal_of(NoSuchPath(scope["method"], scope["path"]))
                return await exchange.answer(refusal.status, refusal.headers(), refusal.body())
            send = _with_request_id(send, self._request_id(scope))
        return await self._service(scope, receive, send)

    def _at_its_listener(self, scope: Scope) -> bool:
        """Whether this path is served on the listener it came by: the admin API on its own, all else on both."""
        return not scope["path"].startswith(ADMIN_PREFIX) or scope["server"][1] == self._admin_port

    def _request_id(self, scope: Scope) -> str:
        """The caller's own id where it is harmless, so that both sides' logs can be matched; else a new one."""
        given = dict(scope["headers"]).get(b"x-request-id")
        return given.decode() if given and _REQUEST_ID.fullmatch(given) else self._new_id()

    async def _model_request(self, exchange: Exchange, operation_name: str, endpoint: Endpoint) -> None:
        with self._telemetry.request(exchange.request_id, operation_name) as record:
            try:
                await endpoint(exchange, record)
                record.status = 200
            except CallerGone:
                record.client_gone = True
            except Exception as error:  # noqa: BLE001 - the outermost frame: whatever went wrong is answered
                await self._refuse(exchange, record, error)
            finally:
                exchange.close()
            record.client_gone = record.client_gone or exchange.gone

    async def _refuse(self, exchange: Exchange, record: RequestRecord, error: Exception) -> None:
        user_agent = exchange.headers.get(b"user-agent", b"").decode("latin-1")
        refusal = refusal_of(error, user_agent, self._budget_status)
        record.status = 200 if exchange.started else refusal.status
        record.error_type = refusal.label or refusal.code
        if refusal.code == UNFORESEEN.code:
            log.error("request %s failed: %s", exchange.request_id, type(error).__name__, exc_info=error)
        if exchange.started:
            await _break_off(exchange, refusal)
        else:
            if refusal.code != UNFORESEEN.code and not isinstance(error, UpstreamFailed):
                record.refused(refusal.code)
            await exchange.answer(refusal.status, refusal.headers(), refusal.body())


def _with_request_id(send: Send, request_id: str) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
        await send(message)

    return send_with_id


async def _break_off(exchange: Exchange, refusal: Refusal) -> None:
    """Tell of an error in a stream that has begun: an error event, and then no clean end."""
    await exchange.write(sse.event_of(refusal.body()))
