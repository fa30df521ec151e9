import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import budgets
import gateway
import routing
from budgets import errors as money
from gateway import errors
from gateway.api.errors import SHAPES, UNFORESEEN, message_of, refusal_of
from gateway.configuration import ConfigurationError, Problem
from gateway.wire.errors import InvalidAnswer, InvalidRequest
from routing.errors import NoDeployment, RoutingError

CANARY = "sk-pm-team-canary0123456789canary0123456789canary012"

NEVER_ANSWERED = {
    "budgets.errors.BudgetError": "a base",
    "gateway.errors.GatewayError": "a base",
    "routing.errors.RoutingError": "a base",
    "budgets.errors.JournalUnavailable": "the outbox goes on without its journal",
    "budgets.errors.NoRedisServer": "said at the terminal, before anything is served",
    "budgets.errors.RedisServerFailed": "said at the terminal, before anything is served",
    "gateway.errors.CannotStart": "said at the terminal, before anything is served",
    "gateway.cli.errors.CommandError": "said at the terminal",
    "gateway.cli.demo_agents.StoppedError": "ends a sample agent",
    "budgets.price_table.Unpriced": "leaves a model out of the price book when it is made",
    "budgets.redis_connection._ReplyError": "becomes a LedgerUnavailable or a ScriptFailed there",
    "gateway.wire.chat_stream.StreamError": "the relay makes it an UpstreamFailed",
    "gateway.upstream.connection.ConnectionBroken": "Upstream.send makes it an UpstreamFailed",
    "gateway.upstream.http1.ConnectFailed": "Upstream.send makes it an UpstreamFailed",
}
"""Errors that no caller can see, each with the reason."""
STRANGERS = ("gateway.sandbox", "gateway.server", "gateway.chaos")
"""The sandbox and what breaks a gateway are processes of their own; the server's errors end in its parser."""


def modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.startswith(STRANGERS) and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def error_classes() -> dict[str, type[Exception]]:
    return {
        f"{module.__name__}.{name}": kind
        for package in (budgets, gateway, routing)
        for module in modules(package)
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == module.__name__
    }


SAMPLES: tuple[Exception, ...] = (
    InvalidRequest("`n` must be an integer.", "n"),
    errors.NoKey(),
    errors.SeveralKeys(),
    errors.UnknownKey(),
    errors.KeyNotUsable("blocked"),
    errors.ModelNotFound("gpt-9", ("small", "large")),
    errors.ModelForbidden("large", ("small",)),
    errors.NotAdmin(),
    errors.NoSandbox(),
    money.NoSuchKey("key_a_1"),
    ConfigurationError(Problem("paymaster.yaml", 3, "wrong")),
    errors.NoSuchPath("GET", "/nowhere"),
    errors.BodyTooLarge(10_485_760),
    errors.BodyEncoded("gzip"),
    errors.CallerGone(),
    errors.UnboundedCost("the cost of `x` is unknown"),
    errors.UpstreamFailed("acme", "connect", "refused"),
    money.BudgetExceeded("key:key_a_1", "day", 5 * 10**9, 10**6, 2 * 10**6, 1_800_000_000.0),
    money.InstalmentRefused("key:key_a_1", "day", 5 * 10**9, 10**6, 2 * 10**6, 1_800_000_000.0),
    money.UnpricedModel("mystery"),
    money.LedgerUnavailable("secret host away"),
    money.LedgerBehind("secret host lost data", account="secret"),
    money.StaleKey(CANARY, 2),
    money.AttemptClosed("settled"),
    money.ScriptFailed("ERR", "at @user_script: line 5"),
    money.AbsurdUsage("input_tokens", -1),
    InvalidAnswer("no JSON"),
    NoDeployment("auto"),
)


def test_every_error_that_a_caller_can_see_has_a_row_of_its_own() -> None:
    found = error_classes()

    assert {name for name, kind in found.items() if kind not in SHAPES} == set(NEVER_ANSWERED)


def test_every_row_has_a_sample_here() -> None:
    assert {type(sample) for sample in SAMPLES} == set(SHAPES)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_is_told_in_openais_envelope_with_words_and_without_inner_facts(error: Exception) -> None:
    refusal = refusal_of(error)

    told = json.loads(refusal.body())["error"]
    assert set(told) - {"metadata"} == {"message", "type", "param", "code"}
    assert 400 <= refusal.status < 600
    assert len(told["message"]) > 10
    assert not {"canary", "secret host", "user_script", "Traceback", "object at 0x"} & set(told["message"].split())
    assert CANARY not in refusal.body().decode()
    assert refusal.headers()["x-should-retry"] in ("true", "false")


@pytest.mark.parametrize("error", [RuntimeError(CANARY), KeyError("secret"), RoutingError(), OSError(5, "/etc/shadow")])
def test_what_nobody_foresaw_is_a_500_that_says_nothing(error: Exception) -> None:
    refusal = refusal_of(error)

    assert (refusal.status, refusal.code) == (UNFORESEEN.status, UNFORESEEN.code)
    assert refusal.message == "Something went wrong in the gateway; its log has the request id."


