"""`paymaster reconcile`: a provider's usage export against what is in suspense, through the admin API."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from budgets.money import NanoUSD, to_usd
from budgets.usage_export import Billed, Export, read_export
from gateway.cli.admin_api import AdminApi, connect
from gateway.cli.errors import CommandError
from gateway.cli.tables import console, facts, listing

app = typer.Typer()

BATCH = 1000
"""Attempts in one request, the most that the admin API takes."""
SHOWN = 50
"""Lines of a list that a person gets to see."""
COMPLETE = (
    "The export has everything that --provider billed until then, such as 2026-11-22T12:00Z. What is in suspense, had "
    "ended before and does not stand in it was not billed: it is freed."
)
WORDS = {
    "resolved": "resolved",
    "same": "booked as billed",
    "differs": "booked otherwise",
    "voided": "billed, never sent",
    "unpriced": "needs a cost",
    "open": "still running",
    "not_in_suspense": "not in suspense",
    "unknown": "not known any more",
}
"""What a person reads for an outcome of the admin API."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """What the export speaks of; `until` is Unix seconds."""

    account: str | None
    provider: str | None
    until: float | None


@dataclass(slots=True)
class _Result:
    """What became of an export."""

    dry_run: bool
    rows: int = 0
    rows_not_ours: int = 0
    attempts_of_other_accounts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    spent: NanoUSD = 0
    freed: NanoUSD = 0
    absent: int = 0
    absent_freed: NanoUSD = 0
    differs: list[dict[str, str]] = field(default_factory=list)
    voided: list[dict[str, str]] = field(default_factory=list)
    unpriced: list[str] = field(default_factory=list)
    several_rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, answer: dict[str, Any]) -> None:
        """Take the answer to one batch of bills into account."""
        self.counts.update(answer["counts"])
        self.spent += _nano(answer["spent_usd"])
        self.freed += _nano(answer["freed_usd"])
        self.differs += answer["differs"]
        self.voided += answer["voided"]
        self.unpriced += answer["unpriced"]

    def to_json(self) -> dict[str, Any]:
        """Money in decimal strings of dollars."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("spent", "freed", "absent_freed"):
            told[f"{name}_usd"] = to_usd(told.pop(name))
        return told


