"""A server on a socket of its own with an application that does as the path says, spoken to byte by byte."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.server import Limits, Server

PATIENCE = 10.0
"""Seconds after which a test gives up; no test waits that long when the code is right."""
QUICK = Limits(header_timeout=0.2, body_timeout=0.2)
SLOW = Limits(header_timeout=60.0, body_timeout=60.0)
GET = b"GET /hello HTTP/1.1\r\nhost: test\r\n\r\n"


@dataclass
class App:
    """An application whose answers are named by the path."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[bytes, bytes]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        handlers: dict[str, Callable[[Any, Any], Awaitable[None]]] = {
            "/hello": self.hello,
            "/read": self.read,
            "/early": self.early,
            "/stream": self.stream,
            "/cut": self.cut,
            "/fail": self.fail,
            "/silent": self.silent,
            "/headless": self.headless,
            "/linger": self.linger,
        }
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        self.headers.append(dict(scope["headers"]))
        await handlers[scope["path"]](receive, send)

    async def hello(self, receive: Any, send: Any) -> None:
        await respond(send, 200, b"hello")

    async def read(self, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                return await respond(send, 200, b"%d bytes" % len(body))
        self.disconnected.set()
        return None

    async def early(self, receive: Any, send: Any) -> None:
        await respond(send, 413, b"too large")

    async def stream(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self.released.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async def cut(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})

    async def fail(self, receive: Any, send: Any) -> None:
        raise LookupError("a secret detail")

    async def silent(self, receive: Any, send: Any) -> None:
        return

    async def headless(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def linger(self, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass
        self.disconnected.set()


async def lifespan(receive: Any, send: Any) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def respond(send: Any, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Running:
    """A server and the means to talk to it byte by byte."""

    server: Server
    port: int
    ended: asyncio.Task[None]
    app: App
    listener: socket.socket

    async def leaving(self) -> None:
        """Wait until the server has let go of its socket."""
        async with asyncio.timeout(PATIENCE):
            while self.listener.fileno() != -1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def connect(self) -> "Client":
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer to a request on a connection of its own."""
        client = await self.connect()
        client.send(request)
        answer = await client.answer()
        await client.close()
        return answer


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE)

    async def until(self, end: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), PATIENCE)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one response with a content-length."""
        head = (await self.until(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), PATIENCE)
        return int(head[0].split()[1]), headers, body

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def running(limits: Limits, shutdown_timeout: float = 5.0) -> AsyncIterator[Running]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await served.app(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    started = asyncio.Event()
    server = Server(app, limits, shutdown_timeout, started.set)
    async with asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(server.serve([listener]))
        served = Running(server, listener.getsockname()[1], ended, App(), listener)
        await started.wait()
        try:
            yield served
        finally:
            served.app.released.set()
            server.stop()
            server.force_exit = True
