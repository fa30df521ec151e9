"""`paymaster`: the table of commands. A command's module, with all that it needs, is imported when it is called."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from gateway import __version__
from gateway.cli.errors import CommandError

COMMANDS = {
    "serve": "Run the gateway.",
    "demo": "Run the gateway with sample agents and show what they spend.",
    "check": "Check the configuration and show what would be served.",
    "chaos": "Break a gateway of its own in every way there is, and show that its promises hold.",
    "route": "Show which model a request would go to, without sending it.",
    "keys": "Create, show, change and block virtual keys.",
    "budgets": "Show what is in suspense; go on after Redis has lost data.",
    "reconcile": "Book what a provider billed for attempts whose cost nobody knows.",
}
"""Name and help; each is the `app` of the module `gateway.cli.<name>`."""


class LazyGroup(TyperGroup):
    """Lists commands from `COMMANDS` and imports the one that is called. CommandError becomes a message and exit 1."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, line in COMMANDS.items():
            self.add_command(TyperCommand(name, help=line))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself in the place of its line in the list."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            command = get_command(import_module(f"gateway.cli.{name}").app)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Raises typer.Exit(1) after an expected failure was told."""
        try:
            return super().invoke(ctx)
        except CommandError as exc:
            typer.secho(str(exc), fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from exc


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def paymaster(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """An LLM gateway for agents: exact budgets, routing by task and money, one command to run."""


def main() -> None:
    """The console script."""
    app(prog_name="paymaster")
