"""Two workers of the ledger against a provider's bill and a model in plain Python, under all faults together.

Messages are lost, unanswered, late or sent twice; workers are cut off or die; leases run out; Redis falls back to an
older state, or is emptied. After each step the books must become what the model says, and lie around the bill.
"""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvloop
from bank import LEASES, Bank, open_bank
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from ledger_model import Entry, Model
from workers import PATIENCE, POLICY, Fault, Message, Snapshot, Worker, open_worker

from budgets import redis_layout
from budgets.errors import BudgetExceeded, LedgerBehind, LedgerUnavailable
from budgets.ledger import Attempt, Reconciled, Reservation, reserved

ACCOUNT = "default"
PICKS = st.integers(0, 9)
AMOUNTS = st.integers(0, 5)
FAULTS = st.sampled_from([None, None, None, "lost", "unanswered", "late", "twice"])
Effect: TypeAlias = Callable[[Model], None]


@dataclass
class Teller:
    """A worker, and what it has to tell Redis: as soon as it can, and again where Redis may have lost it."""

    worker: Worker
    running: list[Reservation] = field(default_factory=list)
    journal: dict[str, Effect] = field(default_factory=dict)
    """By attempt, what it said of it last."""
    noted: dict[str, Effect] = field(default_factory=dict)
    """By attempt that runs without a hold, what its heir will say of it."""
    missed: bool = False
    """Whether Redis has lost something while the worker was cut off."""

    @property
    def is_cut(self) -> bool:
        return self.worker.wire.is_cut

    def tell_all(self, model: Model) -> None:
        for effect in self.journal.values():
            effect(model)
        for attempt in (each.attempt for each in self.running if each.booked):
            model.restore(attempt.id, attempt.amount, attempt.scopes)


