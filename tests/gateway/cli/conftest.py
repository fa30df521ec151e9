"""A gateway that the commands talk to: the real application on a real port, over the real Valkey server."""

import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from gateway.app import create_app
from gateway.cli.app import app
from gateway.settings import Runtime, load
from gateway.telemetry.logs import LineWriter

ADMIN_KEY = "admin-of-the-tests"

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def gateway_url(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway without a configuration file: it serves the sandbox's models."""
    folder = tmp_path_factory.mktemp("gateway")
    environ = {"PAYMASTER_DATA_DIR": str(folder)}
    runtime = Runtime(
        redis_url=f"unix://{valkey_socket}", admin_key=ADMIN_KEY, pepper="pepper-of-the-tests", run_dir=folder
    )
    settings = load(None, environ, runtime)
    writer = LineWriter(io.BytesIO())

    application = create_app(settings, runtime, writer, reread=lambda: settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(application, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert server.up.wait(timeout=10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        writer.close()


class _Server(uvicorn.Server):
    """Tells when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@pytest.fixture
def paymaster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `paymaster` with these arguments in an empty folder, with an environment of nothing but the given."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environ: str) -> Result:
        clean = dict.fromkeys(("PAYMASTER_URL", "PAYMASTER_ADMIN_KEY", "PAYMASTER_CONFIG", "OPENAI_API_KEY"))
        variables = {**clean, "PAYMASTER_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200", **environ}
        return CliRunner().invoke(app, arguments, env=variables, catch_exceptions=False, prog_name="paymaster")

    return run


@pytest.fixture
def admin(paymaster: Command, gateway_url: str) -> Command:
    """`paymaster` with a running gateway and its admin key."""

    def run(*arguments: str) -> Result:
        return paymaster(*arguments, PAYMASTER_URL=gateway_url, PAYMASTER_ADMIN_KEY=ADMIN_KEY)

    return run
