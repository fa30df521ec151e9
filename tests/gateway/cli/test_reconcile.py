"""`paymaster reconcile` against a running gateway, and the ledger that it runs on."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bank import open_bank
from gateway_process import until
from typer.testing import CliRunner, Result

from budgets.ledger import Reservation
from gateway.cli import reconcile
from gateway.cli.app import app

Command = Callable[..., Result]
Suspend = Callable[..., list[str]]

HELD = 1_000_000


@pytest.fixture
def suspend(valkey_socket: str, tmp_path: Path) -> Suspend:
    """Leaves attempts in suspense, and tells their ids; `spent` settles them instead."""

    async def attempts(count: int, account: str, model: str, spent: int | None) -> list[str]:
        async with open_bank(f"unix://{valkey_socket}", tmp_path / "journal", running=False) as bank:
            key, _ = await bank.keys.create("a key", account=account)
            made = [bank.attempt(key, HELD) for _ in range(count)]
            for attempt in made:
                attempt.model = model
                reservation: Reservation = await bank.ledger.reserve(attempt)
                reservation.sent, reservation.spent = True, spent
                bank.ledger.resolve(reservation)
            await bank.ledger.drained()
            return [attempt.id for attempt in made]

    def suspend(
        count: int = 1, account: str = "default", model: str = "sandbox-small", spent: int | None = None
    ) -> list[str]:
        return asyncio.run(attempts(count, account, model, spent))

    return suspend


@pytest.fixture
def export(tmp_path: Path) -> Callable[[str], str]:
    """Writes an export, and tells its name."""

    def write(text: str) -> str:
        file = tmp_path / "export"
        file.write_text(text)
        return str(file)

    return write


def result(done: Result, status: int = 0) -> dict[str, Any]:
    assert done.exit_code == status, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    told["counts"] = {outcome: count for outcome, count in told["counts"].items() if count}
    return told


def suspended(admin: Command, account: str) -> list[str]:
    listed = json.loads(admin("budgets", "suspense", "--account", account, "--json").stdout)
    return [held["attempt_id"] for held in listed["data"]]


# Bills


@pytest.mark.parametrize(
    "text",
    [
        "client_request_id,cost_usd\n{0},0.0003\n{1},0.0001\nreq_1,5\n",
        '[{{"attempt": "{0}", "nano_usd": 300000}}, {{"attempt": "{1}", "nano_usd": 100000}}, {{"attempt": null}}]',
        '{{"attempt": "{0}", "usd": 0.0003}}\n{{"attempt": "{1}", "usd": 0.0001}}\n{{"attempt": ""}}\n',
        '{{"attempt": "{0}", "input_tokens": 1000, "output_tokens": 500}}\n{{"attempt": "{1}", "usd": 0.0001}}\n'
        '{{"attempt": ""}}\n',
    ],
    ids=["csv", "json", "json lines", "tokens"],
)
def test_an_export_in_any_form_resolves_what_was_in_suspense(
    admin: Command, suspend: Suspend, export: Callable[[str], str], text: str
) -> None:
    first, second = suspend(2, account="forms")

    told = result(admin("reconcile", export(text.format(first, second)), "--json"))

    assert told == {
        "dry_run": False,
        "rows": 3,
        "rows_not_ours": 1,
        "attempts_of_other_accounts": 0,
        "counts": {"resolved": 2},
        "spent_usd": "0.0004",
        "freed_usd": "0.0016",
        "absent": 0,
        "absent_freed_usd": "0",
        "differs": [],
        "voided": [],
        "unpriced": [],
        "several_rows": [],
    }
    assert suspended(admin, "forms") == []


def test_an_export_may_come_from_another_program(gateway_url: str, admin: Command, suspend: Suspend) -> None:
    (attempt,) = suspend(account="pipes")
    environ = {"PAYMASTER_URL": gateway_url, "PAYMASTER_ADMIN_KEY": "admin-of-the-tests"}

    done = CliRunner().invoke(app, ["reconcile", "-", "--json"], input=f"attempt,usd\n{attempt},0\n", env=environ)

    assert result(done)["counts"] == {"resolved": 1}
    assert suspended(admin, "pipes") == []


def test_a_second_time_nothing_changes(admin: Command, suspend: Suspend, export: Callable[[str], str]) -> None:
    file = export(f"attempt,usd\n{suspend()[0]},0.0003\n")
    admin("reconcile", file)

    assert result(admin("reconcile", file, "--json"))["counts"] == {"same": 1}


def test_a_person_sees_what_became_of_it(admin: Command, suspend: Suspend, export: Callable[[str], str]) -> None:
    (attempt,), (settled,) = suspend(), suspend(spent=5)

    done = admin("reconcile", export(f"attempt,usd\n{attempt},0.0003\n{settled},0.000000005\nreq_1,1\n"))

    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["resolved", "1:", "0.0003", "USD", "spent,", "0.0007", "USD", "freed"] in lines
    assert ["booked", "as", "billed", "1"] in lines
    assert ["rows", "not", "ours", "1"] in lines


def test_a_look_beforehand_changes_nothing(admin: Command, suspend: Suspend, export: Callable[[str], str]) -> None:
    (attempt,) = suspend(account="dry")
    file = export(f"attempt,usd\n{attempt},0.0003\n")

    told = result(admin("reconcile", file, "--dry-run", "--json"))

    assert (told["dry_run"], told["counts"], told["freed_usd"]) == (True, {"resolved": 1}, "0.0007")
    assert "0.0003 USD would be spent, 0.0007 USD would be freed" in admin("reconcile", file, "--dry-run").stdout
    assert suspended(admin, "dry") == [attempt]


def test_what_is_booked_otherwise_is_listed_and_ends_with_1(
    admin: Command, suspend: Suspend, export: Callable[[str], str]
) -> None:
    (settled,) = suspend(spent=5)
    file = export(f"attempt,nano_usd\n{settled},7\n")

    assert result(admin("reconcile", file, "--json"), status=1)["differs"] == [
        {"attempt_id": settled, "booked_usd": "0.000000005", "billed_usd": "0.000000007"}
    ]
    seen = admin("reconcile", file)
    assert seen.exit_code == 1
    assert [settled, "0.000000005", "0.000000007"] in [line.split() for line in seen.stdout.splitlines()]


def test_an_attempt_that_was_billed_twice_is_summed_and_told(
    admin: Command, suspend: Suspend, export: Callable[[str], str]
) -> None:
    (attempt,) = suspend()
    file = export(f"attempt,usd\n{attempt},0.0003\n{attempt},0.0003\n")

    told = result(admin("reconcile", file, "--json"))

    assert told["spent_usd"] == "0.0006"
    assert told["several_rows"] == [{"attempt_id": attempt, "rows": 2, "billed_usd": "0.0006"}]
    assert [attempt, "2", "0.0006"] in [line.split() for line in admin("reconcile", file).stdout.splitlines()]


def test_what_has_no_cost_is_listed_and_stays(admin: Command, suspend: Suspend, export: Callable[[str], str]) -> None:
    attempts = suspend(2, account="costless", model="not configured")
    rows = [{"attempt": attempts[0]}, {"attempt": attempts[1], "input_tokens": 5, "output_tokens": 5}]
    file = export(json.dumps(rows))

    assert result(admin("reconcile", file, "--json"))["unpriced"] == attempts
    assert attempts[0] in admin("reconcile", file).stdout
    assert suspended(admin, "costless") == attempts


def test_any_number_of_attempts_is_sent_in_batches(
    admin: Command, suspend: Suspend, export: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "BATCH", 2)
    attempts = suspend(5, account="many")

    told = result(
        admin("reconcile", export("attempt,usd\n" + "".join(f"{each},0.0003\n" for each in attempts)), "--json")
    )

    assert (told["counts"], told["spent_usd"]) == ({"resolved": 5}, "0.0015")


def test_a_list_too_long_for_a_person_is_cut(
    admin: Command, suspend: Suspend, export: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "SHOWN", 1)
    first, second = suspend(2, spent=5)

    seen = admin("reconcile", export(f"attempt,usd\n{first},1\n{second},1\n")).stdout

    assert first in seen
    assert second not in seen
    assert "… and 1 more; --json has all" in seen


def test_only_one_account_s_attempts_are_sent_where_that_is_asked(
    admin: Command, suspend: Suspend, export: Callable[[str], str]
) -> None:
    (mine,), (theirs,) = suspend(account="mine"), suspend(account="theirs")
    file = export(f"attempt,usd\n{mine},0\n{theirs},0\n")

    told = result(admin("reconcile", file, "--account", "mine", "--json"))

    assert (told["counts"], told["attempts_of_other_accounts"]) == ({"resolved": 1}, 1)
    assert (suspended(admin, "mine"), suspended(admin, "theirs")) == ([], [theirs])


# A complete export


def test_what_does_not_stand_in_a_complete_export_was_not_billed(
    admin: Command, suspend: Suspend, export: Callable[[str], str]
) -> None:
    billed, absent, costless = suspend(3, account="whole")
    (elsewhere,) = suspend(account="whole", model="not configured")
    file = export(f"attempt,usd\n{billed},0.0003\n{costless},\n")
    complete = ("reconcile", file, "--provider", "sandbox", "--account", "whole", "--json", "--complete-until")
    early = "2020-01-01"
    assert result(admin(*complete, early, "--dry-run"))["absent"] == 0

    def now() -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    until(lambda: result(admin(*complete, now(), "--dry-run"))["absent"] == 1, lambda: "it never ended before now")
    told = result(admin(*complete, now()))

    assert (told["absent"], told["absent_freed_usd"], told["counts"]) == (1, "0.001", {"resolved": 1, "unpriced": 1})
    assert sorted(suspended(admin, "whole")) == sorted([costless, elsewhere])
    assert absent not in suspended(admin, "whole")


def test_without_that_option_nothing_is_taken_for_not_billed(
    admin: Command, suspend: Suspend, export: Callable[[str], str]
) -> None:
    (absent,) = suspend(account="kept")

    assert result(admin("reconcile", export("[]"), "--provider", "sandbox", "--json"))["absent"] == 0
    assert suspended(admin, "kept") == [absent]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("[]", ("2026-11-22",), "--complete-until needs --provider"),
        ("[]", ("soon", "--provider", "sandbox"), "--complete-until soon: write an instant such as 2026-11-22T12:00Z"),
        ("[]", ("2990-01-01", "--provider", "sandbox"), "`until` is in the future"),
        ("[]", ("2020-01-01", "--provider", "acme"), "There is no provider 'acme'. Known: sandbox."),
        ("", ("2020-01-01", "--provider", "sandbox"), "is empty; a complete export in which nothing was billed is []"),
        ('{"data": [], "has_more": true}', ("2020-01-01", "--provider", "sandbox"), "says that more pages follow"),
    ],
)
def test_a_completeness_that_cannot_be_is_refused(
    admin: Command, export: Callable[[str], str], text: str, options: tuple[str, ...], words: str
) -> None:
    done = admin("reconcile", export(text), "--complete-until", *options)

    assert done.exit_code == 1
    assert words in done.stderr


# Mistakes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("attempt,usd\natt_default_1,-1\n", "line 2, column 'usd': '-1' is not an amount of dollars"),
        ("attempt,usd\natt_default_1,1\natt_default_2\n", "line 3: there are 1 columns, and the header has 2"),
        ("day,usd\nmonday,5\n", "no column names attempts"),
    ],
)
def test_a_wrong_export_is_told_before_anything_is_asked(
    paymaster: Command, export: Callable[[str], str], text: str, words: str
) -> None:
    done = paymaster("reconcile", export(text))

    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stderr.endswith("Nothing was booked.\n")


def test_a_file_that_is_not_there_is_told(paymaster: Command) -> None:
    done = paymaster("reconcile", "nowhere.csv")

    assert (done.exit_code, done.stderr) == (1, "nowhere.csv cannot be read: No such file or directory\n")


def test_where_it_was_interrupted_is_told(paymaster: Command, export: Callable[[str], str]) -> None:
    file = export("attempt,usd\natt_default_1,1\n")

    done = paymaster("reconcile", file, PAYMASTER_URL="http://127.0.0.1:9", PAYMASTER_ADMIN_KEY="x" * 16)

    assert done.exit_code == 1
    assert "no gateway answers at http://127.0.0.1:9" in done.stderr
    assert done.stderr.endswith("The first 0 of 1 attempts are dealt with; run the same again for the others.\n")
