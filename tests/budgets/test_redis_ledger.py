import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from bank import LEASES, Bank, Server, open_bank, until

from budgets import redis_layout
from budgets.errors import AttemptClosed, BudgetExceeded, LedgerUnavailable, ScriptFailed, StaleKey
from budgets.keys import KeyRecord
from budgets.ledger import LimitStatus, reserved
from budgets.money import MAX_NANO
from budgets.windows import start_of

SCOPE = redis_layout.scope("default", "account")


@pytest.fixture
async def bank(redis_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(redis_url, tmp_path) as bank:
        yield bank


async def nothing_tighter() -> None:
    return None


async def test_what_was_held_and_not_spent_is_there_again(bank: Bank) -> None:
    key = await bank.key("0.000001/lifetime")

    async with reserved(bank.ledger, bank.attempt(key, 600), nothing_tighter) as reservation:
        assert await bank.used(key) == (0, 600, 0)
        assert (reservation.remaining, bank.ledger.remaining(key.id)) == (400, 400)
        reservation.spent = 250

    await bank.ledger.drained()
    assert await bank.used(key) == (250, 0, 0)
    assert bank.ledger.remaining(key.id) == 750


async def test_an_attempt_that_was_never_sent_costs_nothing(bank: Bank) -> None:
    key = await bank.key("0.000001/lifetime")

    async with reserved(bank.ledger, bank.attempt(key, 600), nothing_tighter):
        pass

    await bank.ledger.drained()
    assert await bank.used(key) == (0, 0, 0)
    assert bank.ledger.remaining(key.id) == 1000


async def test_case_13_an_attempt_that_was_sent_and_not_answered_is_in_suspense(bank: Bank) -> None:
    key = await bank.key("0.000001/lifetime")

    async with reserved(bank.ledger, bank.attempt(key, 600), nothing_tighter) as reservation:
        reservation.sent = True
        reservation.estimator = lambda _: 40

    await bank.ledger.drained()
    assert await bank.used(key) == (0, 0, 600)
    assert bank.ledger.remaining(key.id) == 400


@pytest.mark.parametrize("cost", [-1, MAX_NANO + 1])
async def test_case_22_a_cost_that_cannot_be_is_as_good_as_none(bank: Bank, cost: int) -> None:
    key = await bank.key()
    reservation = await bank.ledger.reserve(bank.attempt(key, 600))
    reservation.spent = cost
    reservation.estimator = lambda _: cost

    bank.ledger.resolve(reservation)

    await bank.ledger.drained()
    assert await bank.used(key) == (0, 0, 600)


async def test_a_refusal_says_all_that_the_caller_must_know(bank: Bank) -> None:
    key = await bank.key("0.000001/day", "5/lifetime")
    await bank.book(key, held=400, spent=400)

    with pytest.raises(BudgetExceeded) as refusal:
        await bank.ledger.reserve(bank.attempt(key, 601))

    tomorrow = float(start_of("day", time.time(), 1))
    assert refusal.value == BudgetExceeded(f"key:{key.id}", "day", 1000, 600, 601, tomorrow)
    assert bank.ledger.remaining(key.id) == 600
    assert bank.journal.depth == 0


async def test_a_lifetime_limit_never_resets(bank: Bank) -> None:
    with pytest.raises(BudgetExceeded) as refusal:
        await bank.ledger.reserve(bank.attempt(await bank.key("0/lifetime"), 1))

    assert refusal.value.resets_at is None


async def test_more_than_anybody_can_have_is_refused_without_asking(bank: Bank) -> None:
    with pytest.raises(BudgetExceeded) as refusal:
        await bank.ledger.reserve(bank.attempt(await bank.key(), MAX_NANO + 1))

    assert (refusal.value.limit, refusal.value.needed) == (MAX_NANO, MAX_NANO + 1)


async def test_the_status_tells_each_limit_with_its_own_period(bank: Bank) -> None:
    key = await bank.key("0.000001/day", "5/lifetime")
    await bank.book(key, held=400, spent=300)
    await bank.ledger.reserve(bank.attempt(key, 200))

    status = await bank.status(key)

    assert (status.spent, status.held, status.suspense) == (300, 200, 0)
    assert status.limits == (
        LimitStatus("lifetime", 5_000_000_000, 300, 200, 0, None),
        LimitStatus("day", 1000, 300, 200, 0, float(start_of("day", time.time(), 1))),
    )
    assert [limit.remaining for limit in status.limits] == [4_999_999_500, 500]


async def test_a_scope_that_never_spent_has_a_status_of_nothing(bank: Bank) -> None:
    status = await bank.ledger.status("nobody", "account")

    assert (status.spent, status.held, status.suspense, status.limits) == (0, 0, 0, ())


@pytest.mark.parametrize("room", [1, 37])
async def test_case_14_racers_for_the_last_dollar_admit_exactly_k(redis_url: str, tmp_path: Path, room: int) -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(open_bank(redis_url, tmp_path)) for _ in range(8)]
        key = await workers[0].key(f"0.{room:07}/day")  # room for so many holds of 100 nano-USD

        async def race(worker: Bank) -> bool:
            try:
                await worker.ledger.reserve(worker.attempt(key, 100))
            except BudgetExceeded:
                return False
            return True

        admitted = await asyncio.gather(*(race(workers[number % 8]) for number in range(800)))

        assert sum(admitted) == room
        assert await workers[0].used(key) == (0, 100 * room, 0)


