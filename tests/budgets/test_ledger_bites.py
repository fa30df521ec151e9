"""What the peers' bugs of tests/mutations, or a slip of the pen, would do to the ledger where no other test notices."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
from bank import Bank, open_bank
from scripts import LEASES, Scripts

from budgets.errors import BudgetExceeded


@pytest.fixture
def scripts(redis_url: str) -> Scripts:
    return Scripts(redis.Redis.from_url(redis_url, decode_responses=True))


@pytest.fixture
async def bank(redis_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(redis_url, tmp_path) as bank:
        yield bank


def test_case_16_the_first_request_of_a_scope_meets_its_limit(scripts: Scripts) -> None:
    scripts.limit_nano("user:new", 4)

    assert scripts.reserve("x", 5, "account", "user:new")[:4] == ["refused", 0, 4, "user:new"]
    assert scripts.reserve("y", 4, "account", "user:new")[0] == "held"


async def test_who_has_much_left_is_held_for_like_everybody(bank: Bank) -> None:
    key = await bank.key("1000/lifetime")
    await bank.book(key, held=5, spent=5)

    await bank.ledger.reserve(bank.attempt(key, 600))

    assert await bank.used(key) == (5, 600, 0)
    with pytest.raises(BudgetExceeded):
        await bank.ledger.reserve(bank.attempt(key, 1000 * 10**9))


@pytest.mark.parametrize(
    ("starts", "current"),
    [
        ((-30, -20, -10, 100), 2),
        ((-30, -20, 0, 100), 2),
        ((-30, -20, 100, 200), 1),
        ((-30, 0, 100, 200), 1),
        ((-30, 100, 200, 300), 0),
    ],
)
def test_case_08_the_period_is_the_one_that_redis_is_in(
    scripts: Scripts, starts: tuple[int, ...], current: int
) -> None:
    """The gateway's calendar may be a period ahead of Redis, or one behind."""
    scripts.limit("account", "1/day")
    now = int(scripts.client.time()[0])
    starts = tuple(now + offset for offset in starts)

    assert reserve_by(scripts, now, starts, "x", 5, "account")[3] == f"account lifetime:0 day:{starts[current]}"


def reserve_by(scripts: Scripts, now: int, day: tuple[int, ...], attempt: str, amount: int, *scopes: str) -> Any:
    """A reserve of a gateway with a calendar of its own: the starts of four periods of the window `day`."""
    windows = f"{now - 300} {now + 300} day {' '.join(map(str, day))}"
    facts = ("k", 1, amount, 60_000, "prices", "model", "", 0)
    return scripts._run("reserve", LEASES, attempt, *facts, windows, *scopes)
