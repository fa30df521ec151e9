"""One HTTP exchange: the request read, the answer sent, and the ways to break it off that ASGI does not have.

`SandboxProtocol` is uvicorn's HTTP protocol with two additions: its transport is put into the ASGI scope, which is what
it takes to close a connection without an answer, and what is written in one turn of the loop leaves in one packet.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeAlias, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TRANSPORT = "sandbox.transport"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _JoiningTransport:
    """A transport that joins the writes of one turn of the loop: a head and its body, the last events of a stream.

    uvloop makes a system call of every write, and a client that got the head alone would wake up twice.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pending:
            self._transport.write(b"".join(self._pending))
            self._pending.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class SandboxProtocol(HttpToolsProtocol):
    """Lets the app get at the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(cast(asyncio.Transport, _JoiningTransport(transport)))

    def on_message_begin(self) -> None:
        """Begin a request's scope."""
        super().on_message_begin()
        self.scope["extensions"] = {_TRANSPORT: {"transport": self.transport}}


class ClientGone(Exception):
    """The client closed its connection before it had the answer."""


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._scope = scope
        self._receive = receive
        self._send = send

    async def body(self) -> bytes:
        """The request's body. Raises ClientGone where it ends early."""
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message["body"]
            if not message["more_body"]:
                return bytes(body)

    async def while_listened_to(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` until it is done or the client hangs up, which cancels it. The body must have been read."""
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(self._until_gone())
                await work
                watcher.cancel()
        except* ClientGone:
            pass

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise ClientGone

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head of the answer; without a content-length the body is sent in chunks."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def drop(self, *, reset: bool = False) -> None:
        """Close the connection where it stands, the answer unfinished; by a TCP reset if so wished."""
        transport: asyncio.Transport = self._scope["extensions"][_TRANSPORT]["transport"]
        if reset:
            await asyncio.sleep(0)  # what was written leaves with the end of the loop's turn
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.close()
        while (await self._receive())["type"] != "http.disconnect":  # else the server would answer in our place
            pass
