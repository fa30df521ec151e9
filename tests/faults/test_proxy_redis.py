"""Case 4 and its kin: what a connection to Redis that breaks at the worst moment does to one attempt's money."""

from collections.abc import AsyncIterator
from typing import get_args

import pytest
import pytest_asyncio
from bank import until

from gateway.chaos.books import Money
from gateway.chaos.load import Ending, chat
from gateway.chaos.proxy import Faults, Kind
from gateway.chaos.world import Key, World

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = [kind for kind in get_args(Kind) if kind != "refused"]
HARMLESS = ("delay", "slow")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    """One worker, whose leases are renewed so seldom that the next thing Redis is asked is what a test asks for."""
    settings = {"server": {"workers": 1}, "ledger": {"lease": 300, "key_cache": 300}}
    async with World(seed=4, settings=settings) as world:
        world.redis_proxy.faults = Faults(delay=(0.02, 0.02), stall=(0.4, 0.4))
        yield world


async def known(world: World) -> Key:
    """A key that the worker remembers."""
    key = await world.create_key()
    assert await world.caller(key).ending(**chat("exact", "Hello!")) is Ending.ANSWERED
    await world.quiet(key)
    return key


@pytest.mark.parametrize("kind", KINDS)
async def test_case_04_a_hold_whose_grant_is_not_heard_is_given_back(world: World, kind: Kind) -> None:
    key = await known(world)
    world.redis_proxy.inject(kind)
    ending = await world.caller(key).ending(**chat("exact", "Hello!"))

    assert ending is (Ending.ANSWERED if kind in HARMLESS else Ending.UNAVAILABLE)
    assert await world.quiet(key) == Money(world.billed(key.account), 0, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_case_04_a_settle_whose_answer_is_not_heard_is_booked_once(world: World, kind: Kind) -> None:
    key = await known(world)
    caller = world.caller(key)
    before = world.billed(key.account)
    status = await caller.walk_out(1, **chat("exact", "[[stall 0.2 after=3]]"))
    world.redis_proxy.inject(kind)

    assert status == 200
    assert await world.quiet(key) == Money(before + 1_000_000, 0, 0)
    assert world.billed(key.account) == before + 1_000_000


@pytest.mark.parametrize("kind", KINDS)
async def test_case_04_a_void_whose_answer_is_not_heard_frees_the_hold_once(world: World, kind: Kind) -> None:
    key = await known(world)
    before = await world.money(key.account)
    await world.upstream_proxy.refuse()
    asking = world.caller(key).ending(**chat("exact", "Hello!"))
    try:
        world.redis_proxy.inject("delay")
        world.redis_proxy.inject(kind)
        assert await asking in (Ending.FAILED, Ending.UNAVAILABLE)
    finally:
        await world.upstream_proxy.pass_on()

    assert await world.quiet(key) == before


async def test_case_02_nobody_connects_while_connections_are_refused_and_all_is_well_afterwards(world: World) -> None:
    key = await known(world)
    await world.redis_proxy.refuse()
    ending = await world.caller(key).ending(**chat("exact", "Hello!"))
    await world.redis_proxy.pass_on()

    async def is_served() -> bool:
        return await world.caller(key).ending(**chat("exact", "Hello!")) is Ending.ANSWERED

    assert ending is Ending.UNAVAILABLE
    await until(is_served)
    assert await world.quiet(key) == Money(world.billed(key.account), 0, 0)
