"""A world that tests share."""

import functools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.chaos.world import World, WorldFactory
from tests.gateway.chaos.forger import Forger

SEED = 7


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world() -> AsyncIterator[World]:
    """Five scopes pay, leases last 2 s. Whoever breaks something in it mends it."""
    async with World(seed=SEED, scopes=True) as world:
        yield world


@pytest.fixture
def world_factory() -> WorldFactory:
    return functools.partial(World, seed=SEED)


@pytest_asyncio.fixture(loop_scope="session")
async def forger(world: World) -> AsyncIterator[Forger]:
    """Of an account of its own, which nobody looks at afterwards."""
    key = await world.create_key()
    yield Forger(world, key)
    world.keys.remove(key)
