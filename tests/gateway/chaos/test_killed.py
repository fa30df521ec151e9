"""P2 in small."""

import random

from gateway.chaos.killed import order_of, p2
from gateway.chaos.points import POINTS
from gateway.chaos.world import WorldFactory


async def test_the_books_are_around_the_bill_when_workers_are_killed(world_factory: WorldFactory) -> None:
    outcome = await p2(world_factory, 0.05, 7)

    assert outcome.violations == []
    assert (outcome.did["workers killed, streamed"], outcome.did["workers killed, whole"]) == (2, 2)
    assert outcome.did["difference, nano-dollars"] == 0


def test_a_full_proof_comes_to_every_point_three_times() -> None:
    order = order_of(random.Random(1), 1.0)

    assert sorted(order) == sorted([*POINTS] * 3)
    assert set(order[: len(POINTS)]) == set(POINTS)
    assert order_of(random.Random(1), 1.0) == order != order_of(random.Random(2), 1.0)
