"""The ledger on Redis. Every step is one script, so that all scopes move together or not at all."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from budgets import redis_layout
from budgets.errors import (
    AttemptClosed,
    BudgetError,
    BudgetExceeded,
    LedgerBehind,
    LedgerUnavailable,
    ScriptFailed,
    StaleKey,
)
from budgets.journal import Journal
from budgets.ledger import (
    Attempt,
    Ending,
    LedgerCounters,
    LimitStatus,
    Reconciled,
    Reservation,
    Resolution,
    ScopeStatus,
    Suspended,
)
from budgets.marks import Marks
from budgets.money import MAX_NANO, NanoUSD
from budgets.outbox import REMEMBERED_LONGER, Outbox
from budgets.redis_connection import RedisConnection, load_script
from budgets.windows import boundaries, start_of

BEATS_PER_LEASE = 3
"""A lease outlives two heartbeats that do not get through."""
BATCH = 500
"""Leases that one script renews or reaps, so that nobody else waits long for Redis."""
KEYS_REMEMBERED = 10_000
"""For how many keys a worker remembers what they have left."""
GUESSES_REMEMBERED = 30 * 86_400
"""Seconds for which the cost can still replace an estimate that was accepted, or nothing where no bill was found."""
SCRIPTS = ("reserve", "extend", "renew", "restore", "reap", "status", "suspense", "reconcile", "confirm")
UNREADABLE = "Redis answered what cannot be read"
CONTRADICTION = "what is held or in suspense is not what its attempts hold"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerPolicy:
    """How holds live and die; all in seconds."""

    lease: float
    """For how long a hold survives its worker."""
    tombstone: float
    """For how long an attempt that is closed is remembered."""
    accept_after: float | None = None
    """After how long in suspense our own estimate is booked; None for never."""


class RedisLedger:
    """Implements `budgets.ledger.Ledger`; see there for `reserve`, `extend`, `resolve` and `remaining`.

    `run` must be running, or leases run out and what did not get through stays in the journal.
    """

    def __init__(
        self,
        connection: RedisConnection,
        journal: Journal,
        marks: Marks,
        policy: LedgerPolicy,
        clock: Callable[[], float],
    ) -> None:
        self.counters = LedgerCounters()
        self._connection = connection
        self._marks = marks
        self._policy = policy
        self._clock = clock
        self._beat = policy.lease / BEATS_PER_LEASE
        self._lease_ms = round(policy.lease * 1000)
        self._outbox = Outbox(
            connection,
            journal,
            marks,
            tombstone=policy.tombstone,
            counters=self.counters,
            answered=self._resolved,
        )
        self._scripts = {name: load_script(name) for name in SCRIPTS}
        self._running: dict[str, Reservation] = {}  # by attempt id, those whose lease is to be renewed
        self._remaining: dict[str, NanoUSD] = {}  # by key id, the one heard of last at the end
        self.damaged: Mapping[str, str] = {}
        """The accounts whose ledger cannot be used, or contradicts itself, each with what is wrong."""
        self._doubtful = asyncio.Event()  # Redis may lack what it acknowledged
        connection.when_changed = self._doubt

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
            *self._marks.known(attempt.account),
            boundaries(self._clock()),
            *attempt.scopes,
        )
        was_sent = not answer.done()
        try:
            return self._granted(attempt, await answer)
        except (LedgerUnavailable, ScriptFailed, asyncio.CancelledError, GeneratorExit) as exc:
            if was_sent and not (isinstance(exc, LedgerUnavailable) and exc.answered):
                self._outbox.put(self._resolution("void", Reservation(attempt)))  # it may have run, or may still
            raise

    def _granted(self, attempt: Attempt, reply: list[Any]) -> Reservation:
        """The reservation that `reply` of reserve.lua grants. Raises what it refuses with."""
        try:
            self.counters.reaped += reply[1]
            if reply[0] != b"held":
                raise self._refusal(attempt, reply)
            _, _, remaining, holds, era, count = reply
            reservation = Reservation(attempt, holds.decode(), remaining)
            self._heard_mark(attempt.account, era, count)
        except (ValueError, TypeError, AttributeError, IndexError) as exc:  # bytes were lost or changed on the way
            raise LedgerUnavailable(UNREADABLE) from exc
        self.heard(attempt.key_id, remaining)
        self._running[attempt.id] = reservation
        return reservation

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
            case [b"behind", _, era, count]:
                self._heard_mark(attempt.account, era, count)
                reason = "Redis has lost what was spent last; it comes back from the journals, or has to be confirmed"
                return LedgerBehind(reason, answered=True, account=attempt.account)
        return LedgerUnavailable(UNREADABLE)

    async def extend(self, reservation: Reservation, more: NanoUSD) -> None:
        attempt = reservation.attempt
        if reservation.booked:
            leases, wanted = redis_layout.leases(attempt.account), attempt.amount + more
            reply = await self._script("extend", leases, attempt.id, wanted, *self._marks.known(attempt.account))
            match reply:
                case [b"held", remaining]:
                    reservation.remaining = remaining
                    self.heard(attempt.key_id, remaining)
                case [b"refused", _, scope, window, start, limit, free, suspense]:
                    name = window.decode()
                    resets_at = float(start_of(name, start, 1)) if start else None
                    raise BudgetExceeded(scope.decode(), name, limit, free, more, resets_at, suspense)
                case [b"behind"]:
                    raise LedgerBehind("Redis has lost what was spent last", answered=True, account=attempt.account)
                case _:
                    raise LedgerUnavailable("Redis does not hold this attempt any more", answered=True)
        attempt.amount += more

    def unbooked(self, attempt: Attempt) -> Reservation:
        """A reservation without a hold, for a caller without any limit while Redis is away.

        What it costs is booked into the lifetime of its scopes once Redis is back; all of it, where nobody is left to
        say.
        """
        holds = "\n".join(f"{scope} lifetime:0" for scope in attempt.scopes)
        reservation = Reservation(attempt, holds, booked=False)
        self._outbox.note(replace(self._resolution("suspend", reservation), estimate=attempt.amount))
        return reservation

    def resolve(self, reservation: Reservation) -> None:
        self._running.pop(reservation.attempt.id, None)
        cost = reservation.spent
        if cost is not None and 0 <= cost <= MAX_NANO:
            self._outbox.put(self._resolution("settle", reservation))
        elif reservation.sent or cost is not None:  # a cost that cannot be is as good as none
            self._outbox.put(self._resolution("suspend", reservation))
        else:
            self._outbox.put(self._resolution("void", reservation))

    def known(self, account: str) -> tuple[str, int]:
        return self._marks.known(account)

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

    async def suspended(self, account: str, start: int, count: int) -> list[Suspended]:
        """Up to `count` attempts in suspense, oldest first, from rank `start` on. Raises LedgerUnavailable."""
        listed = await self._connection.call("ZRANGE", redis_layout.suspense(account), start, start + count - 1)
        return await self.in_suspense(account, [attempt_id.decode() for attempt_id in listed])

    async def in_suspense(self, account: str, attempt_ids: Sequence[str]) -> list[Suspended]:
        """Those of the attempts, a thousand at most, that are in suspense. Raises LedgerUnavailable."""
        if not attempt_ids:
            return []
        listed = await self._script("suspense", redis_layout.leases(account), *attempt_ids)
        return [
            Suspended(
                attempt_id=attempt_id.decode(),
                account=account,
                key_id=key_id.decode(),
                model=model.decode(),
                price_version=prices.decode(),
                amount=amount,
                estimate=estimate,
                ended_at=float(ended_at),
            )
            for attempt_id, ended_at, amount, estimate, key_id, prices, model in listed
        ]

    async def reconcile(self, account: str, attempt_id: str, billed: NanoUSD | None) -> Reconciled:
        """Book what a provider billed for an attempt in suspense; of others, say what is booked.

        None, where a bill that should have it has not, frees it: what it costs after all is booked when it is told.
        Raises LedgerUnavailable; asked again, it answers `same`.
        """
        remembered = GUESSES_REMEMBERED if billed is None else self._policy.tombstone + REMEMBERED_LONGER
        bill = "" if billed is None else billed
        steps = int(self._marks.counts(account, self._clock(), is_new=True))
        how, booked, count = await self._script(
            "reconcile", redis_layout.leases(account), attempt_id, bill, round(remembered * 1000), steps
        )
        if count is not None:
            self._marks.counted(account, count)
            self.counters.reconciled += 1
        return Reconciled(how.decode(), booked)

    @property
    def behind(self) -> Mapping[str, float]:
        """The accounts of which Redis has lost something, each with since when that is known, in Unix seconds."""
        return self._marks.lost

    async def accounts(self) -> list[str]:
        """The names of all accounts, those too that Redis has forgotten. Raises LedgerUnavailable."""
        known = {name.decode() for name in await self._connection.call("SMEMBERS", redis_layout.ACCOUNTS)}
        return sorted(known | self._marks.accounts)

    async def look(self) -> None:
        """Look after every account now, and so find those that are behind. Raises LedgerUnavailable or OSError."""
        self._marks.save()
        await self._reap()

    async def confirm(self, account: str) -> None:
        """Take what Redis has of the account for the truth, although more was seen. Raises LedgerUnavailable."""
        era, _ = self._marks.known(account)
        self._heard_mark(account, *await self._script("confirm", redis_layout.leases(account), era))
        self._marks.save()

    async def drained(self) -> None:
        """Wait until Redis has acknowledged every resolution."""
        await self._outbox.drained()

    async def run(self) -> None:
        """Renew the leases of what is running, send again what failed, take over what dead workers left; for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._each_beat(self._outbox.run), name="ledger: send again")
                tasks.create_task(self._restore(), name="ledger: bring back what was lost")
                tasks.create_task(self._each_beat(self._renew), name="ledger: renew")
                tasks.create_task(self._each_beat(self._reap), name="ledger: reap")
                tasks.create_task(self._each_beat(self._tidy), name="ledger: adopt journals")
        finally:
            try:
                self._marks.save()
            except OSError as exc:
                logger.error("what was seen of the ledger cannot be written, and is not known after a restart: %s", exc)

    async def _each_beat(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._try(step)
            await asyncio.sleep(self._beat)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Whether the step succeeded."""
        try:
            await step()
        except LedgerUnavailable:
            return False  # whoever is refused for it says so
        except Exception:
            logger.exception("the ledger's background work failed, and is tried again")
            return False
        return True

    async def _restore(self) -> None:
        """Whenever Redis may have lost something: what is running and what was resolved lately, once more."""
        while True:
            await self._doubtful.wait()
            self._doubtful.clear()
            held = await self._try(self._hold_all_again)  # first, for their room is given to others meanwhile
            if not (await self._try(self._outbox.replay) and held):
                self._doubtful.set()
                await asyncio.sleep(self._beat)

    def _doubt(self) -> None:
        self._marks.doubt()
        self._doubtful.set()

    async def _hold_all_again(self) -> None:
        await _each(self._hold_again, list(self._running))

    async def _tidy(self) -> None:
        await self._outbox.adopt()
        self._marks.save()

    async def _renew(self) -> None:
        by_account = defaultdict(list)
        for attempt_id, reservation in self._running.items():
            by_account[reservation.attempt.account].append(attempt_id)
        await _each(lambda account: self._renew_account(account, by_account[account]), by_account)

    async def _renew_account(self, account: str, ids: list[str]) -> None:
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            without = await self._script("renew", redis_layout.leases(account), self._lease_ms, *batch)
            await _each(self._hold_again, [attempt_id.decode() for attempt_id in without])

    async def _hold_again(self, attempt_id: str) -> None:
        """Write a hold again where Redis does not have it, or not all of it, if its attempt is still running by now."""
        reservation = self._running.get(attempt_id)
        if reservation is None:
            return
        attempt = reservation.attempt
        state = await self._script(
            "restore",
            redis_layout.leases(attempt.account),
            attempt.id,
            attempt.amount,
            self._lease_ms,
            reservation.holds,
            attempt.key_id,
            attempt.price_version,
            attempt.model,
        )
        self.counters.restored += state == b"restored"

    async def _reap(self) -> None:
        """Look after every account, the idle ones too, and those that Redis has forgotten."""
        await _each(self._reap_account, await self.accounts())

    async def _reap_account(self, account: str) -> None:
        try:
            is_contradictory = await self._tend(account)
        except ScriptFailed as exc:
            self._found(account, str(exc))
        else:
            self._found(account, CONTRADICTION if is_contradictory else "")

    def _found(self, account: str, fault: str) -> None:
        if fault and fault != self.damaged.get(account):
            logger.error("the ledger of the account %s is damaged: %s", account, fault)
        self.damaged = {name: told for name, told in {**self.damaged, account: fault}.items() if told}

    async def _tend(self, account: str) -> bool:
        """Whether the account's sums contradict its attempts."""
        accept_after = self._policy.accept_after
        is_contradictory = False
        most = BATCH
        while most == BATCH:
            reaped, accepted, era, count, is_contradictory = await self._script(
                "reap",
                redis_layout.leases(account),
                BATCH,
                "" if accept_after is None else round(accept_after),
                GUESSES_REMEMBERED * 1000,
                *self._marks.known(account),
                boundaries(self._clock()),
            )
            self._heard_mark(account, era, count)
            self.counters.reaped += reaped
            self.counters.accepted += accepted
            most = max(reaped, accepted)
        return bool(is_contradictory)

    def _heard_mark(self, account: str, era: bytes, count: int) -> None:
        if self._marks.heard(account, era.decode(), count):
            self._doubtful.set()

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

    def _resolved(self, entry: Resolution, outcome: bytes, count: int | None) -> None:
        """Count what was out of the ordinary, and follow what the key has left."""
        counters = self.counters
        if count is not None:
            self._marks.counted(entry.account, count)
        if outcome == b"orphan":
            counters.orphans += entry.booked
            counters.unbooked += not entry.booked
        elif outcome in {b"late", b"corrected"}:
            counters.late += 1
        elif outcome == b"expired":
            counters.expired += 1
            logger.error("not booked, because it may have been before: %s", entry)
        if entry.spent > entry.amount and outcome in {b"settled", b"late", b"corrected", b"orphan"}:
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


async def _each(step: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
    """Do `step` for all, one after the other; what is damaged of one keeps none from the others."""
    for name in names:
        try:
            await step(name)
        except ScriptFailed as exc:
            logger.error("%s cannot be looked after: %s", name, exc)


def _instant(seconds: int) -> float | None:
    """An instant as the scripts give it, where 0 stands for never."""
    return float(seconds) or None
