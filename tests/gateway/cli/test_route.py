"""`paymaster route` against a running gateway."""

import json
from collections.abc import Callable

from typer.testing import Result

Command = Callable[..., Result]


def test_the_decision_is_shown_with_its_reason(admin: Command) -> None:
    result = admin("route", "What is the capital of Portugal?")

    assert result.exit_code == 0
    decision = json.loads(admin("route", "What is the capital of Portugal?", "--json").stdout)
    assert {"model", "tier", "reason", "candidates", "expected_usd"} <= decision.keys()
    assert decision["model"] in result.stdout
    assert decision["expected_usd"] in result.stdout


def test_a_model_asked_for_by_name_is_not_routed(admin: Command) -> None:
    decision = json.loads(admin("route", "hello", "--model", "exact", "--json").stdout)

    assert (decision["model"], decision["tier"]) == ("exact", None)
    assert "the model was named" in admin("route", "hello", "--model", "exact").stdout


def test_a_system_message_may_be_given(admin: Command) -> None:
    assert admin("route", "hello", "--system", "Answer in one word.").exit_code == 0


def test_the_money_left_may_be_given(admin: Command) -> None:
    hard = "Prove that there are infinitely many primes, step by step."
    rich, poor = (json.loads(admin("route", hard, "--remaining", left, "--json").stdout) for left in ("100", "0.003"))

    assert float(poor["expected_usd"]) < float(rich["expected_usd"])
    assert "not an amount" in admin("route", hard, "--remaining", "lots").stderr


def test_an_unknown_model_is_told(admin: Command) -> None:
    result = admin("route", "hello", "--model", "nope")

    assert result.exit_code == 1
    assert "nope" in result.stderr