@app.command()
def reconcile(
    export: Annotated[str, typer.Argument(metavar="EXPORT", help="CSV, JSON or JSON lines; - is standard input.")],
    provider: Annotated[str | None, typer.Option("--provider", help="Whose export it is.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="Only attempts of this account.")] = None,
    complete_until: Annotated[str | None, typer.Option("--complete-until", metavar="INSTANT", help=COMPLETE)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would happen, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Book what a provider billed for attempts whose cost nobody knows, and free the rest of what they hold.

    Ends with 1 where something was booked otherwise than it was billed.
    """
    scope = _Scope(account, provider, _until(complete_until, provider))
    found = _read(export, whole=scope.until is not None)
    bills = [billed for billed in found.attempts.values() if account in (None, billed.account)]
    with connect() as api:
        absent = [] if scope.until is None else _absent(api, scope, found)
        result = _Result(dry_run)
        _book(api, bills, result)
        _free(api, scope, absent, result)
    result.rows, result.rows_not_ours = found.rows, found.foreign_rows
    result.attempts_of_other_accounts = len(found.attempts) - len(bills)
    result.several_rows = [_several(billed) for billed in bills if billed.rows > 1]
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        _show(result)
    if result.differs or result.voided:
        raise typer.Exit(1)


def _until(instant: str | None, provider: str | None) -> float | None:
    """Unix seconds. Raises CommandError."""
    if instant is None:
        return None
    if provider is None:
        raise CommandError("--complete-until needs --provider: nothing else tells whose bill is complete")
    try:
        at = datetime.fromisoformat(instant)
    except ValueError as exc:
        raise CommandError(f"--complete-until {instant}: write an instant such as 2026-11-22T12:00Z") from exc
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _read(name: str, *, whole: bool) -> Export:
    """The export, checked to its end; as a `whole` one it must not be a page, nor nothing. Raises CommandError."""
    try:
        if name == "-":
            export = read_export(typer.get_binary_stream("stdin"))
        else:
            with Path(name).open("rb") as file:
                export = read_export(file)
    except OSError as exc:
        raise CommandError(f"{name} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise CommandError(f"{name}: {exc}\nNothing was booked.") from exc
    if whole and export.has_more:
        raise CommandError(f"{name} says that more pages follow, so it is not complete")
    if whole and export.is_blank:
        raise CommandError(f"{name} is empty; a complete export in which nothing was billed is [] or a CSV header")
    return export


def _absent(api: AdminApi, scope: _Scope, export: Export) -> list[str]:
    """What is in suspense now and does not stand in the export, although it has all that was billed until then."""
    query: dict[str, Any] = {name: value for name, value in asdict(scope).items() if value is not None}
    found: list[str] = []
    start = 0
    while True:
        page = api.call("GET", "/admin/suspense", query={**query, "limit": BATCH, "start": start}).fields
        found += [held["attempt_id"] for held in page["data"]]
        start += BATCH
        if not page["has_more"]:
            return [attempt_id for attempt_id in found if attempt_id not in export.attempts]


def _book(api: AdminApi, bills: Sequence[Billed], result: _Result) -> None:
    for start in range(0, len(bills), BATCH):
        rows = [_row(billed) for billed in bills[start : start + BATCH]]
        try:
            result.add(api.call("POST", "/admin/reconcile", {"rows": rows, "dry_run": result.dry_run}).fields)
        except CommandError as exc:
            done = f"The first {start} of {len(bills)} attempts are dealt with; run the same again for the others."
            raise CommandError(f"{exc}\n{done}") from exc


def _row(billed: Billed) -> dict[str, Any]:
    row: dict[str, Any] = {"attempt_id": billed.attempt_id}
    if billed.nano_usd is not None:
        row["nano_usd"] = billed.nano_usd
    elif billed.usage is not None:
        row["usage"] = asdict(billed.usage)
    return row


def _free(api: AdminApi, scope: _Scope, absent: Sequence[str], result: _Result) -> None:
    for start in range(0, len(absent), BATCH):
        body = {"provider": scope.provider, "until": scope.until, "dry_run": result.dry_run}
        answer = api.call("POST", "/admin/reconcile/absent", {**body, "attempts": absent[start : start + BATCH]})
        result.absent += answer.fields["freed"]
        result.absent_freed += _nano(answer.fields["freed_usd"])


def _nano(usd: str) -> NanoUSD:
    """Dollars as the admin API tells them: exact, and in sum more than any one budget can be."""
    return int(Decimal(usd).scaleb(9))


def _several(billed: Billed) -> dict[str, Any]:
    nano = billed.nano_usd
    return {
        "attempt_id": billed.attempt_id,
        "rows": billed.rows,
        "billed_usd": None if nano is None else to_usd(nano),
    }


def _show(result: _Result) -> None:
    printer = console()
    printer.print(facts(dict(_lines(result))))
    for title, differences in (("booked otherwise", result.differs), ("billed, but never sent", result.voided)):
        rows = [(each["attempt_id"], each["booked_usd"], each["billed_usd"]) for each in differences]
        _list((title, "booked, USD", "billed, USD"), rows)
    _list(("needs a cost",), [(attempt_id,) for attempt_id in result.unpriced])
    several = [(each["attempt_id"], str(each["rows"]), each["billed_usd"] or "?") for each in result.several_rows]
    _list(("billed more than once", "rows", "together, USD"), several)


def _list(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        printer = console()
        printer.print()
        printer.print(listing(headers, rows[:SHOWN]))
        if len(rows) > SHOWN:
            printer.print(f"… and {len(rows) - SHOWN} more; --json has all")


def _lines(result: _Result) -> Iterator[tuple[str, str]]:
    """What a person gets to see of each number that is not 0."""
    would = "would be " if result.dry_run else ""
    money = f"{to_usd(result.spent)} USD {would}spent, {to_usd(result.freed)} USD {would}freed"
    for outcome, words in WORDS.items():
        count = result.counts[outcome]
        if outcome == "resolved":
            yield words, f"{count}: {money}"
        elif count:
            yield words, str(count)
    if result.absent:
        yield "not billed", f"{result.absent}: {to_usd(result.absent_freed)} USD {would}freed"
    if result.attempts_of_other_accounts:
        yield "other accounts", str(result.attempts_of_other_accounts)
    if result.rows_not_ours:
        yield "rows not ours", str(result.rows_not_ours)
