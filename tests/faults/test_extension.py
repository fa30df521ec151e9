"""More that was held for a running attempt: what Redis did unheard, and what it has lost."""

from pathlib import Path

import pytest
from bank import open_bank, until
from workers import Snapshot, open_worker

from budgets.errors import LedgerUnavailable


async def test_case_04_more_that_was_held_unheard_is_counted_when_more_is_asked_for(
    redis_url: str, tmp_path: Path
) -> None:
    async with (
        open_bank(redis_url, tmp_path / "admin", running=False) as bank,
        open_worker(redis_url, tmp_path / "workers") as worker,
    ):
        key = await bank.key("1/day")
        reservation = await worker.ledger.reserve(bank.attempt(key, 600))
        worker.wire.fault = "unanswered"
        with pytest.raises(LedgerUnavailable):
            await worker.ledger.extend(reservation, 100)

        await worker.ledger.extend(reservation, 400)

        assert reservation.attempt.amount == 1000
        assert await bank.used(key) == (0, 1000, 0)


async def test_case_05_what_was_held_besides_is_held_again_where_redis_has_lost_it(
    redis_url: str, tmp_path: Path
) -> None:
    async with (
        open_bank(redis_url, tmp_path / "admin", running=False) as bank,
        open_worker(redis_url, tmp_path / "workers") as worker,
    ):
        key = await bank.key("1/day")
        reservation = await worker.ledger.reserve(bank.attempt(key, 600))
        before = await Snapshot.of(bank.redis)
        await worker.ledger.extend(reservation, 400)

        await before.put_back(bank.redis)
        worker.wire.when_changed()

        async def held_again() -> bool:
            return await bank.used(key) == (0, 1000, 0)

        await until(held_again)
