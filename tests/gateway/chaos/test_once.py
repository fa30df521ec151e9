"""P6 in small."""

from gateway.chaos.once import SENDERS, p6
from gateway.chaos.world import WorldFactory


async def test_an_attempt_is_settled_once_by_many_senders(world_factory: WorldFactory) -> None:
    outcome = await p6(world_factory, 0.01, 7)

    assert outcome.violations == []
    assert outcome.did["settles sent"] == outcome.did["rounds"] * SENDERS  # type: ignore[operator]
    assert int(outcome.did["faults injected"]) > 0
