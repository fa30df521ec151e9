"""A Redis server that a proof owns: it may be stopped, frozen, killed, reconfigured and replicated."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from budgets.embedded import find_server
from gateway.errors import CannotStart
from gateway.process import free_port

START_TIMEOUT = 10.0
"""Seconds in which a server with little to load serves, on a busy machine too."""
_POLL = 0.02


class RedisServer:
    """One server on a port of this machine, with its data in `folder`. Use it as an asynchronous context manager."""

    def __init__(self, folder: Path, **options: str) -> None:
        """`options` are the server's own, such as `appendfsync="always"`; they win over those of an embedded one."""
        self.folder = folder
        self.port = free_port()
        self._options = {
            "dir": str(folder),
            "port": str(self.port),
            "bind": "127.0.0.1",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
            "repl-diskless-sync-delay": "0",
            **_spelled(options),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._guard: asyncio.subprocess.Process | None = None
        """Ends the server should this process be killed: its standard input ends then."""
        self._client = Redis(port=self.port, socket_timeout=START_TIMEOUT, retry=Retry(NoBackoff(), 0))

    async def __aenter__(self) -> "RedisServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    async def start(self, patience: float = START_TIMEOUT, **options: str) -> None:
        """Start it, on the data it had, and wait until it serves. Raises CannotStart after `patience` seconds.

        `options` win over its own, until it ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            chosen = self._options | _spelled(options)
            arguments = [part for name, value in chosen.items() for part in (f"--{name}", value)]
            self._process = await asyncio.create_subprocess_exec(
                str(find_server()), *arguments, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._guard = await asyncio.create_subprocess_exec(
            "sh", "-c", f"read -r _; kill -9 {self._process.pid}", stdin=PIPE, start_new_session=True
        )
        try:
            async with asyncio.timeout(patience):
                await self.serves()
        except TimeoutError as exc:
            await self.kill()
            raise CannotStart(f"the Redis server on {self.folder} does not answer; see server.log there") from exc
        except CannotStart:
            await self._ended(self._process)
            raise

    async def serves(self) -> None:
        """Wait until it answers and has loaded its data. Raises CannotStart where it has ended."""
        while self._process is not None and self._process.returncode is None:
            with suppress(RedisError, OSError):
                await self._client.ping()
                return
            await asyncio.sleep(_POLL)
        raise CannotStart(f"the Redis server on {self.folder} has ended; see server.log there")

    def pause(self) -> None:
        """Freeze it, as a machine without CPU does; it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._ended(self._process)

    async def stop(self) -> None:
        """End it in order, with all of its data on the disk."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._ended(self._process)

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        if self._guard is not None:  # before somebody else may have the server's number
            self._guard.kill()
            await self._guard.wait()
            self._guard = None
        await process.wait()

    async def call(self, *command: str | int | bytes) -> Any:
        """What it answers to one command. Raises redis.RedisError."""
        return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def configure(self, name: str, value: str) -> None:
        """`CONFIG SET`."""
        await self.call("CONFIG", "SET", name, value)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)


@asynccontextmanager
async def borrowed(url: str) -> AsyncIterator[None]:
    """Somebody's own server, whose database is empty, and is emptied again. Raises CannotStart."""
    async with Redis.from_url(url, socket_timeout=START_TIMEOUT, retry=Retry(NoBackoff(), 0)) as client:
        try:
            size = await client.dbsize()
        except (RedisError, OSError) as exc:
            raise CannotStart(f"the Redis server cannot be used: {exc}") from exc
        if size:
            reason = "what is in it would be lost"
            raise CannotStart(f"the Redis database is not empty, and {reason}; name another (redis://host:port/9)")
        try:
            yield
        finally:
            await client.flushdb()


async def version_of(url: str) -> str:
    """Such as `valkey 9.1.2`. Raises redis.RedisError."""
    async with Redis.from_url(url) as client:
        facts = await client.info("server")
    name = facts.get("server_name", "redis")
    return f"{name} {facts.get(f'{name}_version', facts['redis_version'])}"


def _spelled(options: Mapping[str, str]) -> dict[str, str]:
    """Options as the server names them."""
    return {name.replace("_", "-"): value for name, value in options.items()}
