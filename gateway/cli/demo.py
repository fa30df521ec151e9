"""`paymaster demo`: a gateway with a data folder of its own, sample agents, and a table of what they spend."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
import yaml
from rich.console import Console
from rich.live import Live

from gateway.cli.admin_api import AdminApi, admin_key, connect
from gateway.cli.demo_agents import CAST, Actor, Agent, Stage
from gateway.cli.demo_board import board, greet
from gateway.cli.errors import CommandError
from gateway.cli.keys import limit_fields
from gateway.cli.tables import console
from gateway.detection import sandbox
from gateway.errors import CannotStart
from gateway.process import GatewayProcess

app = typer.Typer()

KEY_LIMIT = "5/day"
_REFRESH = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    port: int
    config: Path | None
    agents: bool
    requests: int | None
    pace: float


@app.command()
def demo(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 4000,
    data: Annotated[Path | None, typer.Option("--data", help="Keep the data here instead of throwing it away.")] = None,
    real: Annotated[bool, typer.Option("--real", help="Use your own providers, not the sandbox: costs money.")] = False,
    agents: Annotated[bool, typer.Option("--agents/--no-agents", help="Run the sample agents.")] = True,
    requests: Annotated[int | None, typer.Option("--requests", min=1, help="Stop after so many requests.")] = None,
    pace: Annotated[float, typer.Option("--pace", min=0, help="Seconds between an agent's requests.")] = 1.5,
) -> None:
    """Run the gateway with sample agents and show what they spend. Ctrl-C stops it."""
    with tempfile.TemporaryDirectory(prefix="paymaster-demo-") as temporary:
        folder = (data or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        chosen = None if real else _sandbox_configuration(folder)
        try:
            asyncio.run(_demonstrate(folder, Options(port, chosen, agents, requests, pace), console()))
        except CannotStart as exc:
            raise CommandError(str(exc)) from exc


def _sandbox_configuration(folder: Path) -> Path:
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(sandbox(), sort_keys=False), encoding="utf-8")
    return file


async def _demonstrate(folder: Path, options: Options, screen: Console) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    gateway = GatewayProcess(folder, options.port, options.config)
    with screen.status("starting the gateway"):
        await gateway.start()
    try:
        async with _watched(gateway, stopped):
            await _show(gateway, options, screen, stopped)
    finally:
        with screen.status("stopping the gateway"):
            await gateway.stop()


@asynccontextmanager
async def _watched(gateway: GatewayProcess, stopped: asyncio.Event) -> AsyncIterator[None]:
    """Raises CannotStart, and sets `stopped`, should the gateway end before the body does."""
    death = asyncio.create_task(gateway.died())
    death.add_done_callback(lambda _: stopped.set())
    try:
        yield
    finally:
        if death.done():
            await death
        death.cancel()


async def _show(gateway: GatewayProcess, options: Options, screen: Console, stopped: asyncio.Event) -> None:
    with connect(gateway.environ) as api:
        key, _ = _create_key(api, "demo", KEY_LIMIT)
        cast = [Agent(name, *_create_key(api, name, limit)) for name, (_, limit) in CAST.items()]
    admin = {"authorization": f"Bearer {admin_key(gateway.environ)}"}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=120.0, trust_env=False) as client:
        model = await _model(client, key)
        greet(screen, gateway.url, key, model, str(gateway.data_dir))
        if not options.agents:
            screen.print("Ctrl-C stops it.")
            await stopped.wait()
            return
        stage = Stage(client, admin, model, options.pace, options.requests, stopped)
        await _perform(cast, stage, screen)


async def _perform(cast: Sequence[Agent], stage: Stage, screen: Console) -> None:
    """Let the agents act, and show their money until all have ended or somebody stops them."""
    with Live(board(cast), console=screen, auto_refresh=False) as live:
        async with asyncio.TaskGroup() as tasks:
            acting = [tasks.create_task(Actor(agent, stage).run(CAST[agent.name][0])) for agent in cast]
            while not all(task.done() for task in acting):
                await asyncio.wait(acting, timeout=_REFRESH)
                await _read_money(cast, stage)
                live.update(board(cast), refresh=True)


async def _read_money(cast: Sequence[Agent], stage: Stage) -> None:
    for agent in cast:
        try:
            response = await stage.client.get(f"/admin/keys/{agent.key_id}", headers=stage.admin_headers)
        except httpx.TransportError:
            return  # a gateway that ended is told by `_watched`
        if response.is_success:
            fields = response.json()
            agent.spent_usd, agent.remaining_usd = fields["spent_usd"], fields["limits"][0]["remaining_usd"]


def _create_key(api: AdminApi, name: str, limit: str) -> tuple[str, str]:
    """A key's text and id."""
    fields = api.call("POST", "/admin/keys", {"name": name, "limits": [limit_fields(limit)]}).fields
    return fields["key"], fields["id"]


async def _model(client: httpx.AsyncClient, key: str) -> str:
    """`auto` where it is served, else the first name."""
    response = await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    names = [str(model["id"]) for model in response.json()["data"]]
    return "auto" if "auto" in names else names[0]
