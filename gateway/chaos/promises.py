"""The promises, and how they are put to the proof one after the other."""

import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from redis.exceptions import RedisError

from budgets.errors import BudgetError
from gateway.chaos import exact, failover, killed, once, outages, races, restarts
from gateway.chaos.leaks import Leaks
from gateway.chaos.outcome import Outcome
from gateway.chaos.redis_server import borrowed, version_of
from gateway.chaos.world import NeverCame, World, WorldFactory
from gateway.errors import CannotStart

Proof = Callable[[WorldFactory, float, int], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Promise:
    """How one promise is shown."""

    claim: str
    prove: Proof
    quick: float
    """The scale of a quick run; 1 is the full one."""
    own_redis: bool
    """Whether it breaks the Redis server itself, so that it needs one of its own."""


PROMISES = {
    "P1": Promise(exact.CLAIM, exact.p1, exact.QUICK, own_redis=False),
    "P2": Promise(killed.CLAIM, killed.p2, killed.QUICK, own_redis=False),
    "P3": Promise(races.CLAIM, races.p3, races.QUICK, own_redis=False),
    "P4": Promise(failover.CLAIM, failover.p4, failover.QUICK, own_redis=True),
    "P6": Promise(once.CLAIM, once.p6, once.QUICK, own_redis=False),
    "P7": Promise(outages.CLAIM, outages.p7, outages.QUICK, own_redis=True),
    "P8": Promise(restarts.CLAIM, restarts.p8, restarts.QUICK, own_redis=False),
}
LEAKS = "P5"
"""Shown by all the others: every world that ends is looked at."""
NAMES = tuple(sorted([*PROMISES, LEAKS]))


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be shown, and how."""

    seed: int
    names: Collection[str] = NAMES
    full: bool = False
    scale: float = 1.0
    """Times the scale that quick or full mean."""
    redis_url: str | None = None


@dataclass(slots=True)
class Results:
    """What came of it."""

    order: Order
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """For how long each was put to the proof, by its name."""
    redis: str = "unknown"
    """The server and its version."""

    @property
    def kept(self) -> bool:
        return all(outcome.kept for outcome in self.outcomes)


async def prove(order: Order, tell: Callable[[str, str], None]) -> Results:
    """Show one promise after the other; `tell` hears of each before it begins, by name and claim.

    Raises CannotStart where the Redis database that was named cannot be used.
    """
    if order.redis_url is not None:
        async with borrowed(order.redis_url):
            pass
    results = Results(order)
    found = Leaks()

    async def look(world: World) -> None:
        await found.look(world)
        with suppress(RedisError):
            results.redis = await version_of(world.redis_url)

    chosen = [name for name in PROMISES if name in order.names]
    for name in chosen or ["P1"]:  # the leaks alone need something that might leak
        promise = PROMISES[name]
        tell(name, promise.claim)
        url = None if promise.own_redis else order.redis_url
        factory = partial(World, seed=order.seed, redis_url=url, at_end=look)
        scale = order.scale * (1.0 if order.full else promise.quick)
        began_at = time.monotonic()
        outcome = await _proven(name, promise, partial(promise.prove, factory, scale, order.seed))
        results.seconds[name] = time.monotonic() - began_at
        if chosen:
            results.outcomes.append(outcome)
    if LEAKS in order.names:
        found.outcome.expect(found.has_looked, "nothing ended in order, so nothing could be looked at")
        results.outcomes.append(found.outcome)
    results.outcomes.sort(key=lambda outcome: outcome.promise)
    return results


async def _proven(name: str, promise: Promise, proof: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """What came of a proof; one that cannot be led to its end is a broken promise."""
    try:
        return await proof()
    except (TimeoutError, NeverCame, CannotStart, BudgetError, RedisError, OSError) as exc:
        outcome = Outcome(name, promise.claim)
        outcome.violate(f"it could not be shown: {type(exc).__name__}: {exc}")
        return outcome
