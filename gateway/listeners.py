"""Sockets to listen on, opened once and for all: workers come and go, their sockets and the queues in them stay."""

import asyncio
import errno
import logging
import socket
import sys
import time

from gateway.errors import CannotStart

BACKLOG = 2048
PATIENCE = 3.0
"""Seconds for which a port may stay in use, so that the workers of a supervisor that was killed can let go of it."""
_PAUSE = 0.05
_logger = logging.getLogger(__name__)


async def open_listeners(host: str, port: int, count: int, patience: float = PATIENCE) -> list[socket.socket]:
    """`count` listening sockets on one port, among which the kernel shares out connections; port 0 takes a free one.

    Raises CannotStart where the port is somebody else's or the address is not ours.
    """
    first = await _exclusive(host, port, patience)
    if sys.platform != "linux":
        return [first] * count  # elsewhere the kernel does not share out; the workers take turns on one queue
    if count > 1:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return [first, *(_joined(first) for _ in range(count - 1))]


def split_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:4001` or `[::1]:4001` as host and port."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _exclusive(host: str, port: int, patience: float) -> socket.socket:
    """A listening socket that nobody shares.

    SO_REUSEPORT is not set before it listens: with it, the kernel would let us join another program of the same user,
    and half of the requests would go there.
    """
    give_up_at = time.monotonic() + patience
    told = False
    while True:
        try:
            return _listening(host, port)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise CannotStart(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
            if time.monotonic() > give_up_at:
                raise CannotStart(f"port {port} is in use by another program; stop it or choose another port") from exc
        if not told:
            _logger.warning("port %d is in use; waiting for it to be let go", port)
            told = True
        await asyncio.sleep(_PAUSE)


def _listening(host: str, port: int) -> socket.socket:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(addresses, key=lambda found: found[0] != socket.AF_INET)  # `localhost`: IPv4 first
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _joined(first: socket.socket) -> socket.socket:
    """One more socket on the port of `first`."""
    listener = socket.socket(first.family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(first.getsockname())
    listener.listen(BACKLOG)
    return listener
