"""P1 in small; and what it would say of books that are not exact."""

import pytest

from gateway.chaos.books import Money
from gateway.chaos.exact import as_billed, askew, p1, reconciled
from gateway.chaos.load import chat
from gateway.chaos.outcome import Outcome
from gateway.chaos.world import World, WorldFactory
from tests.gateway.chaos.forger import Forger

SEED = 7


async def test_the_books_are_exact_under_a_few_hundred_faults(world_factory: WorldFactory) -> None:
    outcome = await p1(world_factory, 0.002, SEED)

    assert outcome.violations == []
    assert int(outcome.did["attempts"]) >= 400
    assert int(outcome.did["kinds of fault"]) >= 12
    assert (outcome.did["difference, nano-dollars"], int(outcome.did["samples"]) > 0) == (0, True)


@pytest.mark.asyncio(loop_scope="session")
async def test_an_attempt_that_was_booked_at_another_price_is_found(world: World) -> None:
    key = await world.create_key()
    await world.caller(key).ask(**chat("exact", "Hello!"))
    await world.quiet(key)
    world.provider.bill.rows(key.account)[0]["nano_usd"] -= 1
    outcome = Outcome("P1", "The books are exact.")
    await reconciled(world, key, outcome)

    assert outcome.violations == [f"{key.account}: 1 attempts are differs"]


@pytest.mark.asyncio(loop_scope="session")
async def test_an_attempt_that_was_booked_twice_does_not_hide_another_that_was_lost(
    world: World, forger: Forger
) -> None:
    key = forger.key
    for _ in range(3):
        await world.caller(key).ask(**chat("exact", "Hello!"))
    await world.quiet(key)
    twice, lost, _ = [row["attempt"] for row in world.provider.bill.rows(key.account)]
    right = Outcome("P1", "The books are exact.")
    await as_billed(world, key, right)
    await forger.attempt(twice, "settled 2000000")
    await forger.attempt(lost, None)
    wrong = Outcome("P1", "The books are exact.")
    difference = await as_billed(world, key, wrong)

    assert (right.violations, right.did["attempts found as billed"]) == ([], 3)
    assert difference == 0
    assert wrong.violations == [f"{key.account}: attempts are {{'differs': 1, 'unknown': 1}} before any reconciliation"]


@pytest.mark.asyncio(loop_scope="session")
async def test_what_is_booked_in_another_day_is_found(world: World, forger: Forger) -> None:
    key = forger.key
    await world.caller(key).ask(**chat("exact", "Hello!"))
    await world.quiet(key)
    await forger.periods(f"key:{key.id}", day86400="1 0 0")
    outcome = Outcome("P1", "The books are exact.")
    await as_billed(world, key, outcome)

    assert outcome.violations == [
        f"{key.account}, key:{key.id}: {Money(1, 0, 0)} in day:86400, which it has not seen",
        f"{key.account}, key:{key.id}: 1000001 spent by day, 1000000 in all",
    ]


@pytest.mark.parametrize(
    ("day", "next_day", "limited", "violations"),
    [
        ("5 0 0", None, ["day"], []),
        ("2 0 0", "3 0 0", ["day"], []),
        ("4 0 0", None, [], []),
        ("4 0 0", None, ["day"], ["4 spent by day, 5 in all"]),
        (None, None, ["day"], ["0 spent by day, 5 in all"]),
        ("5 0 0", "1 0 0", [], ["6 spent by day, 5 in all"]),
        ("5 1 0", None, ["day"], [f"{Money(5, 1, 0)} in day:864000 when all is quiet"]),
        ("5 0 -1", None, ["day"], [f"{Money(5, 0, -1)} in day:864000 when all is quiet"]),
    ],
    ids=["all", "over midnight", "limited later", "too little", "nothing", "too much", "held", "below zero"],
)
def test_periods_add_up_to_the_lifetime(
    day: str | None, next_day: str | None, limited: list[str], violations: list[str]
) -> None:
    texts = {"lifetime:0": "5 0 0", "day:864000": day, "day:950400": next_day}
    periods = {name: Money(*map(int, text.split())) for name, text in texts.items() if text}

    assert askew(periods, limited, (940_000.0, 960_000.0)) == violations
