"""`paymaster chaos`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest
from gateway_process import PATIENCE, ROOT, until
from typer.testing import Result

from gateway.chaos import promises
from gateway.chaos.outcome import Outcome
from gateway.chaos.promises import PROMISES
from gateway.chaos.world import WorldFactory

Command = Callable[..., Result]


@pytest.fixture
def promised(monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """What comes of P1, whatever happens."""
    outcome = Outcome("P1", "Nothing is lost.", {"attempts": 1234})

    async def proof(world_factory: WorldFactory, scale: float, seed: int) -> Outcome:
        return outcome

    monkeypatch.setitem(promises.PROMISES, "P1", replace(PROMISES["P1"], prove=proof))
    return outcome


def test_a_promise_that_is_kept_is_shown(paymaster: Command, promised: Outcome, tmp_path: Path) -> None:
    result = paymaster("chaos", "--only", "p1", "--seed", "7", "--report", str(tmp_path / "promises.md"))

    assert result.exit_code == 0
    assert "seed 7" in result.stdout
    assert "attempts: 1,234" in result.stdout
    assert "kept" in result.stdout
    assert "attempts: 1,234" in (tmp_path / "promises.md").read_text()


def test_a_promise_that_is_broken_is_shown_with_what_broke_it(paymaster: Command, promised: Outcome) -> None:
    promised.violate("a nano-dollar was lost")
    result = paymaster("chaos", "--only", "P1", "--seed", "7")

    assert result.exit_code == 1
    assert "BROKEN (1)" in result.stdout
    assert "P1: a nano-dollar was lost" in result.stdout
    assert "--seed 7 makes the same choices again" in result.stderr


def test_an_unknown_promise_is_refused(paymaster: Command) -> None:
    result = paymaster("chaos", "--only", "P1,P99")

    assert result.exit_code == 1
    assert "P99: no such promise; there are P1, P2" in result.stderr


def test_a_redis_that_is_away_is_told(paymaster: Command) -> None:
    result = paymaster("chaos", "--only", "P1", "--redis-url", "redis://127.0.0.1:1/0")

    assert result.exit_code == 1
    assert "the Redis server cannot be used" in result.stderr


def test_who_stops_it_is_told_so_and_nothing_else_and_nothing_is_left_running(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "gateway", "chaos", "--only", "P1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            until(
                lambda: any(bill.stat().st_size for bill in tmp_path.glob("*/bill.jsonl")), lambda: "nothing is billed"
            )
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()

    assert process.returncode == 1
    assert errors.split() == ["stopped"]
    assert list(tmp_path.iterdir()) == []


def test_a_real_promise_is_shown_from_beginning_to_end(paymaster: Command) -> None:
    result = paymaster("chaos", "--only", "P5,P6", "--scale", "0.1", PYTHONPATH=str(Path(__file__).parents[3]))

    assert result.exit_code == 0, result.output
    assert "scopes that hold something: 0" in result.stdout
