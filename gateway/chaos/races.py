"""P3: of many who race for the last of a budget as many are admitted as it has room for, whichever scope it is of."""

import asyncio
import random
from collections import Counter

from gateway.chaos.load import Caller, Ending, chat
from gateway.chaos.outcome import Outcome
from gateway.chaos.round_trips import round_trips
from gateway.chaos.script_times import script_times
from gateway.chaos.world import Key, World, WorldFactory

QUICK = 0.04
ROUNDS = 50
RACERS = 2_000
COST = 1_000_000
"""Nano-dollars that a request to the model `exact` costs, and therefore holds: what is admitted is what is spent."""
PATIENT = {"redis": {"deadline": 20}, "server": {"workers": 2, "body_timeout": 60}}
"""A reserve may wait for its turn: who comes last must hear that the money is gone, not that the ledger is."""
CLAIM = "No overspend: of many racers exactly as many are admitted as the tightest of five scopes has room for."


async def p3(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
    """Every round another scope is the tight one, and its room another number."""
    outcome = Outcome("P3", CLAIM)
    rounds, racers = max(1, round(ROUNDS * scale)), RACERS
    chance = random.Random(f"{seed}:races")  # noqa: S311 - replayable, not secret
    endings: Counter[str] = Counter()
    overspent = 0
    async with world_factory(settings=PATIENT, scopes=True) as world:
        key = await world.create_key("1/lifetime")
        callers = [Caller(world.gateway.port, key.text) for _ in range(racers)]
        for number in range(rounds):
            room = chance.randint(1, racers - 1)
            tight = chance.choice(world.scopes(key))
            limits = await _limit(world, key, tight, room, chance)
            found = await _race(callers)
            money = await world.quiet(key)
            overspent += max(0, money.counted - limits[tight])
            outcome.expect(
                found == {Ending.ANSWERED: room, Ending.REFUSED: racers - room},
                f"round {number}: room for {room} in {tight}, but {dict(found)}",
            )
            await _compare(world, key, limits, outcome)
            endings.update(found)
        for caller in callers:
            caller.hang_up()
        trips = await round_trips(world) if world.owns_redis else {}  # who may not be asked to tell all it hears
    outcome.expect(list(trips.values()) in ([3, 2], []), f"{trips}")
    outcome.did |= {"rounds": rounds, "racers": racers, "scopes": len(limits), "gateway workers": 2}
    outcome.did |= {"admitted": endings[Ending.ANSWERED], "refused": endings[Ending.REFUSED]}
    outcome.did["overspent, nano-dollars"] = overspent
    outcome.did |= trips
    outcome.did |= await script_times()
    return outcome


async def _limit(world: World, key: Key, tight: str, room: int, chance: random.Random) -> dict[str, int]:
    """Give every scope a limit that leaves room for so many requests in the tight one, and for more in the others."""
    limits = {}
    for scope in world.scopes(key):
        money = await world.money(key.account, scope)
        places = room if scope == tight else chance.randint(room + 1, 2 * RACERS)
        limits[scope] = money.counted + places * COST
        await world.books.limit(key.account, scope, limits[scope])
    return limits


async def _race(callers: list[Caller]) -> Counter[Ending]:
    """Let all of them ask at once; what became of their requests."""
    return Counter(await asyncio.gather(*(caller.ending(**chat("exact", "race")) for caller in callers)))


async def _compare(world: World, key: Key, limits: dict[str, int], outcome: Outcome) -> None:
    """Every scope has spent what was billed, and no more than it may."""
    billed = world.billed(key.account)
    for scope, limit in limits.items():
        money = await world.money(key.account, scope)
        outcome.expect(money.spent == billed, f"{scope}: billed {billed}, {money}")
        outcome.expect(money.counted <= limit, f"{scope}: {money} with a limit of {limit}")
        outcome.expect(money.held == money.suspense == 0, f"{scope}: {money} when all is quiet")
