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
    """What has not been sent of it yet."""

    async def send(self, message: Any) -> None:
        """See ASGI. Waits while the client does not read."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self._begin(message["status"], message["headers"])
        elif self.response_complete:
            raise RuntimeError("the answer is complete already")
        else:
            self._go_on(message.get("body", b""), more=message.get("more_body", False))

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines = [STATUS_LINE[status]]
        self.chunked_encoding = self.scope["method"] != "HEAD" and status not in (204, 304)
        for name, value in chain(self.default_headers, headers):
            if name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            if name == b"content-length":
                self.chunked_encoding = False
                self.expected_content_length = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines):
            raise RuntimeError("a header of the answer has a line break in it")
        self._head = head + b"\r\n"
        self.response_started = True
        self.waiting_for_100_continue = False

    def _go_on(self, body: bytes, *, more: bool) -> None:
        data = self._framed(body, more=more)
        if data or self._head:
            self.transport.write(self._head + data)
            self._head = b""
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
        if self.scope["method"] == "HEAD":
            return b""
        self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError("the answer's body is not as long as its content-length says")
        return body
