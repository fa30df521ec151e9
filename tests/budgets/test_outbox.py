import asyncio
import itertools
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from bank import Bank, open_bank, until
from workers import Snapshot, Worker, open_worker

from budgets import redis_layout
from budgets.journal import Journal
from budgets.keys import KeyRecord
from budgets.ledger import LedgerCounters, Resolution
from budgets.outbox import SHORTEST_PAUSE, Outbox


def settle(attempt_id: str, key_id: str, spent: int) -> Resolution:
    """A settle as a worker that died has left it in its journal."""
    return Resolution(
        kind="settle",
        attempt_id=attempt_id,
        account="default",
        key_id=key_id,
        holds=f"account lifetime:0\nkey:{key_id} lifetime:0",
        amount=600,
        spent=spent,
        estimate=0,
        price_version="2026-11-22",
        model="small",
        booked=True,
        at=time.time(),
    )


def unheld(key_id: str) -> Resolution:
    """The settle of an attempt that ran without a hold, longer ago than Redis remembers any."""
    return replace(settle("att_default_1", key_id, 250), booked=False, at=time.time() - 7200)


async def test_a_resolution_is_in_the_journal_before_redis_hears_of_it(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path) as bank:
        key = await bank.key()
        reservation = await bank.ledger.reserve(bank.attempt(key, 600))
        reservation.spent = 250

        bank.ledger.resolve(reservation)

        assert [entry.spent for entry in bank.journal.pending()] == [250]
        await bank.ledger.drained()
        assert bank.journal.pending() == []


async def test_what_a_dead_worker_left_is_booked_by_a_living_one(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, running=False) as bank:
        key = await bank.key()
        reservation = await bank.ledger.reserve(bank.attempt(key, 600))
        dead = Journal(tmp_path, "dead")
        dead.append(settle(reservation.attempt.id, key.id, 250))
        dead.close()

    async with open_bank(redis_url, tmp_path) as bank:

        async def booked() -> bool:
            return await bank.used(key) == (250, 0, 0)

        await until(booked)
        await bank.ledger.drained()
        assert bank.ledger.counters.replays == 1


async def test_what_was_left_lying_in_the_journal_is_sent_at_the_next_beat(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, lease=0.3) as bank:
        key = await bank.key()
        bank.journal.append(settle("att_default_1", key.id, 250))  # and whoever was to send it has failed

        async def booked() -> bool:
            return bank.journal.depth == 0

        await until(booked)
        assert await bank.used(key) == (250, 0, 0)


