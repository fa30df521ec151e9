"""Holds that are left at the end of a world."""

import pytest

from gateway.chaos.leaks import Leaks
from gateway.chaos.load import chat
from gateway.chaos.world import World, WorldFactory

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_world_that_ends_in_order_is_looked_at(world_factory: WorldFactory) -> None:
    leaks = Leaks()
    assert not leaks.has_looked
    async with world_factory(at_end=leaks.look) as world:
        for _ in range(2):
            await world.caller(await world.create_key()).ask(**chat("exact", "Hello!"))

    assert leaks.outcome.kept
    assert (leaks.has_looked, leaks.outcome.did["accounts"], leaks.outcome.did["scopes"]) == (True, 2, 4)


async def test_a_world_in_which_something_went_wrong_is_not(world_factory: WorldFactory) -> None:
    leaks = Leaks()
    with pytest.raises(ZeroDivisionError):
        async with world_factory(at_end=leaks.look):
            raise ZeroDivisionError

    assert not leaks.has_looked


async def test_a_hold_that_does_not_go_away_is_a_leak(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = Leaks()
    key = await world.create_key()
    monkeypatch.setattr(World, "one_lease", 0.0)
    await world.caller(key).walk_out(1, **chat("exact", "[[stall 2 after=3]]"))
    await leaks.look(world)

    assert not leaks.outcome.kept
    assert f"{key.account} still holds" in leaks.outcome.violations[0]
