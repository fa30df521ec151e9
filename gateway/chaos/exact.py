"""P1: the books are exact, to the nano-dollar, under every fault but the gateway's own sudden death."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from budgets.windows import MOST_APART, start_of
from gateway.chaos.books import LIFETIME, Money
from gateway.chaos.disturbances import disturbed
from gateway.chaos.load import Caller, meanwhile, throughout
from gateway.chaos.outcome import Outcome
from gateway.chaos.points import POINTS
from gateway.chaos.proxy import Faults
from gateway.chaos.traffic import RETRIED, UNREADABLE, Mix, Tally, Traffic
from gateway.chaos.watch import watching
from gateway.chaos.world import Key, World, WorldFactory

QUICK = 0.03
ATTEMPTS = 200_000
FAULTS = 20_000
KINDS = 12
CALLERS = 24
UNLIMITED = 4
"""Callers beside them without a limit: they are served while Redis is away."""
CLAIM = "The books are exact: what was settled is what the provider billed, to the nano-dollar, under every fault."

READABLE = Mix(faults=RETRIED, faulty=0.05, leaving=0.06)
ANYTHING = Mix(faults=(*RETRIED, *UNREADABLE), faulty=0.15, leaving=0.06)
REDIS = Faults(rate=0.03, stall=(0.3, 0.6))
PATIENT = Faults(rate=0.05, kinds=("delay", "slow"), delay=(0.005, 0.05))
"""Faults on the way to the provider that take nothing from its answers."""
BROKEN = Faults(rate=0.05, delay=(0.005, 0.05))
IMPATIENT = {"upstream": {"first_byte_timeout": 1.5, "idle_timeout": 1}}
"""Seconds after which a silent provider is given up, in the second part alone: a time-out leaves the usage unread."""


async def p1(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
    """Part one: faults that leave every usage readable, and nothing to reconcile. Part two: all faults there are."""
    outcome = Outcome("P1", CLAIM)
    wanted = max(200, round(ATTEMPTS * scale))
    faults: Counter[str] = Counter()
    for part, share, settings in ((_part_one, 2, None), (_part_two, 3, IMPATIENT)):
        async with world_factory(settings=settings) as world:
            faults += await part(world, wanted * share // 5, seed, outcome)
            faults += world.redis_proxy.named_counts + world.upstream_proxy.named_counts
    outcome.did |= {"faults injected": faults.total(), "kinds of fault": len(faults)}
    outcome.expect(faults.total() >= FAULTS * min(scale, 1), f"only {faults.total()} faults were injected")
    outcome.expect(len(faults) >= KINDS, f"only {len(faults)} kinds of fault were injected")
    return outcome


async def _part_one(world: World, wanted: int, seed: int, outcome: Outcome) -> Counter[str]:
    world.redis_proxy.faults = REDIS
    world.upstream_proxy.faults = PATIENT
    keys = await world.create_key(), await world.create_key(limit=None)
    disturbances: Counter[str] = Counter()
    async with _disturbing(world, seed, disturbances):
        tally = await _traffic(world, keys, wanted, Traffic(seed, "part one", READABLE, Tally()), outcome)
    for key in keys:
        _add(outcome, "difference before any reconciliation, nano-dollars", await as_billed(world, key, outcome))
    return tally.faults + disturbances


async def _part_two(world: World, wanted: int, seed: int, outcome: Outcome) -> Counter[str]:
    world.redis_proxy.faults = REDIS
    world.upstream_proxy.faults = BROKEN
    keys = await world.create_key(), await world.create_key(limit=None)
    struck: Counter[str] = Counter()
    traffic = Traffic(seed, "part two", ANYTHING, Tally())
    async with _striking(world, seed, struck), _disturbing(world, seed + 1, struck):
        tally = await _traffic(world, keys, wanted, traffic, outcome)
    waiting = 0
    for key in keys:
        money = await world.booked(key, or_waiting=True)
        waiting += money.suspense
        billed = world.billed(key.account)
        outcome.expect(money.spent <= billed <= money.counted, f"{key.account}: billed {billed}, {money}")
        await reconciled(world, key, outcome)
    outcome.did["in suspense before the reconciliation, nano-dollars"] = waiting
    return tally.faults + struck


async def as_billed(world: World, key: Key, outcome: Outcome) -> int:
    """Compare an account with its bill, first the sums, then attempt by attempt; see `sums_as_billed`."""
    difference = await sums_as_billed(world, key, outcome)
    await attempts_as_billed(world, key, outcome)
    return difference


async def sums_as_billed(world: World, key: Key, outcome: Outcome) -> int:
    """Compare an account with its bill, once its journals have had time: every usage was read, nothing may be in doubt.

    Returns the difference, in nano-dollars. Reconciles nothing, so that nothing is hidden.
    """
    money, billed = await world.booked(key), world.billed(key.account)
    outcome.expect(money.spent == billed, f"{key.account}: billed {billed}, {money} before any reconciliation")
    outcome.expect(money.suspense == 0, f"{key.account}: {money} though every usage could be read")
    await _sums_up(world, key, outcome)
    return abs(billed - money.spent)


async def attempts_as_billed(world: World, key: Key, outcome: Outcome) -> None:
    """Every attempt is booked as it was billed: in sums alone, one booked twice could hide another that was lost."""
    found = await world.compare(key.account)
    others = {name: number for name, number in found.items() if number and name != "same"}
    outcome.expect(not others, f"{key.account}: attempts are {others} before any reconciliation")
    _add(outcome, "attempts found as billed", found["same"])


async def reconciled(world: World, key: Key, outcome: Outcome) -> None:
    """Reconcile an account with the bill, attempt by attempt: nothing may differ before, nor be left afterwards."""
    await world.all_told()
    reconciled = await world.reconcile(key.account)
    for wrong in ("differs", "open", "voided", "unknown", "unpriced"):
        outcome.expect(not reconciled[wrong], f"{key.account}: {reconciled[wrong]} attempts are {wrong}")
    money = await world.money(key.account)
    billed = world.billed(key.account)
    outcome.expect(money.spent == billed, f"{key.account}: billed {billed}, {money} after the reconciliation")
    outcome.expect(money.suspense == 0, f"{key.account}: {money} after the reconciliation")
    compared = sum(reconciled[name] for name in ("same", "resolved", "freed"))
    _add(outcome, "attempts compared with the bill", compared)
    _add(outcome, "difference, nano-dollars", abs(money.spent - billed))
    await _sums_up(world, key, outcome)


async def _traffic(world: World, keys: Sequence[Key], wanted: int, traffic: Traffic, outcome: Outcome) -> Tally:
    """Let callers ask until the provider has billed so many attempts; then the faults are over."""
    capped, unlimited = keys
    callers = [Caller(world.gateway.port, capped.text) for _ in range(CALLERS)]
    callers += [Caller(world.gateway.port, unlimited.text) for _ in range(UNLIMITED)]
    watched = watching(world, capped.account, lacking=[unlimited.account])
    async with watched as watch, meanwhile(*map(traffic.act, callers)) as acting:
        while _attempts(world, keys) < wanted and not acting.done():  # noqa: ASYNC110  a file gives no sign
            await asyncio.sleep(0.1)
        traffic.enough.set()
        await acting
        world.redis_proxy.faults = world.upstream_proxy.faults = Faults()
    outcome.violate(*watch.violations)
    _add(outcome, "attempts", _attempts(world, keys))
    _add(outcome, "requests", traffic.tally.requests)
    _add(outcome, "samples", watch.samples)
    return traffic.tally


def _attempts(world: World, keys: Sequence[Key]) -> int:
    """How many the provider has billed."""
    return sum(len(world.provider.bill.rows(key.account)) for key in keys)


def _add(outcome: Outcome, name: str, figure: int) -> None:
    outcome.did[name] = int(outcome.did.get(name, 0)) + figure


async def _sums_up(world: World, key: Key, outcome: Outcome) -> None:
    """The account's money is that of its only key, and that of every period adds up."""
    whole, part = await world.money(key.account), await world.money(key.account, f"key:{key.id}")
    outcome.expect(whole == part, f"{key.account}: the account has {whole}, its key {part}")
    for scope in world.scopes(key):
        periods = await world.books.periods(key.account, scope)
        limited = await world.books.windows(key.account, scope)
        wrong = askew(periods, limited, (world.began_at, time.time()))
        outcome.violate(*(f"{key.account}, {scope}: {what}" for what in wrong))


