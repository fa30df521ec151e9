"""A client that does not read must neither hold its answer's resources for ever nor hide what it cost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.server import Limits, Server

PIECE = b"x" * 65_536


class Endless:
    """Streams until the client is gone."""

    def __init__(self) -> None:
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.saw_it_go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            return await send({"type": "lifespan.startup.complete"})
        watch = asyncio.create_task(self.watch(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.saw_it_go.is_set():
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            await asyncio.sleep(0)
        return await watch

    async def watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.saw_it_go.set()


@asynccontextmanager
async def serving(app: Endless, limits: Limits) -> AsyncIterator[int]:
    started = asyncio.Event()
    server = Server(app, limits, 1.0, started.set)
    server.config.port = 0
    ended = asyncio.create_task(server.serve())
    await started.wait()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.stop()
        await ended


async def test_a_client_that_does_not_read_is_seen_to_go() -> None:
    app = Endless()
    async with serving(app, Limits(write_timeout=0.1)) as port, asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")

        await app.saw_it_go.wait()
        writer.close()


async def test_a_client_that_reads_is_not_cut() -> None:
    app = Endless()
    async with serving(app, Limits(write_timeout=5.0)) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")

        await reader.readexactly(64 * len(PIECE))
        assert not app.saw_it_go.is_set()
        writer.close()
        await app.saw_it_go.wait()
