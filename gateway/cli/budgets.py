"""`paymaster budgets`: what is in suspense, and what to do once Redis has lost data; through the admin API."""

from typing import Annotated, Any

import typer

from gateway.cli.admin_api import connect
from gateway.cli.errors import CommandError
from gateway.cli.tables import console, date, listing

app = typer.Typer(help="Show what is in suspense; go on after Redis has lost data.", no_args_is_help=True)

LOSS = """\
Redis lacks what the gateway has seen of these accounts: it was emptied, or an older state of it came back.
Callers with a budget are refused there, lest they spend the same money twice. What a failover lost comes back by
itself within a minute; for the rest, restore a newer copy of Redis's data if there is one.

Once confirmed, what Redis has is the truth: what was spent and is lost counts against no limit any more.
"""


@app.command()
def suspense(
    account: Annotated[str | None, typer.Option("--account", help="Of one account; of all unless given.")] = None,
    first: Annotated[int, typer.Option("--first", min=1, max=1000, help="How many.")] = 100,
    start: Annotated[int, typer.Option("--start", min=0, help="Leave out so many.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the admin API's JSON.")] = False,
) -> None:
    """List the attempts whose cost nobody knows: what they hold counts until `paymaster reconcile` resolves them."""
    query: dict[str, str | int] = {"limit": first, "start": start} | ({"account": account} if account else {})
    with connect() as api:
        answer = api.call("GET", "/admin/suspense", query=query)
    if as_json:
        typer.echo(answer.text)
        return
    held = answer.fields["data"]
    if not held:
        typer.echo("Nothing is in suspense.")
        return
    headers = ("attempt", "key", "model", "held, USD", "estimate", "since")
    console().print(listing(headers, map(_row, held)))
    if answer.fields["has_more"]:
        typer.echo(f"more with --start {start + len(held)}", err=True)


@app.command()
def confirm(
    account: Annotated[str | None, typer.Option("--account", help="One; else all that are behind.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take what Redis has for the truth, after it has lost data; callers with a budget are served again."""
    with connect() as api:
        names = [account] if yes else _agreed(api.call("GET", "/admin/ledger").fields["behind"], account)
        answers = [api.call("POST", "/admin/ledger/confirm", {"account": name} if name else {}) for name in names]
    confirmed = [name for answer in answers for name in answer.fields["confirmed"]]
    typer.echo(f"confirmed: {', '.join(confirmed)}")


def _agreed(behind: list[dict[str, Any]], account: str | None) -> list[str]:
    """The accounts that a person, told what is lost as far as it is known, agrees to. Raises CommandError for none."""
    concerned = [each for each in behind if account in (None, each["account"])]
    if not concerned:
        raise CommandError("Redis lacks nothing that the gateway has seen: there is nothing to confirm.")
    typer.echo(LOSS)
    rows = [(each["account"], date(each["since"]), f"{each['spent_usd']} USD") for each in concerned]
    console().print(listing(("account", "noticed", "spent, as Redis has it now"), rows))
    typer.confirm("\nTake it for the truth?", abort=True)
    return [each["account"] for each in concerned]


def _row(held: dict[str, Any]) -> tuple[str, ...]:
    names = (held["attempt_id"], held["key_id"], held["model"])
    return (*names, held["held_usd"], held["estimate_usd"], date(held["ended_at"]))
