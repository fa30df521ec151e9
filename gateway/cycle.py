"""One request and its answer on the wire, between `server.py`'s connection and the ASGI application.

The head leaves together with the first of the body, in one call and one packet, as ASGI allows; and it is made without
the regular expressions of uvicorn, which take longer than all the rest of an answer.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


class Cycle(RequestResponseCycle):
    """Takes ASGI's messages of an answer and writes them as HTTP/1.1. Reading the request is uvicorn's."""

    _head = b""
    """The head, until it is sent: only then the answer has started, and nothing else can be told in its place."""

    @property
    def has_head(self) -> bool:
        """Whether it is settled what the head says, sent or not."""
        return bool(self._head) or self.response_started

    async def send(self, message: Any) -> None:
        """See ASGI. Waits while the client does not read."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete:
            raise RuntimeError("the answer is complete already")
        if self.has_head:
            self._go_on(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._begin(message["status"], message.get("headers", ()))

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines = [STATUS_LINE[status]]
        self._is_head_alone = self.scope["method"] == "HEAD" or status in (204, 304)
        self.chunked_encoding = not self._is_head_alone
        for name, value in chain(self.default_headers, headers):
            match name.lower():
                case b"connection":
                    self.keep_alive = self.keep_alive and b"close" not in value.lower()
                    continue
                case b"transfer-encoding":
                    continue
                case b"content-length":
                    self.chunked_encoding = False
                    self.expected_content_length = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) or b"\0" in head:
            raise RuntimeError("a header of the answer has a line break or a NUL in it")
        self._head = head + b"\r\n"

    def _go_on(self, body: bytes, *, more: bool) -> None:
        data = self._head + self._framed(body, more=more)
        if data:
            self.transport.write(data)
            self._head = b""
            self.response_started = True
            self.waiting_for_100_continue = False
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._is_head_alone:
            return b""
        self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError("the answer's body is not as long as its content-length says")
        return body