async def test_an_error_of_ours_does_not_end_the_sending(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = itertools.count()
    send_again = Outbox._send_again

    async def fails_at_first(outbox: Outbox) -> None:
        if next(rounds) == 0:
            raise RuntimeError("a mistake")
        await send_again(outbox)

    monkeypatch.setattr(Outbox, "_send_again", fails_at_first)
    async with open_bank(redis_url, tmp_path, lease=0.3) as bank:
        key = await bank.key()
        bank.journal.append(settle("att_default_1", key.id, 250))

        async def booked() -> bool:
            return bank.journal.depth == 0

        await until(booked)
        assert await bank.used(key) == (250, 0, 0)
        assert "a mistake" in caplog.text


async def test_redis_that_forgot_its_scripts_is_told_them_again(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path) as bank:
        key = await bank.key()
        reservation = await bank.ledger.reserve(bank.attempt(key, 600))
        await bank.redis.script_flush()
        reservation.spent = 250

        bank.ledger.resolve(reservation)

        await bank.ledger.drained()
        assert await bank.used(key) == (250, 0, 0)


async def test_a_disk_that_is_full_is_no_reason_not_to_book(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bank(redis_url, tmp_path) as bank:
        key = await bank.key()
        reservation = await bank.ledger.reserve(bank.attempt(key, 600))
        reservation.spent = 250

        with full_disk():
            bank.ledger.resolve(reservation)

        await bank.ledger.drained()
        assert await bank.used(key) == (250, 0, 0)
        assert "the journal cannot be written" in caplog.text


async def test_case_30_what_redis_refuses_stays_in_the_journal_until_it_does_not(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bank(redis_url, tmp_path) as bank:
        key = await bank.key()
        reservation = bank.ledger.unbooked(bank.attempt(key, 600))
        reservation.spent = 250
        account = redis_layout.scope("default", "account")
        await bank.redis.set(account, "text")

        bank.ledger.resolve(reservation)

        async def refused() -> bool:
            return "WRONGTYPE" in caplog.text

        await until(refused)
        assert bank.journal.depth == 1

        await bank.redis.delete(account)
        await bank.ledger.drained()
        assert await bank.used(key) == (250, 0, 0)


@contextmanager
def full_disk() -> Iterator[None]:
    """Meanwhile no file of this process can grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_case_05_what_was_acknowledged_lately_is_sent_again_and_counts_once(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path, running=False) as bank:
        key = await bank.key()
        outcomes: list[bytes] = []
        outbox = Outbox(
            bank.connection,
            bank.journal,
            bank.marks,
            tombstone=3600,
            counters=LedgerCounters(),
            answered=lambda _, outcome, __: outcomes.append(outcome),
        )
        sending = asyncio.create_task(outbox.run())
        outbox.put(settle("att_default_kept", key.id, 250))
        outbox.put(settle("att_default_lost", key.id, 30))
        await outbox.drained()
        await bank.redis.delete("pm:{default}:attempt:att_default_lost")
        await bank.redis.hset(redis_layout.scope("default", f"key:{key.id}"), "lifetime:0", "250 0 0")

        await outbox.replay()
        await outbox.drained()

        assert sorted(outcomes) == [b"again", b"orphan", b"orphan", b"orphan"]
        assert await bank.used(key) == (280, 0, 0)
        sending.cancel()


async def test_what_a_dead_worker_was_acknowledged_lately_is_sent_again_by_its_heir(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path, running=False) as bank:
        key = await bank.key()
        dead = Journal(tmp_path, "dead")
        for attempt_id in ("att_default_acknowledged", "att_default_open"):
            dead.append(settle(attempt_id, key.id, 250))
        dead.acknowledge("att_default_acknowledged")
        dead.close()

    async with open_bank(redis_url, tmp_path) as bank:

        async def booked() -> bool:
            return await bank.used(key) == (500, 0, 0)

        await until(booked)


async def test_what_redis_never_held_is_not_booked_again_once_it_was_forgotten(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path) as bank:
        key = await bank.key()
        bank.ledger._outbox.put(unheld(key.id))
        await bank.ledger.drained()
        await bank.redis.delete("pm:{default}:attempt:att_default_1")  # its tombstone's time is over

        bank.connection.when_changed()

        async def expired() -> bool:
            return bank.ledger.counters.expired == 1

        await until(expired)
        assert await bank.used(key) == (250, 0, 0)


@pytest.mark.parametrize("ahead", [290, 0, -290])
async def test_case_09_redis_remembers_an_attempt_for_as_long_as_it_may_be_sent_again(
    redis_url: str, tmp_path: Path, ahead: int
) -> None:
    async with open_bank(redis_url, tmp_path, clock=lambda: time.time() + ahead) as bank:
        key = await bank.key()
        settled, voided, unknown = [await bank.ledger.reserve(bank.attempt(key, 600)) for _ in range(3)]
        settled.spent, unknown.sent = 250, True
        for reservation in (settled, voided, unknown):
            bank.ledger.resolve(reservation)
        await bank.ledger.drained()
        await bank.ledger.reconcile("default", unknown.attempt.id, 250)
        sent_until = time.time() + ahead + 3600

        for reservation in (settled, voided, unknown):
            forgotten_at = await bank.redis.pexpiretime(f"pm:{{default}}:attempt:{reservation.attempt.id}") / 1000
            assert forgotten_at > sent_until


async def test_case_02_what_waits_is_sent_as_soon_as_redis_is_back_however_long_it_was_away(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def shortest(_: float, longest: float) -> float:
        pauses.append(longest)
        return 0.0

    monkeypatch.setattr("budgets.outbox.random.uniform", shortest)
    async with open_bank(redis_url, tmp_path / "admin", running=False) as bank:
        key = await bank.key()
        async with open_worker(redis_url, tmp_path / "workers") as worker:
            worker.wire.is_cut = True
            worker.ledger._outbox.put(settle("att_default_1", key.id, 250))

            async def for_long() -> bool:
                return len(pauses) > 20

            await until(for_long)
            worker.wire.is_cut = False

            await worker.ledger.drained()
            assert await bank.used(key) == (250, 0, 0)
            assert max(pauses) == SHORTEST_PAUSE


async def test_case_05_what_an_outage_left_waiting_does_not_pass_for_what_was_lost(
    redis_url: str, tmp_path: Path
) -> None:
    async with (
        open_bank(redis_url, tmp_path / "elsewhere", running=False) as bank,
        open_worker(redis_url, tmp_path / "here") as worker,
    ):
        key = await bank.key("1/day")
        await bank.book(key, held=600, spent=250)
        older = await Snapshot.of(bank.redis)
        for _ in range(3):
            await bank.book(key, held=600, spent=250)
        await worker.ledger.look()
        worker.wire.is_cut = True
        for number in range(5):
            worker.ledger._outbox.put(settle(f"att_default_{number}", key.id, 1))
        await older.put_back(bank.redis)
        worker.wire.when_changed()
        worker.wire.is_cut = False

        await worker.ledger.drained()
        await worker.ledger.look()

        assert await bank.used(key) == (255, 0, 0)
        assert list(worker.ledger.behind) == ["default"]


# What Redis never held: it cannot tell such an attempt that is new from one that was booked and forgotten


async def send_without_an_answer(bank: Bank, worker: Worker, key: KeyRecord) -> None:
    """Redis books it and forgets it, and nobody has heard that it did."""
    worker.wire.fault = "unanswered"
    worker.ledger._outbox.put(unheld(key.id))
    worker.wire.is_cut = True

    async def booked() -> bool:
        return await bank.used(key) == (250, 0, 0)

    await until(booked)
    await bank.redis.delete("pm:{default}:attempt:att_default_1")  # its tombstone's time is over


async def test_case_09_what_redis_never_held_is_not_booked_again_where_its_answer_was_lost(
    redis_url: str, tmp_path: Path
) -> None:
    async with (
        open_bank(redis_url, tmp_path / "admin", running=False) as bank,
        open_worker(redis_url, tmp_path / "workers") as worker,
    ):
        key = await bank.key()
        await send_without_an_answer(bank, worker, key)

        worker.wire.is_cut = False

        await worker.ledger.drained()
        assert await bank.used(key) == (250, 0, 0)
        assert worker.ledger.counters.expired == 1


async def test_case_09_what_redis_never_held_is_not_booked_again_by_the_heir_of_a_worker_that_sent_it(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path / "admin", running=False) as bank:
        key = await bank.key()
        async with open_worker(redis_url, tmp_path / "workers") as dead:
            await send_without_an_answer(bank, dead, key)

        async with open_worker(redis_url, tmp_path / "workers") as heir:

            async def expired() -> bool:
                return heir.ledger.counters.expired == 1

            await until(expired)
            await heir.ledger.drained()
            assert await bank.used(key) == (250, 0, 0)


async def test_case_09_what_redis_refused_is_booked_however_long_it_refused_it(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path) as bank:
        key = await bank.key()
        await bank.redis.config_set("maxmemory", 1)
        try:
            bank.ledger._outbox.put(unheld(key.id))

            async def refused() -> bool:
                return bank.ledger.counters.replays > 0

            await until(refused)
        finally:
            await bank.redis.config_set("maxmemory", 0)

        await bank.ledger.drained()
        assert await bank.used(key) == (250, 0, 0)


async def test_case_06_what_runs_without_a_hold_is_in_suspense_when_its_worker_dies(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path / "admin", running=False) as bank:
        key = await bank.key()
        async with open_worker(redis_url, tmp_path / "workers") as dead:
            dead.ledger.unbooked(bank.attempt(key, 600))
            ended = dead.ledger.unbooked(bank.attempt(key, 600))
            ended.spent = 250
            dead.wire.fault = "lost"
            dead.ledger.resolve(ended)  # sent again, beside that of the other, which runs on

            async def sent_again() -> bool:
                return await bank.used(key) == (250, 0, 0) and dead.journal.depth == 1

            await until(sent_again)

        async with open_worker(redis_url, tmp_path / "workers") as heir:

            async def adopted() -> bool:
                return heir.ledger.counters.unbooked == 1

            await until(adopted)
            assert await bank.used(key) == (250, 0, 600)
            (suspended,) = await heir.ledger.suspended("default", 0, 2)
            assert suspended.estimate == 600  # nobody is left who knows better


async def test_case_09_what_was_never_sent_is_booked_by_an_heir_however_old_it_is(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path / "admin", running=False) as bank:
        key = await bank.key()
        async with open_worker(redis_url, tmp_path / "workers") as dead:
            dead.wire.is_cut = True
            dead.ledger._outbox.put(unheld(key.id))

        async with open_worker(redis_url, tmp_path / "workers") as heir:

            async def booked() -> bool:
                return heir.ledger.counters.unbooked == 1

            await until(booked)
            assert await bank.used(key) == (250, 0, 0)
