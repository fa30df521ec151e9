"""The Redis server of a proof."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from bank import until
from gateway_process import ROOT
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.chaos.redis_server import RedisServer, borrowed, version_of
from gateway.errors import CannotStart


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path / "redis", appendfsync="always") as server:
        yield server


async def test_what_it_was_told_survives_a_kill_and_an_orderly_end(server: RedisServer) -> None:
    await server.call("SET", "name", "value")
    await server.kill()
    await server.start()
    await server.call("INCR", "number")
    await server.stop()
    await server.start()

    assert [await server.call("GET", name) for name in ("name", "number")] == [b"value", b"1"]


async def test_it_can_be_frozen(server: RedisServer) -> None:
    server.pause()
    asking = asyncio.ensure_future(server.call("PING"))
    unanswered, _ = await asyncio.wait([asking], timeout=0.05)
    server.resume()

    assert unanswered == set()
    assert await asking


async def test_it_can_be_configured(server: RedisServer) -> None:
    await server.configure("maxmemory", "1mb")

    with pytest.raises(RedisError, match="maxmemory"):
        await server.call("SET", "name", "value")


async def test_options_of_one_start_are_gone_with_the_next(server: RedisServer) -> None:
    before = await server.call("CONFIG", "GET", "maxmemory")
    await server.kill()
    await server.start(maxmemory="1048576")
    limited = await server.call("CONFIG", "GET", "maxmemory")
    await server.kill()
    await server.start()

    assert limited != before == await server.call("CONFIG", "GET", "maxmemory")


async def test_a_server_that_takes_too_long_is_told(server: RedisServer) -> None:
    await server.call("SET", "name", "value")
    await server.kill()

    with pytest.raises(CannotStart, match="does not answer"):
        await server.start(0.1, key_load_delay="60000000")


async def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", no_such_option="yes")

    with pytest.raises(CannotStart, match="has ended"):
        await server.start()


async def test_a_borrowed_database_is_emptied_again(server: RedisServer) -> None:
    async with borrowed(server.url):
        await server.call("SET", "name", "value")

    assert await server.call("DBSIZE") == 0


async def test_a_database_that_is_not_empty_is_not_borrowed(server: RedisServer) -> None:
    await server.call("SET", "name", "value")

    with pytest.raises(CannotStart, match="not empty"):
        await borrowed(server.url).__aenter__()


async def test_a_server_that_is_away_is_not_borrowed() -> None:
    with pytest.raises(CannotStart, match="cannot be used"):
        await borrowed("redis://127.0.0.1:1/0").__aenter__()


async def test_its_version_is_told_with_its_name(server: RedisServer) -> None:
    name, _, number = (await version_of(server.url)).partition(" ")

    assert name in ("valkey", "redis")
    assert number.count(".") == 2


async def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, pathlib, sys\n"
        "from gateway.chaos.redis_server import RedisServer\n"
        "async def main():\n"
        "    server = RedisServer(pathlib.Path(sys.argv[1]))\n"
        "    await server.start()\n"
        "    print(server.url, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "redis")]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env={"PYTHONPATH": str(ROOT), **os.environ})
    url, _ = await process.communicate()

    async def is_gone() -> bool:
        async with Redis.from_url(url.decode().strip(), retry=Retry(NoBackoff(), 0)) as client:
            try:
                await client.ping()
            except RedisError:
                return True
        return False

    await until(is_gone)
