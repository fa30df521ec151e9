"""`paymaster keys`: virtual keys, through the admin API of a running gateway."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from budgets.budget import parse_limit
from budgets.money import to_usd
from gateway.cli.admin_api import Answer, connect
from gateway.cli.errors import CommandError
from gateway.cli.tables import console, date, facts, listing

app = typer.Typer(help="Create, show, change and block virtual keys.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the admin API's JSON.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, key_…")]
Name = Annotated[str | None, typer.Option("--name", help="What the key is called in logs and panels.")]
Limits = Annotated[
    list[str] | None, typer.Option("--limit", metavar="USD/WINDOW", help="5/day, 0.01/lifetime … may be repeated.")
]
Models = Annotated[str | None, typer.Option("--models", help="Models and routes allowed: 'auto,small', 'gpt-*'.")]
Expires = Annotated[
    str | None, typer.Option("--expires", help="When it stops working: 12h, 30d, 2027-01-31 (UTC), or never.")
]

_LENGTH = re.compile(r"(\d{1,6})([hdw])", re.ASCII)
_SECONDS = {"h": 3600, "d": 86400, "w": 604800}


@app.command()
def create(
    name: Annotated[str, typer.Option("--name", help="What the key is called in logs and panels.")],
    limit: Limits = None,
    models: Models = None,
    account: Annotated[str | None, typer.Option("--account", help="Whose key it is; `default` unless given.")] = None,
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Create a key. Its text is shown this once and stored nowhere."""
    body = {"name": name, **_changes(limit, models, expires)}
    if account:
        body["account"] = account
    with connect() as api:
        answer = api.call("POST", "/admin/keys", body)
    if not as_json:
        typer.secho(f"{answer.fields['key']}", bold=True)
        typer.echo("Keep it now: it is not shown again.\n", err=True)
    _show(answer, as_json)


@app.command("list")
def list_(
    first: Annotated[int, typer.Option("--first", min=1, max=1000, help="How many.")] = 100,
    after: Annotated[str | None, typer.Option("--after", help="Go on after the key with this id.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="Whose keys; `default` unless given.")] = None,
    as_json: Json = False,
) -> None:
    """List the keys, oldest first."""
    given = {"after": after, "account": account}
    query = {"limit": first} | {name: value for name, value in given.items() if value is not None}
    with connect() as api:
        answer = api.call("GET", "/admin/keys", query=query)
    if as_json:
        typer.echo(answer.text)
        return
    rows = [
        (key["id"], key["name"], _spent(key), _limits(key), ", ".join(key["models"]), _state(key))
        for key in answer.fields["data"]
    ]
    console().print(listing(("id", "name", "spent", "limits", "models", "state"), rows))
    if answer.fields["has_more"]:
        typer.echo(f"more with --after {rows[-1][0]}", err=True)


@app.command()
def show(key_id: KeyId, as_json: Json = False) -> None:
    """Show a key: what it spent, what is left and when that resets."""
    _call("GET", key_id, as_json=as_json)


@app.command()
def update(
    key_id: KeyId,
    name: Name = None,
    limit: Limits = None,
    models: Models = None,
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Change a key. Limits given replace all that it had; `--limit none` takes them away."""
    changes = _changes(limit, models, expires)
    if name:
        changes["name"] = name
    if not changes:
        raise CommandError("nothing to change; give --name, --limit, --models or --expires")
    with connect() as api:
        _show(api.call("PATCH", f"/admin/keys/{key_id}", changes), as_json)


@app.command()
def block(key_id: KeyId, as_json: Json = False) -> None:
    """Block a key, at once."""
    _call("POST", key_id, "/block", as_json=as_json)


@app.command()
def unblock(key_id: KeyId, as_json: Json = False) -> None:
    """Let a blocked key work again."""
    _call("POST", key_id, "/unblock", as_json=as_json)


@app.command()
def delete(key_id: KeyId, as_json: Json = False) -> None:
    """Delete a key for good."""
    with connect() as api:
        answer = api.call("DELETE", f"/admin/keys/{key_id}")
    typer.echo(answer.text if as_json else f"deleted {key_id}")


def _call(method: str, key_id: str, action: str = "", *, as_json: bool) -> None:
    with connect() as api:
        _show(api.call(method, f"/admin/keys/{key_id}{action}"), as_json)


def _changes(limit: Sequence[str] | None, models: str | None, expires: str | None) -> dict[str, Any]:
    """The options given, as the admin API's fields."""
    changes: dict[str, Any] = {}
    if limit:
        changes["limits"] = [] if limit == ["none"] else [limit_fields(text) for text in limit]
    if models is not None and not models.replace(",", "").strip():
        raise CommandError("--models names none; write 'auto,small', or '*' for all")
    if models:
        changes["models"] = [name.strip() for name in models.split(",") if name.strip()]
    if expires:
        changes["expires_at"] = None if expires == "never" else _instant(expires)
    return changes


def limit_fields(text: str) -> dict[str, str]:
    """`5/day` as the admin API takes it. Raises CommandError for what is no limit."""
    try:
        limit = parse_limit(text)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    return {"usd": to_usd(limit.amount), "window": limit.window}


def _instant(text: str) -> float:
    """`12h` from now, or a date, as Unix seconds."""
    if length := _LENGTH.fullmatch(text):
        return datetime.now(UTC).timestamp() + int(length[1]) * _SECONDS[length[2]]
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as exc:
        raise CommandError(f"--expires {text}: write 12h, 30d, 4w, a date such as 2027-01-31, or never") from exc
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _show(answer: Answer, as_json: bool) -> None:
    """One key, with what it spent and what is left of each limit."""
    if as_json:
        typer.echo(answer.text)
        return
    key = answer.fields
    rows = {
        "id": key["id"],
        "name": key["name"],
        "models": ", ".join(key["models"]),
        "state": _state(key),
        "spent": _spent(key),
    }
    for limit in key["limits"]:
        resets = f", resets {date(limit['resets_at'])}" if limit["resets_at"] else ""
        rows[limit["window"]] = f"{limit['remaining_usd']} of {limit['usd']} USD left{resets}"
    console().print(facts(rows))


def _spent(key: dict[str, Any]) -> str:
    held, suspense = key["held_usd"], key["suspense_usd"]
    waiting = f" (held {held}, in suspense {suspense})" if (held, suspense) != ("0", "0") else ""
    return f"{key['spent_usd']} USD{waiting}"


def _limits(key: dict[str, Any]) -> str:
    return ", ".join(f"{limit['usd']}/{limit['window']}" for limit in key["limits"]) or "none"


def _state(key: dict[str, Any]) -> str:
    if key["blocked"]:
        return "blocked"
    if not key["expires_at"]:
        return "active"
    has_ended = key["expires_at"] <= datetime.now(UTC).timestamp()
    return f"{'expired' if has_ended else 'until'} {date(key['expires_at'])}"
