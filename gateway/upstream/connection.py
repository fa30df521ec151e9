"""One HTTP/1.1 connection: its transport, its framing, and what may be told of an answer that breaks off.

Framing is left to llhttp in its strict mode; a response is refused where servers and proxies could read it differently.
"""

import asyncio
import re
import select
import socket
from typing import cast

import httptools

from gateway.upstream.pool import Origin, Pool

MAX_HEAD_BYTES = 64 * 1024
"""Of a response's headers together; also of anything else that is not body, such as trailers."""
MAX_BUFFERED_BYTES = 256 * 1024
"""Of a body that nobody reads; then the provider has to wait."""
PIECE_BYTES = 64 * 1024
"""A request's body is handed to the transport in pieces of this size; a smaller one leaves together with its head."""

_KEEP_ALIVE = re.compile(rb"timeout=(\d{1,9})")


class ConnectionBroken(Exception):
    """The connection ended, or what came over it was not HTTP. The request may have been received, and billed."""


class Response:
    """A response whose head has come; its body comes with `read`. Ends with `release`, however it ends."""

    __slots__ = ("_connection", "_headers", "framed", "status")

    def __init__(self, connection: "Connection", status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.framed = status in (204, 304) or b"content-length" in headers or b"transfer-encoding" in headers
        """Whether the body says where it ends. If not, a connection cut by a failure looks like its end."""
        self._headers = headers
        self._connection: Connection | None = connection

    def header(self, name: str) -> str | None:
        """The first value of the header `name`, which is given in lower case."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def read(self) -> bytes | None:
        """All that has come of the body since the last time, as soon as there is any; None at its end.

        Raises ConnectionBroken where the body ends too early, after what came of it was read.
        """
        if self._connection is None:
            raise ConnectionBroken("the response was released")
        return await self._connection.read()

    def release(self) -> None:
        """Be done with it. The connection is used again only if all of the response has come."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class Connection(asyncio.Protocol):
    """One connection: a request goes out, its response comes in, never two at a time."""

    def __init__(self, pool: "Pool[Connection]", origin: Origin, sock: socket.socket) -> None:
        self.origin = origin
        self._pool = pool
        self._news_of_peer = select.poll()
        self._news_of_peer.register(sock, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._waker: asyncio.Future[None] | None = None
        self._failure: str | None = None
        self._unsent = memoryview(b"")
        self._sending_paused = False
        self._receiving_paused = False
        self._begin()
        self._complete = True

    def _begin(self) -> None:
        """Forget the last exchange."""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._unproductive_bytes = 0
        """Received since the last piece of body: what the parser may be hoarding."""
        self._response: Response | None = None
        self._keep_alive = False
        self._pieces: list[bytes] = []
        self._buffered_bytes = 0
        self._complete = False
        """Whether all of the response has come; also before the first request, when nothing may come at all."""

    # One exchange

    async def exchange(self, head: bytes, body: bytes) -> Response:
        """Send a request and wait for the head of its response. Raises ConnectionBroken."""
        self._begin()
        if len(body) <= PIECE_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._send_more()
        while self._response is None:
            if self._failure is not None:
                raise ConnectionBroken(self._failure)
            await self._news()
        return self._response

    async def read(self) -> bytes | None:
        """See Response.read."""
        while not self._pieces:
            if self._complete:
                return None
            if self._failure is not None:
                raise ConnectionBroken(self._failure)
            await self._news()
        pieces, self._pieces = self._pieces, []
        self._buffered_bytes = 0
        if self._receiving_paused:
            self._receiving_paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """End the exchange: to the pool if both sides are through with it and want to keep the connection."""
        sent = not self._unsent and not self._transport.get_write_buffer_size()
        if not (self._complete and self._keep_alive and sent) or self._transport.is_closing():
            self.close()
            return
        # A second less than the peer keeps it, lest a request and its hanging up cross each other.
        lasts = _KEEP_ALIVE.search(self._headers.get(b"keep-alive", b""))
        self._pool.put(self, int(lasts[1]) - 1 if lasts else None)

    def is_quiet(self) -> bool:
        """Whether the peer has neither sent anything nor hung up: asks the system, which knows before the loop does."""
        return not (self._transport.is_closing() or self._news_of_peer.poll(0))

    def close(self) -> None:
        """End the connection without waiting for anything; what is unsent or unread is lost."""
        self._transport.abort()

    async def _news(self) -> None:
        """Wait until something has come or the connection has ended. Who gives up waiting gives up the connection."""
        self._waker = self._loop.create_future()
        try:
            await self._waker
        except (asyncio.CancelledError, GeneratorExit):
            self.close()
            raise
        finally:
            self._waker = None

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _break(self, reason: str) -> None:
        """Nothing more can be learnt from this connection. What came whole before stays good."""
        self._failure = self._failure or reason
        self.close()

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._failure is not None:
            return  # TLS may still have something to deliver after the end
        self._unproductive_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._break(f"the response is not valid HTTP: {exc.__context__ or exc}")
        else:
            self._limit()
        self._wake()

    def _limit(self) -> None:
        """Let the provider neither have us hoard headers nor send faster than the body is read."""
        if self._unproductive_bytes > MAX_HEAD_BYTES:
            self._break("the response has more than 64 KiB of headers")
        elif self._buffered_bytes > MAX_BUFFERED_BYTES and not self._complete:
            self._receiving_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The end of a body that has no other end; else `connection_lost` comes next and tells."""
        if self._response is not None and not self._response.framed:
            self._complete = True
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._failure = self._failure or f"the connection ended too early{f': {exc}' if exc else ''}"
        self._unsent = memoryview(b"")
        self._pool.remove(self)
        self.closed.set_result(None)
        self._wake()

    def pause_writing(self) -> None:
        self._sending_paused = True

    def resume_writing(self) -> None:
        self._sending_paused = False
        self._send_more()

    def _send_more(self) -> None:
        """Go on with the request's body while the transport takes it; goes on under an early response too."""
        while self._unsent and not self._sending_paused:
            piece, self._unsent = self._unsent[:PIECE_BYTES], self._unsent[PIECE_BYTES:]
            self._transport.write(piece)

    # The parser's callbacks; what they raise ends up as the context of a HttpParserError

    def on_message_begin(self) -> None:
        if self._complete:
            raise ConnectionBroken("more came after its end")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None:
            return  # a trailer
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ConnectionBroken("more than 64 KiB of headers")
        self._headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise ConnectionBroken("it switches to a protocol that was not asked for")
        if status < 200:  # informational: the response proper follows
            self._headers = {}
            return
        self._keep_alive = self._parser.should_keep_alive()
        self._response = Response(self, status, self._headers)

    def on_body(self, body: bytes) -> None:
        self._unproductive_bytes = 0
        self._buffered_bytes += len(body)
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._complete = self._response is not None
