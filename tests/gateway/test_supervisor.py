import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATIENCE = 30.0
"""Seconds after which a test gives up; no test waits that long when the code is right."""
WORKER = Path(__file__).with_name("stand_in_worker.py")
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One for all tests that leave it as they found it."""
    async with running(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


async def test_one_start_makes_secrets_serves_with_all_workers_and_one_stop_ends_everything(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        workers = await gateway.workers()
        facts = await gateway.get()
        bill = await get(*sandbox(facts))
        secrets = {file: (tmp_path / "data" / file).stat().st_mode for file in ("admin.key", "pepper")}

        assert set(workers) == {0, 1}
        assert bill["attempts"] == 0
        assert {stat.S_IMODE(mode) for mode in secrets.values()} == {0o600}
        assert await gateway.stop() == 0
        assert not any(map(alive, workers.values()))
        assert not listens(gateway.port)
        assert not listens(sandbox(facts)[0])
        assert not listens(facts["redis_url"].removeprefix("unix://"))


async def test_a_worker_that_was_killed_gets_a_successor_on_the_same_socket(gateway: Running) -> None:
    before = await gateway.workers()
    os.kill(before[1], signal.SIGKILL)
    answers = [await gateway.get() for _ in range(16)]
    await gateway.told("worker 1 ended with status -9")
    after = await gateway.workers()

    assert {facts["pid"] for facts in answers} <= {before[0], after[1]}
    assert before[0] == after[0]
    assert before[1] != after[1]


async def test_workers_end_when_their_supervisor_dies_and_the_next_one_takes_over(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        before = await gateway.workers()
        facts = await gateway.get()
        reader, writer = await stream(gateway.port, b"first")
        gateway.process.kill()
        successor = await launch(tmp_path, gateway.port)
        try:
            await told(successor, "ready")
            after = await gateway.workers()
            await finish(reader, writer)

            assert not set(before.values()) & set(after.values())
            assert (await gateway.get())["redis_url"] == facts["redis_url"]
            assert sandbox(await gateway.get()) != sandbox(facts)
        finally:
            successor.terminate()
            await successor.communicate()


async def test_a_stop_under_load_loses_no_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        streams = [await stream(gateway.port, b"first") for _ in range(8)]
        started = asyncio.Event()
        clients = [asyncio.create_task(ask_until_refused(gateway.port, started)) for _ in range(8)]
        await started.wait()
        gateway.process.terminate()
        answers = [await asyncio.wait_for(client, PATIENCE) for client in clients]
        for reader, writer in streams:
            await finish(reader, writer)

        assert await asyncio.wait_for(gateway.process.wait(), PATIENCE) == 0
        assert all(answers)


async def test_a_sandbox_that_was_killed_comes_back_with_its_address_and_token(gateway: Running) -> None:
    where = sandbox(await gateway.get())
    os.kill(child_of(gateway.process, "gateway.sandbox"), signal.SIGKILL)
    await gateway.told("the sandbox ended with status -9")

    assert (await get(*where))["attempts"] == 0


async def test_an_embedded_redis_that_was_killed_comes_back(gateway: Running) -> None:
    path = (await gateway.get())["redis_url"].removeprefix("unix://")
    os.kill(child_of(gateway.process, "valkey-server"), signal.SIGKILL)

    await until(lambda: not listens(path))
    await until(lambda: listens(path))


async def test_a_reload_that_one_worker_is_asked_for_reaches_all(gateway: Running) -> None:
    gateway.configure("large")
    await gateway.get("/reload")
    for _ in range(2):
        await gateway.told("read anew")
    gateway.configure("huge")
    gateway.process.send_signal(signal.SIGHUP)
    for _ in range(2):
        await gateway.told("read anew")

    models = {facts["worker"]: facts["models"] for facts in [await gateway.get() for _ in range(32)]}
    assert models == {0: ["huge"], 1: ["huge"]}


async def test_a_worker_that_cannot_start_ends_the_start_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "paymaster.yaml").write_text(CONFIGURATION.format(model="broken"))
    process = await launch(tmp_path)
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)

    assert process.returncode == 1
    assert b"broken on purpose" in output
    assert b"cannot start: worker" in output
    assert b"Traceback" not in output


async def test_a_second_gateway_on_the_same_data_is_refused(gateway: Running) -> None:
    second = await launch(gateway.folder)
    await told(second, "cannot start: another gateway is running on")

    assert await second.wait() == 1
    assert set(await gateway.workers()) == {0, 1}


async def test_a_stop_during_the_start_ends_it(tmp_path: Path) -> None:
    (tmp_path / "paymaster.yaml").write_text(CONFIGURATION.format(model="small"))
    environ = {"REDIS_URL": "redis://127.0.0.1:9", "PAYMASTER_ADMIN_KEY": "a" * 16, "PAYMASTER_PEPPER": "p" * 16}
    process = await launch(tmp_path, environ=environ)
    await until((tmp_path / "data" / "metrics").exists)
    process.terminate()

    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    await process.communicate()


async def test_the_supervisor_is_light() -> None:
    heavy = "{'fastapi', 'starlette', 'uvicorn', 'prometheus_client', 'litellm', 'tiktoken', 'aiohttp', 'pyreqwest'}"
    code = f"import sys, gateway.supervisor; print(sorted({heavy} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=PIPE)
    loaded, _ = await asyncio.wait_for(process.communicate(), PATIENCE)

    assert loaded == b"[]\n"


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
    """Keep asking on one connection, as SDKs do, and on a new one when it was closed; whether all was answered."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return True
        head = b""
        while b"connection: close" not in head:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"}")
            except (asyncio.IncompleteReadError, ConnectionError):
                return False
            started.set()
        writer.close()


def sandbox(facts: Mapping[str, Any]) -> tuple[int, str, str]:
    """Port, path and header line that fetch the sandbox's bill."""
    port = int(facts["sandbox_url"].removesuffix("/v1").rpartition(":")[2])
    return port, "/bill", f"authorization: Bearer {facts['sandbox_token']}\r\n"


def child_of(process: Process, name: str) -> int:
    """The id of the child whose command line has `name` in it."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [child for thread in threads for child in thread.read_text().split()]
    (found,) = (child for child in children if name in Path(f"/proc/{child}/cmdline").read_text())
    return int(found)


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
