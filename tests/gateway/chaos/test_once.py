"""P6 in small."""

from collections import Counter
from collections.abc import Sequence

import pytest

from budgets import redis_layout
from budgets.ledger import Resolution
from gateway.chaos import once
from gateway.chaos.once import KINDS, SENDERS, Sender, p6
from gateway.chaos.proxy import Faults
from gateway.chaos.world import World, WorldFactory


async def test_an_attempt_is_settled_once_by_many_senders(world_factory: WorldFactory) -> None:
    outcome = await p6(world_factory, 0.01, 7)

    assert outcome.violations == []
    assert outcome.did["settles sent"] == outcome.did["rounds"] * SENDERS  # type: ignore[operator]
    assert [outcome.did[f"rounds, {kind}"] for kind in KINDS] == [1, 1, 1, 1]
    assert int(outcome.did["faults injected"]) > 0


async def test_an_attempt_that_is_forgotten_and_settled_again_is_noticed(
    world_factory: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, worlds = once._settle, list[World]()

    async def settle_twice(senders: Sequence[Sender], entry: Resolution) -> Counter[bytes]:
        answers = await settle(senders, entry)
        prefix = redis_layout.leases(entry.account).removesuffix("leases")
        await worlds[0].redis.call("DEL", f"{prefix}attempt:{entry.attempt_id}")
        return answers + await settle(senders, entry)

    def made() -> World:
        worlds.append(world_factory())
        return worlds[0]

    monkeypatch.setattr(once, "FAULTS", Faults())
    monkeypatch.setattr(once, "_settle", settle_twice)
    outcome = await p6(made, 0.01, 7)

    assert [f"round {number}, {kind}: settled 2 times" for number, kind in enumerate(KINDS)] == [
        text for text in outcome.violations if text.endswith("times")
    ]
    for number, kind in enumerate(KINDS):
        assert any(text.startswith(f"round {number}, {kind}: account has") for text in outcome.violations)


async def test_a_cost_that_was_not_booked_as_its_kind_is_noticed(
    world_factory: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "FAULTS", Faults())
    monkeypatch.setattr(once, "KINDS", dict.fromkeys(KINDS, b"settled"))
    outcome = await p6(world_factory, 0.01, 7)

    assert [text.split(":")[0] for text in outcome.violations] == [
        "round 1, never held",
        "round 2, in suspense",
        "round 3, freed",
    ]
