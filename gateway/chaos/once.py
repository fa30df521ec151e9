"""P6: an attempt is settled at most once, however many send its settle, and however often the reply is lost.

So it is whatever Redis has of the attempt when the settle comes; see `KINDS`.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import TypeVar

from budgets.errors import LedgerUnavailable
from budgets.journal import Journal
from budgets.ledger import Attempt, LedgerCounters, Reservation, Resolution
from budgets.marks import Marks
from budgets.outbox import Outbox
from budgets.redis_connection import RedisConnection
from budgets.redis_ledger import LedgerPolicy, RedisLedger
from gateway.chaos.outcome import Outcome
from gateway.chaos.proxy import Faults
from gateway.chaos.world import Key, World, WorldFactory

T = TypeVar("T")

QUICK = 0.05
ROUNDS = 100
SENDERS = 64
LEASE = 600.0
AMOUNT = 1_000_000
KINDS = {"held": b"settled", "never held": b"orphan", "in suspense": b"late", "freed": b"corrected"}
"""What Redis may have of an attempt when its settle comes, and the answer of settle.lua that books the cost then."""
BOOKS = frozenset(KINDS.values())
AGAIN = b"again"
CLAIM = "An attempt is settled at most once, whoever sends its settle and however often."
FAULTS = Faults(rate=0.3, kinds=("cut request", "cut reply", "lost reply", "half-close", "delay"))


@dataclass(slots=True)
class Sender:
    """What sends settles, as a gateway worker has it, and what Redis answered."""

    outbox: Outbox
    answers: Counter[bytes] = field(default_factory=Counter)


async def p6(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
    """Many senders, one attempt, one settle each, through a proxy that breaks off requests and replies."""
    outcome = Outcome("P6", CLAIM)
    chance = random.Random(f"{seed}:settles")  # noqa: S311 - replayable, not secret
    kinds = list(islice(cycle(KINDS), max(len(KINDS), round(ROUNDS * scale))))
    async with world_factory() as world, _bookkeeper(world) as ledger, _senders(world) as senders:
        key = await world.create_key()
        spent = 0
        for number, kind in enumerate(kinds):
            name, cost = f"round {number}, {kind}", chance.randrange(1, AMOUNT)
            world.redis_proxy.faults = Faults()
            reservation = await _prepared(kind, ledger, senders[0], _attempt(key, number))
            world.redis_proxy.faults = FAULTS
            answers = await _settle(senders, _resolution(reservation, cost))
            settled = sum(answers[how] for how in BOOKS)
            outcome.expect(settled <= 1, f"{name}: settled {settled} times")
            outcome.expect(answers.keys() <= {KINDS[kind], AGAIN}, f"{name}: Redis answered {dict(answers)}")
            spent += cost
            await _check(world, key, spent, name, outcome)
        world.redis_proxy.faults = Faults()
        outcome.did = {
            "rounds": len(kinds),
            **{f"rounds, {kind}": kinds.count(kind) for kind in KINDS},
            "senders": SENDERS,
            "settles sent": len(kinds) * SENDERS,
            "faults injected": world.redis_proxy.named_counts.total(),
            "booked, of each attempt": 1 if outcome.kept else "not once",
        }
    return outcome


@asynccontextmanager
async def _bookkeeper(world: World) -> AsyncIterator[RedisLedger]:
    """A ledger to reserve with."""
    connection = RedisConnection(world.redis_url)
    journal = Journal(world.folder / "once", "bookkeeper")
    await connection.connect()
    try:
        yield RedisLedger(connection, journal, _marks(world), LedgerPolicy(LEASE, LEASE), time.time)
    finally:
        await connection.close()
        journal.close()


@asynccontextmanager
async def _senders(world: World) -> AsyncIterator[list[Sender]]:
    """All of them, sending again what failed until it is acknowledged."""
    connections = [RedisConnection(world.redis_url) for _ in range(SENDERS)]
    journals = [Journal(world.folder / "once", f"sender-{number}") for number in range(SENDERS)]
    senders = [_sender(world, *wires) for wires in zip(connections, journals, strict=True)]
    await asyncio.gather(*(connection.connect() for connection in connections))
    running = [asyncio.create_task(sender.outbox.run()) for sender in senders]
    try:
        yield senders
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        await asyncio.gather(*(connection.close() for connection in connections))
        for journal in journals:
            journal.close()


def _sender(world: World, connection: RedisConnection, journal: Journal) -> Sender:
    answers: Counter[bytes] = Counter()

    def count(entry: Resolution, outcome: bytes, *_: object) -> None:
        answers[outcome] += 1

    outbox = Outbox(connection, journal, _marks(world), tombstone=LEASE, counters=LedgerCounters(), answered=count)
    return Sender(outbox, answers)


def _marks(world: World) -> Marks:
    return Marks(world.folder / "once" / "marks.json", time.time)


async def _settle(senders: Sequence[Sender], entry: Resolution) -> Counter[bytes]:
    """Have all send the same settle, and send it again until Redis answers; how many heard what."""
    for sender in senders:
        sender.answers.clear()
        sender.outbox.put(entry)
    await asyncio.gather(*(sender.outbox.drained() for sender in senders))
    return sum((sender.answers for sender in senders), Counter[bytes]())


async def _prepared(kind: str, ledger: RedisLedger, sender: Sender, attempt: Attempt) -> Reservation:
    """Have Redis know of an attempt what `kind` says."""
    if kind == "never held":
        return ledger.unbooked(attempt)
    reservation = await _insisting(lambda: ledger.reserve(attempt))  # same id, same hold
    if kind != "held":
        sender.outbox.put(replace(_resolution(reservation, 0), kind="suspend"))
        await sender.outbox.drained()
    if kind == "freed":
        await _insisting(lambda: ledger.reconcile(attempt.account, attempt.id, None))
    return reservation


async def _insisting(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again where the last round's faults have just taken the connection."""
    while True:
        try:
            return await ask()
        except LedgerUnavailable:
            await asyncio.sleep(0.01)


async def _check(world: World, key: Key, spent: int, name: str, outcome: Outcome) -> None:
    """What was sent is booked once, and nothing is held or in suspense."""
    for scope in world.scopes(key):
        money = await world.money(key.account, scope)
        outcome.expect(money.spent == spent, f"{name}: {scope} has {money} where {spent} was spent")
        for period, part in (await world.books.periods(key.account, scope)).items():
            outcome.expect(part.held == part.suspense == 0, f"{name}: {scope} has {part} in {period}")


def _attempt(key: Key, number: int) -> Attempt:
    return Attempt(
        id=f"att_{key.account}_once{number}",
        account=key.account,
        key_id=key.id,
        key_version=1,
        scopes=("account", f"key:{key.id}"),
        amount=AMOUNT,
        capped=True,
        price_version="once",
        model="exact",
    )


def _resolution(reservation: Reservation, cost: int) -> Resolution:
    """The settle."""
    attempt = reservation.attempt
    return Resolution(
        kind="settle",
        attempt_id=attempt.id,
        account=attempt.account,
        key_id=attempt.key_id,
        holds=reservation.holds,
        amount=attempt.amount,
        spent=cost,
        estimate=0,
        price_version=attempt.price_version,
        model=attempt.model,
        booked=reservation.booked,
        at=time.time(),
    )
