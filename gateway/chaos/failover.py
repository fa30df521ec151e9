"""P4: a replica that lags is promoted under load. No settle is lost, and what is overspent has a bound.

Replication is asynchronous, so the new primary lacks what was written last: holds of streams that go on, and settles.
The gateway writes both again. Until it has, as much may be admitted as was held: for one heartbeat at most.
Everybody reads their answer to its end, so nothing is ever in doubt, and nothing is reconciled.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from budgets import redis_layout
from budgets.redis_ledger import BEATS_PER_LEASE
from gateway.chaos.exact import attempts_as_billed, sums_as_billed
from gateway.chaos.load import Ending, chat, meanwhile
from gateway.chaos.outcome import Outcome
from gateway.chaos.proxy import FaultProxy
from gateway.chaos.redis_server import RedisServer
from gateway.chaos.world import Key, World, WorldFactory, until

QUICK = 0.04
FAILOVERS = 50
LEASE = 6.0
HEARTBEAT = LEASE / BEATS_PER_LEASE
COST = 1_000_000
"""Nano-dollars that a request to the model `exact` costs and holds."""
ROOM = 12
"""Streams that the tight account has money for; all of them run when the primary dies."""
LATECOMERS = 6
"""Callers who ask for what is not left in the tight account."""
OTHERS = 4
"""Callers of an account that has enough, whose settles are lost with the primary."""
PAUSE = 0.02
MOST_LAG = 0.5
MOST_GAP = 0.5
"""Seconds between the end of the primary and the promotion."""
STREAM = chat("exact", "[[slow 250ms]] [[long 16]] Tell me a story.")
"""Takes four seconds."""
QUESTION = chat("sandbox-small", "Hello")
CLAIM = "When a lagging replica takes over, no settle is lost, and no more is overspent than one heartbeat admits."


@dataclass
class Seen:
    """What callers saw around one failover; instants are seconds after it."""

    enough: asyncio.Event = field(default_factory=asyncio.Event)
    admitted: list[float] = field(default_factory=list)
    """When latecomers asked who were admitted."""
    overspent: int = 0
    """What the tight account was billed beyond its limit; nano-dollars."""
    lost: int = 0
    """What was billed and is not booked once journals have had time; nano-dollars."""
    others: Counter[Ending] = field(default_factory=Counter)
    streams: Counter[Ending] = field(default_factory=Counter)
    reasserted_after: float = 0.0
    """When the new primary was seen to have all streams' holds."""
    served_after: float = 0.0


class Pair:
    """A primary, a replica, and what lies between them."""

    def __init__(self, world: World, replica: RedisServer, link: FaultProxy) -> None:
        self.primary = world.redis
        self.replica = replica
        self._world = world
        self._link = link

    async def join(self) -> None:
        """Have the replica follow the primary, and wait until it has everything."""
        self._link.target = self.primary.address
        await self._link.pass_on()
        await self.replica.call("REPLICAOF", "127.0.0.1", self._link.port)
        await until(self._is_level, "a replica that has everything")

    async def _is_level(self) -> bool:
        await self.primary.call("SET", "chaos:level", "now")  # what is waited for is the connection's own last write
        return bool(await self.primary.call("WAIT", 1, 100))

    def stall(self) -> None:
        """From now on the replica hears nothing."""
        self._link.black_hole()

    async def fail_over(self, gap: float) -> None:
        """Kill the primary; the replica takes its place. The dead one comes back as the replica, later."""
        await self.primary.kill()
        await asyncio.sleep(gap)
        await self.replica.call("REPLICAOF", "NO", "ONE")
        self.primary, self.replica = self.replica, self.primary
        await self._world.move_redis(self.primary)

    async def repair(self) -> None:
        await self.replica.start()
        await self.join()


@asynccontextmanager
async def paired(world: World, seed: int) -> AsyncIterator[Pair]:
    """A replica beside the world's server."""
    async with (
        FaultProxy(world.redis.address, name="replication", seed=seed) as link,
        RedisServer(world.folder / "replica") as replica,
    ):
        pair = Pair(world, replica, link)
        await pair.join()
        yield pair


