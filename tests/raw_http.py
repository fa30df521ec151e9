"""Both ends of HTTP conversations in which a test decides every byte, and what they must leave behind: nothing."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

from gateway.upstream.connection import Response
from gateway.upstream.http1 import HttpClient

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
TO_THE_END = OK + b"content-type: text/plain\r\n\r\n"

Talk: TypeAlias = Callable[["Line"], Awaitable[None]]


class Line:
    """One connection, seen from the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next request, head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head + (await self.reader.readexactly(int(length[0].partition(b":")[2])) if length else b"")

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ended(self) -> None:
        """Wait until the client has ended the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


class RawServer:
    """Hands each connection to `talk`, and closes it when that returns."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.port = 0
        self.connections = 0
        self.open = 0

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/v1/chat?x=1"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._talk(Line(reader, writer))
        finally:
            self.open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def raw_server(
    talk: Talk, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """A server on a free port of `host`."""
    server = RawServer(talk)
    listener = await asyncio.start_server(server.handle, host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def saying(*answers: bytes) -> Talk:
    """Answer the requests of each connection with `answers` in turn, then hang up."""

    async def talk(line: Line) -> None:
        for answer in answers:
            await line.request()
            await line.say(answer)

    return talk


def repeating(answer: bytes) -> Talk:
    """Answer every request with `answer` until the client hangs up."""

    async def talk(line: Line) -> None:
        while True:
            await line.request()
            await line.say(answer)

    return talk


async def body_of(response: Response) -> bytes:
    """All of the body. Raises what `read` raises."""
    pieces = []
    while (piece := await response.read()) is not None:
        pieces.append(piece)
    return b"".join(pieces)


async def ask(client: HttpClient, url: str) -> bytes:
    response = await client.post(url, {}, b"{}")
    try:
        return await body_of(response)
    finally:
        response.release()


def open_sockets() -> set[int]:
    """The file descriptors that are network sockets; the event loop has others of its own."""
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            sock = socket.socket(fileno=fd)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                found.add(fd)
            sock.detach()
    return found


async def turns(count: int = 50) -> None:
    """Let the event loop turn, so that what is on its way arrives."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task that is under way, and wait until it has ended."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
