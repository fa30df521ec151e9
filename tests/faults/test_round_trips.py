"""What a request says to Redis: two scripts where all is warm, a read before them where it is not, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.asyncio.client import Monitor
from running import Key, Running, running

from budgets.redis_connection import load_script

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPTS = {load_script(name).sha1: name for name in ("resolve", "reserve", "settle", "void", "suspend")}
QUIET = {"lease": 3600, "key_cache": 3600}
"""No heartbeat in the middle of a test, and a key that was read once stays known."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(f"unix://{valkey_socket}", tmp_path_factory.mktemp("gateway"), ledger=QUIET) as gateway:
        yield gateway


@dataclass
class Listener:
    """All that clients say to Redis; what scripts do there is no round trip."""

    redis: Redis
    monitor: Monitor
    by_scripts: int = 0
    """How many commands scripts ran."""
    _heard: list[str] = field(default_factory=list)

    async def until(self, script: str, times: int = 1) -> None:
        while self._heard.count(script) < times:
            await self._hear()

    async def heard(self) -> list[str]:
        """What was said: scripts by their name, other commands as they are."""
        await self.redis.echo("the end")
        while "ECHO the end" not in self._heard:
            await self._hear()
        return self._heard[:-1]

    async def _hear(self) -> None:
        said = await self.monitor.next_command()
        if said["client_type"] == "lua":
            self.by_scripts += 1
        else:
            command, *arguments = said["command"].split()
            known = SCRIPTS.get(arguments[0]) if command == "EVALSHA" else None
            self._heard.append(known or said["command"])


@asynccontextmanager
async def listening(valkey_socket: str) -> AsyncIterator[Listener]:
    async with (
        Redis(unix_socket_path=valkey_socket, single_connection_client=True) as redis,  # here before it is listened to
        Redis(unix_socket_path=valkey_socket) as ear,
        ear.monitor() as monitor,
        asyncio.timeout(20),
    ):
        yield Listener(redis, monitor)


async def known_key(gateway: Running, *limits: str) -> Key:
    """A key that gateway and Redis have met, as Redis has met the scripts."""
    key = await gateway.create_key(*limits)
    await gateway.chat(key)
    await gateway.drained()
    return key


@pytest.mark.parametrize("limits", [(), ("1/day", "2/month", "3/lifetime")], ids=["no limit", "three limits"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_case_29_a_warm_request_says_two_things_to_redis(
    gateway: Running, valkey_socket: str, limits: tuple[str, ...], streamed: bool
) -> None:
    key = await known_key(gateway, *limits)
    async with listening(valkey_socket) as redis:
        for number in range(3):
            assert (await gateway.chat(key, stream=streamed)).status_code == 200
            await redis.until("settle", number + 1)

        assert await redis.heard() == ["reserve", "settle"] * 3


async def test_case_29_a_request_with_a_key_not_met_before_says_three_things(
    gateway: Running, valkey_socket: str
) -> None:
    await known_key(gateway)
    stranger = await gateway.create_key("1/day")
    async with listening(valkey_socket) as redis:
        assert (await gateway.chat(stranger)).status_code == 200
        await redis.until("settle")

        assert await redis.heard() == ["resolve", "reserve", "settle"]


async def test_a_request_that_is_refused_says_one_thing(gateway: Running, valkey_socket: str) -> None:
    poor = await known_key(gateway, "0/lifetime")
    async with listening(valkey_socket) as redis:
        assert [(await gateway.chat(poor)).status_code for _ in range(3)] == [402] * 3

        assert await redis.heard() == ["reserve"] * 3


async def test_case_29_a_request_is_the_same_to_redis_however_many_keys_there_are(
    gateway: Running, valkey_socket: str
) -> None:
    key = await known_key(gateway, "1/day", "2/lifetime")
    commands = []
    for others in (0, 100):
        await asyncio.gather(*(gateway.create_key("1/day") for _ in range(others)))
        async with listening(valkey_socket) as redis:
            assert (await gateway.chat(key)).status_code == 200
            await redis.until("settle")
            await redis.heard()
        commands.append(redis.by_scripts)

    assert commands[0] == commands[1] < 40
