"""The server edge: uvicorn with deadlines and limits for what clients send, and a shutdown that loses no request.

uvicorn alone waits for ever for headers and bodies, takes headers of any size, answers bad requests as plain text,
and on shutdown closes connections whose request it has not read yet. `Protocol` mends that; sizes of bodies are the
application's to limit, since it knows what each endpoint takes. What is refused here looks as it does in `api/`.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from http import HTTPStatus
from itertools import chain
from math import ceil
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.api.errors import INVALID, SERVER, Refusal
from gateway.assignment import LEAVING_GRACE
from gateway.cycle import Cycle
from gateway.ids import sequential_ids

BACKLOG = 2048
KEEP_ALIVE = 75
"""Seconds an idle connection stays open: longer than the 60 s of common proxies, so that these close first."""
SHUTDOWN_GRACE = 1.0
"""Seconds in which a connection without a request may still send one after the shutdown began."""

_HEADER_FRAMING = len(b": \r\n")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take. Times in seconds."""

    header_timeout: float = 10.0
    """From the connection, or from the first byte of a later request, to the end of the headers."""
    body_timeout: float = 30.0
    """From the end of the headers to the end of the body, whether it is read or thrown away."""
    write_timeout: float = 30.0
    """For a client that does not read to take what waits for it; then it is gone, and the application sees it go."""
    max_header_bytes: int = 64 * 1024
    """Of the request line and the headers together; also of trailers."""


class Reading(Enum):
    """Which part of a request the parser is in."""

    NOTHING = "nothing"
    HEAD = "head"
    BODY = "body"


_MALFORMED = Refusal(400, INVALID, "malformed_request", "This is not a valid HTTP request.", retry=False)
_TIMED_OUT = Refusal(408, INVALID, "request_timeout", "The request did not arrive in time.", retry=True)
_HEADERS_TOO_LARGE = Refusal(431, INVALID, "headers_too_large", "The request's headers are too large.", retry=False)
_FAILED = Refusal(500, SERVER, "internal_error", "The gateway failed to answer this request.", retry=False)


def _answer(refusal: Refusal, request_id: str) -> bytes:
    """A whole response, after which the connection ends."""
    body = refusal.body()
    headers = {"x-request-id": request_id, "content-length": str(len(body)), "connection": "close"}
    lines = [f"{name}: {value}\r\n" for name, value in (refusal.headers() | headers).items()]
    return f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n{''.join(lines)}\r\n".encode() + body


class _HeadersTooLargeError(Exception):
    """Raised inside the parser's callback to stop it."""


class _EarlyAnswerTransport(asyncio.Transport):
    """Stands in for the transport while a request's body is still coming, so that an early answer arrives.

    A socket closed with bytes unread sends a reset, and the client loses the answer (a 413, say) in its own buffers.
    """

    def __init__(self, protocol: "Protocol") -> None:
        super().__init__()
        self._protocol = protocol
        self.write = protocol.transport.write  # type: ignore[method-assign]
        self.is_closing = protocol.transport.is_closing  # type: ignore[method-assign]

    def close(self) -> None:
        self._protocol.close()


