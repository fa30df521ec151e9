"""A gateway as a child process."""

import asyncio
import fcntl
import socket
from pathlib import Path

import pytest

from gateway.cli.admin_api import admin_key
from gateway.errors import CannotStart
from gateway.process import GatewayProcess


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("PAYMASTER_ADMIN_KEY", "of-another-gateway")


async def test_it_starts_with_a_ledger_of_its_own_and_stops(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, 0, None)

    await gateway.start()
    death = asyncio.ensure_future(gateway.died())
    assert admin_key(gateway.environ) == (tmp_path / "admin.key").read_text().strip()
    await gateway.stop()
    with pytest.raises(CannotStart, match="the gateway stopped; the end of its log:"):
        await death


async def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=f"port {port} is in use; choose another with --port"):
            await GatewayProcess(tmp_path, port, None).start()


async def test_a_gateway_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    with (tmp_path / "supervisor.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CannotStart, match=r"did not start; the end of its log:\nanother gateway is running"):
            await GatewayProcess(tmp_path, 0, None).start()


async def test_stopping_what_was_never_started_does_nothing(tmp_path: Path) -> None:
    await GatewayProcess(tmp_path, 0, None).stop()