async def test_case_10_of_many_settles_of_one_attempt_one_counts(redis_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(open_bank(redis_url, tmp_path)) for _ in range(8)]
        key = await workers[0].key()
        reservation = await workers[0].ledger.reserve(workers[0].attempt(key, 600))
        reservation.spent = 250

        for number in range(64):
            workers[number % 8].ledger.resolve(reservation)

        await asyncio.gather(*(worker.ledger.drained() for worker in workers))
        assert await workers[0].used(key) == (250, 0, 0)


async def test_case_16_racers_on_a_new_key_meet_the_accounts_limit(bank: Bank) -> None:
    await bank.keys.set_account_limits("default", [])
    keys = [await bank.key() for _ in range(20)]
    await bank.redis.hset(SCOPE, "limits", "lifetime=7")

    async def race(key: KeyRecord) -> bool:
        try:
            await bank.ledger.reserve(bank.attempt(key, 1))
        except BudgetExceeded:
            return False
        return True

    assert sum(await asyncio.gather(*map(race, keys))) == 7


async def test_case_33_a_key_that_was_blocked_is_stale_at_once(bank: Bank) -> None:
    key = await bank.key()
    changed = await bank.keys.update(key.id, {"blocked": True})

    with pytest.raises(StaleKey) as stale:
        await bank.ledger.reserve(bank.attempt(key, 1))

    assert stale.value.version == 2
    assert stale.value.record is not None
    assert KeyRecord.from_json(stale.value.record) == changed


async def test_case_33_a_key_that_was_deleted_is_stale_and_its_running_attempt_still_pays(bank: Bank) -> None:
    key = await bank.key()
    running = await bank.ledger.reserve(bank.attempt(key, 600))
    await bank.keys.delete(key.id)

    with pytest.raises(StaleKey) as stale:
        await bank.ledger.reserve(bank.attempt(key, 1))
    running.spent = 250
    bank.ledger.resolve(running)

    await bank.ledger.drained()
    assert stale.value.record is None
    assert await bank.used(key) == (250, 0, 0)


async def test_case_04_a_reserve_that_its_caller_gave_up_gives_its_hold_back(bank: Bank) -> None:
    key = await bank.key()
    attempt = bank.attempt(key, 600)
    waiting = asyncio.create_task(bank.ledger.reserve(attempt))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await bank.ledger.drained()
    assert await bank.used(key) == (0, 0, 0)
    with pytest.raises(AttemptClosed) as closed:
        await bank.ledger.reserve(attempt)
    assert closed.value.state == "voided"


