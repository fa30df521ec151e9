"""Two Redis that both take themselves for the primary: one of them admits, and what was spent at either is booked."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bank import until
from fakes import COST
from running import Key, Running, running

from gateway.chaos.redis_server import RedisServer


@pytest.fixture
async def primary(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """It writes only while a replica is there, not more than a second behind."""
    async with RedisServer(tmp_path / "primary", min_replicas_to_write="1", min_replicas_max_lag="1") as server:
        yield server


@pytest.fixture
async def replica(tmp_path: Path, primary: RedisServer) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path / "replica", replicaof=f"127.0.0.1 {primary.port}") as server:

        async def has_everything() -> bool:
            return bool((await server.call("INFO", "replication"))["master_link_status"] == "up")

        await until(has_everything)
        yield server


@dataclass
class Caller:
    """Asks one gateway or another with the same key."""

    key: Key
    served: int = 0

    async def asks(self, gateway: Running) -> int:
        status = (await gateway.chat(self.key)).status_code
        self.served += status == 200
        return status

    async def is_told(self, gateway: Running, status: int) -> None:
        """Ask until this is the answer."""

        async def told() -> bool:
            return await self.asks(gateway) == status

        await until(told)


@pytest.mark.parametrize("falls_silent", [False, True])
async def test_case_06_of_two_primaries_only_the_one_with_a_replica_admits_and_nothing_is_lost(
    primary: RedisServer, replica: RedisServer, tmp_path: Path, falls_silent: bool
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with running(primary.url, folders[0]) as old, running(replica.url, folders[1]) as new:
        capped, free = [Caller(await old.create_key(*limits)) for limits in (["1/lifetime"], [])]
        for caller in (capped, free):
            await caller.is_told(old, 200)
        if falls_silent:
            replica.pause()
            await capped.is_told(old, 503)  # whoever was admitted until then is the bound
            replica.resume()
        await replica.call("REPLICAOF", "NO", "ONE")

        await capped.is_told(old, 503)
        await capped.is_told(new, 200)
        assert [await free.asks(old) for _ in range(3)] == [200] * 3
        assert [await capped.asks(old) for _ in range(3)] == [503] * 3
        assert [await capped.asks(new) for _ in range(3)] == [200] * 3

    async with running(replica.url, folders[0]) as healed:
        for caller in (capped, free):
            await caller.is_told(healed, 200)  # when the journal has brought back what only the old primary had

            async def booked(caller: Caller = caller) -> bool:
                return (await healed.money(caller.key)).spent == COST * caller.served

            await until(booked)
