"""Holds that are left at the end of a world."""

import pytest

from gateway.chaos.leaks import Leaks
from gateway.chaos.load import chat
from gateway.chaos.world import World, WorldFactory
from tests.gateway.chaos.forger import Forger

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


async def test_what_an_attempt_leaves_is_a_leak(world: World, forger: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = Leaks()
    monkeypatch.setattr(world, "keys", [forger.key])
    await forger.attempt("att_forged", "settled 5")
    await leaks.look(world)

    assert [text.partition(": ")[0] for text in leaks.outcome.violations] == [forger.key.account]
    assert leaks.outcome.violations[0].endswith("attempt:att_forged is kept for ever")


async def test_a_hold_in_a_day_alone_is_a_leak(world: World, forger: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = Leaks()
    monkeypatch.setattr(world, "keys", [forger.key])
    monkeypatch.setattr(World, "one_lease", 0.0)
    await forger.periods(f"key:{forger.key.id}", day86400="0 5 0")
    await leaks.look(world)

    assert leaks.outcome.violations == [
        f"{forger.key.account}: {forger.key.account} still holds {{'key:{forger.key.id} day:86400': 5}}"
    ]