def askew(periods: Mapping[str, Money], limited: Collection[str], lived: tuple[float, float]) -> list[str]:
    """What is wrong with a scope's periods when all is quiet, in words.

    `limited`: the windows that it has been limited in from its beginning, whose periods together have spent what its
    lifetime has. `lived`: from when to when, in Unix seconds, and so in which periods.
    """
    spent = Counter(dict.fromkeys(limited, 0))
    wrong = []
    for period, money in periods.items():
        window, _, start = period.partition(":")
        spent[window] += money.spent
        if money.held or money.suspense:
            wrong.append(f"{money} in {period} when all is quiet")
        if period != LIFETIME and not _is_within(window, int(start), lived):
            wrong.append(f"{money} in {period}, which it has not seen")
    whole = spent["lifetime"]
    for window, part in spent.items():
        if part > whole or (part < whole and window in limited):
            wrong.append(f"{part} spent by {window}, {whole} in all")
    return wrong


def _is_within(window: str, start: int, lived: tuple[float, float]) -> bool:
    """Whether a period was there by Redis' clock, which need not be ours."""
    began_at, ended_at = lived
    return start_of(window, began_at - MOST_APART) <= start <= ended_at + MOST_APART


def _disturbing(world: World, seed: int, counts: Counter[str]) -> AbstractAsyncContextManager[None]:
    """Somebody else's Redis server is only disturbed by the proxy before it."""
    return disturbed(world.redis, seed, counts) if world.owns_redis else nullcontext()


def _striking(world: World, seed: int, struck: Counter[str]) -> AbstractAsyncContextManager[None]:
    """Let workers raise, be cancelled, freeze and stall at points of their own all the while; none is killed.

    A worker that was frozen goes on at the end.
    """
    chance = random.Random(f"{seed}:points")  # noqa: S311 - replayable, not secret
    return throughout(partial(_strike, world, chance, struck))


async def _strike(world: World, chance: random.Random, struck: Counter[str], enough: asyncio.Event) -> None:
    faults = [(point, kind) for point, kinds in POINTS.items() for kind in sorted(kinds - {"kill"})]
    while not enough.is_set():
        point, kind = chance.choice(faults)
        fault = world.arm(point, kind, chance.uniform(0.01, 0.3))
        if await world.strikes(fault, patience=1.0) is not None:
            struck[f"worker: {kind}"] += 1
        await asyncio.sleep(chance.uniform(0, 0.1))
