"""What befalls a Redis server by itself, all the while and for moments only; P7 has the long outages."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from gateway.chaos.load import throughout
from gateway.chaos.redis_server import RedisServer

PAUSES = (0.2, 1.5)
"""Seconds between two of them."""
LENGTHS = (0.05, 0.5)
"""Seconds that one lasts."""


async def _freeze(server: RedisServer, seconds: float) -> None:
    server.pause()
    try:
        await asyncio.sleep(seconds)
    finally:
        server.resume()


async def _forget_scripts(server: RedisServer, seconds: float) -> None:
    await server.call("SCRIPT", "FLUSH")


async def _hang_up(server: RedisServer, seconds: float) -> None:
    await server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def _be_full(server: RedisServer, seconds: float) -> None:
    await server.configure("maxmemory", "1")
    try:
        await asyncio.sleep(seconds)
    finally:
        await server.configure("maxmemory", "0")


async def _be_read_only(server: RedisServer, seconds: float) -> None:
    await server.call("REPLICAOF", "127.0.0.1", 1)
    try:
        await asyncio.sleep(seconds)
    finally:
        await server.call("REPLICAOF", "NO", "ONE")


DISTURBANCES: dict[str, Callable[[RedisServer, float], Awaitable[None]]] = {
    "frozen": _freeze,
    "scripts forgotten": _forget_scripts,
    "all clients cut off": _hang_up,
    "out of memory": _be_full,
    "read-only": _be_read_only,
}


def disturbed(server: RedisServer, seed: int, counts: Counter[str]) -> AbstractAsyncContextManager[None]:
    """Disturb the server while the body runs; `counts` tells by what. It is as before afterwards."""
    chance = random.Random(f"{seed}:disturbances")  # noqa: S311 - replayable, not secret
    return throughout(partial(_disturb, server, chance, counts))


async def _disturb(server: RedisServer, chance: random.Random, counts: Counter[str], enough: asyncio.Event) -> None:
    while not enough.is_set():
        name = chance.choice(list(DISTURBANCES))
        await DISTURBANCES[name](server, chance.uniform(*LENGTHS))
        counts[f"redis: {name}"] += 1
        await asyncio.sleep(chance.uniform(*PAUSES))
