"""`paymaster budgets` against a running gateway, and the ledger that it runs on."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis
from bank import open_bank
from typer.testing import CliRunner, Result

from budgets import redis_layout
from gateway.cli.app import app

Command = Callable[..., Result]

ADMIN_KEY = "admin-of-the-tests"


@pytest.fixture
def suspend(valkey_socket: str, tmp_path: Path) -> Callable[[str], str]:
    """Leaves an attempt of an account in suspense, and tells its id."""

    async def attempt(account: str) -> str:
        async with open_bank(f"unix://{valkey_socket}", tmp_path / "journal", running=False) as bank:
            key, _ = await bank.keys.create("a key", account=account)
            reservation = await bank.ledger.reserve(bank.attempt(key, 5_000_000))
            reservation.sent, reservation.estimator = True, lambda _: 1_000_000
            bank.ledger.resolve(reservation)
            await bank.ledger.drained()
            return reservation.attempt.id

    return lambda account: asyncio.run(attempt(account))


# Suspense


def test_what_is_in_suspense_is_listed_with_what_it_holds(admin: Command, suspend: Callable[[str], str]) -> None:
    attempt = suspend("listed")

    seen = admin("budgets", "suspense", "--account", "listed")

    (line,) = [line.split() for line in seen.stdout.splitlines() if attempt in line]
    assert line[1].startswith("key_listed_")
    assert line[2:5] == ["small", "0.005", "0.001"]
    assert line[-1] == "UTC"
    assert attempt in admin("budgets", "suspense", "--first", "1000").stdout


def test_suspense_is_listed_page_by_page(admin: Command, suspend: Callable[[str], str]) -> None:
    first, second = suspend("pages"), suspend("pages")

    page = admin("budgets", "suspense", "--account", "pages", "--first", "1")
    rest = admin("budgets", "suspense", "--account", "pages", "--first", "1", "--start", "1", "--json")

    shown = first if first in page.stdout else second
    assert page.stderr == "more with --start 1\n"
    assert [held["attempt_id"] for held in json.loads(rest.stdout)["data"]] == [({first, second} - {shown}).pop()]


def test_where_nothing_is_in_suspense_that_is_told(admin: Command) -> None:
    assert admin("budgets", "suspense", "--account", "nobody").stdout == "Nothing is in suspense.\n"


# After a loss


@pytest.fixture
def lost(admin: Command, gateway_url: str, valkey_socket: str, suspend: Callable[[str], str]) -> Callable[[str], None]:
    """Has Redis lose what the gateway has seen of an account."""

    def lose(account: str) -> None:
        suspend(account)
        limited = ("--name", "k", "--limit", "1/day", "--account", account, "--json")
        made = json.loads(admin("keys", "create", *limited).stdout)

        def ask() -> int:
            body = {"model": "exact", "messages": [{"role": "user", "content": "Hi!"}]}
            headers = {"authorization": f"Bearer {made['key']}"}
            url = f"{gateway_url}/v1/chat/completions"
            return httpx.post(url, json=body, headers=headers, trust_env=False).status_code

        assert ask() == 502  # no sandbox runs, but the account was looked at
        redis.Redis(unix_socket_path=valkey_socket).delete(redis_layout.mark(account))
        assert ask() == 503

    return lose


def test_case_07_a_person_is_told_what_was_lost_and_asked(
    admin: Command, gateway_url: str, lost: Callable[[str], None]
) -> None:
    lost("losers")
    environ = {"PAYMASTER_URL": gateway_url, "PAYMASTER_ADMIN_KEY": ADMIN_KEY, "COLUMNS": "200"}

    no, yes = (
        CliRunner().invoke(app, ["budgets", "confirm", "--account", "losers"], input=answer, env=environ)
        for answer in ("n\n", "y\n")
    )

    assert (no.exit_code, yes.exit_code) == (1, 0)
    assert "Callers with a budget are refused there" in no.stdout
    (line,) = [line.split() for line in no.stdout.splitlines() if line.strip().startswith("losers")]
    assert line[-2:] == ["0", "USD"]
    assert yes.stdout.endswith("confirmed: losers\n")
    assert admin("budgets", "confirm", "--account", "losers").stderr.startswith("Redis lacks nothing")


def test_case_07_all_accounts_are_confirmed_at_once_where_none_is_named(
    admin: Command, lost: Callable[[str], None]
) -> None:
    lost("one")
    lost("two")

    assert admin("budgets", "confirm", "--yes").stdout == "confirmed: one, two\n"


@pytest.mark.parametrize("options", [(), ("--yes",), ("--account", "default"), ("--account", "default", "--yes")])
def test_where_nothing_was_lost_there_is_nothing_to_confirm(admin: Command, options: tuple[str, ...]) -> None:
    done = admin("budgets", "confirm", *options)

    assert done.exit_code == 1
    assert done.stderr.startswith("Redis lacks nothing")
