"""`paymaster serve`: reads the configuration and runs the gateway in the foreground. Its log is standard output."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.errors import CommandError
from gateway.configuration import ConfigurationError, admin_url, configuration_path
from gateway.detection import unspoken
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
    as_configured = config is None and host is None and port is None
    try:
        settings = load(path, os.environ, overrides=overrides)
        Supervisor(settings, path, os.environ, overrides=overrides).run(
            lambda url: _greet(url, settings, as_configured)
        )
    except (ConfigurationError, CannotStart) as exc:
        raise CommandError(str(exc)) from exc


def _greet(url: str, settings: Settings, as_configured: bool) -> None:
    """Tell where it is and what to do next, on standard error: standard output is the log's.

    `as_configured`: the other commands find it by the configuration file, as this one did, unless its port is any.
    """
    names = ", ".join([*settings.routes, *settings.models])
    admin = admin_url({"admin": {"listen": settings.admin.listen}}) if settings.admin.listen else url
    elsewhere = "" if as_configured and settings.server.port else f"PAYMASTER_URL={admin} "
    typer.echo(f"Paymaster serves {url}/v1 with {names}", err=True)
    if useless := unspoken(os.environ, settings.providers):
        typer.echo(useless, err=True)
    typer.echo(f"Make a key with: {elsewhere}paymaster keys create --name me --limit 5/day", err=True)
