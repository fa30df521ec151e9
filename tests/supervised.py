"""A supervisor's process with stand-ins for workers: see gateway/stand_in_worker.py."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 30.0
"""Seconds after which a test gives up; no test waits that long when the code is right."""
WORKER = Path(__file__).parent / "gateway" / "stand_in_worker.py"
SUPERVISOR = """
import os, sys
from pathlib import Path
from gateway.errors import CannotStart
from gateway.settings import load
from gateway.supervisor import Supervisor

path = Path(sys.argv[1])
overrides = {"server": {"port": sys.argv[2]}}
settings = load(path, os.environ, overrides=overrides)
worker = (sys.executable, "-P", sys.argv[3])
supervisor = Supervisor(settings, path, os.environ, overrides=overrides, worker_command=worker)
try:
    supervisor.run(lambda url: print("ready", url, flush=True))
except CannotStart as exc:
    sys.exit(f"cannot start: {exc}")
"""
CONFIGURATION = """
server: {{workers: 2, header_timeout: 0.5, shutdown_timeout: 20}}
providers: {{acme: {{kind: openai, base_url: "http://127.0.0.1:9/v1"}}, toys: {{kind: sandbox}}}}
models: {{{model}: {{provider: acme, model: m, price: {{input: "1", output: "1"}}}}}}
"""


@dataclass
class Running:
    """A supervisor's process and the port it serves on."""

    process: Process
    folder: Path
    port: int

    async def get(self, path: str = "/") -> dict[str, Any]:
        return await get(self.port, path)

    async def workers(self) -> dict[int, int]:
        """The process id of every worker, by index."""
        found: dict[int, int] = {}
        async with asyncio.timeout(PATIENCE):
            while len(found) < 2:
                facts = await self.get()
                found[facts["worker"]] = facts["pid"]
        return found

    async def told(self, text: str) -> str:
        """Wait for a line with this text, on whatever the supervisor and its children write."""
        return await told(self.process, text)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)

    def restart(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def children(self) -> set[int]:
        """The ids of all workers' processes, also of those that do not serve yet or are about to leave."""
        return set(children_of(self.process, WORKER.name))

    def configure(self, model: str) -> None:
        (self.folder / "paymaster.yaml").write_text(CONFIGURATION.format(model=model))


async def get(port: int, path: str = "/", headers: str = "") -> dict[str, Any]:
    """What is answered to a request on a connection of its own."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
    facts: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return facts


async def told(process: Process, text: str) -> str:
    assert process.stdout is not None
    seen = []
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stdout.readline()).decode():
            seen.append(line)
            if text in line:
                return line
    raise AssertionError(f"not told: {text!r}, but:\n{''.join(seen)}")


async def launch(folder: Path, port: int = 0, environ: Mapping[str, str] | None = None) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SUPERVISOR,
        str(folder / "paymaster.yaml"),
        str(port),
        str(WORKER),
        stdout=PIPE,
        stderr=subprocess.STDOUT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PAYMASTER_DATA_DIR": str(folder / "data"),
            **(environ or {}),
        },
    )


@asynccontextmanager
async def running(folder: Path, model: str = "small") -> AsyncIterator[Running]:
    (folder / "paymaster.yaml").write_text(CONFIGURATION.format(model=model))
    process = await launch(folder)
    try:
        ready = await told(process, "ready http://127.0.0.1:")
        yield Running(process, folder, int(ready.rpartition(":")[2]))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def stream(port: int, piece: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which an answer has begun that goes on until `finish`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /echo HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(piece) + 4, piece))
    await asyncio.wait_for(reader.readuntil(piece + b"\r\n"), PATIENCE)
    return reader, writer


async def finish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"last")
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b"4\r\nlast\r\n0\r\n\r\n"
    writer.close()


async def ask_until_refused(port: int, started: asyncio.Event) -> bool:
    """Keep asking until nobody listens; whether all was answered."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return True
        if not await ask_until_closed(reader, writer, started):
            return False


async def ask_until(ended: asyncio.Event, port: int) -> int:
    """Keep asking until `ended`, and expect to be answered always; returns how many connections that took."""
    connections = 0
    while not ended.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connections += 1
        assert await ask_until_closed(reader, writer, asyncio.Event(), ended)
    return connections


async def ask_until_closed(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    started: asyncio.Event,
    ended: asyncio.Event | None = None,
) -> bool:
    """Keep asking on one connection, as SDKs do, until told that it closes or until `ended`; whether all was answered.

    `started` is set with the first answer.
    """
    head = b""
    while b"connection: close" not in head and not (ended and ended.is_set()):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        started.set()
    writer.close()
    return True


def sandbox(facts: Mapping[str, Any]) -> tuple[int, str, str]:
    """Port, path and header line that fetch the sandbox's bill."""
    port = int(facts["sandbox_url"].removesuffix("/v1").rpartition(":")[2])
    return port, "/bill", f"authorization: Bearer {facts['sandbox_token']}\r\n"


def child_of(process: Process, name: str) -> int:
    """The id of the child whose command line has `name` in it."""
    (found,) = children_of(process, name)
    return found


def children_of(process: Process, name: str) -> list[int]:
    found = []
    for thread in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # one has just ended
            found += [pid for pid in thread.read_text().split() if name in Path(f"/proc/{pid}/cmdline").read_text()]
    return [int(pid) for pid in found]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def listens(address: int | str) -> bool:
    """Whether somebody listens on this port of 127.0.0.1, or on this unix socket."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe, suppress(OSError):
        probe.connect(address if isinstance(address, str) else ("127.0.0.1", address))
        return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again, for what tells nobody when it happens."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
