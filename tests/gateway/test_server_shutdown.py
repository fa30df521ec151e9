"""How a server ends: whoever was let in is served to the end, and whoever was not finds somebody else there."""

import asyncio

import pytest
from http_server import GET, PATIENCE, SLOW, running

from gateway import server as server_module


async def test_a_stop_loses_no_accepted_connection_and_no_stream() -> None:
    async with running(SLOW) as server:
        silent = [await server.connect() for _ in range(20)]
        idle, stream = await server.connect(), await server.connect()
        idle.send(GET)
        await idle.answer()
        stream.send(b"GET /stream HTTP/1.1\r\n\r\n")
        await stream.until(b"first\r\n")

        server.server.stop()
        await refused(server.port)
        for client in (*silent, idle):
            client.send(GET)
        answers = [await client.answer() for client in (*silent, idle)]
        server.app.released.set()

        assert [(status, headers["connection"]) for status, headers, _ in answers] == [(200, "close")] * 21
        assert await stream.rest() == b"4\r\nlast\r\n0\r\n\r\n"
        await asyncio.wait_for(server.ended, PATIENCE)


async def test_connections_that_stay_silent_do_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SHUTDOWN_GRACE", 0.1)
    async with running(SLOW, shutdown_timeout=60.0) as server:
        silent, idle = await server.connect(), await server.connect()
        idle.send(GET)
        await idle.answer()
        server.server.stop()

        await asyncio.wait_for(server.ended, PATIENCE)
        assert await silent.rest() == await idle.rest() == b""


async def test_the_last_request_of_an_idle_connection_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SHUTDOWN_GRACE", 0.1)
    async with running(SLOW) as server:
        idle, silent = await server.connect(), await server.connect()
        idle.send(GET)
        await idle.answer()
        server.server.stop()
        await refused(server.port)
        idle.send(b"GET /stream HTTP/1.1\r\n\r\n")
        await idle.until(b"first\r\n")
        assert await silent.rest() == b""  # the grace is over
        server.app.released.set()

        assert await idle.rest() == b"4\r\nlast\r\n0\r\n\r\n"


async def test_who_leaves_lets_nobody_in_any_more_and_goes_on_with_who_is_in() -> None:
    async with running(SLOW) as server:
        successor = server.listener.dup()
        idle, stream = await server.connect(), await server.connect()
        idle.send(GET)
        await idle.answer()
        stream.send(b"GET /stream HTTP/1.1\r\n\r\n")
        await stream.until(b"first\r\n")
        server.server.leave()
        server.server.leave()  # asked twice is not in a hurry
        await server.leaving()
        late = await server.connect()
        late.send(GET)
        idle.send(GET)

        assert (await idle.answer())[1]["connection"] == "close"
        with successor:
            successor.accept()[0].close()  # the late one has waited here
        server.app.released.set()
        await stream.until(b"0\r\n\r\n")
        stream.send(GET)  # its head, sent before, had promised that it might
        assert (await stream.answer())[1]["connection"] == "close"
        await asyncio.wait_for(server.ended, PATIENCE)


async def test_who_leaves_has_time_for_what_is_asked_last() -> None:
    async with running(SLOW, shutdown_timeout=5.0) as server:
        server.server.leave()
        await asyncio.wait_for(server.ended, PATIENCE)

        assert server.server.config.timeout_graceful_shutdown == 5 + server_module.LEAVING_GRACE


async def test_an_idle_connection_is_let_go_after_a_while_by_who_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LEAVING_GRACE", 0.1)
    async with running(SLOW, shutdown_timeout=60.0) as server:
        idle = await server.connect()
        idle.send(GET)
        await idle.answer()
        server.server.leave()

        assert await idle.rest() == b""
        await asyncio.wait_for(server.ended, PATIENCE)


async def test_a_stream_that_outlasts_the_shutdown_is_cut() -> None:
    async with running(SLOW, shutdown_timeout=0.5) as server:
        client = await server.connect()
        client.send(b"GET /stream HTTP/1.1\r\n\r\n")
        await client.until(b"first\r\n")
        server.server.stop()

        await asyncio.wait_for(server.ended, PATIENCE)
        assert await client.rest() == b""


async def refused(port: int) -> None:
    """Wait until nobody listens there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:  # taken into the queue of a socket that was just closed
                continue
            writer.close()