async def p4(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
    """Fail over again and again, each time with a full account of its own."""
    outcome = Outcome("P4", CLAIM)
    chance = random.Random(f"{seed}:failover")  # noqa: S311 - replayable, not secret
    failovers = max(1, round(FAILOVERS * scale))
    settings = {"ledger": {"lease": LEASE}}
    seen = []
    async with world_factory(settings=settings) as world:
        pair = await world.belongings.enter_async_context(paired(world, seed))
        others = await world.create_key()
        keys = [others]
        for number in range(failovers):
            tight = await world.create_key(f"{ROOM * COST / 1e9}/lifetime")
            keys.append(tight)
            await pair.join()
            seen.append(await _failover(world, pair, (tight, others), chance))
            seen[-1].lost = sum([await sums_as_billed(world, key, outcome) for key in (tight, others)])
            seen[-1].overspent = max(0, world.billed(tight.account) - ROOM * COST)
            judge(f"failover {number}", seen[-1], outcome)
            await pair.repair()
        for key in keys:  # only now: the bill of the others grows with each failover
            await attempts_as_billed(world, key, outcome)
    outcome.did |= {
        "failovers": failovers,
        "holds lost and written again": ROOM * failovers,
        "re-asserted after at most, s": round(max(each.reasserted_after for each in seen), 2),
        "served again after at most, s": round(max(each.served_after for each in seen), 2),
        "heartbeat, s": HEARTBEAT,
        "admitted too many": sum(len(each.admitted) for each in seen),
        "overspent, nano-dollars": sum(each.overspent for each in seen),
        "settled by others": sum(each.others[Ending.ANSWERED] for each in seen),
        "lost settles, nano-dollars": sum(each.lost for each in seen),
    }
    return outcome


def judge(name: str, seen: Seen, outcome: Outcome) -> None:
    """Whether one failover kept to its bounds."""
    in_time = [began for began in seen.admitted if began <= seen.reasserted_after]
    outcome.expect(
        seen.overspent <= len(in_time) * COST,
        f"{name}: {seen.overspent} overspent, but {len(in_time)} admitted before the holds were back",
    )
    late = [began for began in seen.admitted if began > HEARTBEAT]
    outcome.expect(not late, f"{name}: somebody was admitted {late} s after it")
    outcome.expect(seen.streams.keys() == {Ending.ANSWERED}, f"{name}: streams were {dict(seen.streams)}")


async def _failover(world: World, pair: Pair, keys: tuple[Key, Key], chance: random.Random) -> Seen:
    tight, others = keys
    seen = Seen()
    asking = [_ask_for_more(world, others, seen) for _ in range(OTHERS)]
    streaming = [_stream(world, tight) for _ in range(ROOM)]
    async with meanwhile(*asking) as load:
        pair.stall()
        async with meanwhile(*streaming) as streams:
            await until(lambda: _is_full(world, tight), "the provider's first events")
            running = [row["attempt"] for row in world.provider.bill.rows(tight.account)]
            await asyncio.sleep(chance.uniform(0, MOST_LAG))
            await pair.fail_over(chance.uniform(0, MOST_GAP))
            began = time.monotonic()
            late = [_come_late(world, tight, seen, began) for _ in range(LATECOMERS)]
            async with meanwhile(*late) as latecomers:
                await until(
                    lambda: _are_held(pair.primary, tight, running), "the holds of running streams in the new primary"
                )
                seen.reasserted_after = time.monotonic() - began
                await until(lambda: _is_served(world, others), "an answer")
                seen.served_after = time.monotonic() - began
                seen.streams.update(await streams)
                seen.enough.set()
                await latecomers
        await load
    return seen


async def _is_full(world: World, key: Key) -> bool:
    """Whether all the account's streams run."""
    return len(world.provider.bill.rows(key.account)) == ROOM  # billed before the first byte


async def _stream(world: World, key: Key) -> Ending:
    with world.caller(key) as caller:
        return await caller.stream(**STREAM)


async def _come_late(world: World, key: Key, seen: Seen, failed_over: float) -> None:
    with world.caller(key) as caller:
        while not seen.enough.is_set():
            began = time.monotonic() - failed_over
            if await caller.ending(**chat("exact", "Me too")) is Ending.ANSWERED:
                seen.admitted.append(began)
            await asyncio.sleep(PAUSE)


async def _ask_for_more(world: World, key: Key, seen: Seen) -> None:
    with world.caller(key) as caller:
        while not seen.enough.is_set():
            seen.others[await caller.ending(**QUESTION)] += 1
            await asyncio.sleep(PAUSE)


async def _are_held(primary: RedisServer, key: Key, attempts: list[str]) -> bool:
    """Whether all of these attempts have their hold; that of a latecomer does not count."""
    return None not in await primary.call("ZMSCORE", redis_layout.leases(key.account), *attempts)


async def _is_served(world: World, key: Key) -> bool:
    with world.caller(key) as caller:
        return await caller.ending(**QUESTION) is Ending.ANSWERED
