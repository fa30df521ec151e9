"""The timed ledger: every reserve is timed, and nothing else changes."""

from dataclasses import replace

import pytest

from budgets.errors import LedgerUnavailable
from budgets.ledger import Attempt, Ledger, Reservation
from gateway.telemetry import semconv
from gateway.telemetry.metrics import Known, Metrics
from gateway.telemetry.timed_ledger import TimedLedger

ATTEMPT = Attempt(
    id="att_default_1",
    account="default",
    key_id="key_default_1",
    key_version=1,
    scopes=("account",),
    capped=True,
    amount=100,
    price_version="prices",
    model="small",
)


class SlowLedger:
    """Takes three seconds of its clock for a reserve, and fails for amounts of zero."""

    def __init__(self) -> None:
        self.time = 0.0
        self.resolved: list[Reservation] = []

    async def reserve(self, attempt: Attempt) -> Reservation:
        self.time += 3
        if attempt.amount == 0:
            raise LedgerUnavailable("slow")
        return Reservation(attempt)

    async def extend(self, reservation: Reservation, more: int) -> None:
        self.time += 2
        reservation.attempt.amount += more

    def unbooked(self, attempt: Attempt) -> Reservation:
        return Reservation(attempt, booked=False)

    def resolve(self, reservation: Reservation) -> None:
        self.resolved.append(reservation)

    def known(self, account: str) -> tuple[str, int]:
        return account, len(account)

    def remaining(self, key_id: str) -> int | None:
        return len(key_id)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(Known(frozenset(), frozenset(), frozenset()))


@pytest.fixture
def slow() -> SlowLedger:
    return SlowLedger()


@pytest.fixture
def ledger(slow: SlowLedger, metrics: Metrics) -> Ledger:
    return TimedLedger(slow, metrics, clock=lambda: slow.time)


def reserves(metrics: Metrics) -> tuple[float, float]:
    """Their seconds together, and how many there were."""
    seconds, *counts = metrics.counts.runs[semconv.LEDGER_DURATION.name, "reserve"]
    return seconds, sum(counts)


async def test_a_reserve_is_timed(ledger: Ledger, metrics: Metrics) -> None:
    reservation = await ledger.reserve(ATTEMPT)

    assert reservation.attempt is ATTEMPT
    assert reserves(metrics) == (3, 1)


async def test_a_reserve_that_fails_is_timed_too(ledger: Ledger, metrics: Metrics) -> None:
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(replace(ATTEMPT, amount=0))

    assert reserves(metrics) == (3, 1)


async def test_holding_more_is_timed_apart(ledger: Ledger, metrics: Metrics) -> None:
    reservation = await ledger.reserve(replace(ATTEMPT))

    await ledger.extend(reservation, 5)

    assert reservation.attempt.amount == 105
    assert metrics.counts.runs[semconv.LEDGER_DURATION.name, "extend"][0] == 2
    assert reserves(metrics) == (3, 1)


async def test_everything_else_goes_straight_through(ledger: Ledger, slow: SlowLedger) -> None:
    reservation = ledger.unbooked(ATTEMPT)
    ledger.resolve(reservation)

    assert slow.resolved == [reservation]
    assert not reservation.booked
    assert ledger.remaining("four") == 4
    assert ledger.known("default") == ("default", 7)
