"""The supervisor's child processes: each is started again when it ends, until it is told to end.

All of them have a pipe as standard input: one line tells them what they need, and its end that their parent has died.
A worker can be replaced while it serves: its successor serves the same sockets before it is asked to leave them.
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

from gateway.assignment import LEAVE, READY, RELOAD, Assignment
from gateway.errors import CannotStart

SETTLED_AFTER = 10.0
"""Seconds after which a process counts as having started well: its successor is started without delay."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
START_TIMEOUT = 60.0
"""Seconds that a process has to get ready before it counts as hung, where another serves in its place."""
MOST_LEAVING = 4
"""Predecessors of one worker that may still serve their last connections; with more, restarts wait for one to end."""
_STRANGERS_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""All that the sandbox gets to see of the environment, which is full of secrets."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: the command's beginning and its environment."""

    command: Sequence[str]
    environ: Mapping[str, str]


class Life:
    """One process of a child."""

    def __init__(self, process: Process, notices: int = -1) -> None:
        """`notices`: the number that the process knows the pipe by on which it tells us things."""
        self.process = process
        self.notices = notices
        self.began: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it got as far as serving; done when it has, or when it will not any more."""
        self._is_stale = False

    @property
    def serves(self) -> bool:
        return self.began.done() and self.began.result() and self.process.returncode is None

    def begin(self, *, serving: bool) -> None:
        """It serves now, or it has ended."""
        if not self.began.done():
            self.began.set_result(serving)
            if self._is_stale:
                self.reload()

    def reload(self) -> None:
        """Have it read the configuration anew. One that starts may have read it already; it is asked when it serves."""
        self._is_stale = not self.began.done()
        if self.serves:
            self.send(signal.SIGHUP)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is somebody to get it."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def end(self, patience: float) -> bool:
        """Wait until it has ended, or else kill it after `patience` seconds; whether it did by itself."""
        try:
            async with asyncio.timeout(patience):
                await self.process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.process.wait()
            return False
        return True


class Child(ABC):
    """One process and its successors. To be made inside a running event loop."""

    def __init__(self, name: str, program: Program) -> None:
        """`name` is for people."""
        self.name = name
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done at the first `tell_ready()`; fails with CannotStart where the first process ends before."""
        self._program = program
        self._life: Life | None = None
        self._stopping = False
        self._handover = asyncio.Lock()
        """Held while a successor may take over."""

    @abstractmethod
    async def spawn(self) -> Life:
        """Start a process."""

    @abstractmethod
    async def line(self, life: Life) -> str:
        """What a process that was just started is told."""

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
        """A process serves for the first time."""
        if not self.ready.done():
            self.ready.set_result(None)

    def retire(self) -> None:
        """From now on there is no successor."""
        self._stopping = True

    def stop(self) -> None:
        """Ask the process to end; it gets no successor."""
        self.retire()
        if self._life is not None:
            self._life.send(signal.SIGTERM)

    async def ended(self, patience: float) -> None:
        """Wait until the process that was asked to end did so; after `patience` seconds it is killed."""
        if self._life is not None:
            await self._see_off(self._life, patience)

    async def _see_off(self, life: Life, patience: float) -> None:
        if not await life.end(patience):
            _logger.error("%s did not end within %.0f s and was killed", self.name, patience)

    async def _run(self) -> int:
        """One process from its start to its exit status, and those to which it hands over."""
        try:
            self._life = life = await self._started()
        except OSError as exc:
            _logger.error("%s cannot be started: %s", self.name, exc)
            return exc.errno or 1
        while True:
            status = await life.process.wait()
            async with self._handover:  # a successor on its way may still take over
                if self._life is life:
                    return status
                life = self._life

    async def _started(self) -> Life:
        """A process that was told its line. Raises OSError."""
        life = await self.spawn()
        if self._stopping:
            life.send(signal.SIGKILL)
        else:
            await self._brief(life)
        return life

    async def _brief(self, life: Life) -> None:
        line, told = await self.line(life), life.process.stdin
        if told is not None and not told.is_closing():  # closed: it has died already
            told.write(f"{line}\n".encode())

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
        self._successor: Life | None = None
        """One that does not serve yet."""
        self._farewells = asyncio.TaskGroup()
        self._leaving: dict[asyncio.Task[None], Life] = {}

    async def keep(self) -> None:
        async with self._farewells:
            await super().keep()

    async def restart(self, patience: float) -> None:
        """Have a successor serve, then ask the process to leave, and kill it if it has not after `patience` seconds.

        Returns when the successor serves. Where no process does, nothing is done: the next one is about to start.
        Raises CannotStart, and the process goes on serving, where the successor does not get ready.
        """
        if self._life is not None:
            await asyncio.wait([self._life.began], timeout=START_TIMEOUT)
        while len(self._leaving) >= MOST_LEAVING:
            await asyncio.wait(self._leaving, return_when=asyncio.FIRST_COMPLETED)
        async with self._handover:
            predecessor = self._life
            if predecessor is not None and predecessor.serves and not self._stopping:
                self._life = await self._ready_successor()
                predecessor.send(LEAVE)
                task = self._farewells.create_task(self._see_off(predecessor, patience))
                self._leaving[task] = predecessor
                task.add_done_callback(self._leaving.pop)

    def reload(self) -> None:
        """Have the configuration read anew."""
        for life in (self._life, self._successor):
            if life is not None:
                life.reload()

    def stop(self) -> None:
        super().stop()
        if self._successor is not None:
            self._successor.send(signal.SIGTERM)

    def hurry(self) -> None:
        """Once stopped: end without waiting for anything."""
        self.stop()
        for life in self._leaving.values():
            life.send(signal.SIGTERM)

    async def ended(self, patience: float) -> None:
        if self._successor is not None:
            await self._see_off(self._successor, patience)
        async with self._handover:
            pass  # where the successor got ready after all, it is the process now
        leaving = [self._see_off(life, patience) for life in self._leaving.values()]
        await asyncio.gather(super().ended(patience), *leaving)

    async def _ready_successor(self) -> Life:
        try:
            self._successor = life = await self._started()
        except OSError as exc:
            raise CannotStart(f"a successor of {self.name} cannot be started: {exc}") from exc
        try:
            await asyncio.wait([life.began], timeout=START_TIMEOUT)
        finally:
            self._successor = None
            if not life.began.done():
                life.send(signal.SIGKILL)
        if not await life.began:
            status = await life.process.wait()
            raise CannotStart(f"a successor of {self.name} ended with status {status} before it was ready")
        return life

    async def spawn(self) -> Life:
        receiving, notices = os.pipe()
        with ExitStack() as undo:
            undo.callback(os.close, receiving)
            try:
                listeners = [listener.fileno() for listener in self._listeners]
                life = Life(await self._execute(inherit=[*listeners, notices]), notices)
            finally:
                os.close(notices)
            undo.pop_all()
        asyncio.get_running_loop().add_reader(receiving, self._hear, receiving, life)
        return life

    async def line(self, life: Life) -> str:
        common = await asyncio.shield(self._assignment)
        assignment = replace(
            common,
            runtime=replace(common.runtime, worker=self._index),
            listeners=tuple(listener.fileno() for listener in self._listeners),
            notices=life.notices,
        )
        return assignment.to_json()

    def _hear(self, receiving: int, life: Life) -> None:
        notices = os.read(receiving, 1024)
        if not notices:
            asyncio.get_running_loop().remove_reader(receiving)
            os.close(receiving)
            life.begin(serving=False)
        if READY in notices:
            life.begin(serving=True)
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

    async def spawn(self) -> Life:
        descriptor = self.listener.fileno()
        arguments = ["--fd", str(descriptor), "--bill", str(self._bill), "--token-stdin"]
        return Life(await self._execute(*arguments, inherit=[descriptor]))

    async def line(self, life: Life) -> str:
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
