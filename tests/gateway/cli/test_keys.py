"""`paymaster keys` against a running gateway."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from typer.testing import Result

Command = Callable[..., Result]


def created(admin: Command, *arguments: str) -> dict[str, Any]:
    result = admin("keys", "create", "--name", "bot", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    fields: dict[str, Any] = json.loads(result.stdout)
    return fields


def shown(admin: Command, key_id: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(admin("keys", "show", key_id, "--json").stdout)
    return fields


def test_a_key_is_created_with_limits_models_account_and_end(admin: Command) -> None:
    limits = ("--limit", "5/day", "--limit", "0.01/lifetime")
    key = created(admin, *limits, "--models", "auto, exact", "--account", "acme", "--expires", "2099-01-31")

    assert key["key"].startswith("sk-pm-acme-")
    assert {limit["window"]: limit["usd"] for limit in key["limits"]} == {"day": "5", "lifetime": "0.01"}
    assert key["models"] == ["auto", "exact"]
    assert datetime.fromtimestamp(key["expires_at"], UTC) == datetime(2099, 1, 31, tzinfo=UTC)


def test_a_created_key_works_at_the_gateway(admin: Command, gateway_url: str) -> None:
    key = created(admin)["key"]

    answer = httpx.get(f"{gateway_url}/v1/models", headers={"authorization": f"Bearer {key}"}, trust_env=False)
    assert answer.status_code == 200


def test_a_persons_view_of_a_new_key_has_its_text_once(admin: Command) -> None:
    result = admin("keys", "create", "--name", "bot", "--limit", "5/day")

    text = result.stdout.splitlines()[0]
    assert text.startswith("sk-pm-default-")
    assert result.stdout.count(text) == 1
    assert "not shown again" in result.stderr
    assert "5 of 5 USD left, resets " in result.stdout


def test_json_is_what_the_admin_api_says(admin: Command, gateway_url: str) -> None:
    key_id = created(admin)["id"]

    headers = {"authorization": "Bearer admin-of-the-tests"}
    answer = httpx.get(f"{gateway_url}/admin/keys/{key_id}", headers=headers, trust_env=False)
    assert admin("keys", "show", key_id, "--json").stdout == f"{answer.text}\n"


def test_keys_are_listed_page_by_page(admin: Command) -> None:
    first, second = (created(admin, "--account", "paged")["id"] for _ in range(2))

    page = admin("keys", "list", "--account", "paged", "--first", "1")
    assert first in page.stdout
    assert second not in page.stdout
    assert f"--after {first}" in page.stderr
    assert second in admin("keys", "list", "--account", "paged", "--after", first).stdout


def test_an_account_without_keys_lists_nothing(admin: Command) -> None:
    assert admin("keys", "list", "--account", "nobody").exit_code == 0


def test_a_key_is_changed_only_where_asked(admin: Command) -> None:
    key_id = created(admin, "--limit", "5/day", "--models", "exact", "--expires", "30d")["id"]

    assert admin("keys", "update", key_id, "--name", "robot", "--limit", "7/month", "--expires", "never").exit_code == 0
    key = shown(admin, key_id)
    assert (key["name"], key["models"], key["expires_at"]) == ("robot", ["exact"], None)
    assert [(limit["usd"], limit["window"]) for limit in key["limits"]] == [("7", "month")]


def test_all_limits_can_be_taken_away(admin: Command) -> None:
    key_id = created(admin, "--limit", "5/day")["id"]

    admin("keys", "update", key_id, "--limit", "none")
    assert shown(admin, key_id)["limits"] == []


def test_a_change_of_nothing_is_refused(admin: Command) -> None:
    result = admin("keys", "update", created(admin)["id"])

    assert result.exit_code == 1
    assert result.stderr.startswith("nothing to change; give --name")


def test_a_key_is_blocked_and_unblocked(admin: Command) -> None:
    key_id = created(admin)["id"]

    assert "blocked" in admin("keys", "block", key_id).stdout
    assert shown(admin, key_id)["blocked"] is True
    assert "active" in admin("keys", "unblock", key_id).stdout
    assert shown(admin, key_id)["blocked"] is False


def test_a_deleted_key_is_gone(admin: Command) -> None:
    key_id = created(admin)["id"]

    assert admin("keys", "delete", key_id).stdout.strip() == f"deleted {key_id}"
    gone = admin("keys", "show", key_id)
    assert gone.exit_code == 1
    assert key_id in gone.stderr


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--limit", "5", "5: a limit is dollars/window, such as 5/day"),
        ("--limit", "5/dya", "5/dya: unknown window 'dya'; did you mean 'day'?"),
        ("--limit", "lots/day", "lots/day: 'lots' is not an amount of dollars"),
        ("--expires", "9" * 400 + "d", f"--expires {'9' * 400}d: write 12h, 30d, 4w"),
        ("--expires", "soon", "--expires soon: write 12h, 30d, 4w, a date such as 2027-01-31, or never"),
    ],
)
def test_a_mistake_is_told_before_anything_is_asked(paymaster: Command, option: str, text: str, message: str) -> None:
    result = paymaster("keys", "create", "--name", "bot", option, text)

    assert result.exit_code == 1
    assert result.stderr.startswith(message)


def test_the_gateways_own_words_are_told(admin: Command) -> None:
    result = admin("keys", "create", "--name", "bot", "--account", "Not An Account")

    assert result.exit_code == 1
    assert "Not An Account" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_length_of_time_counts_from_now(admin: Command) -> None:
    before = datetime.now(UTC) + timedelta(hours=12)
    expires = created(admin, "--expires", "12h")["expires_at"]

    assert before.timestamp() <= expires <= (datetime.now(UTC) + timedelta(hours=12)).timestamp()


def test_a_name_like_markup_is_shown_as_it_is(admin: Command) -> None:
    key_id = json.loads(admin("keys", "create", "--name", "[bold]x[/]", "--json").stdout)["id"]

    assert "[bold]x[/]" in admin("keys", "show", key_id).stdout
