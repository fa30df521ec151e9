import os
import signal

import pytest

from gateway.chaos import restarts
from gateway.chaos.load import chat
from gateway.chaos.world import World, WorldFactory

ONE = 1 / restarts.RESTARTS
SHORT = chat("sandbox-small", "[[slow 200ms]] [[long 20]] Tell me a story.", stream=True)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "STREAM", SHORT)


async def test_a_restart_under_load_is_not_noticed(world_factory: WorldFactory) -> None:
    outcome = await restarts.p8(world_factory, ONE, 1)

    assert outcome.violations == []
    assert outcome.did["restarts"] == 1
    assert outcome.did["failed requests"] == outcome.did["cut streams"] == outcome.did["unsettled, nano-dollars"] == 0


async def test_workers_that_are_killed_instead_are_noticed(
    monkeypatch: pytest.MonkeyPatch, world_factory: WorldFactory
) -> None:
    right = restarts._restart

    async def rude(world: World) -> None:
        for pid in world.workers().values():
            os.kill(pid, signal.SIGKILL)
        await right(world)

    monkeypatch.setattr(restarts, "_restart", rude)
    monkeypatch.setattr(World, "booked", World.quiet)  # what was lost is not waited for
    outcome = await restarts.p8(world_factory, ONE, 1)

    assert not outcome.kept
    assert outcome.did["cut streams"] != 0
