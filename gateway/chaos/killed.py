"""P2: whatever a worker was doing when it is killed, the books stay around the bill, and are exact once reconciled."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from gateway.chaos.exact import reconciled
from gateway.chaos.load import Caller
from gateway.chaos.outcome import Outcome
from gateway.chaos.points import POINTS, Point
from gateway.chaos.traffic import Mix, Tally, Traffic
from gateway.chaos.watch import watching
from gateway.chaos.world import Key, World, WorldFactory, until

QUICK = 0.1
TIMES = 3
CALLERS = 8
BUSY = 20
CLAIM = (
    "A worker is killed at any moment: spent ≤ billed ≤ spent + held + suspense all the while, "
    "and the books are exact once reconciled."
)
MODES = {"streamed": Mix(streamed=1.0, longest=16), "whole": Mix(streamed=0.0, longest=16)}


async def p2(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
    """`kill -9` at every point, under load of streamed and of whole answers; with a small scale at some of them."""
    outcome = Outcome("P2", CLAIM)
    async with world_factory() as world:
        for mode, mix in MODES.items():
            key = await world.create_key()
            points = order_of(random.Random(f"{seed}:{mode}"), scale)  # noqa: S311 - replayable, not secret
            killed = await _kill_all(world, key, points, Traffic(seed, mode, mix, Tally()), outcome)
            money = await world.quiet(key)
            billed = world.billed(key.account)
            outcome.expect(
                money.spent <= billed <= money.spent + money.suspense,
                f"{mode}: billed {billed}, {money} after the kills",
            )
            outcome.did[f"workers killed, {mode}"] = killed.total()
            outcome.did[f"points, {mode}"] = len(killed)
            await reconciled(world, key, outcome)
    return outcome


def order_of(chance: random.Random, scale: float) -> list[Point]:
    """The points to be killed at: all of them `TIMES` times at full scale, in an order of the seed's."""
    rounds = [chance.sample(list(POINTS), len(POINTS)) for _ in range(max(1, round(TIMES * scale)))]
    points = [point for points in rounds for point in points]
    return points[: max(2, round(len(POINTS) * TIMES * scale))]


async def _kill_all(
    world: World, key: Key, points: Sequence[Point], traffic: Traffic, outcome: Outcome
) -> Counter[Point]:
    """Kill a worker at each of the points, one after the other, each time under load; how often at which."""
    killed: Counter[Point] = Counter()
    async with watching(world, key.account) as watch, _load(world, key, traffic):
        for point in points:
            await _busy(traffic.tally)
            if await world.strikes(world.arm(point, "kill")) is None:
                outcome.violate(f"no worker came to the point {point!r}")
            else:
                killed[point] += 1
    outcome.violate(*watch.violations)
    outcome.did["samples"] = int(outcome.did.get("samples", 0)) + watch.samples
    return killed


@asynccontextmanager
async def _load(world: World, key: Key, traffic: Traffic) -> AsyncIterator[None]:
    callers = [Caller(world.gateway.port, key.text) for _ in range(CALLERS)]
    acting = asyncio.gather(*(traffic.act(caller) for caller in callers))
    try:
        yield
    finally:
        traffic.enough.set()
        await acting


async def _busy(tally: Tally) -> None:
    """Wait until more answers have come: the next kill shall meet attempts of every age. Raises NeverCame."""
    enough = tally.answered + BUSY

    async def is_busy() -> bool:
        return tally.answered >= enough

    await until(is_busy, f"{BUSY} more answers")
