import pytest

from gateway.chaos import failover
from gateway.chaos.failover import p4
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
    outcome = await p4(world_factory, ONE, 1)

    assert not outcome.kept
    assert outcome.did["lost settles, nano-dollars"] == 2
