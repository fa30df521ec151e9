"""The ledger with a stopwatch."""

import time
from collections.abc import Callable

from budgets.ledger import Attempt, Ledger, Reservation
from budgets.money import NanoUSD
from gateway.telemetry.metrics import Metrics


class TimedLedger:
    """A `Ledger` that tells how long each reserve and each extend took, the refused and the failed ones too.

    A resolve is not awaited by anybody, so it is not timed: the journal's depth tells whether it gets through.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock

    async def reserve(self, attempt: Attempt) -> Reservation:
        started = self._clock()
        try:
            return await self._ledger.reserve(attempt)
        finally:
            self._metrics.ledger_answered("reserve", self._clock() - started)

    async def extend(self, reservation: Reservation, more: NanoUSD) -> None:
        started = self._clock()
        try:
            await self._ledger.extend(reservation, more)
        finally:
            self._metrics.ledger_answered("extend", self._clock() - started)

    def unbooked(self, attempt: Attempt) -> Reservation:
        return self._ledger.unbooked(attempt)

    def resolve(self, reservation: Reservation) -> None:
        self._ledger.resolve(reservation)

    def known(self, account: str) -> tuple[str, int]:
        return self._ledger.known(account)

    def heard(self, key_id: str, remaining: NanoUSD | None) -> None:
        self._ledger.heard(key_id, remaining)

    def remaining(self, key_id: str) -> NanoUSD | None:
        return self._ledger.remaining(key_id)
