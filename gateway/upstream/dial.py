"""From a host's name to a connected socket: all of its addresses are tried, overlapping, and the first to answer wins.

uvloop's own `create_connection` waits for one address to fail before it tries the next, so that a host whose IPv6 leads
nowhere costs the whole connect time-out. The rules are those of RFC 8305 (Happy Eyeballs).
"""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain, zip_longest
from typing import TypeAlias

HEAD_START = 0.25
"""Seconds an address has before the next one is tried beside it (RFC 8305, section 8)."""

Address: TypeAlias = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


async def dial(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket without Nagle's delay. `host` is a name or an IP address without brackets.

    Raises OSError where the name is unknown or no address of it answers, UnicodeError for what cannot be a name.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await first_connected(alternating([(family, address) for family, _, _, _, address in found]))


def alternating(addresses: Sequence[Address]) -> list[Address]:
    """IPv6 and IPv4 by turns, each in the resolver's order, the family that it prefers first."""
    preferred = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for address in chain.from_iterable(zip_longest(preferred, others)) if address is not None]


async def first_connected(addresses: Sequence[Address]) -> socket.socket:
    """The socket of the first of `addresses` to answer; the others are given up. Raises the first one's OSError."""
    race = _Race()
    with ExitStack() as undo:
        undo.callback(race.give_up)
        await race.run(addresses)
        undo.pop_all()
    if race.won is None:
        raise race.failures[0]
    return race.won


class _Race:
    """Attempts to connect beside each other. A socket is closed by its attempt unless it has won."""

    def __init__(self) -> None:
        self.won: socket.socket | None = None
        self.failures: list[OSError] = []

    async def run(self, addresses: Sequence[Address]) -> None:
        """Until an attempt has won or all have failed."""
        untried = list(addresses)
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while self.won is None and (untried or running):
                if untried:
                    running.add(group.create_task(self._attempt(untried.pop(0))))
                head_start = HEAD_START if untried else None
                _, running = await asyncio.wait(running, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
            for attempt in running:
                attempt.cancel()

    def give_up(self) -> None:
        """Nobody wants the winner any more."""
        if self.won is not None:
            self.won.close()

    async def _attempt(self, address: Address) -> None:
        family, where = address
        candidate = socket.socket(family, socket.SOCK_STREAM)
        try:
            candidate.setblocking(False)
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(candidate, where)
            if self.won is None:
                self.won = candidate
        except OSError as exc:
            self.failures.append(exc)
        finally:
            if self.won is not candidate:
                candidate.close()
