"""The ledger where Redis loses what it had, or nobody knows a cost: replay, restore, confirm, extend, reconcile."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bank import LEASES, Bank, open_bank, until
from workers import Snapshot

from budgets import redis_layout
from budgets.errors import BudgetExceeded, LedgerBehind, LedgerUnavailable
from budgets.keys import KeyRecord
from budgets.ledger import Reconciled


@pytest.fixture
async def bank(redis_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(redis_url, tmp_path, lease=0.3) as bank:
        yield bank


async def admits(bank: Bank, key: KeyRecord, amount: int = 1) -> bool:
    try:
        reservation = await bank.ledger.reserve(bank.attempt(key, amount))
    except LedgerBehind:
        return False
    bank.ledger.resolve(reservation)
    return True


async def test_case_05_what_an_old_state_lacks_comes_back_from_the_journal(bank: Bank) -> None:
    key = await bank.key("1/day")
    await bank.book(key, held=600, spent=250)
    before = await Snapshot.of(bank.redis)
    await bank.book(key, held=600, spent=111)
    unknown = await bank.ledger.reserve(bank.attempt(key, 70))
    unknown.sent = True
    bank.ledger.resolve(unknown)
    await bank.ledger.drained()

    await before.put_back(bank.redis)
    assert not await admits(bank, key)

    async def healed() -> bool:
        return await bank.used(key) == (361, 0, 70) and not bank.ledger.behind

    await until(healed)
    assert await admits(bank, key)


async def test_case_05_the_hold_of_a_running_attempt_is_written_again(bank: Bank) -> None:
    key = await bank.key("1/day")
    before = await Snapshot.of(bank.redis)
    running = await bank.ledger.reserve(bank.attempt(key, 600))

    await before.put_back(bank.redis)

    async def restored() -> bool:
        return await bank.used(key) == (0, 600, 0)

    await until(restored)
    assert bank.ledger.counters.restored == 1
    running.spent = 250
    bank.ledger.resolve(running)
    await bank.ledger.drained()
    assert await bank.used(key) == (250, 0, 0)


async def test_case_07_an_emptied_redis_refuses_until_an_operator_confirms(bank: Bank) -> None:
    key = await bank.key("1/day")
    await bank.book(key, held=600, spent=250)
    await bank.redis.flushall()

    with pytest.raises(LedgerBehind) as refusal:
        await bank.ledger.reserve(bank.attempt(key, 1))
    assert refusal.value.account == "default"
    assert list(bank.ledger.behind) == ["default"]

    await bank.ledger.confirm("default")

    assert not bank.ledger.behind
    fresh = await bank.key("1/day")
    assert await admits(bank, fresh)


async def test_case_07_a_loss_is_noticed_without_any_caller(bank: Bank) -> None:
    key = await bank.key("1/day")
    await bank.book(key, held=600, spent=250)
    await bank.redis.flushall()

    async def noticed() -> bool:
        return "default" in bank.ledger.behind

    await until(noticed)


async def test_case_07_a_loss_while_nothing_ran_is_noticed_at_the_next_start(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, lease=0.3) as before:
        key = await before.key("1/day")
        await before.book(key, held=600, spent=250)
        marks = tmp_path / "marks.json"

        async def saved() -> bool:
            return marks.exists()

        await until(saved)
        await before.redis.flushall()

    async with open_bank(redis_url, tmp_path, running=False) as after:
        with pytest.raises(LedgerBehind):
            await after.ledger.reserve(after.attempt(key, 1))


async def test_another_gateway_takes_what_was_confirmed(redis_url: str, tmp_path: Path) -> None:
    async with (
        open_bank(redis_url, tmp_path / "one", lease=0.3) as one,
        open_bank(redis_url, tmp_path / "two", lease=0.3) as two,
    ):
        key = await one.key("1/day")
        for bank in (one, two):
            await bank.book(key, held=600, spent=250)
        await one.redis.delete(redis_layout.mark("default"))
        assert not await admits(two, key)

        await one.ledger.confirm("default")

        assert await admits(two, key)


async def test_an_attempt_can_hold_more(bank: Bank) -> None:
    key = await bank.key("0.000001/lifetime")
    reservation = await bank.ledger.reserve(bank.attempt(key, 600))

    await bank.ledger.extend(reservation, 300)

    assert reservation.attempt.amount == 900
    assert (reservation.remaining, bank.ledger.remaining(key.id)) == (100, 100)
    assert await bank.used(key) == (0, 900, 0)
    with pytest.raises(BudgetExceeded) as refusal:
        await bank.ledger.extend(reservation, 101)
    assert refusal.value == BudgetExceeded(f"key:{key.id}", "lifetime", 1000, 100, 101, None)
    assert reservation.attempt.amount == 900


async def test_a_limit_that_resets_says_when_it_refuses_more(bank: Bank) -> None:
    key = await bank.key("0.000001/day")
    reservation = await bank.ledger.reserve(bank.attempt(key, 600))

    with pytest.raises(BudgetExceeded) as refusal:
        await bank.ledger.extend(reservation, 500)

    assert refusal.value.resets_at == (await bank.status(key)).limits[0].resets_at


async def test_more_cannot_be_held_for_what_redis_does_not_hold(bank: Bank) -> None:
    key = await bank.key()
    reservation = await bank.ledger.reserve(bank.attempt(key, 600))
    await bank.let_leases_run_out()
    await bank.book(key, held=1, spent=1)  # reaps on its way

    with pytest.raises(LedgerUnavailable):
        await bank.ledger.extend(reservation, 300)

    unbooked = bank.ledger.unbooked(bank.attempt(key, 600))
    await bank.ledger.extend(unbooked, 300)
    assert unbooked.attempt.amount == 900


async def test_what_is_in_suspense_is_listed_and_resolved_by_a_bill(bank: Bank) -> None:
    key = await bank.key("1/day")
    reservation = await bank.ledger.reserve(bank.attempt(key, 600))
    reservation.sent = True
    reservation.estimator = lambda _: 40
    bank.ledger.resolve(reservation)
    await bank.ledger.drained()

    (suspended,) = await bank.ledger.suspended("default", 0, 10)
    assert (suspended.attempt_id, suspended.key_id, suspended.account) == (reservation.attempt.id, key.id, "default")
    assert (suspended.amount, suspended.estimate, suspended.model) == (600, 40, "small")

    assert await bank.ledger.reconcile("default", suspended.attempt_id, 70) == Reconciled("resolved", 70)
    assert await bank.used(key) == (70, 0, 0)
    assert await bank.ledger.suspended("default", 0, 10) == []
    assert bank.ledger.counters.reconciled == 1


async def test_an_estimate_is_booked_where_nobody_reconciles(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, lease=0.3, accept_after=0) as bank:
        key = await bank.key("1/day")
        reservation = await bank.ledger.reserve(bank.attempt(key, 600))
        reservation.sent = True
        reservation.estimator = lambda _: 40
        bank.ledger.resolve(reservation)

        async def accepted() -> bool:
            return await bank.used(key) == (40, 0, 0)

        await until(accepted)
        assert bank.ledger.counters.accepted == 1


async def test_another_server_behind_the_address_gets_what_was_settled_lately(bank: Bank) -> None:
    key = await bank.key("1/day")
    await bank.book(key, held=600, spent=250)
    before = bank.ledger.counters.replays

    bank.connection.when_changed()

    async def replayed() -> bool:
        await asyncio.sleep(0)
        return bank.ledger.counters.replays > before

    await until(replayed)
    await bank.ledger.drained()
    assert await bank.used(key) == (250, 0, 0)
    assert await bank.redis.zcard(LEASES) == 0


async def test_case_30_an_account_that_is_damaged_does_not_keep_others_from_being_looked_after(bank: Bank) -> None:
    key = await bank.key("1/day")
    await bank.redis.sadd(redis_layout.ACCOUNTS, "aaa")
    await bank.redis.set(redis_layout.leases("aaa"), "text")
    await bank.ledger.reserve(bank.attempt(key, 600))
    bank.ledger._running.clear()
    await bank.let_leases_run_out()

    await bank.ledger.look()

    assert await bank.used(key) == (0, 0, 600)


@pytest.mark.parametrize("sums", ["0 600 0", "0 0 600", "0 -1 0", "0 0 -1"])
async def test_sums_that_no_attempt_explains_are_told_until_they_are_mended(
    bank: Bank, sums: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = await bank.key("1/day")
    await bank.book(key, held=600, spent=250)
    await bank.ledger.look()
    assert bank.ledger.damaged == {}
    account = redis_layout.scope("default", "account")
    sound = await bank.redis.hget(account, "lifetime:0")

    await bank.redis.hset(account, "lifetime:0", sums)
    for _ in range(3):
        await bank.ledger.look()
        assert list(bank.ledger.damaged) == ["default"]
        assert caplog.text.count("the ledger of the account default is damaged: what is held") == 1
    await bank.redis.hset(account, "lifetime:0", sound)
    await bank.ledger.look()
    assert bank.ledger.damaged == {}


async def test_a_disk_that_takes_no_marks_does_not_make_an_end_in_order_a_failure(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bank(redis_url, tmp_path, running=False) as bank:
        await bank.book(await bank.key(), held=600, spent=250)
        (tmp_path / "marks.json").mkdir()
        work = asyncio.create_task(bank.ledger.run())
        await asyncio.sleep(0)
        work.cancel()

        with pytest.raises(asyncio.CancelledError):
            await work

    assert "cannot be written" in caplog.text


async def test_what_attempts_hold_and_have_in_suspense_is_no_contradiction(bank: Bank) -> None:
    key = await bank.key("1/day")
    held, unknown = [await bank.ledger.reserve(bank.attempt(key, 600)) for _ in range(2)]
    unknown.sent = True
    bank.ledger.resolve(unknown)
    await bank.ledger.drained()

    await bank.ledger.look()

    assert bank.ledger.damaged == {}
    bank.ledger.resolve(held)


async def test_case_30_an_account_that_is_damaged_does_not_keep_others_from_being_renewed(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path, running=False) as bank:
        damaged, _ = await bank.keys.create("a key", account="aaa")
        for key in (damaged, await bank.key("1/day")):
            await bank.ledger.reserve(bank.attempt(key, 600))
        await bank.redis.set(redis_layout.leases("aaa"), "text")
        await bank.let_leases_run_out()

        await bank.ledger._renew()

        ((_, ends),) = await bank.redis.zrange(LEASES, 0, -1, withscores=True)
        assert ends > time.time() * 1000


async def test_case_10_the_cost_takes_the_place_of_the_estimate_that_was_accepted_for_it(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path, accept_after=0, running=False) as bank:
        key = await bank.key("1/day")
        costs = 250, 600, 800
        running = [await bank.ledger.reserve(bank.attempt(key, 600)) for _ in costs]
        await bank.let_leases_run_out()
        await bank.ledger.look()
        assert await bank.used(key) == (3 * 600, 0, 0)

        for reservation, cost in zip(running, costs, strict=True):
            reservation.spent = cost
            bank.ledger.resolve(reservation)

        await bank.ledger.drained()
        assert await bank.used(key) == (sum(costs), 0, 0)
        assert (bank.ledger.counters.late, bank.ledger.counters.overruns) == (3, 1)


async def test_what_is_freed_as_not_billed_is_booked_when_it_ends_after_all(redis_url: str, tmp_path: Path) -> None:
    later = 0.0
    async with open_bank(redis_url, tmp_path, clock=lambda: time.time() + later) as bank:
        key = await bank.key("1/day")
        known, unknown, suspended = [await bank.ledger.reserve(bank.attempt(key, 600)) for _ in range(3)]
        suspended.sent = True
        bank.ledger.resolve(suspended)
        await bank.let_leases_run_out()
        await bank.ledger.look()
        await bank.ledger.drained()
        ids = [each.attempt.id for each in (known, unknown, suspended)]
        since = int(time.time()) - 3  # the clock of Redis cannot be moved: what the gateway's will be, less a little
        await bank.redis.zadd(redis_layout.suspense("default"), dict.fromkeys(ids, since))
        answers = [await bank.ledger.reconcile("default", id_, None) for id_ in ids]
        assert answers == [Reconciled("resolved", 0)] * 3
        assert await bank.used(key) == (0, 0, 0)

        later = 5.0
        known.spent, unknown.sent = 250, True
        for reservation in (known, unknown):
            bank.ledger.resolve(reservation)
        await bank.ledger._outbox.replay()

        await bank.ledger.drained()
        assert await bank.used(key) == (250, 0, 600)
        assert [each.attempt_id for each in await bank.ledger.suspended("default", 0, 10)] == [ids[1]]


@pytest.mark.parametrize("skew", [-200.0, 200.0])
async def test_case_08_what_ended_before_it_was_freed_is_told_from_what_ended_later_by_any_clock(
    redis_url: str, tmp_path: Path, skew: float
) -> None:
    async with open_bank(redis_url, tmp_path, clock=lambda: time.time() + skew) as bank:
        key = await bank.key()
        before, after = [await bank.ledger.reserve(bank.attempt(key, 600)) for _ in range(2)]
        before.sent = after.sent = True
        bank.ledger.resolve(before)
        await bank.let_leases_run_out()
        await bank.ledger.look()
        await bank.ledger.drained()
        now, ids = int(time.time()), [reservation.attempt.id for reservation in (before, after)]
        await bank.redis.zadd(redis_layout.suspense("default"), {ids[0]: now + 1, ids[1]: now - 3})
        for id_ in ids:
            await bank.ledger.reconcile("default", id_, None)

        bank.ledger.resolve(after)
        await bank.ledger._outbox.replay()

        await bank.ledger.drained()
        assert [each.attempt_id for each in await bank.ledger.suspended("default", 0, 10)] == ids[1:]
