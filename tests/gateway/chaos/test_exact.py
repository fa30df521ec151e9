"""P1 in small; and what it would say of books that are not exact."""

import pytest

from gateway.chaos.exact import p1, reconciled
from gateway.chaos.load import chat
from gateway.chaos.outcome import Outcome
from gateway.chaos.world import World, WorldFactory

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
