"""`paymaster chaos`: puts the promises to the proof, on a gateway of its own, and prints what came of it."""

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from gateway.chaos.promises import NAMES, Order, Results, prove
from gateway.chaos.report import done, page, verdict
from gateway.cli.errors import CommandError
from gateway.cli.tables import console, listing
from gateway.errors import CannotStart

app = typer.Typer()


@app.command()
def chaos(
    full: Annotated[bool, typer.Option("--full", help="As many faults as the documented figures: takes long.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeat the choices of an earlier run.")] = None,
    only: Annotated[str | None, typer.Option("--only", help="Some promises alone, such as P1,P3.")] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", help="An empty database of your own, for what does not kill Redis.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write the results into this page too.")] = None,
    scale: Annotated[float, typer.Option("--scale", min=0.001, help="So many times as much of everything.")] = 1.0,
) -> None:
    """Break a gateway of its own in every way there is, and show that its promises hold."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    order = Order(seed, _names(only), full, scale, redis_url)
    screen = console()
    screen.print(f"seed {seed}")
    logging.getLogger("budgets").setLevel(logging.CRITICAL)  # faults are what this is about
    with screen.status("") as status, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(_prove(order, lambda name, claim: status.update(f"{name}  {claim}")))
    screen.print(_table(results))
    for outcome in results.outcomes:
        for words in outcome.violations:
            screen.print(f"{outcome.promise}: {words}")
    if report is not None:
        earlier = report.read_text(encoding="utf-8") if report.exists() else ""
        report.write_text(page(results, _command(order), earlier), encoding="utf-8")
    if not results.kept:
        raise CommandError(f"a promise is broken; --seed {seed} makes the same choices again")


async def _prove(order: Order, tell: Callable[[str, str], None]) -> Results:
    """Raises CommandError where a signal ends it, with everything that was started stopped again."""
    work = asyncio.ensure_future(prove(order, tell))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except CannotStart as exc:
        raise CommandError(str(exc)) from exc
    except asyncio.CancelledError as exc:
        raise CommandError("stopped") from exc


def _names(only: str | None) -> tuple[str, ...]:
    """Raises CommandError for a promise that is none."""
    if only is None:
        return NAMES
    names = tuple(name.strip().upper() for name in only.split(","))
    if unknown := [name for name in names if name not in NAMES]:
        raise CommandError(f"{', '.join(unknown)}: no such promise; there are {', '.join(NAMES)}")
    return names


def _table(results: Results) -> object:
    rows = [(each.promise, each.claim, done(each), verdict(each)) for each in results.outcomes]
    return listing(("", "promise", "what was done", ""), rows)


def _command(order: Order) -> str:
    """What makes the same choices again; where Redis and the page are is nobody's business."""
    parts = ["paymaster chaos", *(["--full"] if order.full else []), f"--seed {order.seed}"]
    parts += [f"--only {','.join(order.names)}"] if tuple(order.names) != NAMES else []
    parts += [f"--scale {order.scale:g}"] if order.scale != 1 else []
    return " ".join(parts)
