"""The first process: opens the sockets, starts everything else, starts again what dies, and stops all of it in order.

It serves nothing itself, so no request can bring it down. Its children end when it does: they see the end of their
standard input. Only the embedded Redis outlives a crash, with its data, and the next supervisor attaches to it.

SIGTERM and SIGINT stop everything, SIGHUP has the configuration read anew, and SIGUSR1 restarts the workers one after
the other while they serve.
"""

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from budgets.embedded import runtime_folder
from budgets.errors import RedisServerFailed
from gateway.assignment import LEAVING_GRACE, Assignment
from gateway.children import Child, Program, Sandbox, Worker
from gateway.configuration import ConfigurationError, Problem
from gateway.errors import CannotStart
from gateway.ledger_server import LedgerServer
from gateway.listeners import open_listeners, split_address
from gateway.secrets import Secrets, find_secrets
from gateway.settings import Runtime, Settings, load
from gateway.telemetry.logs import LineWriter, configure

WORKER = (sys.executable, "-P", "-m", "gateway.worker")
SANDBOX = (sys.executable, "-P", "-m", "gateway.sandbox")
SANDBOX_BILL = "sandbox-bill.jsonl"
SANDBOX_STOP_TIMEOUT = 5.0
BOOKING_TIME = 10.0
"""Seconds that a worker has, after the time for open streams, to book what was spent."""
_logger = logging.getLogger(__name__)
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class Orders:
    """What the gateway was started with. Workers load their settings from the same places."""

    settings: Settings
    config_path: Path | None
    environ: Mapping[str, str]
    overrides: Mapping[str, Mapping[str, object]]
    worker_command: Sequence[str]

    def renewed(self) -> Settings:
        """What the settings are now, as new workers would have them.

        Raises ConfigurationError where it is wrong, or where they could not be served by what has been started.
        """
        fresh = load(self.config_path, self.environ, overrides=self.overrides)
        before, now = _only_at_the_start(self.settings), _only_at_the_start(fresh)
        changed = [name for name in now if now[name] != before[name]]
        if fresh.uses_sandbox and not self.settings.uses_sandbox:
            changed.append("providers")
        if changed:
            problems = (Problem(name, None, "is taken only when the whole gateway is started anew") for name in changed)
            raise ConfigurationError(*problems)
        return fresh


def _only_at_the_start(settings: Settings) -> dict[str, object]:
    """Settings that new workers alone cannot take."""
    server, redis = settings.server, settings.redis
    return {
        "data_dir": settings.data_dir,
        "server.host": server.host,
        "server.port": server.port,
        "server.workers": server.workers,
        "admin.listen": settings.admin.listen,
        "redis.url": redis.url,
        "secrets": settings.secrets,
    }


