"""P4: a replica that lags is promoted under load. No settle is lost, and what is overspent has a bound.

Replication is asynchronous, so the new primary lacks what was written last: holds of streams that go on, and settles.
The gateway writes both again. Until it has, as much may be admitted as was held: for one heartbeat at most.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from budgets.errors import LedgerUnavailable
from budgets.redis_ledger import BEATS_PER_LEASE
from gateway.chaos.load import Caller, chat, meanwhile
from gateway.chaos.load import Outcome as Ending
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
STREAM = chat("exact", "[[slow 250ms]] [[long 16]] Tell me a story.", stream=True)
"""Takes four seconds."""
CLAIM = "When a lagging replica takes over, no settle is lost, and no more is overspent than one heartbeat admits."


@dataclass
class Seen:
    """What callers saw around one failover; instants are seconds after it."""

    enough: asyncio.Event = field(default_factory=asyncio.Event)
    admitted: list[float] = field(default_factory=list)
    """When latecomers asked who were admitted."""
    others: Counter[Ending] = field(default_factory=Counter)
    streams: Counter[Ending] = field(default_factory=Counter)
    reasserted_after: float = 0.0
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
    seen, lost, overspent = [], 0, 0
    async with world_factory(settings=settings) as world:
        pair = await world.belongings.enter_async_context(paired(world, seed))
        others = await world.create_key()
        for number in range(failovers):
            tight = await world.create_key(f"{ROOM * COST / 1e9}/lifetime")
            await pair.join()
            seen.append(await _failover(world, pair, (tight, others), chance))
            late = [began for began in seen[-1].admitted if began > HEARTBEAT]
            outcome.expect(not late, f"failover {number}: somebody was admitted {late} s after it")
            outcome.expect(seen[-1].streams.keys() == {Ending.ANSWERED}, f"failover {number}: {seen[-1].streams}")
            lost += await _lost(world, (tight, others), outcome)
            overspent += max(0, world.billed(tight.account) - ROOM * COST)
            await pair.repair()
    admitted = sum(len(each.admitted) for each in seen)
    outcome.expect(overspent <= admitted * COST, f"{overspent} overspent, {admitted} admitted too many")
    outcome.did |= {
        "failovers": failovers,
        "holds lost and written again": ROOM * failovers,
        "re-asserted after at most, s": round(max(each.reasserted_after for each in seen), 2),
        "served again after at most, s": round(max(each.served_after for each in seen), 2),
        "heartbeat, s": HEARTBEAT,
        "admitted too many": admitted,
        "overspent, nano-dollars": overspent,
        "settled by others": sum(each.others[Ending.ANSWERED] for each in seen),
        "lost settles, nano-dollars": lost,
    }
    return outcome


async def _failover(world: World, pair: Pair, keys: tuple[Key, Key], chance: random.Random) -> Seen:
    tight, others = keys
    seen = Seen()
    asking = [_ask_for_more(world.caller(others), seen) for _ in range(OTHERS)]
    streaming = [_stream(world.caller(tight)) for _ in range(ROOM)]
    async with meanwhile(*asking) as load:
        pair.stall()
        async with meanwhile(*streaming) as streams:
            await until(lambda: _is_full(world, tight), "the provider's first events")
            await asyncio.sleep(chance.uniform(0, MOST_LAG))
            await pair.fail_over(chance.uniform(0, MOST_GAP))
            began = time.monotonic()
            late = [_come_late(world.caller(tight), seen, began) for _ in range(LATECOMERS)]
            async with meanwhile(*late) as latecomers:
                await until(lambda: _is_held(world, tight), "the holds of running streams in the new primary")
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


async def _stream(caller: Caller) -> Ending:
    ending = Ending.BROKEN
    with suppress(OSError, EOFError):
        ending = (await caller.ask(**STREAM)).stream_outcome
    caller.hang_up()
    return ending


async def _come_late(caller: Caller, seen: Seen, failed_over: float) -> None:
    while not seen.enough.is_set():
        began = time.monotonic() - failed_over
        if await caller.outcome(**chat("exact", "Me too")) is Ending.ANSWERED:
            seen.admitted.append(began)
        await asyncio.sleep(PAUSE)
    caller.hang_up()


async def _ask_for_more(caller: Caller, seen: Seen) -> None:
    while not seen.enough.is_set():
        seen.others[await caller.outcome(**chat("sandbox-small", "Hello"))] += 1
        await asyncio.sleep(PAUSE)
    caller.hang_up()


async def _is_held(world: World, key: Key) -> bool:
    with suppress(LedgerUnavailable):
        return (await world.money(key.account)).held >= ROOM * COST
    return False


async def _is_served(world: World, key: Key) -> bool:
    caller = world.caller(key)
    ending = await caller.outcome(**chat("sandbox-small", "Hello"))
    caller.hang_up()
    return ending is Ending.ANSWERED


async def _lost(world: World, keys: Sequence[Key], outcome: Outcome) -> int:
    """What was billed and is not booked, when the journals have been replayed and the bill was reconciled."""
    lost = 0
    for key in keys:
        await world.booked(key, patience=5.0)
        if (await world.money(key.account)).suspense:
            await world.reconcile(key.account)
        money, billed = await world.money(key.account), world.billed(key.account)
        lost += abs(billed - money.spent)
        outcome.expect(money.spent == billed, f"{key.account}: billed {billed}, {money}")
        outcome.expect(money.held == money.suspense == 0, f"{key.account}: {money} after the reconciliation")
    return lost
