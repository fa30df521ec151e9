"""`paymaster serve`: reads the configuration and runs the gateway in the foreground. Its log is standard output."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.errors import CommandError
from gateway.configuration import ConfigurationError, configuration_path
from gateway.errors import CannotStart
from gateway.settings import Settings, load
from gateway.supervisor import Supervisor

app = typer.Typer()


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="PAYMASTER_CONFIG or paymaster.yaml unless given.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Where to listen; 127.0.0.1 unless configured.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="4000 unless configured; 0 takes a free one.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes that share the port.")] = None,
) -> None:
    """Run the gateway. With nothing configured it serves the providers whose keys it finds, else the sandbox."""
    given = {"host": host, "port": port, "workers": workers}
    overrides = {"server": {name: value for name, value in given.items() if value is not None}}
    path = configuration_path(config, os.environ)
    try:
        settings = load(path, os.environ, overrides=overrides)
        Supervisor(settings, path, os.environ, overrides=overrides).run(lambda url: _greet(url, settings))
    except (ConfigurationError, CannotStart) as exc:
        raise CommandError(str(exc)) from exc


def _greet(url: str, settings: Settings) -> None:
    """Tell where it is and what to do next, on standard error: standard output is the log's."""
    names = ", ".join([*settings.routes, *settings.models])
    elsewhere = "" if url.endswith(":4000") else f"PAYMASTER_URL={url} "
    typer.echo(f"Paymaster serves {url}/v1 with {names}", err=True)
    typer.echo(f"Make a key with: {elsewhere}paymaster keys create --name me --limit 5/day", err=True)