async def test_case_04_a_reserve_that_redis_ran_too_late_gives_its_hold_back(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, deadline=0.3) as bank:
        key = await bank.key()
        await bank.redis.client_pause(60_000, all=False)

        with pytest.raises(LedgerUnavailable):
            await bank.ledger.reserve(bank.attempt(key, 600))

        await bank.redis.client_unpause()
        await bank.ledger.drained()
        assert await bank.used(key) == (0, 0, 0)


async def test_case_04_a_caller_without_a_cap_whose_reserve_was_voided_is_booked_all_the_same(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path, deadline=0.3) as bank:
        key = await bank.key()
        await bank.redis.client_pause(60_000, all=False)

        async with reserved(bank.ledger, replace(bank.attempt(key, 600), capped=False), nothing_tighter) as reservation:
            reservation.spent = 250

        await bank.redis.client_unpause()
        await bank.ledger.drained()
        assert await bank.used(key) == (250, 0, 0)


async def test_case_01_the_hold_of_a_dead_worker_is_in_suspense_until_its_late_settle(bank: Bank) -> None:
    key = await bank.key()
    reservation = await bank.ledger.reserve(bank.attempt(key, 600))
    await bank.let_leases_run_out()
    await bank.book(key, held=5, spent=5)  # reaps on its way

    assert await bank.used(key) == (5, 0, 600)
    assert bank.ledger.counters.reaped == 1
    reservation.spent = 250
    bank.ledger.resolve(reservation)

    await bank.ledger.drained()
    assert await bank.used(key) == (255, 0, 0)
    assert bank.ledger.counters.late == 1


async def test_case_01_an_idle_account_is_reaped_too(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, running=False) as dead:
        key = await dead.key()
        await dead.ledger.reserve(dead.attempt(key, 600))
        await dead.let_leases_run_out()

    async with open_bank(redis_url, tmp_path) as bank:

        async def reaped() -> bool:
            return await bank.leases() == 0

        await until(reaped)
        assert await bank.used(key) == (0, 0, 600)


async def test_a_running_attempt_keeps_its_lease(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, lease=0.6) as bank:
        key = await bank.key()
        reservation = await bank.ledger.reserve(bank.attempt(key, 600))
        first_end = await bank.redis.zscore(LEASES, reservation.attempt.id)

        async def renewed() -> bool:
            return bool(await bank.redis.zscore(LEASES, reservation.attempt.id) > first_end)

        await until(renewed)
        assert await bank.used(key) == (0, 600, 0)


async def test_a_resolved_attempt_is_not_kept_alive(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, lease=0.03) as bank:
        key = await bank.key()
        await bank.book(key, held=600, spent=250)
        await bank.redis.zadd(LEASES, {"att_default_other": 1})

        async def reaped() -> bool:
            return await bank.leases() == 0

        await until(reaped)
        assert await bank.used(key) == (250, 0, 0)


async def test_an_overrun_is_booked_and_counted(bank: Bank) -> None:
    key = await bank.key("0.000001/lifetime")

    await bank.book(key, held=600, spent=1100)

    assert await bank.used(key) == (1100, 0, 0)
    assert bank.ledger.counters.overruns == 1
    assert bank.ledger.remaining(key.id) == -100


async def test_case_05_a_settle_that_redis_knows_nothing_of_is_booked_and_counted(bank: Bank) -> None:
    key = await bank.key("1/day")
    reservation = await bank.ledger.reserve(bank.attempt(key, 600))
    await bank.redis.flushall()
    reservation.spent = 250

    bank.ledger.resolve(reservation)

    await bank.ledger.drained()
    assert await bank.used(key) == (250, 0, 0)
    assert bank.ledger.counters.orphans == 1


