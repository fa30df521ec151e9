"""P7: while Redis is away, whichever way, nobody waits long, no running stream breaks, and nothing spent is lost.

Callers with a limit are refused, callers without one are served, and both go on as before once Redis is back.
"""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from gateway.chaos.exact import as_billed
from gateway.chaos.load import Caller, Ending, chat, meanwhile
from gateway.chaos.outcome import Outcome
from gateway.chaos.redis_server import START_TIMEOUT
from gateway.chaos.world import Key, World, WorldFactory, until

QUICK = 0.07
OUTAGE = 30.0
"""Seconds that each kind lasts."""
ONSET = 0.5
"""Seconds after which everybody has noticed; whoever asked before may have been answered."""
CAPPED = 8
UNCAPPED = 4
STREAMS = 8
"""That run when Redis goes, and end after it came back."""
EVENTS = 20
QUESTION = chat("sandbox-small", "Hello")
PAUSE = 0.02
"""Seconds between an answer and the caller's next question."""
PROMPT = 0.3
"""Seconds: the 99th percentile of refusals, once it was noticed that Redis is away."""
SLOWEST = 5.0
"""Seconds that nobody's refusal takes, on a busy machine either: nobody hangs."""
BACK_WITHIN = 5.0
"""Seconds after Redis is back."""
TAIL = 1.5
"""Seconds for which streams go on after Redis is back."""
SLOWER = 2
"""Times longer than callers ask that Redis would load, were it not told to hurry at the end."""
FILLER = 2_000
"""Keys that Redis loads, slowly, before it serves."""
EVENTS_BYTES = 1_024
"""After so many bytes Redis looks who asks something, the least that it can be told; a key of the filler has them."""
CLAIM = "While Redis is away nobody waits, no running stream breaks, nothing spent is lost; then all is as before."


class Outage(ABC):
    """One way of being away."""

    name: str

    def __init__(self, world: World, seconds: float) -> None:
        self.world = world
        self.seconds = seconds

    @abstractmethod
    async def begin(self) -> None: ...

    @abstractmethod
    async def end(self) -> None:
        """Redis is back when this returns."""

    async def close(self) -> None:  # noqa: B027 - most leave nothing behind
        """Take away what is left."""


class Frozen(Outage):
    """A machine without CPU: connections stay, nothing answers."""

    name = "frozen"

    async def begin(self) -> None:
        self.world.redis.pause()

    async def end(self) -> None:
        self.world.redis.resume()


class Killed(Outage):
    name = "killed"

    async def begin(self) -> None:
        await self.world.redis.kill()

    async def end(self) -> None:
        await self.world.redis.start()


class Refused(Outage):
    name = "refused"

    async def begin(self) -> None:
        await self.world.redis_proxy.refuse()

    async def end(self) -> None:
        await self.world.redis_proxy.pass_on()


class BlackHole(Outage):
    name = "black hole"

    async def begin(self) -> None:
        self.world.redis_proxy.black_hole()

    async def end(self) -> None:
        await self.world.redis_proxy.pass_on()


class OutOfMemory(Outage):
    name = "out of memory"

    async def begin(self) -> None:
        await self.world.redis.configure("maxmemory", "1")

    async def end(self) -> None:
        await self.world.redis.configure("maxmemory", "0")


class ReadOnly(Outage):
    """A primary that was made a replica; its own primary is nowhere."""

    name = "read-only"

    async def begin(self) -> None:
        await self.world.redis.call("REPLICAOF", "127.0.0.1", 1)

    async def end(self) -> None:
        await self.world.redis.call("REPLICAOF", "NO", "ONE")


class Loading(Outage):
    """Killed and started again with much to load."""

    name = "loading"

    def __init__(self, world: World, seconds: float) -> None:
        super().__init__(world, seconds)
        self._starting: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        redis = self.world.redis
        await redis.call("DEBUG", "POPULATE", FILLER, "filler", EVENTS_BYTES)
        await redis.configure("rdbcompression", "no")  # else the filler would have few bytes
        await redis.call("BGREWRITEAOF")
        await until(self._is_rewritten, "the end of a rewrite of Redis' file")
        keys = int(await redis.call("DBSIZE"))  # the gateway's own too
        await redis.kill()
        slow = {
            "key_load_delay": str(math.ceil(self.seconds * SLOWER * 1_000_000 / keys)),  # microseconds
            "loading_process_events_interval_bytes": str(EVENTS_BYTES),
        }
        self._starting = asyncio.create_task(redis.start(self.seconds * SLOWER + START_TIMEOUT, **slow))

    async def _is_rewritten(self) -> bool:
        facts = await self.world.redis.call("INFO", "persistence")
        return not (facts["aof_rewrite_in_progress"] or facts["aof_rewrite_scheduled"])

    async def end(self) -> None:
        if self._starting is not None:
            await self.world.redis.configure("key-load-delay", "0")
            await self._starting

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)


KINDS: tuple[type[Outage], ...] = (Frozen, Killed, Refused, BlackHole, OutOfMemory, ReadOnly, Loading)


