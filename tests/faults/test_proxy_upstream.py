"""Cases 12 and 13: what a connection to a provider that breaks at the worst moment does to one attempt's money."""

from collections.abc import AsyncIterator
from typing import get_args

import pytest
import pytest_asyncio

from gateway.chaos.books import Money
from gateway.chaos.load import Ending, chat
from gateway.chaos.proxy import Faults, Kind
from gateway.chaos.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

HARMLESS = ("delay", "stall", "slow")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with World(seed=12, settings={"upstream": {"max_attempts": 1}}) as world:
        world.upstream_proxy.faults = Faults(delay=(0.02, 0.02), stall=(0.2, 0.2))
        yield world


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("kind", get_args(Kind))
async def test_cases_12_and_13_what_may_have_been_billed_stays_counted_until_it_is_known(
    world: World, kind: Kind, stream: bool
) -> None:
    key = await world.create_key()
    world.upstream_proxy.drop()  # so that the next request makes a connection
    world.upstream_proxy.inject(kind)
    ending = await world.caller(key).ending(**chat("sandbox-medium", "Hello! [[long 20]]", stream=stream))
    money = await world.quiet(key)

    if kind in HARMLESS:
        assert (ending, money) == (Ending.ANSWERED, Money(world.billed(key.account), 0, 0))
    assert money.spent <= world.billed(key.account) <= money.spent + money.suspense
    await world.reconcile(key.account)
    assert await world.money(key.account) == Money(world.billed(key.account), 0, 0)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_provider_that_cannot_be_reached_costs_nothing(world: World, stream: bool) -> None:
    key = await world.create_key()
    await world.upstream_proxy.refuse()
    ending = await world.caller(key).ending(**chat("sandbox-medium", "Hello!", stream=stream))
    await world.upstream_proxy.pass_on()

    assert ending in (Ending.FAILED, Ending.UNAVAILABLE)
    assert await world.quiet(key) == Money(0, 0, 0)
