"""P8: workers are restarted one after the other while they serve, and nobody who asks something notices."""

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from gateway.chaos.exact import as_billed
from gateway.chaos.load import Ending, chat, meanwhile
from gateway.chaos.outcome import Outcome
from gateway.chaos.world import Key, World, WorldFactory, until

QUICK = 0.04
RESTARTS = 50
STREAMS = 16
"""Callers who read one stream after the other."""
ASKERS = 8
"""Callers who ask one short question after the other: half of them on one connection for as long as that lives."""
PAUSE = 0.02
STREAM = chat("sandbox-small", "[[slow 500ms]] [[long 20]] Tell me a story.")
"""Takes ten seconds."""
QUESTION = chat("sandbox-small", "Hello")
PATIENT = {"redis": {"deadline": 5}}
"""All of this shares one machine with workers that start: a slow answer of Redis is not what is looked for."""
RESTARTED = b"all workers were restarted"
CLAIM = "Workers are restarted while they serve: no request fails, no stream is cut, and every settle is booked."


@dataclass
class Tally:
    """What callers have seen."""

    enough: asyncio.Event = field(default_factory=asyncio.Event)
    asked: Counter[Ending] = field(default_factory=Counter)
    streamed: Counter[Ending] = field(default_factory=Counter)
    slowest: float = 0.0
    """Seconds until the whole answer to a question was there."""


async def p8(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
    """All callers keep asking while the workers are restarted again and again."""
    outcome = Outcome("P8", CLAIM)
    restarts = max(1, round(RESTARTS * scale))
    tally = Tally()
    async with world_factory(settings=PATIENT) as world:
        key = await world.create_key()
        callers = [_stream(world, key, tally) for _ in range(STREAMS)]
        callers += [_ask(world, key, tally, stays=bool(number % 2)) for number in range(ASKERS)]
        async with meanwhile(*callers) as load:
            await until(partial(_have_begun, world, key), "the provider's first events")
            for number in range(restarts):
                before = world.workers()
                await _restart(world)
                stayed = set(before.values()) & set(world.workers().values())
                outcome.expect(not stayed, f"restart {number}: the workers {stayed} are still there")
            tally.enough.set()
            await load
        unsettled = await as_billed(world, key, outcome)
    outcome.expect(tally.asked.keys() <= {Ending.ANSWERED}, f"requests: {dict(tally.asked)}")
    outcome.expect(tally.streamed.keys() <= {Ending.ANSWERED}, f"streams: {dict(tally.streamed)}")
    outcome.did |= {
        "restarts": restarts,
        "requests": tally.asked.total(),
        "failed requests": tally.asked.total() - tally.asked[Ending.ANSWERED],
        "streams of 10 s": tally.streamed.total(),
        "cut streams": tally.streamed.total() - tally.streamed[Ending.ANSWERED],
        "unsettled, nano-dollars": unsettled,
        "slowest request, s": round(tally.slowest, 2),
    }
    return outcome


async def _have_begun(world: World, key: Key) -> bool:
    return len(world.provider.bill.rows(key.account)) >= STREAMS + ASKERS  # they are billed before their first byte


async def _restart(world: World) -> None:
    seen = world.gateway.log.stat().st_size
    os.kill(world.gateway.pid, signal.SIGUSR1)
    await until(partial(_restarted, world, seen), "a restart")


async def _restarted(world: World, seen: int) -> bool:
    """Whether the gateway's log says so, behind its first bytes, which have been `seen`."""
    with world.gateway.log.open("rb") as log:
        log.seek(seen)
        return RESTARTED in log.read()


async def _stream(world: World, key: Key, tally: Tally) -> None:
    with world.caller(key) as caller:
        while not tally.enough.is_set():
            tally.streamed[await caller.stream(**STREAM)] += 1


async def _ask(world: World, key: Key, tally: Tally, *, stays: bool) -> None:
    with world.caller(key) as caller:
        while not tally.enough.is_set():
            began = time.monotonic()
            tally.asked[await caller.ending(**QUESTION)] += 1
            tally.slowest = max(tally.slowest, time.monotonic() - began)
            if not stays:
                caller.hang_up()
            await asyncio.sleep(PAUSE)