@dataclass
class Seen:
    """What callers saw during one outage."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    noticed: asyncio.Event = field(default_factory=asyncio.Event)
    capped: Counter[Ending] = field(default_factory=Counter)
    uncapped: Counter[Ending] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    """Seconds that each refusal took, of those who asked once it was noticed."""
    slowest: float = 0.0
    """Seconds that the slowest refusal of all took."""
    back_after: float = 0.0


async def p7(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
    """One outage of every kind, one after the other, with the same callers."""
    outcome = Outcome("P7", CLAIM)
    seconds = max(2.0, OUTAGE * scale)
    seen = []
    async with world_factory() as world:
        keys = await world.create_key(), await world.create_key(limit=None)
        for kind in KINDS:
            outage = kind(world, seconds)
            world.belongings.push_async_callback(outage.close)
            seen.append(await _outage(world, outage, keys, outcome))
        lost = sum([await as_billed(world, key, outcome) for key in keys])
    outcome.did |= {
        "outages": len(seen),
        "seconds each": seconds,
        "refused": sum(each.capped.total() for each in seen),
        "refusals' worst p99, ms": max(_p99_ms(each) for each in seen),
        "slowest refusal, ms": round(1000 * max(each.slowest for each in seen)),
        "served without a limit": sum(each.uncapped[Ending.ANSWERED] for each in seen),
        "running streams": STREAMS * len(seen),
        "lost settles, nano-dollars": lost,
        "back after at most, s": round(max(each.back_after for each in seen), 2),
    }
    return outcome


async def _outage(world: World, outage: Outage, keys: tuple[Key, Key], outcome: Outcome) -> Seen:
    capped, uncapped = keys
    seen = Seen()
    callers = [(world.caller(capped), seen.capped) for _ in range(CAPPED)]
    callers += [(world.caller(uncapped), seen.uncapped) for _ in range(UNCAPPED)]
    for caller, _ in callers:
        await caller.ending(**QUESTION)  # so that the worker knows the key
    already = len(world.provider.bill.rows(capped.account))
    async with meanwhile(*(_stream(world, capped, outage.seconds + TAIL) for _ in range(STREAMS))) as streams:
        await until(partial(_have_begun, world, capped, already + STREAMS), "the provider's first events")
        await outage.begin()
        async with meanwhile(*(_ask(caller, seen, endings) for caller, endings in callers)) as load:
            await asyncio.sleep(ONSET)
            seen.noticed.set()
            await asyncio.sleep(outage.seconds - ONSET)
            seen.over.set()
            await load
        await outage.end()
        seen.back_after = await _time_until_served(world, capped)
        for ending in await streams:
            outcome.expect(ending is Ending.ANSWERED, f"{outage.name}: a running stream was {ending}")
    _judge(outage.name, seen, outcome)
    return seen


async def _have_begun(world: World, key: Key, attempts: int) -> bool:
    return len(world.provider.bill.rows(key.account)) >= attempts  # they are billed before their first byte


def _judge(name: str, seen: Seen, outcome: Outcome) -> None:
    outcome.expect(seen.capped.keys() == {Ending.UNAVAILABLE}, f"{name}: callers with a limit got {dict(seen.capped)}")
    outcome.expect(seen.uncapped.keys() == {Ending.ANSWERED}, f"{name}: callers without got {dict(seen.uncapped)}")
    outcome.expect(_p99_ms(seen) < 1000 * PROMPT, f"{name}: the 99th percentile of refusals is {_p99_ms(seen)} ms")
    outcome.expect(seen.slowest < SLOWEST, f"{name}: a refusal took {seen.slowest:.2f} s")
    outcome.expect(seen.back_after < BACK_WITHIN, f"{name}: callers are served again after {seen.back_after:.1f} s")


async def _stream(world: World, key: Key, seconds: float) -> Ending:
    pause = round(seconds / EVENTS * 1000)
    with world.caller(key) as caller:
        return await caller.stream(**chat("sandbox-small", f"[[slow {pause}ms]] [[long {EVENTS}]] Tell me a story."))


async def _ask(caller: Caller, seen: Seen, endings: Counter[Ending]) -> None:
    """Ask one question after the other while Redis is away; those count that were asked once it was noticed."""
    while not seen.over.is_set():
        counts, began = seen.noticed.is_set(), time.monotonic()
        ending = await caller.ending(**QUESTION)
        waited = time.monotonic() - began
        if ending is Ending.UNAVAILABLE:
            seen.slowest = max(seen.slowest, waited)
        if counts:
            endings[ending] += 1
            if ending is Ending.UNAVAILABLE:
                seen.waits.append(waited)
        await asyncio.sleep(PAUSE)
    caller.hang_up()


async def _time_until_served(world: World, key: Key) -> float:
    began = time.monotonic()
    with world.caller(key) as caller:

        async def served() -> bool:
            return await caller.ending(**QUESTION) is Ending.ANSWERED

        await until(served, "an answer for a caller with a limit")
    return time.monotonic() - began


def _p99_ms(seen: Seen) -> int:
    return round(1000 * sorted(seen.waits)[int(len(seen.waits) * 0.99)]) if seen.waits else 0
