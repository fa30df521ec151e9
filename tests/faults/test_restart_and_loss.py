"""A gateway that is started anew while Redis loses what it acknowledged to the one before."""

from pathlib import Path

from bank import open_bank, until
from workers import Snapshot, open_worker


async def test_case_05_what_redis_lost_while_a_worker_was_replaced_is_told_again_by_its_successor(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bank(redis_url, tmp_path / "admin", running=False) as bank:
        key = await bank.key("1/day")
        async with open_worker(redis_url, tmp_path / "workers") as worker:
            before = await Snapshot.of(bank.redis)
            for _ in range(3):  # a journal hears of an acknowledgement with its next entry
                reservation = await worker.ledger.reserve(bank.attempt(key, 600))
                reservation.spent = 250
                worker.ledger.resolve(reservation)
                await worker.ledger.drained()
        await before.put_back(bank.redis)

        async def told_again() -> bool:
            return await bank.used(key) == (750, 0, 0)

        async with open_worker(redis_url, tmp_path / "workers"):
            await until(told_again)
