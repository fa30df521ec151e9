"""Every kind of refusal that Redis knows: who is refused for it, with which status, and that nothing is lost or held.

What is short of memory, forbidden, a replica or of the wrong type stands in test_redis_away.py.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import hiredis
import httpx
import pytest
from bank import until
from fakes import COST, completion
from redis.asyncio import Redis
from running import Key, Running, running

from gateway.chaos.redis_server import RedisServer

INCOMPLETE = object()

CANNOT_SERVE = [
    "ASK 866 127.0.0.1:7001",
    "BUSY Redis is busy running a script.",
    "CLUSTERDOWN The cluster is down",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MOVED 866 127.0.0.1:7001",
    "NOAUTH Authentication required.",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOREPLICAS Not enough good replicas to write.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "UNKILLABLE Sorry the script already executed write commands.",
]
DAMAGED = ["ERR something that nobody foresaw", "WRONGTYPE Operation against a key holding the wrong kind of value"]


@dataclass
class Refusing:
    """Stands before a real server, and refuses scripts in its place while it is told to."""

    url: str
    _server: str
    error: str | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, command by command."""
        answers, commands = await asyncio.open_unix_connection(self._server)
        asked = hiredis.Reader(notEnoughData=INCOMPLETE)
        while data := await reader.read(1 << 16):
            asked.feed(data)
            while (command := asked.gets()) is not INCOMPLETE:
                if self.error and command[0] == b"EVALSHA":
                    writer.write(f"-{self.error}\r\n".encode())
                else:
                    commands.write(hiredis.pack_command(tuple(command)))
                    writer.write(await _one_answer(answers))
        for connection in (writer, commands):
            connection.close()


async def _one_answer(reader: asyncio.StreamReader) -> bytes:
    parser, answer = hiredis.Reader(notEnoughData=INCOMPLETE), b""
    while parser.gets() is INCOMPLETE:
        data = await reader.read(1 << 16)
        if not data:
            raise ConnectionError
        parser.feed(data)
        answer += data
    return answer


@pytest.fixture
async def refusing(valkey_socket: str) -> AsyncIterator[Refusing]:
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        refusing = Refusing(f"unix://{folder}/refusing.sock?db=1", valkey_socket)
        async with await asyncio.start_unix_server(refusing.serve, f"{folder}/refusing.sock"):
            yield refusing


@dataclass
class Callers:
    """One with a limit and one without, both of whom the gateway has met."""

    gateway: Running
    capped: Key
    free: Key

    @classmethod
    async def of(cls, gateway: Running) -> "Callers":
        callers = cls(gateway, await gateway.create_key("1/lifetime"), await gateway.create_key())
        assert await callers.are_told() == ["ok", "ok"]
        await gateway.drained()
        return callers

    async def are_told(self) -> list[str]:
        """What each hears of one request: `ok`, or an error's status and code."""
        return [_told(await self.gateway.chat(key)) for key in (self.capped, self.free)]

    async def have_spent(self) -> list[int]:
        """In answers."""
        return [await self.gateway.spent(key) // COST for key in (self.capped, self.free)]


def _told(answer: httpx.Response) -> str:
    return "ok" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['error']['code']}"


@pytest.mark.parametrize("error", CANNOT_SERVE, ids=lambda error: error.split()[0])
async def test_case_30_a_redis_that_cannot_serve_refuses_who_has_a_limit_and_books_the_others_later(
    redis_url: str, refusing: Refusing, tmp_path: Path, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(refusing.url, tmp_path) as gateway:
        callers = await Callers.of(gateway)

        refusing.error = error
        told = [await callers.are_told() for _ in range(3)]
        refusing.error = None

        assert told == [["503 ledger_unavailable", "ok"]] * 3
        assert await callers.have_spent() == [1, 4]
        assert error in caplog.text
        assert await callers.are_told() == ["ok", "ok"]


@pytest.mark.parametrize("error", DAMAGED, ids=lambda error: error.split()[0])
async def test_case_30_what_waiting_does_not_cure_refuses_everybody_and_raises_an_alarm(
    redis_url: str, refusing: Refusing, tmp_path: Path, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(refusing.url, tmp_path) as gateway:
        callers = await Callers.of(gateway)

        refusing.error = error
        told = [await callers.are_told() for _ in range(3)]
        refusing.error = None

        assert told == [["500 ledger_damaged"] * 2] * 3
        assert await callers.have_spent() == [1, 1]
        assert error in caplog.text
        assert await callers.are_told() == ["ok", "ok"]


@pytest.mark.parametrize("error", ["OOM", "WRONGTYPE"])
async def test_case_30_a_settle_that_is_refused_waits_and_is_booked_once(
    redis_url: str, refusing: Refusing, tmp_path: Path, error: str
) -> None:
    go_on = asyncio.Event()
    async with running(refusing.url, tmp_path) as gateway:
        callers = await Callers.of(gateway)
        gateway.upstream.was_asked.clear()
        gateway.upstream.will([go_on, *completion()])
        under_way = asyncio.create_task(gateway.chat(callers.capped))
        await gateway.upstream.was_asked.wait()

        refusing.error = f"{error} whatever"
        go_on.set()
        assert (await under_way).status_code == 200
        refusing.error = None

        assert await callers.have_spent() == [2, 1]


# What real servers do


async def test_case_30_scripts_that_redis_has_forgotten_are_sent_again(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path) as gateway, Redis.from_url(redis_url) as redis:
        callers = await Callers.of(gateway)
        for _ in range(3):
            await redis.script_flush()
            assert await callers.are_told() == ["ok", "ok"]

        assert await callers.have_spent() == [4, 4]


async def test_case_30_a_redis_that_cannot_save_its_data_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with RedisServer(tmp_path / "redis", save="3600 1") as server, running(server.url, tmp_path) as gateway:
        callers = await Callers.of(gateway)
        obstacle = server.folder / "dump.rdb"
        obstacle.mkdir()
        await server.call("BGSAVE")

        async def failed() -> bool:
            return bool((await server.call("INFO", "persistence"))["rdb_last_bgsave_status"] == "err")

        await until(failed)
        assert await callers.are_told() == ["503 ledger_unavailable", "ok"]
        assert "MISCONF" in caplog.text
        obstacle.rmdir()
        await server.call("BGSAVE")

        async def served() -> bool:
            return await callers.are_told() == ["ok", "ok"]

        await until(served)


async def test_case_30_a_redis_that_still_loads_its_data_is_away_until_it_has(tmp_path: Path) -> None:
    slow = {"appendonly": "no", "key_load_delay": "20000", "loading_process_events_interval_bytes": "1024"}
    async with RedisServer(tmp_path / "redis", **slow) as server, running(server.url, tmp_path) as gateway:
        callers = await Callers.of(gateway)
        for number in range(120):
            await server.call("SET", f"other:{number}", "x" * 2000)
        await server.call("SAVE")
        await server.stop()
        starting = asyncio.create_task(server.start())

        async def is_loading() -> bool:
            return "LOADING" in (await gateway.http.get("/readyz")).json()["ledger"]

        await until(is_loading)
        assert await callers.are_told() == ["503 ledger_unavailable", "ok"]
        await starting

        async def served() -> bool:
            return await callers.are_told() == ["ok", "ok"]

        await until(served)
