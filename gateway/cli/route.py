"""`paymaster route "…"`: what the router would do with a request, asked of the running gateway; nothing is spent."""

from typing import Annotated, Any

import typer

from gateway.cli.admin_api import connect
from gateway.cli.tables import console, facts

app = typer.Typer()


@app.command()
def route(
    text: Annotated[str, typer.Argument(help="What a user would ask.")],
    model: Annotated[str, typer.Option("--model", help="The route to ask.")] = "auto",
    system: Annotated[str | None, typer.Option("--system", help="A system message before it.")] = None,
    remaining: Annotated[
        str | None, typer.Option("--remaining", metavar="USD", help="As if so much were left of the key's budget.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the admin API's JSON.")] = False,
) -> None:
    """Show which model a request would go to, and why, without sending it."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    body: dict[str, Any] = {"model": model, "messages": messages}
    if remaining is not None:
        body["remaining_usd"] = remaining
    with connect() as api:
        answer = api.call("POST", "/admin/route/explain", body)
    if as_json:
        typer.echo(answer.text)
    else:
        _show(answer.fields)


def _show(plan: dict[str, Any]) -> None:
    cost = f"about {plan['expected_usd']} USD" if plan["expected_usd"] is not None else "unknown"
    others = [name for name in plan["candidates"] if name != plan["model"]]
    rows = {
        "model": plan["model"],
        "tier": plan["tier"] or "none: the model was named",
        "because": plan["reason"],
        "cost": cost,
        "then": ", ".join(others) or "nothing else to try",
    }
    console().print(facts(rows))
