"""The supervisor's child processes: each is started again when it ends, until it is told to end.

All of them have a pipe as standard input: one line tells them what they need, and its end that their parent has died.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from abc import ABC, abstractmethod
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.assignment import READY, RELOAD, Assignment
from gateway.errors import CannotStart

SETTLED_AFTER = 10.0
"""Seconds after which a process counts as having started well: its successor is started without delay."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
_STRANGERS_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""All that the sandbox gets to see of the environment, which is full of secrets."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: the command's beginning and its environment."""

    command: Sequence[str]
    environ: Mapping[str, str]


class Child(ABC):
    """One process and its successors. To be made inside a running event loop."""

    def __init__(self, name: str, program: Program) -> None:
        """`name` is for people."""
        self.name = name
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done at the first `tell_ready()`; fails with CannotStart where the first process ends before."""
        self._program = program
        self._process: Process | None = None
        self._serves = False
        self._stopping = False

    @abstractmethod
    async def spawn(self) -> Process:
        """Start a process."""

    @abstractmethod
    async def line(self) -> str:
        """What the process that was started last is told."""

    async def keep(self) -> None:
        """Keep a process running until `stop()`, or until the first process ends without having got ready."""
        pause = 0.0
        while not self._stopping:
            started_at = time.monotonic()
            status = await self._run()
            if self._stopping:
                return
            if not self.ready.done():
                self.ready.set_exception(CannotStart(f"{self.name} ended with status {status} before it was ready"))
                return
            pause = 0.0 if time.monotonic() - started_at > SETTLED_AFTER else pause
            _logger.error("%s ended with status %d; starting another in %.1f s", self.name, status, pause)
            await asyncio.sleep(pause)
            pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)

    def tell_ready(self) -> None:
        """The process that runs now serves."""
        self._serves = True
        if not self.ready.done():
            self.ready.set_result(None)

    def reload(self) -> None:
        """Have the process read the configuration anew; one that does not serve yet is about to read it."""
        if self._process is not None and self._serves:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    def retire(self) -> None:
        """From now on there is no successor."""
        self._stopping = True

    def stop(self) -> None:
        """Ask the process to end; it gets no successor. Asked again, a worker ends without waiting for anything."""
        self.retire()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    async def ended(self, patience: float) -> None:
        """Wait until the process that was asked to end did so; after `patience` seconds it is killed."""
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(patience):
                await process.wait()
        except TimeoutError:
            _logger.error("%s did not end within %.0f s; killing it", self.name, patience)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run(self) -> int:
        """One process from its start to its exit status."""
        self._serves = False
        try:
            self._process = process = await self.spawn()
        except OSError as exc:
            _logger.error("%s cannot be started: %s", self.name, exc)
            return exc.errno or 1
        if self._stopping:
            process.kill()
        else:
            await self._brief(process)
        status = await process.wait()
        self._serves = False
        return status

    async def _brief(self, process: Process) -> None:
        line = await self.line()
        if process.stdin is not None and not process.stdin.is_closing():  # closed: it has died already
            process.stdin.write(f"{line}\n".encode())

    async def _execute(self, *arguments: str, inherit: Sequence[int]) -> Process:
        """Start the command, in a session of its own: a Ctrl-C in the terminal is for the supervisor alone."""
        return await asyncio.create_subprocess_exec(
            *self._program.command,
            *arguments,
            stdin=PIPE,
            env=self._program.environ,
            pass_fds=inherit,
            start_new_session=True,
        )


class Worker(Child):
    """A gateway worker. Its successors have its index and its sockets."""

    def __init__(
        self,
        program: Program,
        index: int,
        listeners: Sequence[socket.socket],
        assignment: "asyncio.Future[Assignment]",
        reload_all: Callable[[], None],
    ) -> None:
        """`assignment` is done when Redis is known; what is each worker's own in it, is filled in here."""
        super().__init__(f"worker {index}", program)
        self._index = index
        self._listeners = listeners
        self._assignment = assignment
        self._reload_all = reload_all
        self._notices = -1

    async def spawn(self) -> Process:
        receiving, self._notices = os.pipe()
        with ExitStack() as undo:
            undo.callback(os.close, receiving)
            try:
                listeners = [listener.fileno() for listener in self._listeners]
                process = await self._execute(inherit=[*listeners, self._notices])
            finally:
                os.close(self._notices)
            undo.pop_all()
        loop = asyncio.get_running_loop()
        loop.add_reader(receiving, self._hear, loop, receiving)
        return process

    async def line(self) -> str:
        common = await asyncio.shield(self._assignment)
        assignment = replace(
            common,
            runtime=replace(common.runtime, worker=self._index),
            listeners=tuple(listener.fileno() for listener in self._listeners),
            notices=self._notices,
        )
        return assignment.to_json()

    def _hear(self, loop: asyncio.AbstractEventLoop, receiving: int) -> None:
        notices = os.read(receiving, 1024)
        if not notices:
            loop.remove_reader(receiving)
            os.close(receiving)
        if READY in notices:
            self.tell_ready()
        if RELOAD in notices:
            self._reload_all()


class Sandbox(Child):
    """The built-in provider. It is a stranger: it gets a socket, a token and a file for its bill, no secret of ours."""

    def __init__(self, program: Program, bill: Path) -> None:
        environ = {name: value for name, value in program.environ.items() if name in _STRANGERS_ENVIRONMENT}
        super().__init__("the sandbox", Program(program.command, environ))
        self.token = secrets.token_urlsafe(32)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._bill = bill

    @property
    def url(self) -> str:
        host, port = self.listener.getsockname()
        return f"http://{host}:{port}/v1"

    async def spawn(self) -> Process:
        descriptor = self.listener.fileno()
        return await self._execute(
            "--fd", str(descriptor), "--bill", str(self._bill), "--token-stdin", inherit=[descriptor]
        )

    async def line(self) -> str:
        return self.token

    async def watch(self) -> None:
        """Tell that it is ready once it answers anything at all. Runs until then, or until cancelled."""
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        try:
            writer.write(b"GET /bill HTTP/1.1\r\nhost: sandbox\r\nconnection: close\r\n\r\n")
            if await reader.readline():
                self.tell_ready()
        except ConnectionError:
            pass  # it died; keep() tells
        finally:
            writer.close()
