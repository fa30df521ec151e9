"""How the promises are put to the proof one after the other."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from gateway.chaos import promises
from gateway.chaos.load import chat
from gateway.chaos.outcome import Outcome
from gateway.chaos.promises import PROMISES, Order, prove
from gateway.chaos.world import NeverCame, WorldFactory
from gateway.errors import CannotStart

Calls = list[tuple[str, float, int]]


def stand_in(name: str, calls: Calls) -> Callable[[WorldFactory, float, int], Awaitable[Outcome]]:
    async def proof(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
        calls.append((name, scale, seed))
        return Outcome(name, "It holds.")

    return proof


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """The promises are kept at once, by stand-ins that tell how they were called."""
    made: Calls = []
    table = {name: replace(promise, prove=stand_in(name, made), quick=0.5) for name, promise in PROMISES.items()}
    monkeypatch.setattr(promises, "PROMISES", table)
    return made


def tell(name: str, claim: str) -> None:
    pass


async def test_those_chosen_are_shown_with_the_seed_and_the_scale(calls: list[tuple[str, float, int]]) -> None:
    quick = await prove(Order(seed=5, names=("P6", "P1"), scale=0.5), tell)
    full = await prove(Order(seed=5, names=("P2",), full=True), tell)

    assert calls == [("P1", 0.25, 5), ("P6", 0.25, 5), ("P2", 1.0, 5)]
    assert ([each.promise for each in quick.outcomes], quick.kept, full.kept) == (["P1", "P6"], True, True)


async def test_a_promise_that_cannot_be_shown_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proof(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
        raise NeverCame("an answer")

    monkeypatch.setattr(promises, "PROMISES", {"P1": replace(PROMISES["P1"], prove=proof)})
    results = await prove(Order(seed=1, names=("P1",)), tell)

    assert not results.kept
    assert results.outcomes[0].violations == ["it could not be shown: NeverCame: an answer"]


async def test_leaks_are_looked_for_in_the_worlds_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proof(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
        async with world_factory() as world:
            await world.caller(await world.create_key()).ask(**chat("exact", "Hello!"))
        return Outcome("P1", "It holds.")

    monkeypatch.setattr(promises, "PROMISES", {"P1": replace(PROMISES["P1"], prove=proof)})
    together = await prove(Order(seed=1), tell)
    alone = await prove(Order(seed=1, names=("P5",)), tell)

    assert [outcome.promise for outcome in together.outcomes] == ["P1", "P5"]
    assert [outcome.promise for outcome in alone.outcomes] == ["P5"]
    assert together.kept
    assert together.outcomes[1].did["accounts"] == 1
    assert " " in together.redis


async def test_where_nothing_was_looked_at_nothing_is_promised(calls: list[tuple[str, float, int]]) -> None:
    results = await prove(Order(seed=1, names=("P5",)), tell)

    assert not results.kept


async def test_a_redis_that_is_in_use_is_left_alone(calls: list[tuple[str, float, int]], redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        await redis.set("theirs", 1)

    with pytest.raises(CannotStart, match="not empty"):
        await prove(Order(seed=1, redis_url=redis_url), tell)
    assert calls == []
