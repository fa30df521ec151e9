import pytest

from gateway.chaos import races
from gateway.chaos.books import Books
from gateway.chaos.world import WorldFactory


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(races, "RACERS", 100)


async def test_as_many_are_admitted_as_there_is_room_for(world_factory: WorldFactory) -> None:
    outcome = await races.p3(world_factory, 3 / races.ROUNDS, 1)

    assert outcome.violations == []
    assert outcome.did["rounds"] == 3
    assert outcome.did["admitted"] > 0
    assert outcome.did["round trips of a later one"] == 2
    assert outcome.did["admitted"] + outcome.did["refused"] == 300


async def test_one_who_is_admitted_beyond_the_limit_is_noticed(
    monkeypatch: pytest.MonkeyPatch, world_factory: WorldFactory
) -> None:
    right = Books.limit

    async def generous(books: Books, account: str, scope: str, amount: int) -> None:
        await right(books, account, scope, amount + races.COST)

    monkeypatch.setattr(Books, "limit", generous)
    outcome = await races.p3(world_factory, 1 / races.ROUNDS, 1)

    assert not outcome.kept
    assert outcome.did["overspent, nano-dollars"] == races.COST
