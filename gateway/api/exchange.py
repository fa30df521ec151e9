"""One HTTP request of a model endpoint and its answer, over plain ASGI."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from gateway.api.headers import headers_from
from gateway.errors import BodyEncoded, BodyTooLarge, CallerGone

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WATCH_AFTER = 0.1
"""Seconds until somebody looks whether the caller is still there: what is answered sooner is not worth a task."""


class Exchange:
    """Reads the body within bounds, notices when the caller hangs up, and writes the answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str, max_body_bytes: int) -> None:
        self.headers = headers_from(scope["headers"])
        self.request_id = request_id
        self.started = False
        """Whether the answer's headers are out: from then on nothing but the body can tell of an error."""
        self.gone = False
        """Whether the caller hung up."""
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._due: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._when_gone: Callable[[], None] | None = None
        self._is_answered = False

    async def body(self) -> bytes:
        """The request's body; the server sees to it that it arrives in time.

        Raises BodyTooLarge, BodyEncoded or CallerGone.
        """
        encoding = self.headers.get(b"content-encoding", b"identity")
        if encoding.strip().lower() not in (b"identity", b""):
            raise BodyEncoded(encoding.decode("latin-1"))
        limit_bytes = self._max_body_bytes
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise CallerGone
            part = message.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def when_gone(self, act: Callable[[], None] | None) -> None:
        """Have `act` called when the caller hangs up, at once if they did already; None takes it back.

        To be used once the body was read. `close` must follow.
        """
        self._when_gone = act
        if act is None:
            return
        if self._watch is None and self._due is None:
            self._due = asyncio.get_running_loop().call_later(WATCH_AFTER, self._start_watching)
        if self.gone:
            act()

    def close(self) -> None:
        """The exchange is over; nobody cares any more whether the caller is still there.

        A watch that has begun ends by itself: after an answer or a cut the server tells of a disconnect.
        """
        self._when_gone = None
        if self._due is not None:
            self._due.cancel()

    def _start_watching(self) -> None:
        self._watch = asyncio.create_task(self._notice_hanging_up())

    async def _notice_hanging_up(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._is_answered:
            return  # the server says "disconnect" to whoever listens after the end of an answer
        self.gone = True
        if self._when_gone is not None:
            self._when_gone()

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer in one go."""
        await self._start(status, {**headers, "content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body})
        self._is_answered = True

    async def start_stream(self, headers: Mapping[str, str]) -> None:
        """The headers of a stream of events; proxies are told not to hold it back."""
        fixed = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        await self._start(200, {**fixed, "x-accel-buffering": "no", **headers})

    async def write(self, chunk: bytes) -> None:
        """A piece of the stream; waits while the caller does not read."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """The stream's clean end. A stream that is left without it is broken off, so that nobody takes it for whole."""
        await self._send({"type": "http.response.body", "body": b""})
        self._is_answered = True

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        lines = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        lines.append((b"x-request-id", self.request_id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