class LedgerMachine(RuleBasedStateMachine):
    """A step is one thing that happens; then all is said that can be, and the books are looked at."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = uvloop.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(prefix="pm-")
        self.stack = AsyncExitStack()
        self.model = Model()
        self.bill: dict[str, int] = {}
        """What the provider bills, by attempt."""
        self.overruns: set[str] = set()
        """Attempts for which it bills more than was held."""
        self.orphans: set[str] = set()
        """Attempts whose worker died."""
        self.late: list[tuple[Message, Effect]] = []
        self.snapshot: tuple[Snapshot, dict[str, Entry], dict[str, int]] | None = None
        self.is_irrecoverable = False
        """Whether Redis may have lost steps that no journal has."""
        self.do(self.open())

    # How a step is made

    def do(self, step: Coroutine[Any, Any, None]) -> None:
        async def and_look() -> None:
            async with asyncio.timeout(PATIENCE):
                await step
                await self.become_as_expected()

        try:
            self.loop.run_until_complete(and_look())
        except TimeoutError:
            books, expected = self.loop.run_until_complete(self.books()), self.expected()
            assert books == expected, f"{books} is not {expected}"
            raise
        self.compare_with_the_bill()

    async def become_as_expected(self) -> None:
        while await self.books() != self.expected():  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(0)

    async def books(self) -> dict[str, Any]:
        status = {scope: await self.bank.ledger.status(ACCOUNT, scope) for scope in self.scopes}
        suspended = await self.bank.ledger.suspended(ACCOUNT, 0, 100)
        return {
            "open": {attempt.decode() for attempt in await self.bank.redis.zrange(LEASES, 0, -1)},
            "suspense": {each.attempt_id: (each.amount, each.estimate) for each in suspended},
            **{scope: (used.spent, used.held, used.suspense) for scope, used in status.items()},
        }

    def expected(self) -> dict[str, Any]:
        return {
            "open": set(self.known("open")),
            "suspense": {id_: (entry.amount, entry.estimate) for id_, entry in self.known("suspense").items()},
            **{scope: self.model.used(scope) for scope in self.scopes},
        }

    def known(self, *states: str) -> dict[str, Entry]:
        return {id_: entry for id_, entry in self.model.attempts.items() if entry.state in states}

    def compare_with_the_bill(self) -> None:
        """The first oracle: what is settled is what was billed (I2), and the rest lies within what is kept (I3)."""
        account, *keys = (self.model.used(scope) for scope in self.scopes)
        assert account == tuple(map(sum, zip(*keys, strict=True)))  # I7
        assert min(account) >= 0  # I1
        settled = self.known("settled")
        assert [entry.spent for entry in settled.values()] == [self.bill.get(id_, 0) for id_ in settled]
        for id_, entry in self.known("open", "suspense").items():
            assert self.bill.get(id_, 0) <= entry.amount or id_ in self.overruns
        told = {id_ for teller in self.connected for id_ in teller.journal if self.bill.get(id_)}
        open_ended = {reservation.attempt.id for _, reservation in self.running()} | self.orphans
        assert told - open_ended <= set(self.known("settled", "suspense", "accepted"))

    # The world

    async def open(self) -> None:
        admin = open_bank(self.url, self.path / "admin", accept_after=POLICY.accept_after, running=False)
        self.bank: Bank = await self.stack.enter_async_context(admin)
        await self.bank.redis.flushdb()
        self.keys = [await self.bank.key(), await self.bank.key()]
        self.scopes = ("account", *(f"key:{key.id}" for key in self.keys))
        self.tellers = [Teller(await self.open_worker()), Teller(await self.open_worker())]

    async def open_worker(self) -> Worker:
        return await self.stack.enter_async_context(open_worker(self.url, self.path / "workers"))

    @property
    def path(self) -> Path:
        return Path(self.folder.name)

    @property
    def connected(self) -> list[Teller]:
        return [teller for teller in self.tellers if not teller.is_cut]

    def running(self) -> list[tuple[Teller, Reservation]]:
        return [(teller, each) for teller in self.tellers for each in teller.running]

    def say(self, teller: Teller, attempt: str, effect: Effect) -> None:
        teller.journal[attempt] = effect
        if not teller.is_cut:
            effect(self.model)

    def keep_what_is_late(self, teller: Teller, effect: Effect) -> None:
        wire = teller.worker.wire
        wire.fault = None
        self.late += [(message, effect) for message in wire.late]
        wire.late.clear()

    # Requests

    @rule(scope=st.integers(0, 2), limit=st.integers(0, 30))
    def limit(self, scope: int, limit: int) -> None:
        self.do(self._limit(self.scopes[scope], limit))

    async def _limit(self, scope: str, limit: int) -> None:
        await self.bank.redis.hset(redis_layout.scope(ACCOUNT, scope), "limits", f"lifetime={limit}")
        self.model.limits[scope] = limit

    @rule(who=st.integers(0, 1), key=st.integers(0, 1), amount=AMOUNTS, capped=st.booleans(), fault=FAULTS)
    def begin(self, who: int, key: int, amount: int, capped: bool, fault: Fault | None) -> None:
        attempt = replace(self.bank.attempt(self.keys[key], amount), capped=capped)
        self.do(self._begin(self.tellers[who], attempt, fault))

    async def _begin(self, teller: Teller, attempt: Attempt, fault: Fault | None) -> None:
        id_, amount, scopes = attempt.id, attempt.amount, attempt.scopes
        heard, fits = not teller.is_cut and fault in {None, "twice"}, self.model.fits(amount, scopes)
        teller.worker.wire.fault = fault
        try:
            reservation = await reserved(teller.worker.ledger, attempt, nothing_tighter).__aenter__()
        except BudgetExceeded:
            assert (heard, fits) == (True, False)
        except LedgerUnavailable:
            assert (heard, attempt.capped) == (False, True)
        else:
            assert (reservation.booked, fits or not heard) == (heard, True)
            teller.running.append(reservation)
            if heard:
                self.model.hold(id_, amount, scopes)  # I4: it fits
            else:
                teller.noted[id_] = methodcaller("suspend", id_, amount, amount, scopes)
        if not (heard or teller.is_cut):
            self.say(teller, id_, methodcaller("void", id_))
            teller.journal = {each: said for each, said in teller.journal.items() if each not in teller.noted}
        self.keep_what_is_late(
            teller,
            lambda model: model.hold(id_, amount, scopes) if model.fits(amount, scopes) else None,
        )

    @rule(who=st.integers(0, 1), key=st.integers(0, 1), amount=AMOUNTS, turns=st.integers(0, 2))
    def begin_and_give_up(self, who: int, key: int, amount: int, turns: int) -> None:
        self.do(self._begin_and_give_up(self.tellers[who], self.bank.attempt(self.keys[key], amount), turns))

    async def _begin_and_give_up(self, teller: Teller, attempt: Attempt, turns: int) -> None:
        asking = asyncio.create_task(teller.worker.ledger.reserve(attempt))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        if asking.cancelled():
            if turns and not teller.is_cut:
                self.say(teller, attempt.id, methodcaller("void", attempt.id))
        elif not asking.exception():
            self.model.hold(attempt.id, attempt.amount, attempt.scopes)
            teller.running.append(asking.result())

    @rule(pick=PICKS, billed=AMOUNTS)
    @precondition(lambda self: self.running())
    def send(self, pick: int, billed: int) -> None:
        """The provider gets it, and bills something however it ends."""
        _, reservation = picked(self.running(), pick)
        reservation.sent = True
        self.bill.setdefault(reservation.attempt.id, min(billed, reservation.attempt.amount))

    @rule(pick=PICKS, more=AMOUNTS, fault=FAULTS)
    @precondition(lambda self: self.running())
    def extend(self, pick: int, more: int, fault: Fault | None) -> None:
        self.do(self._extend(*picked(self.running(), pick), more, fault))

    async def _extend(self, teller: Teller, reservation: Reservation, more: int, fault: Fault | None) -> None:
        attempt, wanted = reservation.attempt, reservation.attempt.amount + more
        heard = not reservation.booked or (not teller.is_cut and fault in {None, "twice"})
        state, fits = self.model.state(attempt.id), self.can_hold(attempt, wanted)

        def hold_more(model: Model) -> None:
            if model.state(attempt.id) == "open" and self.can_hold(attempt, wanted):
                model.hold(attempt.id, wanted, attempt.scopes)

        teller.worker.wire.fault = fault if reservation.booked else None
        try:
            await teller.worker.ledger.extend(reservation, more)
        except BudgetExceeded:
            assert (heard, state, fits) == (True, "open", False)
        except LedgerUnavailable:
            assert not heard or state != "open"
        else:
            assert (heard, attempt.amount) == (True, wanted)
        if reservation.booked and not teller.is_cut and fault not in {"lost", "late"}:
            hold_more(self.model)
        self.keep_what_is_late(teller, hold_more)

    def can_hold(self, attempt: Attempt, amount: int) -> bool:
        """Whether an attempt that holds something may hold so much."""
        known = self.model.attempts.get(attempt.id)
        return known is not None and self.model.fits(amount - known.amount, attempt.scopes)

    @rule(pick=PICKS, known=st.booleans(), overrun=st.sampled_from([0, 0, 0, 3]), fault=FAULTS)
    @precondition(lambda self: self.running())
    def end(self, pick: int, known: bool, overrun: int, fault: Fault | None) -> None:
        self.do(self._end(*picked(self.running(), pick), known, overrun, fault))

    async def _end(
        self, teller: Teller, reservation: Reservation, known: bool, overrun: int, fault: Fault | None
    ) -> None:
        attempt = reservation.attempt
        if not reservation.sent:
            effect: Effect = methodcaller("void", attempt.id)
        elif known:
            reservation.spent = attempt.amount + overrun if overrun else self.bill[attempt.id]
            self.bill[attempt.id] = reservation.spent
            self.overruns |= {attempt.id} if overrun else set()
            effect = methodcaller("settle", attempt.id, reservation.spent, attempt.scopes)
        else:
            reservation.estimator = lambda _: 1
            effect = methodcaller("suspend", attempt.id, attempt.amount, min(1, attempt.amount), attempt.scopes)
        teller.running.remove(reservation)
        teller.noted.pop(attempt.id, None)
        teller.worker.wire.fault = fault
        teller.worker.ledger.resolve(reservation)
        self.say(teller, attempt.id, effect)
        self.keep_what_is_late(teller, effect)

    @rule(pick=PICKS)
    @precondition(lambda self: self.late)
    def arrive_late(self, pick: int) -> None:
        self.do(self._arrive(*self.late.pop(pick % len(self.late))))

    async def _arrive(self, message: Message, effect: Effect) -> None:
        await message(self.bank.connection)
        effect(self.model)

    # What happens to workers

    @rule(who=st.integers(0, 1))
    def cut_off(self, who: int) -> None:
        self.tellers[who].worker.wire.is_cut = True

    @rule(who=st.integers(0, 1))
    def connect_again(self, who: int) -> None:
        self.do(self._connect_again(self.tellers[who]))

    async def _connect_again(self, teller: Teller) -> None:
        teller.worker.wire.is_cut = teller.missed = False
        teller.worker.wire.when_changed()
        teller.tell_all(self.model)
        await self.heal()

    @rule(who=st.integers(0, 1))
    @precondition(lambda self: self.running())
    def die(self, who: int) -> None:
        self.do(self._die(who))

    async def _die(self, who: int) -> None:
        """Another one takes the place of a worker that was killed, and what it had to say."""
        dead = self.tellers[who]
        await dead.worker.die()
        self.orphans |= {each.attempt.id for each in dead.running}
        self.overruns |= set(dead.noted)  # which may have been given more since
        heir = self.tellers[who] = Teller(await self.open_worker(), journal=dead.journal | dead.noted)
        heir.tell_all(self.model)
        await self.heal()

    @rule(pick=PICKS)
    @precondition(lambda self: self.known("open"))
    def let_a_lease_run_out(self, pick: int) -> None:
        self.do(self._let_leases_run_out([picked(list(self.known("open")), pick)]))

    async def _let_leases_run_out(self, attempts: list[str]) -> None:
        for attempt in attempts:
            while await self.bank.redis.zscore(LEASES, attempt) is not None:  # a heartbeat may come in between
                await self.bank.redis.zadd(LEASES, {attempt: 1}, xx=True)
                await self.bank.ledger.look()
            self.model.reap(attempt)

    # What becomes of suspense

    def waiting(self, *states: str) -> list[str]:
        """What is not under way any more."""
        return [id_ for id_ in self.known(*states) if id_ not in {each.attempt.id for _, each in self.running()}]

    @rule(pick=PICKS)
    @precondition(lambda self: self.known("suspense"))
    def accept_an_estimate(self, pick: int) -> None:
        self.do(self._accept(picked(list(self.known("suspense")), pick)))

    async def _accept(self, attempt: str) -> None:
        await self.bank.redis.zadd(redis_layout.suspense(ACCOUNT), {attempt: 1}, xx=True)
        await self.bank.ledger.look()
        self.model.accept(attempt)
        self.is_irrecoverable = True

    @rule(pick=PICKS)
    @precondition(lambda self: self.waiting("suspense", "accepted"))
    def reconcile(self, pick: int) -> None:
        self.do(self._reconcile(picked(self.waiting("suspense", "accepted"), pick)))

    async def _reconcile(self, attempt: str) -> None:
        billed = self.bill.setdefault(attempt, 0)
        before, told = self.model.attempts[attempt], await self.bank.ledger.reconcile(ACCOUNT, attempt, billed)
        self.model.reconcile(attempt, billed)
        if before.state == "accepted" and billed <= before.spent:
            assert (told.outcome, told.booked) == ("same" if billed == before.spent else "differs", before.spent)
        else:
            assert (told.outcome, told.booked) == ("resolved", billed)
            self.is_irrecoverable = True

    def unbilled(self) -> list[str]:
        return [id_ for id_ in self.known("suspense") if not self.bill.get(id_)]

    @rule(pick=PICKS)
    @precondition(lambda self: self.unbilled())
    def free(self, pick: int) -> None:
        self.do(self._free(picked(self.unbilled(), pick)))

    async def _free(self, attempt: str) -> None:
        if is_running := attempt not in self.waiting("suspense"):  # and ends seconds after it came to suspense
            await self.bank.redis.zadd(redis_layout.suspense(ACCOUNT), {attempt: 1}, xx=True)
        assert await self.bank.ledger.reconcile(ACCOUNT, attempt, None) == Reconciled("resolved", 0)
        self.model.free(attempt, was_running=is_running)
        self.is_irrecoverable = True

    # What Redis loses

    @rule()
    @precondition(lambda self: self.model.attempts)
    def take_a_snapshot(self) -> None:
        self.do(self._take_a_snapshot())

    async def _take_a_snapshot(self) -> None:
        self.snapshot = await Snapshot.of(self.bank.redis), dict(self.model.attempts), dict(self.model.limits)
        self.is_irrecoverable = any(teller.missed for teller in self.tellers)

    @rule()
    @precondition(lambda self: self.snapshot)
    def fall_back(self) -> None:
        self.do(self._fall_back())

    async def _fall_back(self) -> None:
        """What was acknowledged since the snapshot is gone."""
        assert self.snapshot is not None
        before, self.model.attempts, self.model.limits = self.snapshot[0], *map(dict, self.snapshot[1:])
        await before.put_back(self.bank.redis)
        await self._tell_again()

    async def _tell_again(self) -> None:
        for teller in self.tellers:
            teller.missed = teller.is_cut
        self.is_irrecoverable |= any(teller.is_cut for teller in self.tellers)  # what it told is with it alone
        for teller in self.connected:
            teller.worker.wire.when_changed()
            teller.tell_all(self.model)
        await self.heal()

    async def heal(self) -> None:
        """Wait until everybody who is connected finds that nothing is lost any more; else the operator confirms."""
        for ledger in (*(teller.worker.ledger for teller in self.connected), self.bank.ledger):
            await ledger.look()
            while ledger.behind and not self.is_irrecoverable:
                await asyncio.sleep(0)
                await ledger.look()
            if ledger.behind:
                await ledger.confirm(ACCOUNT)
                self.snapshot = None

    @rule()
    @precondition(lambda self: len(self.model.attempts) > 3)
    def be_emptied(self) -> None:
        self.do(self._be_emptied())

    async def _be_emptied(self) -> None:
        """All money is gone from Redis; the keys are made again."""
        for teller in self.connected:
            await teller.worker.ledger.look()
        knew = [teller for teller in self.connected if teller.worker.ledger.known(ACCOUNT)[0]]
        keys = await Snapshot.of(self.bank.redis, redis_layout.key(ACCOUNT, "*"), redis_layout.ACCOUNTS)
        self.model.attempts, self.model.limits, self.snapshot = {}, {}, None
        await keys.put_back(self.bank.redis)
        for teller in knew:
            with pytest.raises(LedgerBehind):
                await teller.worker.ledger.reserve(self.bank.attempt(self.keys[0], 0))
        self.is_irrecoverable = True
        await self._tell_again()

    def teardown(self) -> None:
        """In the end all is resolved, nothing is held (I6), and the books are the bill."""
        try:
            self.do(self._come_to_rest())
            assert self.known("open", "suspense") == {}
        finally:
            self.loop.run_until_complete(self.stack.aclose())
            self.loop.close()
            self.folder.cleanup()

    async def _come_to_rest(self) -> None:
        for teller in self.tellers:
            await self._connect_again(teller)
        for teller, reservation in self.running():
            await self._end(teller, reservation, known=True, overrun=0, fault=None)
        await self.become_as_expected()
        await self._let_leases_run_out(list(self.known("open")))
        for attempt in self.known("suspense"):
            await self._reconcile(attempt)


def picked(things: list[Any], pick: int) -> Any:
    return things[pick % len(things)]


async def nothing_tighter() -> None:
    return None


@pytest.mark.parametrize("derandomized", [True, False], ids=["the same as ever", "something new"])
def test_the_books_are_what_ten_lines_of_python_and_the_bill_say_whatever_goes_wrong(
    redis_url: str, derandomized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    LedgerMachine.url = redis_url
    monkeypatch.setattr("budgets.outbox.SHORTEST_PAUSE", 0.001)
    monkeypatch.setattr("budgets.outbox.LONGEST_PAUSE", 0.001)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        LedgerMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            derandomize=derandomized,
            suppress_health_check=list(HealthCheck),
        ),
    )