async def test_what_ran_without_a_hold_is_booked_and_is_no_orphan(bank: Bank) -> None:
    key = await bank.key()
    cheap, unknown, unsent = (bank.ledger.unbooked(bank.attempt(key, 600)) for _ in range(3))
    cheap.spent = 250
    unknown.sent = True

    for reservation in (cheap, unknown, unsent):
        assert not reservation.booked
        bank.ledger.resolve(reservation)

    await bank.ledger.drained()
    assert await bank.used(key) == (250, 0, 600)
    assert (bank.ledger.counters.unbooked, bank.ledger.counters.orphans) == (2, 0)


async def test_case_09_what_is_older_than_a_tombstone_is_booked_only_where_redis_never_knew_it(
    redis_url: str, tmp_path: Path
) -> None:
    behind = 0
    async with open_bank(redis_url, tmp_path, clock=lambda: time.time() - behind) as bank:
        key = await bank.key()
        held = await bank.ledger.reserve(bank.attempt(key, 600))
        behind = 4000
        await bank.redis.delete(f"pm:{{default}}:attempt:{held.attempt.id}")
        unbooked = bank.ledger.unbooked(bank.attempt(key, 600))
        held.spent, unbooked.spent = 250, 30

        bank.ledger.resolve(held)
        bank.ledger.resolve(unbooked)

        await bank.ledger.drained()
        behind = 0
        assert (await bank.status(key)).spent == 30
        assert (bank.ledger.counters.expired, bank.ledger.counters.unbooked) == (1, 1)


async def test_case_30_a_scope_of_the_wrong_type_is_refused_and_holds_nothing(bank: Bank) -> None:
    key = await bank.key()
    await bank.redis.set(SCOPE, "text")

    with pytest.raises(ScriptFailed) as failure:
        await bank.ledger.reserve(bank.attempt(key, 600))

    await bank.ledger.drained()
    assert failure.value.code == "WRONGTYPE"
    assert await bank.redis.zcard(LEASES) == 0


async def test_case_30_a_redis_without_memory_is_away_and_leaves_nothing_to_void(bank: Bank) -> None:
    key = await bank.key()
    await bank.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(LedgerUnavailable):
            await bank.ledger.reserve(bank.attempt(key, 600))
        assert bank.journal.depth == 0
    finally:
        await bank.redis.config_set("maxmemory", 0)


async def test_case_08_clocks_that_are_far_apart_are_an_outage_that_says_so(redis_url: str, tmp_path: Path) -> None:
    async with open_bank(redis_url, tmp_path, clock=lambda: time.time() - 3600) as bank:
        with pytest.raises(LedgerUnavailable) as outage:
            await bank.ledger.reserve(bank.attempt(await bank.key(), 600))

    assert outage.value.answered
    assert re.search(r"clocks .* too far apart .* 3\d\d\d s ahead", outage.value.reason)


async def test_only_so_many_keys_are_remembered(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budgets.redis_ledger.KEYS_REMEMBERED", 2)
    keys = [await bank.key("1/day") for _ in range(3)]

    for key in (keys[0], keys[1], keys[0], keys[2]):
        await bank.book(key, held=600, spent=0)

    assert [bank.ledger.remaining(key.id) is not None for key in keys] == [True, False, True]


async def test_case_02_and_03_a_redis_that_dies_refuses_at_once_and_gets_what_was_spent_when_it_is_back(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = Server(folder)
    server.start()
    try:
        async with open_bank(server.url, tmp_path / "journal") as bank:
            key = await bank.key("1/day")
            running = await bank.ledger.reserve(bank.attempt(key, 600))
            server.kill()

            async def noticed() -> bool:
                return not bank.connection.connected

            await until(noticed)
            with pytest.raises(LedgerUnavailable):
                await bank.ledger.reserve(bank.attempt(key, 600))
            assert bank.journal.depth == 0
            running.spent = 250
            bank.ledger.resolve(running)
            assert bank.journal.depth == 1

            server.start()
            await bank.ledger.drained()
            assert await bank.used(key) == (250, 0, 0)
    finally:
        server.kill()
