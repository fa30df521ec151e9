"""What the ledger says about the budgets of the first keys, read when Prometheus asks."""

import asyncio
from collections.abc import Sequence

from redis.exceptions import RedisError

from budgets.errors import LedgerUnavailable, ScriptFailed
from budgets.keys import KeyRecord, KeyStore
from budgets.redis_ledger import RedisLedger
from gateway.telemetry.exposition import BudgetRow


class BudgetRows:
    """Reads one row for each limit of each of the first `max_keys` keys."""

    def __init__(self, keys: KeyStore, ledger: RedisLedger, max_keys: int) -> None:
        self._keys = keys
        self._ledger = ledger
        self._max_keys = max_keys

    async def read(self) -> Sequence[BudgetRow]:
        """Raises LedgerUnavailable."""
        try:
            records = await self._records()
        except RedisError as exc:
            raise LedgerUnavailable(str(exc)) from exc
        rows = await asyncio.gather(*map(self._rows, records))
        return [row for of_key in rows for row in of_key]

    async def _records(self) -> list[KeyRecord]:
        records: list[KeyRecord] = []
        for account in await self._keys.accounts():
            room = self._max_keys - len(records)
            if room <= 0:
                break
            records += await self._keys.list(account, count=room)
        return [record for record in records if record.limits]

    async def _rows(self, record: KeyRecord) -> list[BudgetRow]:
        try:
            status = await self._ledger.status(record.account, f"key:{record.id}")
        except ScriptFailed:  # what is damaged of one key hides no other's; the log tells of it
            return []
        return [
            BudgetRow(record.name, limit.window, limit.limit, limit.spent, limit.held, limit.suspense)
            for limit in status.limits
        ]
