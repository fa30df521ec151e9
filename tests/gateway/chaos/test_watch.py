"""Whoever looks all the while sees what is wrong only for a moment."""

import json
from collections import Counter

import pytest
from bank import until

from budgets.errors import LedgerUnavailable
from gateway.chaos import watch as watch_module
from gateway.chaos.books import Books, Money
from gateway.chaos.load import chat
from gateway.chaos.watch import Watch, watching
from gateway.chaos.world import World
from tests.gateway.chaos.forger import Forger

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


async def test_those_that_may_lack_something_are_seen_to_have_too_much(world: World, forger: Forger) -> None:
    account = forger.key.account
    with world.provider.bill.path.open("a") as bill:
        bill.write(json.dumps({"attempt": f"att_{account}_forged", "nano_usd": 5}) + "\n")
    async with watching(world, lacking=[account]) as watch:
        await seen(watch, 2)
        assert watch.violations == []
        await forger.periods("account", lifetime="6 0 0")
        await seen(watch, watch.samples + 2)

    assert f"{account}: {Money(6, 0, 0)} spent" in watch.violations[-1]


async def test_while_redis_is_away_there_is_nothing_to_see(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await world.create_key()
    in_vain, look = Counter[str](), world.look

    async def look_and_count(account: str, *, may_lack: bool) -> list[str]:
        try:
            return await look(account, may_lack=may_lack)
        except LedgerUnavailable:
            in_vain[account] += 1
            raise

    async def has_looked_twice() -> bool:
        return in_vain[key.account] >= 2

    monkeypatch.setattr(watch_module, "EVERY", 0.0)
    monkeypatch.setattr(world, "look", look_and_count)
    async with Books(world.redis.url, deadline=0.05) as impatient:
        monkeypatch.setattr(world, "books", impatient)
        world.redis.pause()
        try:
            async with watching(world, key.account) as watch:
                await until(has_looked_twice)
        finally:
            world.redis.resume()

    assert (watch.samples, watch.violations) == (0, [])
