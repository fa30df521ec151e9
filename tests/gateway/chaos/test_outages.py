import pytest

from gateway.chaos import outages
from gateway.chaos.outages import BlackHole, Frozen, Killed, Loading, Outage, OutOfMemory, ReadOnly, Refused, p7
from gateway.chaos.world import WorldFactory


@pytest.mark.parametrize("kinds", [(Frozen, Killed, Refused, BlackHole), (OutOfMemory, ReadOnly, Loading)])
async def test_nobody_waits_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, world_factory: WorldFactory, kinds: tuple[type[Outage], ...]
) -> None:
    monkeypatch.setattr(outages, "KINDS", kinds)
    for name in ("PROMPT", "SLOWEST", "BACK_WITHIN"):  # these are for a machine that does nothing else
        monkeypatch.setattr(outages, name, 30.0)
    outcome = await p7(world_factory, outages.QUICK, 1)

    assert outcome.violations == []
    assert outcome.did["outages"] == len(kinds)
    assert outcome.did["lost settles, nano-dollars"] == 0


async def test_who_is_served_without_a_hold_is_noticed(
    monkeypatch: pytest.MonkeyPatch, world_factory: WorldFactory
) -> None:
    class NotAway(Outage):
        name = "not away"

        async def begin(self) -> None:
            pass

        async def end(self) -> None:
            pass

    monkeypatch.setattr(outages, "KINDS", (NotAway,))
    outcome = await p7(world_factory, outages.QUICK, 1)

    assert not outcome.kept
    assert "callers with a limit got" in outcome.violations[0]
