"""`paymaster check`: is the configuration right, and what would be served with it."""

import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from budgets.price_book import PriceBook
from budgets.pricing import PICO_PER_USD, TOKENS_PER_UNIT, PicoUSD, Price
from gateway.catalog import Catalog, Target
from gateway.cli.errors import CommandError
from gateway.cli.tables import console, listing
from gateway.configuration import ConfigurationError, configuration_path
from gateway.detection import unspoken
from gateway.settings import RouteSettings, Settings, load

app = typer.Typer()


@app.command()
def check(
    config: Annotated[
        Path | None, typer.Option("--config", help="The file; else as `paymaster serve` finds it.")
    ] = None,
) -> None:
    """Check the configuration and show what would be served. Ends with 1, and all errors, where it is wrong."""
    try:
        settings = load(config, os.environ)
    except ConfigurationError as exc:
        raise CommandError(str(exc)) from exc
    source = configuration_path(config, os.environ) or "no file; found from the environment"
    printer = console()
    printer.print(f"Configuration: {source}; data in {settings.data_dir}", soft_wrap=True)
    if useless := unspoken(os.environ, settings.providers):
        printer.print(useless, soft_wrap=True)
    for table in (_providers(settings), _models(Catalog(settings, PriceBook.load())), _routes(settings)):
        printer.print()
        printer.print(table)


def _providers(settings: Settings) -> Table:
    rows = [
        (name, provider.kind, provider.base_url or "started with the gateway", "yes" if provider.api_key else "none")
        for name, provider in settings.providers.items()
    ]
    return listing(("provider", "kind", "address", "credential"), rows)


def _models(catalog: Catalog) -> Table:
    rows = [
        (name, target.deployment.provider_name, target.deployment.model, _priced(target))
        for name, target in catalog.targets.items()
    ]
    return listing(("model", "provider", "its name there", "USD per million: input / output"), rows)


def _priced(target: Target) -> str:
    if target.price is None:
        return "unknown: refused for keys with a limit; give a price"
    return "free" if target.price.free else _rates(target.price)


def _rates(price: Price) -> str:
    rates = price.standard[0].rates
    per_million = [_usd(rate * TOKENS_PER_UNIT) for rate in (rates.input, rates.output)]
    cached = f", cached {_usd(rates.cache_read * TOKENS_PER_UNIT)}" if rates.cache_read != rates.input else ""
    request = f", {_usd(price.request)} per request" if price.request else ""
    longer = ", dearer when long" if len(price.standard) > 1 else ""
    return " / ".join(per_million) + cached + request + longer


def _usd(pico: PicoUSD) -> str:
    return f"{Decimal(pico) / PICO_PER_USD:f}"


def _routes(settings: Settings) -> Table:
    rows = [(name, _tiers(route)) for name, route in settings.routes.items()]
    return listing(("route", "tiers, cheap to strong"), rows)


def _tiers(route: RouteSettings) -> str:
    lines = (
        f"{tier}: {', '.join(models)}{' (default)' if tier == route.default else ''}"
        for tier, models in route.tiers.items()
    )
    return "\n".join(lines)