class Supervisor:
    """Runs one gateway; `run()` is all of its life."""

    def __init__(
        self,
        settings: Settings,
        config_path: Path | None,
        environ: Mapping[str, str],
        *,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        worker_command: Sequence[str] = WORKER,
    ) -> None:
        """`settings` were loaded from `config_path`, `environ` and `overrides`; workers load theirs from there too."""
        self._orders = Orders(
            settings=settings,
            config_path=config_path,
            environ={**environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            overrides=overrides or {},
            worker_command=worker_command,
        )

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT. `on_ready` is told the address once every worker accepts connections.

        Raises CannotStart, with everything that was started stopped again.
        """
        writer = LineWriter(sys.stdout.buffer)
        configure(writer)
        try:
            asyncio.run(self._supervise(on_ready))
        finally:
            writer.close()

    async def _supervise(self, on_ready: Callable[[str], None]) -> None:
        settings, redis = self._orders.settings, self._orders.settings.redis
        with ExitStack() as undo:
            undo.enter_context(_sole_owner(settings.data_dir))
            secrets = find_secrets(settings.secrets, settings.data_dir, redis_is_ours=redis.url is None)
            try:
                run_dir = runtime_folder(settings.data_dir, self._orders.environ)
            except RedisServerFailed as exc:
                raise CannotStart(str(exc)) from exc
            undo.callback(_remove_if_empty, run_dir)
            listeners = await self._open_listeners(undo)
            ledger = LedgerServer(redis.url, settings.data_dir, run_dir)
            household = Household(self._orders, secrets, listeners, ledger, run_dir)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, household.stop)
            loop.add_signal_handler(signal.SIGHUP, household.reload)
            loop.add_signal_handler(signal.SIGUSR1, household.restart)
            url = _url(settings.server.host, listeners[0][0])
            await household.live(lambda: on_ready(url))

    async def _open_listeners(self, undo: ExitStack) -> list[list[socket.socket]]:
        """For each address, the public one first, a socket for each worker."""
        server, admin = self._orders.settings.server, self._orders.settings.admin
        addresses = [(server.host, server.port), *([split_address(admin.listen)] if admin.listen else [])]
        opened = []
        for host, port in addresses:
            opened.append(await open_listeners(host, port, server.workers))
            for listener in opened[-1]:
                undo.callback(listener.close)
        return opened


class Household:
    """The ledger's server, the sandbox and the workers. To be made inside a running event loop."""

    def __init__(
        self,
        orders: Orders,
        secrets: Secrets,
        listeners: Sequence[Sequence[socket.socket]],
        ledger: LedgerServer,
        run_dir: Path,
    ) -> None:
        """`listeners`: for each address a socket for each worker."""
        settings = orders.settings
        self._orders = orders
        self._secrets = secrets
        self._ledger = ledger
        self._run_dir = run_dir
        self._listeners = [listener for sockets in listeners for listener in sockets]
        self._assignment: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        program = Program(orders.worker_command, orders.environ)
        self._workers = [
            Worker(program, index, sockets, self._assignment, self.reload)
            for index, sockets in enumerate(zip(*listeners, strict=True))
        ]
        bill = settings.data_dir / SANDBOX_BILL
        self._sandbox = Sandbox(Program(SANDBOX, orders.environ), bill) if settings.uses_sandbox else None
        self._life = asyncio.timeout(None)  # `stop()` sets the time
        self._ending = False
        self._restart_asked = asyncio.Event()
        self._shutdown_timeout = settings.server.shutdown_timeout

    async def live(self, on_ready: Callable[[], None]) -> None:
        """Start everything, tell `on_ready`, serve until `stop()`, stop everything. Raises CannotStart."""
        failure = None
        children: list[Child] = [*self._workers, *([self._sandbox] if self._sandbox else [])]
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(child.keep()) for child in children]
            try:
                async with self._life:
                    if self._sandbox is not None:
                        background.append(tasks.create_task(self._sandbox.watch()))
                    self._assignment.set_result(await asyncio.to_thread(self._boot))
                    background.append(tasks.create_task(self._ledger.keep()))
                    await asyncio.gather(*(child.ready for child in children))
                    on_ready()
                    background.append(tasks.create_task(self._restart_when_asked()))
                    await asyncio.Event().wait()
            except TimeoutError:
                pass  # the life is over
            except CannotStart as exc:
                failure = exc
            finally:
                self._ending = True
                await self._stop_all()
                for task in background:
                    task.cancel()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """End the life, even before everything has started; called again, do not wait for answers under way."""
        if self._ending:
            for worker in self._workers:
                worker.hurry()
        else:
            self._life.reschedule(0)

    def reload(self) -> None:
        """Have all workers read the configuration anew."""
        for worker in self._workers:
            worker.reload()

    def restart(self) -> None:
        """Restart the workers, one after the other, while they serve; asked during a restart, once more after it."""
        self._restart_asked.set()

    async def _restart_when_asked(self) -> None:
        while await self._restart_asked.wait():
            self._restart_asked.clear()
            await self._restart_all()

    async def _restart_all(self) -> None:
        """Where something is wrong, the workers that have not been restarted go on as they are."""
        done = 0
        try:
            settings = await asyncio.to_thread(self._orders.renewed)
            self._shutdown_timeout = max(self._shutdown_timeout, settings.server.shutdown_timeout)
            for worker in self._workers:
                await worker.restart(self._patience + LEAVING_GRACE)
                done += 1
        except (ConfigurationError, CannotStart) as exc:
            if self._ending:
                return  # the successor was stopped together with everything else
            _logger.error("%d of %d workers were restarted: %s", done, len(self._workers), exc)
        else:
            _logger.info("all workers were restarted")

    @property
    def _patience(self) -> float:
        """Seconds that a worker may take to end, the longest since this gateway was started."""
        return self._shutdown_timeout + BOOKING_TIME

    def _boot(self) -> Assignment:
        """What all workers are told, once the ledger's server answers. Blocks. Raises CannotStart."""
        data_dir = self._orders.settings.data_dir
        metrics_dir = data_dir / "metrics"
        shutil.rmtree(metrics_dir, ignore_errors=True)  # what was counted before belongs to another life
        metrics_dir.mkdir(mode=0o700)
        runtime = Runtime(
            redis_url=self._ledger.start(self._secrets.pepper),
            admin_key=self._secrets.admin_key,
            pepper=self._secrets.pepper,
            metrics_dir=metrics_dir,
            run_dir=self._run_dir,
            sandbox_url=self._sandbox.url if self._sandbox else None,
            sandbox_token=self._sandbox.token if self._sandbox else None,
        )
        return Assignment(runtime, self._orders.config_path, self._orders.overrides)

    async def _stop_all(self) -> None:
        """Workers first, since they need the others; Redis last, since it has the money."""
        for worker in self._workers:
            worker.retire()
        for listener in self._listeners:
            listener.close()  # first, so that nobody is let in after a worker has looked who waits at the door
        for worker in self._workers:
            worker.stop()
        await asyncio.gather(*(worker.ended(self._patience) for worker in self._workers))
        if self._sandbox is not None:
            self._sandbox.stop()
            await self._sandbox.ended(SANDBOX_STOP_TIMEOUT)
            self._sandbox.listener.close()
        await asyncio.to_thread(self._ledger.stop)


@contextmanager
def _sole_owner(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, made if need be. Raises CannotStart where another gateway has it."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_file = FileIO(data_dir / "supervisor.lock", "a")
    except OSError as exc:
        raise CannotStart(f"the data folder {data_dir} cannot be used: {exc.strerror}") from exc
    with lock_file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            hint = "stop it, or give this one a folder of its own (PAYMASTER_DATA_DIR)"
            raise CannotStart(f"another gateway is running on {data_dir}; {hint}") from exc
        yield


def _remove_if_empty(folder: Path) -> None:
    """Leave no trace in the folder for temporary files, unless a Redis server is still listening there."""
    with suppress(OSError):
        folder.rmdir()


def _url(host: str, listener: socket.socket) -> str:
    """Where this machine finds the listener."""
    port = listener.getsockname()[1]
    name = "127.0.0.1" if host in _WILDCARDS else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"
