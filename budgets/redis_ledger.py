"""The ledger on Redis. Every step is one script, so that all scopes move together or not at all."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from budgets import redis_layout
from budgets.errors import AttemptClosed, BudgetError, BudgetExceeded, LedgerUnavailable, ScriptFailed, StaleKey
from budgets.journal import Journal
from budgets.ledger import Attempt, Ending, LedgerCounters, LimitStatus, Reservation, Resolution, ScopeStatus
from budgets.money import MAX_NANO, NanoUSD
from budgets.outbox import Outbox
from budgets.redis_connection import RedisConnection, load_script
from budgets.windows import boundaries

BEATS_PER_LEASE = 3
"""A lease outlives two heartbeats that do not get through."""
BATCH = 500
"""Leases that one script renews or reaps, so that nobody else waits long for Redis."""
KEYS_REMEMBERED = 10_000
"""For how many keys a worker remembers what they have left."""

logger = logging.getLogger(__name__)


class RedisLedger:
    """Implements `budgets.ledger.Ledger`; see there for `reserve`, `resolve` and `remaining`.

    `lease` is for how many seconds a hold survives its worker, `tombstone` for how many a closed attempt is remembered.
    `run` must be running, or leases run out and what did not get through stays in the journal.
    """

    def __init__(
        self,
        connection: RedisConnection,
        journal: Journal,
        *,
        lease: float,
        tombstone: float,
        clock: Callable[[], float],
    ) -> None:
        self.counters = LedgerCounters()
        self._connection = connection
        self._clock = clock
        self._beat = lease / BEATS_PER_LEASE
        self._lease_ms = round(lease * 1000)
        self._outbox = Outbox(connection, journal, tombstone=tombstone, counters=self.counters, answered=self._resolved)
        self._scripts = {name: load_script(name) for name in ("reserve", "renew", "reap", "status")}
        self._running: dict[str, str] = {}  # attempt id → account, for those whose lease is to be renewed
        self._remaining: dict[str, NanoUSD] = {}  # by key id, the one heard of last at the end

    async def reserve(self, attempt: Attempt) -> Reservation:
        if attempt.amount > MAX_NANO:
            raise BudgetExceeded(attempt.scopes[0], "lifetime", MAX_NANO, MAX_NANO, attempt.amount, None)
        answer = self._script(
            "reserve",
            redis_layout.leases(attempt.account),
            attempt.id,
            attempt.key_id,
            attempt.key_version,
            attempt.amount,
            self._lease_ms,
            attempt.price_version,
            attempt.model,
            boundaries(self._clock()),
            *attempt.scopes,
        )
        was_sent = not answer.done()
        try:
            return self._granted(attempt, await answer)
        except (LedgerUnavailable, ScriptFailed, asyncio.CancelledError) as exc:
            if was_sent and not (isinstance(exc, LedgerUnavailable) and exc.answered):
                self._outbox.put(self._resolution("void", Reservation(attempt)))  # it may have run, or may still
            raise

    def _granted(self, attempt: Attempt, reply: list[Any]) -> Reservation:
        """The reservation that `reply` of reserve.lua grants. Raises what it refuses with."""
        self.counters.reaped += reply[1]
        if reply[0] != b"held":
            raise self._refusal(attempt, reply)
        _, _, remaining, holds = reply
        self.heard(attempt.key_id, remaining)
        self._running[attempt.id] = attempt.account
        return Reservation(attempt, holds.decode(), remaining)

    def _refusal(self, attempt: Attempt, reply: list[Any]) -> BudgetError:
        match reply:
            case [b"refused", _, tightest, scope, window, limit, free, resets_at, suspense]:
                self.heard(attempt.key_id, tightest)
                return BudgetExceeded(
                    scope.decode(),
                    window.decode(),
                    limit,
                    free,
                    attempt.amount,
                    _instant(resets_at),
                    suspense,
                )
            case [b"stale", _, version, record]:
                return StaleKey(None if record is None else record.decode(), version)
            case [b"closed", _, state]:
                return AttemptClosed(state.decode())
        raise AssertionError(f"reserve.lua returns no {reply!r}")

    def unbooked(self, attempt: Attempt) -> Reservation:
        """A reservation without a hold, for a caller without any limit while Redis is away.

        What it costs is booked into the lifetime of its scopes once Redis is back.
        """
        return Reservation(attempt, "\n".join(f"{scope} lifetime:0" for scope in attempt.scopes), booked=False)

    def resolve(self, reservation: Reservation) -> None:
        self._running.pop(reservation.attempt.id, None)
        cost = reservation.spent
        if cost is not None and 0 <= cost <= MAX_NANO:
            self._outbox.put(self._resolution("settle", reservation))
        elif reservation.sent or cost is not None:  # a cost that cannot be is as good as none
            self._outbox.put(self._resolution("suspend", reservation))
        elif reservation.booked:
            self._outbox.put(self._resolution("void", reservation))

    def remaining(self, key_id: str) -> NanoUSD | None:
        return self._remaining.get(key_id)

    async def status(self, account: str, scope: str) -> ScopeStatus:
        """What a scope (`account`, `key:<key id>`) has spent and may still spend. Raises LedgerUnavailable."""
        spent, held, suspense, *limits = await self._script(
            "status", redis_layout.scope(account, scope), boundaries(self._clock())
        )
        return ScopeStatus(
            spent,
            held,
            suspense,
            tuple(
                LimitStatus(window.decode(), limit, used, holding, waiting, _instant(resets_at))
                for window, limit, used, holding, waiting, resets_at in limits
            ),
        )

    async def drained(self) -> None:
        """Wait until Redis has acknowledged every resolution."""
        await self._outbox.drained()

    async def run(self) -> None:
        """Renew the leases of what is running, send again what failed, take over what dead workers left; for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._outbox.run(), name="ledger: send again")
            tasks.create_task(self._each_beat(self._renew), name="ledger: renew")
            tasks.create_task(self._each_beat(self._reap), name="ledger: reap")
            tasks.create_task(self._each_beat(self._outbox.adopt), name="ledger: adopt journals")

    async def _each_beat(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except LedgerUnavailable:
                pass  # whoever is refused for it says so
            except Exception:
                logger.exception("the ledger's background work failed, and is tried again")
            await asyncio.sleep(self._beat)

    async def _renew(self) -> None:
        by_account = defaultdict(list)
        for attempt_id, account in self._running.items():
            by_account[account].append(attempt_id)
        for account, ids in by_account.items():
            for start in range(0, len(ids), BATCH):
                await self._script("renew", redis_layout.leases(account), self._lease_ms, *ids[start : start + BATCH])

    async def _reap(self) -> None:
        for account in await self._connection.call("SMEMBERS", redis_layout.ACCOUNTS):
            reaped = BATCH
            while reaped == BATCH:
                reaped = await self._script("reap", redis_layout.leases(account.decode()), BATCH)
                self.counters.reaped += reaped

    def _script(self, name: str, key: str, *args: str | int) -> "asyncio.Future[Any]":
        return self._connection.script(self._scripts[name], (key,), args)

    def _resolution(self, kind: Ending, reservation: Reservation) -> Resolution:
        attempt = reservation.attempt
        return Resolution(
            kind=kind,
            attempt_id=attempt.id,
            account=attempt.account,
            key_id=attempt.key_id,
            holds=reservation.holds,
            amount=attempt.amount,
            spent=reservation.spent if kind == "settle" and reservation.spent else 0,
            estimate=min(max(reservation.estimate, 0), MAX_NANO) if kind == "suspend" else 0,
            price_version=attempt.price_version,
            model=attempt.model,
            booked=reservation.booked,
            at=self._clock(),
        )

    def _resolved(self, entry: Resolution, outcome: bytes) -> None:
        """Count what was out of the ordinary, and follow what the key has left."""
        counters = self.counters
        if outcome == b"orphan":
            counters.orphans += entry.booked
            counters.unbooked += not entry.booked
        elif outcome == b"late":
            counters.late += 1
        elif outcome == b"expired":
            counters.expired += 1
            logger.error("not booked, because it may have been before: %s", entry)
        if entry.spent > entry.amount and outcome in {b"settled", b"late", b"orphan"}:
            counters.overruns += 1
            logger.warning("attempt %s cost %d nano-USD and held %d", entry.attempt_id, entry.spent, entry.amount)
        left = self._remaining.get(entry.key_id)
        if left is not None and entry.holds and entry.kind != "suspend" and outcome in {b"settled", b"voided", b"late"}:
            self.heard(entry.key_id, left + entry.amount - entry.spent)

    def heard(self, key_id: str, remaining: NanoUSD | None) -> None:
        self._remaining.pop(key_id, None)
        if remaining is None:
            return
        self._remaining[key_id] = remaining
        if len(self._remaining) > KEYS_REMEMBERED:
            del self._remaining[next(iter(self._remaining))]


def _instant(seconds: int) -> float | None:
    """An instant as the scripts give it, where 0 stands for never."""
    return float(seconds) or None
