"""A hold that grows with the output: always enough, never more than the whole, and only as long as the budget lasts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bank import Bank, open_bank
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.errors import BudgetExceeded, InstalmentRefused, LedgerUnavailable
from budgets.instalments import Instalments
from budgets.ledger import Attempt, Reservation
from budgets.money import NanoUSD

INPUT, OUT = 700, 13
"""Nano-USD: what the input costs, and a token of output."""
STEP, MOST = 100, 1_000


class Purse:
    """A ledger with so much left; it knows no more than `extend`."""

    def __init__(self, left: NanoUSD) -> None:
        self.left = left
        self.asked = 0
        self.away = False

    async def extend(self, reservation: Reservation, more: NanoUSD) -> None:
        self.asked += 1
        if self.away:
            raise LedgerUnavailable("Redis did not answer in time")
        if more > self.left:
            raise BudgetExceeded("key:key_a_1", "day", 10**6, self.left, more, 1_800_000_000.0, 5)
        self.left -= more
        reservation.attempt.amount += more


def price(tokens: int) -> NanoUSD:
    return INPUT + tokens * OUT


def reservation(held: NanoUSD) -> Reservation:
    return Reservation(Attempt("att_a_1", "a", "key_a_1", 1, ("account",), held, True, "prices", "small"))


def instalments(purse: Purse, held: Reservation, step: int = STEP, most: int = MOST) -> Instalments:
    return Instalments(purse, held, price, step, most)  # type: ignore[arg-type]


@given(
    st.integers(1, 500),
    st.integers(0, 5_000),
    st.lists(st.integers(0, 700), max_size=60),
    st.integers(0, 100_000),
)
@settings(deadline=None)
def test_what_is_delivered_is_always_held_for_and_never_more_than_the_whole(
    step: int, beyond: int, pieces: list[int], left: NanoUSD
) -> None:
    async def scenario() -> None:
        most, tokens = step + beyond, 0
        held = reservation(price(step))
        purse = Purse(left)
        kept = instalments(purse, held, step, most)
        for piece in pieces:
            before = held.attempt.amount
            try:
                await kept.cover(tokens + piece)
            except InstalmentRefused:
                assert held.attempt.amount == before >= price(min(tokens + step // 2, most))
                return
            tokens += piece
            assert price(min(tokens + step // 2, most)) <= held.attempt.amount <= price(most)
        assert purse.asked <= tokens // step + 2

    asyncio.run(scenario())


async def test_nothing_is_asked_while_half_an_instalment_is_ahead() -> None:
    purse, held = Purse(10**6), reservation(price(STEP))
    kept = instalments(purse, held)

    await kept.cover(STEP // 2)
    assert purse.asked == 0

    await kept.cover(STEP // 2 + 1)
    assert (purse.asked, held.attempt.amount) == (1, price(2 * STEP))


async def test_what_comes_in_one_large_piece_is_held_for_in_one_step() -> None:
    purse, held = Purse(10**6), reservation(price(STEP))

    await instalments(purse, held).cover(7 * STEP)

    assert (purse.asked, held.attempt.amount) == (1, price(8 * STEP))


async def test_what_is_held_for_the_whole_answer_is_enough_for_ever() -> None:
    purse, held = Purse(10**6), reservation(price(STEP))
    kept = instalments(purse, held)

    for tokens in (MOST - 1, MOST, 10 * MOST):
        await kept.cover(tokens)

    assert (purse.asked, held.attempt.amount) == (1, price(MOST))


async def test_output_that_costs_nothing_needs_no_top_up() -> None:
    purse, held = Purse(0), reservation(INPUT)

    await Instalments(purse, held, lambda _: INPUT, STEP, MOST).cover(MOST)  # type: ignore[arg-type]

    assert purse.asked == 0


async def test_a_refused_top_up_says_which_budget_it_was_and_leaves_the_hold_as_it_is() -> None:
    held = reservation(price(STEP))
    kept = instalments(Purse(STEP * OUT - 1), held)

    with pytest.raises(InstalmentRefused) as refused:
        await kept.cover(STEP)

    exceeded = BudgetExceeded("key:key_a_1", "day", 10**6, STEP * OUT - 1, STEP * OUT, 1_800_000_000.0, 5)
    assert vars(refused.value) == vars(exceeded)
    assert held.attempt.amount == price(STEP)


async def test_a_ledger_that_is_away_is_told_as_such_and_asked_again_next_time() -> None:
    purse, held = Purse(10**6), reservation(price(STEP))
    kept = instalments(purse, held)

    purse.away = True
    with pytest.raises(LedgerUnavailable):
        await kept.cover(STEP)
    assert held.attempt.amount == price(STEP)

    purse.away = False
    await kept.cover(STEP)
    assert held.attempt.amount == price(2 * STEP)


# On the real ledger


@pytest.fixture
async def bank(redis_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(redis_url, tmp_path) as bank:
        yield bank


async def test_the_ledger_holds_what_was_topped_up_and_gives_all_of_it_back(bank: Bank) -> None:
    key = await bank.key("0.00001/lifetime")  # 10,000 nano-USD
    held = await bank.ledger.reserve(bank.attempt(key, price(STEP)))
    kept = Instalments(bank.ledger, held, price, STEP, MOST)

    await kept.cover(3 * STEP)
    assert await bank.used(key) == (0, price(4 * STEP), 0)

    held.spent = price(3 * STEP)
    bank.ledger.resolve(held)
    await bank.ledger.drained()
    assert await bank.used(key) == (price(3 * STEP), 0, 0)


async def test_the_ledger_refuses_what_a_limit_does_not_cover(bank: Bank) -> None:
    key = await bank.key(f"{price(2 * STEP)}e-9/lifetime")
    held = await bank.ledger.reserve(bank.attempt(key, price(STEP)))
    kept = Instalments(bank.ledger, held, price, STEP, MOST)

    await kept.cover(STEP)
    with pytest.raises(InstalmentRefused) as refused:
        await kept.cover(2 * STEP)

    assert (refused.value.scope, refused.value.remaining, refused.value.needed) == (f"key:{key.id}", 0, STEP * OUT)
    assert await bank.used(key) == (0, price(2 * STEP), 0)
