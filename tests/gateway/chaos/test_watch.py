"""Whoever looks all the while sees what is wrong only for a moment."""

import asyncio
import json

import pytest
from bank import until

from gateway.chaos.load import chat
from gateway.chaos.watch import Watch, watching
from gateway.chaos.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def seen(watch: Watch, samples: int) -> None:
    async def are_there() -> bool:
        return watch.samples >= samples

    await until(are_there)


async def test_books_that_are_right_are_seen_to_be(world: World) -> None:
    key = await world.create_key()
    async with watching(world, key.account) as watch:
        await world.caller(key).ask(**chat("sandbox-large", "Hello!"))
        await seen(watch, 2)

    assert watch.violations == []


async def test_books_that_are_wrong_are_seen_to_be(world: World) -> None:
    key = await world.create_key()
    async with watching(world, key.account) as watch:
        with world.provider.bill.path.open("a") as bill:
            bill.write(json.dumps({"attempt": f"att_{key.account}_forged", "nano_usd": 5}) + "\n")
        await seen(watch, 2)

    assert f"{key.account}: billed 5" in watch.violations[-1]


async def test_while_redis_is_away_there_is_nothing_to_see(world: World) -> None:
    world.redis.pause()
    try:
        async with watching(world, "nobody") as watch:
            await asyncio.sleep(0)
    finally:
        world.redis.resume()

    assert (watch.samples, watch.violations) == (0, [])
