from collections import Counter

import pytest

from gateway.chaos import failover
from gateway.chaos.failover import COST, HEARTBEAT, Seen, judge, p4
from gateway.chaos.load import Ending
from gateway.chaos.outcome import Outcome
from gateway.chaos.world import World, WorldFactory

ONE = 1 / failover.FAILOVERS


async def test_no_settle_is_lost_with_the_primary(monkeypatch: pytest.MonkeyPatch, world_factory: WorldFactory) -> None:
    monkeypatch.setattr(failover, "HEARTBEAT", 30.0)  # how soon all is well is for a machine that does nothing else
    outcome = await p4(world_factory, ONE, 1)

    assert outcome.violations == []
    assert outcome.did["failovers"] == 1
    assert outcome.did["holds lost and written again"] == failover.ROOM
    assert outcome.did["lost settles, nano-dollars"] == 0


async def test_a_difference_from_the_bill_is_noticed(
    monkeypatch: pytest.MonkeyPatch, world_factory: WorldFactory
) -> None:
    right = World.billed
    monkeypatch.setattr(World, "billed", lambda world, account: right(world, account) + 1)
    monkeypatch.setattr(World, "booked", World.quiet)  # what will never come is not waited for
    outcome = await p4(world_factory, ONE, 1)

    assert not outcome.kept
    assert outcome.did["lost settles, nano-dollars"] == 2


@pytest.mark.parametrize(
    ("admitted", "overspent", "streams", "violations"),
    [
        ([0.1, 0.2], 2, [Ending.ANSWERED], []),
        ([0.1, 0.2], 3, [Ending.ANSWERED], ["3000000 overspent, but 2 admitted before the holds were back"]),
        ([0.1, 0.4], 2, [Ending.ANSWERED], ["2000000 overspent, but 1 admitted before the holds were back"]),
        ([HEARTBEAT + 1], 0, [Ending.ANSWERED], [f"somebody was admitted {[HEARTBEAT + 1]} s after it"]),
        ([], 0, [Ending.ANSWERED, Ending.BROKEN], ["streams were {<Ending.ANSWERED: 'answered'>: 1, "]),
    ],
    ids=["in time", "by nobody", "after the holds were back", "late", "cut"],
)
def test_what_goes_beyond_the_bounds_is_noticed(
    admitted: list[float], overspent: int, streams: list[Ending], violations: list[str]
) -> None:
    outcome = Outcome("P4", "No settle is lost.")
    seen = Seen(admitted=admitted, overspent=overspent * COST, streams=Counter(streams), reasserted_after=0.3)
    judge("failover 0", seen, outcome)

    assert len(outcome.violations) == len(violations)
    for found, words in zip(outcome.violations, violations, strict=True):
        assert found.startswith(f"failover 0: {words}")
