import asyncio
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.errors import BudgetExceeded, LedgerUnavailable
from budgets.ledger import Attempt, LedgerCounters, LimitStatus, Reservation, Resolution, reserved
from budgets.money import MAX_NANO

ATTEMPT = Attempt(
    id="att_a_1",
    account="a",
    key_id="key_a_1",
    key_version=1,
    scopes=("account", "key:key_a_1"),
    amount=100,
    capped=True,
    price_version="2026-11-22",
    model="small",
)
MONEY = st.integers(0, MAX_NANO)
RESOLUTIONS = st.builds(
    Resolution,
    kind=st.sampled_from(get_args(get_type_hints(Resolution)["kind"])),
    amount=MONEY,
    spent=MONEY,
    estimate=MONEY,
    at=st.floats(0, 1e11),
)


class Notebook:
    """A ledger that writes down how each attempt ended."""

    def __init__(self, *, room: int, away: bool = False) -> None:
        self.room = room
        self.away = away
        self.resolved: list[Reservation] = []

    async def reserve(self, attempt: Attempt) -> Reservation:
        if self.away:
            raise LedgerUnavailable("away")
        if attempt.amount > self.room:
            raise BudgetExceeded("account", "day", self.room, self.room, attempt.amount, None)
        return Reservation(attempt)

    def unbooked(self, attempt: Attempt) -> Reservation:
        return Reservation(attempt, booked=False)

    def resolve(self, reservation: Reservation) -> None:
        self.resolved.append(reservation)

    def remaining(self, key_id: str) -> int | None:
        return self.room


async def nothing_tighter() -> None:
    return None


async def test_an_attempt_is_resolved_when_its_body_is_done() -> None:
    ledger = Notebook(room=100)

    async with reserved(ledger, ATTEMPT, nothing_tighter) as reservation:
        assert ledger.resolved == []
        reservation.spent = 7

    assert ledger.resolved == [reservation]


async def test_an_attempt_is_resolved_when_its_body_fails() -> None:
    ledger = Notebook(room=100)

    with pytest.raises(RuntimeError):
        async with reserved(ledger, ATTEMPT, nothing_tighter):
            raise RuntimeError("the upstream is gone")

    assert [reservation.attempt for reservation in ledger.resolved] == [ATTEMPT]


async def test_an_attempt_is_resolved_when_its_body_is_cancelled() -> None:
    ledger = Notebook(room=100)
    inside = asyncio.Event()

    async def body() -> None:
        async with reserved(ledger, ATTEMPT, nothing_tighter):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])

    assert [reservation.attempt for reservation in ledger.resolved] == [ATTEMPT]


async def test_a_refused_attempt_has_no_body_and_no_resolution() -> None:
    ledger = Notebook(room=99)

    with pytest.raises(BudgetExceeded):
        async with reserved(ledger, ATTEMPT, nothing_tighter):
            pytest.fail("the body of a refused attempt ran")

    assert ledger.resolved == []


async def test_what_is_too_much_is_tried_once_more_with_a_tighter_amount() -> None:
    async def count_exactly() -> int:
        return 60

    async with reserved(Notebook(room=99), ATTEMPT, count_exactly) as reservation:
        assert reservation.attempt.amount == 60


async def test_a_tighter_amount_that_is_no_smaller_changes_nothing() -> None:
    async def count_badly() -> int:
        return 100

    with pytest.raises(BudgetExceeded):
        async with reserved(Notebook(room=99), ATTEMPT, count_badly):
            pytest.fail("the body of a refused attempt ran")


async def test_case_02_a_caller_with_a_cap_waits_for_the_ledger() -> None:
    with pytest.raises(LedgerUnavailable):
        async with reserved(Notebook(room=100, away=True), ATTEMPT, nothing_tighter):
            pytest.fail("the body of a refused attempt ran")


async def test_case_02_a_caller_without_a_cap_goes_ahead_and_is_booked_later() -> None:
    ledger = Notebook(room=100, away=True)

    async with reserved(ledger, replace(ATTEMPT, capped=False), nothing_tighter) as reservation:
        reservation.spent = 7

    assert not reservation.booked
    assert ledger.resolved == [reservation]


@given(RESOLUTIONS)
def test_a_resolution_reads_back_as_it_is_written(resolution: Resolution) -> None:
    line = resolution.to_json()

    assert b"\n" not in line
    assert Resolution.from_json(line) == resolution


@pytest.mark.parametrize("line", [b"", b'{"kind": "settle"', b'{"kind": "settle"}', b'{"other": 1}', b"[1]", b"null"])
def test_what_is_no_resolution_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  of whatever message
        Resolution.from_json(line)


def test_what_remains_is_the_limit_less_all_that_counts_against_it() -> None:
    assert LimitStatus("day", limit=100, spent=50, held=20, suspense=5, resets_at=None).remaining == 25


def test_an_estimate_is_that_of_what_was_delivered_and_never_more_than_the_hold() -> None:
    reservation = Reservation(ATTEMPT)
    assert reservation.estimate == 0

    reservation.estimator, reservation.delivered = (lambda tokens: 10 * tokens), 3
    assert reservation.estimate == 30
    reservation.delivered = 10**6
    assert reservation.estimate == ATTEMPT.amount


def test_a_ledger_has_met_nothing_when_it_starts() -> None:
    counters = LedgerCounters()

    assert {getattr(counters, name) for name in counters.__slots__} == {0}
