"""A gateway as a child process, with a data folder of its own: for demonstrations and for proofs."""

import asyncio
import os
import random
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from gateway.errors import CannotStart

START_TIMEOUT = 30.0
STOP_TIMEOUT = 40.0
SERVE = (sys.executable, "-P", "-m", "gateway", "serve")
_POLL = 0.05
_LOG_LINES = 15
_PORTS = range(10_000, 32_768)
"""Those that systems do not give to outgoing connections."""
_NOT_INHERITED = ("REDIS_URL", "PAYMASTER_ADMIN_KEY", "PAYMASTER_PEPPER", "PAYMASTER_URL")
"""Of the user's own gateway: this one must not touch its ledger."""


class GatewayProcess:
    """`paymaster serve` on a port of this machine, and its log in the data folder. It can be started again."""

    def __init__(
        self,
        data_dir: Path,
        port: int,
        config: Path | None,
        *,
        command: Sequence[str] = SERVE,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`port` 0 takes a free one; without `config` the gateway finds its configuration itself.

        `variables` are added to its environment.
        """
        self.data_dir = data_dir
        self.log = data_dir / "gateway.log"
        self.port = port or free_port()
        self._config = config
        self._command = command
        self._variables = dict(variables or {})
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> Mapping[str, str]:
        """What the gateway's process gets, and what finds its admin key."""
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        own = {"PAYMASTER_DATA_DIR": str(self.data_dir), "PAYMASTER_URL": self.url}
        return kept | own | self._variables

    @property
    def pid(self) -> int:
        """Of its supervisor. To be asked while it runs."""
        if self._process is None:
            raise ProcessLookupError("the gateway was not started")
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises CannotStart with the end of its log where it is not."""
        if _answers(self.port):
            raise CannotStart(f"port {self.port} is in use; choose another with --port, or 0 for a free one")
        command = [*self._command, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--config", str(self._config)] if self._config else []
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, env=self.environ, stdin=PIPE, stdout=log, stderr=log, start_new_session=True
            )  # its own session: Ctrl-C is ours to obey, and stops it in order
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._ready()
        except TimeoutError as exc:
            await self.stop()
            raise CannotStart(self._told(f"the gateway was not ready after {START_TIMEOUT:.0f} s")) from exc

    async def died(self) -> None:
        """Wait until the process ends, which it does not by itself. Raises CannotStart when it does."""
        if self._process is not None:
            await self._process.wait()
            raise CannotStart(self._told("the gateway stopped"))

    async def stop(self) -> None:
        """Stop it as SIGTERM does, by force if that takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End its supervisor at once, by SIGKILL; the workers, left alone, stop by themselves."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _ready(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            while True:
                if self._process is not None and self._process.returncode is not None:
                    raise CannotStart(self._told("the gateway did not start"))
                with suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        return
                await asyncio.sleep(_POLL)

    def _told(self, what: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if '"level":"info"' not in line]
        return "\n".join([f"{what}; the end of its log:", *telling[-_LOG_LINES:]])


def free_port() -> int:
    """One that nobody listens on at this moment, and that no outgoing connection is given before somebody does."""
    while True:
        port = random.choice(_PORTS)  # noqa: S311 - no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