def test_an_error_of_a_kind_with_a_row_has_that_row() -> None:
    class Special(money.LedgerUnavailable):
        pass

    assert refusal_of(Special("x")).status == 503


@pytest.mark.parametrize(
    ("agent", "setting", "status"),
    [
        ("OpenAI/Python 3.54.0", "auto", 402),
        ("", "auto", 402),
        ("codex_cli_rs/0.50.0 (Debian 12)", "auto", 429),
        ("Codex/1.0", "auto", 429),
        ("codex_cli_rs/0.50.0", 402, 402),
        ("OpenAI/Python 3.54.0", 429, 429),
        ("OpenAI/Python 3.54.0", 422, 422),
    ],
)
def test_a_refusal_by_budget_has_the_status_that_its_client_stops_on(
    agent: str, setting: int | str, status: int
) -> None:
    refusal = refusal_of(money.BudgetExceeded("account", "lifetime", 1, 0, 1, None), agent, setting)

    assert (refusal.status, refusal.type, refusal.code) == (status, "insufficient_quota", "insufficient_quota")
    assert refusal.headers()["x-should-retry"] == "false"


def test_a_refusal_by_budget_tells_all_that_a_person_needs() -> None:
    exceeded = money.BudgetExceeded("key:key_a_1", "day", 5 * 10**9, 10**6, 2 * 10**6, 1_800_000_000.0, 3 * 10**9)
    refusal = refusal_of(exceeded)

    assert refusal.metadata == {
        "reason": "budget_exceeded",
        "scope": "key:key_a_1",
        "window": "day",
        "limit_usd": "5",
        "remaining_usd": "0.001",
        "needed_usd": "0.002",
        "suspense_usd": "3",
        "resets_at": 1_800_000_000.0,
    }
    assert "this key" in refusal.message
    assert "3 USD kept for attempts whose cost was never learnt" in refusal.message
    assert "It resets at 2027-01-15 08:00:00 UTC." in refusal.message


def test_a_stream_that_is_cut_by_a_budget_tells_as_much() -> None:
    refusal = refusal_of(money.InstalmentRefused("key:key_a_1", "day", 5 * 10**9, 10**6, 2 * 10**6, 1_800_000_000.0))

    assert (refusal.code, refusal.metadata["reason"], refusal.metadata["remaining_usd"]) == (
        "insufficient_quota",
        "budget_exceeded",
        "0.001",
    )
    assert refusal.message.startswith(
        "The answer was cut, because the budget of this key does not cover more of it: 5 USD per day, 0.001 USD left, "
        "up to 0.002 USD needed. It resets at 2027-01-15 08:00:00 UTC."
    )


def test_a_limit_that_never_resets_says_so() -> None:
    assert "It does not reset." in message_of(money.BudgetExceeded("account", "lifetime", 1, 0, 1, None))


@pytest.mark.parametrize("text", ["x" * 10_000, "\r\nset-cookie: a=b", '<script>alert("1")</script>'])
def test_what_a_caller_wrote_comes_back_cut_and_as_json(text: str) -> None:
    for error in (errors.ModelNotFound(text, ()), errors.ModelForbidden(text, ("a",)), errors.NoSuchPath("GET", text)):
        refusal = refusal_of(error)

        assert len(refusal.body()) < 1_000
        assert b"\r\n" not in refusal.body()
        assert json.loads(refusal.body())


def facts(error: errors.UpstreamFailed) -> tuple[int, str, bool, Any]:
    refusal = refusal_of(error)
    return refusal.status, refusal.code, refusal.retry, refusal.metadata["reason"]


def test_a_provider_that_fails_is_told_by_how() -> None:
    upstream = errors.UpstreamFailed

    assert facts(upstream("acme", "timeout", "late")) == (504, "upstream_timeout", False, "upstream_timeout")
    assert facts(upstream("acme", "cut", "cut")) == (502, "upstream_failed", False, "upstream_cut")
    assert facts(upstream("acme", "garbage", "html")) == (502, "upstream_failed", False, "upstream_garbage")
    assert facts(upstream("acme", "status", "no", status=503)) == (502, "upstream_failed", False, "upstream_status")
    assert facts(upstream("acme", "status", "no", status=400, code="x")) == (400, "x", False, "upstream_status")


def test_a_provider_that_is_busy_is_told_with_a_time_of_a_minute_at_most() -> None:
    busy = errors.UpstreamFailed("acme", "status", "slow down", status=429, retry_after=600.0)

    assert refusal_of(busy).headers()["retry-after"] == "60"


def test_what_the_ledger_lacks_is_worth_another_try() -> None:
    refusal = refusal_of(money.LedgerUnavailable("gone"))

    assert refusal.headers() == {"content-type": "application/json", "x-should-retry": "true", "retry-after": "1"}
