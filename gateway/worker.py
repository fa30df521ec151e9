"""One gateway process, `python -m gateway.worker`: serves the sockets it inherits until its supervisor says or dies.

SIGTERM and the end of standard input mean: accept no more, answer what is under way, exit. SIGUSR1 means the same where
a successor serves the sockets already. SIGHUP means: read the configuration anew.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import uvloop

from gateway.assignment import LEAVE, READY, RELOAD, Assignment
from gateway.configuration import ConfigurationError
from gateway.server import Limits, Server
from gateway.settings import Runtime, Settings, load
from gateway.telemetry.logs import LineWriter, configure

YOUNG_OBJECTS = 20_000
"""Made before the collector looks at them; at the default of 700 it looks several times while 64 requests are open."""

_logger = logging.getLogger(__name__)


class Application(Protocol):
    """An ASGI application that takes a changed configuration."""

    async def __call__(self, scope: Any, receive: Any, send: Any, /) -> None: ...

    def reload(self) -> None:
        """Raises ConfigurationError, and goes on as before, where the new configuration is wrong."""
        ...


class AppFactory(Protocol):
    """Makes the application; `gateway.app.create_app` in production."""

    def __call__(
        self,
        settings: Settings,
        runtime: Runtime,
        writer: LineWriter,
        *,
        reread: Callable[[], Settings],
        reload_all: Callable[[], None],
    ) -> Application: ...


def main(app_factory: AppFactory) -> None:
    """Do what the line on standard input says, and return when all of it is done."""
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the supervisor gave up before there was anything to do
    assignment = Assignment.from_json(line.decode())
    reread = partial(load, assignment.config_path, os.environ, assignment.runtime, assignment.overrides)
    try:
        settings = reread()
    except ConfigurationError as exc:
        sys.exit(str(exc))
    writer = LineWriter(sys.stdout.buffer)
    configure(writer)
    reload_all = partial(_tell, assignment.notices, RELOAD)
    app = app_factory(settings, assignment.runtime, writer, reread=reread, reload_all=reload_all)
    gc.freeze()  # what is here now stays: no collection need look at it again
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(app, assignment, settings))
    finally:
        writer.close()


async def _serve(app: Application, assignment: Assignment, settings: Settings) -> None:
    edge = settings.server
    write_timeout = min(edge.write_timeout, settings.upstream.idle_timeout / 2)  # else the provider would be blamed
    limits = Limits(edge.header_timeout, edge.body_timeout, write_timeout, edge.max_header_bytes)
    server = Server(app, limits, edge.shutdown_timeout, partial(_tell, assignment.notices, READY))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(LEAVE, server.leave)
    loop.add_signal_handler(signal.SIGHUP, _reload, app)
    loop.add_reader(sys.stdin.fileno(), _supervisor_died, loop, server)
    await server.serve([socket.socket(fileno=listener) for listener in assignment.listeners])


def _tell(notices: int, notice: bytes) -> None:
    with suppress(BrokenPipeError):  # without a supervisor the worker is about to stop anyway
        os.write(notices, notice)


def _supervisor_died(loop: asyncio.AbstractEventLoop, server: Server) -> None:
    """Standard input can be read: nothing more is ever written there, so this is its end."""
    loop.remove_reader(sys.stdin.fileno())
    if not server.should_exit:  # else it is about to end, and to be told twice would mean to hurry
        server.stop()


def _reload(app: Application) -> None:
    try:
        app.reload()
    except ConfigurationError as exc:
        _logger.error("the configuration stays as it was: %s", exc)
    else:
        _logger.info("the configuration was read anew")


if __name__ == "__main__":
    from gateway.app import create_app

    main(create_app)
