import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.assignment import READY, RELOAD, Assignment
from gateway.settings import Runtime

PATIENCE = 20.0
"""Seconds after which a test gives up; no test waits that long when the code is right."""
WORKER = Path(__file__).with_name("stand_in_worker.py")
CONFIGURATION = """
server: {{header_timeout: 0.3, shutdown_timeout: 20}}
providers: {{acme: {{kind: openai, base_url: "http://127.0.0.1:9/v1"}}}}
models: {{{model}: {{provider: acme, model: m, price: {{input: "1", output: "1"}}}}}}
"""


@dataclass
class Running:
    """A worker's process, what it tells, and the ports of the sockets it was given."""

    process: Process
    notices: int
    port: int
    admin_port: int
    config: Path

    async def connect(self, port: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port or self.port)

    async def get(self, path: str = "/", port: int | None = None) -> dict[str, Any]:
        reader, writer = await self.connect(port)
        writer.write(f"GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        facts: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return facts

    async def notice(self) -> bytes:
        return await asyncio.wait_for(asyncio.to_thread(os.read, self.notices, 1), PATIENCE)

    async def logged(self, text: str) -> None:
        """Wait for a log line with this text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while text.encode() not in await self.process.stdout.readline():
                pass

    async def exit_status(self) -> int:
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


@asynccontextmanager
async def running(folder: Path, model: str = "small") -> AsyncIterator[Running]:
    config = folder / "paymaster.yaml"
    config.write_text(CONFIGURATION.format(model=model))
    public, admin = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    receiving, sending = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(WORKER),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        pass_fds=[public.fileno(), admin.fileno(), sending],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PAYMASTER_DATA_DIR": str(folder)},
    )
    runtime = Runtime("redis://nowhere", "admin", "pepper", metrics_dir=folder, run_dir=folder, worker=3)
    assignment = Assignment(runtime, config, {}, (public.fileno(), admin.fileno()), sending)
    assert process.stdin is not None
    process.stdin.write(assignment.to_json().encode() + b"\n")
    ports = [listener.getsockname()[1] for listener in (public, admin)]
    for listener in (public, admin):
        listener.close()
    os.close(sending)
    try:
        yield Running(process, receiving, *ports, config)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        os.close(receiving)


async def test_a_worker_serves_the_sockets_it_inherited_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as worker:
        assert await worker.notice() == READY
        facts = await worker.get()

        assert (facts["worker"], facts["port"], facts["models"]) == (3, worker.port, ["small"])
        assert facts["loop"].startswith("uvloop")
        assert (await worker.get(port=worker.admin_port))["port"] == worker.admin_port


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "the supervisor dies"])
async def test_a_worker_that_is_to_end_answers_first_what_is_under_way(tmp_path: Path, how: str) -> None:
    async with running(tmp_path) as worker:
        await worker.notice()
        reader, writer = await worker.connect()
        writer.write(b"POST /echo HTTP/1.1\r\ncontent-length: 9\r\n\r\nfirst")
        await asyncio.wait_for(reader.readuntil(b"first\r\n"), PATIENCE)

        if how == "the supervisor dies":
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        else:
            worker.process.send_signal(signal.Signals[how])
        await refused(worker.port)
        writer.write(b"last")

        assert await asyncio.wait_for(reader.read(), PATIENCE) == b"4\r\nlast\r\n0\r\n\r\n"
        assert await worker.exit_status() == 0
        writer.close()


async def test_a_worker_reads_a_changed_configuration_on_sighup(tmp_path: Path) -> None:
    async with running(tmp_path) as worker:
        await worker.notice()
        worker.config.write_text(CONFIGURATION.format(model="large"))
        worker.process.send_signal(signal.SIGHUP)
        await worker.logged("read anew")

        assert (await worker.get())["models"] == ["large"]


async def test_a_worker_keeps_its_configuration_where_the_new_one_is_wrong(tmp_path: Path) -> None:
    async with running(tmp_path) as worker:
        await worker.notice()
        worker.config.write_text("serverr: {}")
        worker.process.send_signal(signal.SIGHUP)
        await worker.logged("did you mean 'server'?")

        assert (await worker.get())["models"] == ["small"]


async def test_a_request_to_reload_is_passed_up_to_the_supervisor(tmp_path: Path) -> None:
    async with running(tmp_path) as worker:
        await worker.notice()
        await worker.get("/reload")

        assert await worker.notice() == RELOAD


async def test_the_deadlines_of_the_configuration_are_those_of_the_server(tmp_path: Path) -> None:
    async with running(tmp_path) as worker:
        await worker.notice()
        reader, writer = await worker.connect()
        writer.write(b"GET / HTTP/1.1\r\n")

        assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_worker_that_is_told_nothing_ends_quietly() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(WORKER),
        stdin=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    _, told = await asyncio.wait_for(process.communicate(b""), PATIENCE)

    assert (process.returncode, told) == (0, b"")


async def test_a_worker_with_a_wrong_configuration_says_why_and_ends(tmp_path: Path) -> None:
    async with running(tmp_path, model="2: 3, x") as worker:
        _, told = await asyncio.wait_for(worker.process.communicate(), PATIENCE)

        assert worker.process.returncode == 1
        assert b"paymaster.yaml:4: " in told
        assert b"Traceback" not in told


async def refused(port: int) -> None:
    """Wait until nobody listens there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                continue
            writer.close()