class Protocol(HttpToolsProtocol):
    """One connection. One deadline at most runs for what comes in: for the head, for the body, or for the client to
    hang up; and one for what goes out, while the client does not read.

    None runs while the application works, and a request that arrives in one piece never starts one.
    """

    def __init__(self, limits: Limits, new_id: Callable[[], str], **uvicorn_arguments: Any) -> None:
        """`new_id` names the requests that are answered here."""
        super().__init__(**uvicorn_arguments)
        self.access_log = False
        self._limits = limits
        self._new_id = new_id
        self._reading = Reading.NOTHING
        self._awaited = Reading.NOTHING
        self._deadline: asyncio.TimerHandle | None = None
        self._reader_deadline: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        self.cycle: Cycle
        self._unproductive_bytes = 0
        """Received since the head began or since the last piece of body: what the parser may be hoarding."""
        self._ending = False
        self._draining = False
        self.grace: float | None = None
        """Seconds for which a connection without a request may stay after the shutdown began, where that is not the
        usual `SHUTDOWN_GRACE`: a successor serves, and nobody waits for this process to end."""

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._unset_keepalive_if_required()
        self._unproductive_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Declined by simply answering (RFC 9110, 7.8). The parser dropped what followed, so no next request here.
            self.cycle.keep_alive = False
        except httptools.HttpParserError as exc:
            too_large = isinstance(exc.__context__, _HeadersTooLargeError)
            self._refuse(_HEADERS_TOO_LARGE if too_large else _MALFORMED)
            return
        if self._unproductive_bytes > self._limits.max_header_bytes:
            self._refuse(_HEADERS_TOO_LARGE)
            return
        self._watch()

    def pause_writing(self) -> None:
        self._reader_deadline = self.loop.call_later(self._limits.write_timeout, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._forgive_reader()
        super().resume_writing()

    def _forgive_reader(self) -> None:
        if self._reader_deadline is not None:
            self._reader_deadline.cancel()
            self._reader_deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        self._forgive_reader()
        self.pipeline.clear()
        if self._answering is not None and self._answering is not self.cycle:
            self._hang_up(self._answering)  # uvicorn tells only the newest of several pipelined requests
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Answer what is there or on its way, then close. Called once by the server."""
        self._draining = True
        if self._is_answering():
            if self.grace is None or not self.cycle.has_head:  # else the client was promised that it may go on
                self.cycle.keep_alive = False
        elif self._ending or self._reading is Reading.NOTHING:
            self._await_last_request()

    def _await_last_request(self) -> None:
        self._unset_keepalive_if_required()
        self._awaited = Reading.HEAD
        self._set_deadline(self.grace or min(SHUTDOWN_GRACE, self._limits.header_timeout))

    def close(self) -> None:
        """Close after an answer, at once where the whole request was read."""
        if self._reading is Reading.BODY:
            self.end()
        else:
            self.transport.close()

    def end(self) -> None:
        """Half-close: the client reads the answer to its end; what it still sends is thrown away until it closes."""
        if self._ending or self.transport.is_closing():
            return
        self._ending = True
        self.transport.write_eof()
        self.flow.resume_reading()
        self._set_deadline(SHUTDOWN_GRACE if self._draining else self._limits.body_timeout)

    # The parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = Reading.HEAD
        self._unproductive_bytes = 0

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(map(len, chain.from_iterable(self.headers))) + _HEADER_FRAMING * len(self.headers)
        if size > self._limits.max_header_bytes:
            raise _HeadersTooLargeError
        url, version = httptools.parse_url(self.url), self.parser.get_http_version()
        self.scope |= {
            "method": self.parser.get_method().decode("ascii"),
            "http_version": version,
            "path": unquote(url.path.decode("ascii")),
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self.headers.copy(),  # trailers go on into self.headers and must not pass for headers
        }
        earlier, self.cycle = self.cycle, self._new_cycle(version)
        self._reading = Reading.BODY
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _new_cycle(self, http_version: str) -> Cycle:
        return Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and self.parser.should_keep_alive() and not self._draining,
            on_response=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        self._unproductive_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = Reading.NOTHING
        super().on_message_complete()

    # The application

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        task = self.loop.create_task(self._run(cycle, app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _run(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Run the application for one request, and see to it that the client is not left waiting."""
        try:
            await app(cycle.scope, cycle.receive, cycle.send)
        except asyncio.CancelledError:
            self.transport.close()
            raise
        except Exception:  # the outermost frame of the request's task
            _logger.exception("the application failed")
        else:
            if not cycle.response_started and not cycle.disconnected:
                _logger.error("the application ended without an answer")
        if cycle.response_complete or cycle.disconnected:
            return
        if cycle.response_started:
            self.transport.close()  # cut on purpose: the unfinished framing tells the client that something is missing
        else:
            self._refuse(_FAILED)

    def on_response_complete(self) -> None:
        if self._ending:
            return
        super().on_response_complete()
        if self._reading is Reading.BODY and self.expect_100_continue:
            self.end()  # nobody knows whether the body will follow or the next request
        elif not self.transport.is_closing():
            self._watch()
            if self._draining and self._reading is Reading.NOTHING and not self._is_answering():
                self._await_last_request()

    # Deadlines and refusals

    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _watch(self) -> None:
        """Start or stop the deadline for what the connection now waits for."""
        if self._reading is Reading.BODY and self.cycle is self._answering:
            awaited = Reading.BODY
        elif self._is_answering() or self.timeout_keep_alive_task is not None:
            awaited = Reading.NOTHING
        else:
            awaited = Reading.HEAD
        if awaited is self._awaited:
            return
        self._awaited = awaited
        if awaited is Reading.NOTHING:
            self._set_deadline(None)
        elif awaited is Reading.HEAD:
            self._set_deadline(self._limits.header_timeout)
        else:
            self.cycle.transport = _EarlyAnswerTransport(self)
            self._set_deadline(self._limits.body_timeout)

    def _set_deadline(self, timeout: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if timeout is None else self.loop.call_later(timeout, self._expire)

    def _expire(self) -> None:
        if self._ending:
            self.transport.abort()
        elif self._reading is Reading.HEAD or self._is_answering():
            self._refuse(_TIMED_OUT)
        else:
            self.transport.close()  # nothing was asked, or the rest of an answered request was thrown away too long

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with it and end the connection; where another answer is on the wire, only end it after that."""
        cycle = self._answering
        if cycle is None or cycle.response_complete:
            if self._reading is not Reading.BODY:
                self._tell(refusal)
            self.end()
        elif cycle is not self.cycle or self._reading is Reading.HEAD:
            self.pipeline.clear()
            cycle.keep_alive = False
            cycle.transport = _EarlyAnswerTransport(self)
            self.flow.pause_reading()
        elif cycle.response_started:
            self.transport.close()
        else:
            self._hang_up(cycle)
            self._tell(refusal)
            self.end()

    def _tell(self, refusal: Refusal) -> None:
        """Answer in the application's place. The log has the id by which a caller may ask about it."""
        request_id = self._new_id()
        _logger.info("request %s was answered %d %s", request_id, refusal.status, refusal.code)
        self.transport.write(_answer(refusal, request_id))

    def _hang_up(self, cycle: RequestResponseCycle) -> None:
        """Let the application see the client as gone."""
        cycle.disconnected = True
        cycle.message_event.set()


class Server(uvicorn.Server):
    """uvicorn's server under somebody else's signals: `stop()` ends it, a second `stop()` ends it without waiting.

    `leave()` ends it too, where a successor serves the same sockets.
    """

    def __init__(
        self, app: ASGI3Application, limits: Limits, shutdown_timeout: float, on_started: Callable[[], None]
    ) -> None:
        """`shutdown_timeout`: seconds that answers under way may take to end, rounded up to whole ones.

        `on_started` is called once connections are accepted.
        """
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=cast("type[asyncio.Protocol]", partial(Protocol, limits, sequential_ids("req_"))),
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=ceil(shutdown_timeout),
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._on_started = on_started
        self._shutdown_timeout = shutdown_timeout
        self._stopping = asyncio.Event()
        self._is_leaving = False

    def leave(self) -> None:
        """Leave the sockets, and who waits there, to a successor; serve the open connections to their end."""
        if not self.should_exit:
            self._is_leaving = True
            self.stop()

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._stopping.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the worker, which knows more of them than uvicorn does."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def main_loop(self) -> None:
        """Renew the date header every second, until `stop()`."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listeners, let in those whom the kernel has already let in unless a successor does, and drain."""
        doors = [] if self._is_leaving else [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        await asyncio.sleep(0)  # the loop closes its own, and makes known whom it let in last
        await asyncio.sleep(0)
        late = [connection for door in doors for connection in _waiting(door)]
        for connection in late:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
        if self._is_leaving:
            self._grant_time()
        await super().shutdown()

    def _grant_time(self) -> None:
        """Nobody waits for this process to end: an idle connection may stay a while, and what it asks last runs on."""
        for protocol in self.server_state.connections:
            cast("Protocol", protocol).grace = LEAVING_GRACE
        self.config.timeout_graceful_shutdown = ceil(self._shutdown_timeout + LEAVING_GRACE)

    def _make_protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _waiting(door: socket.socket) -> list[socket.socket]:
    """The connections in a listener's queue. The listener is closed."""
    waiting = []
    with door:
        door.setblocking(False)
        with suppress(OSError):  # the queue is empty
            while True:
                waiting.append(door.accept()[0])
    return waiting
