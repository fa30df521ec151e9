"""Connections between two requests: which may be used again, and for how long. Knows nothing of HTTP."""

import asyncio
from collections import defaultdict
from time import monotonic
from typing import Generic, NamedTuple, Protocol, TypeVar


class Origin(NamedTuple):
    """Whom a connection leads to; only requests to the same origin may share it."""

    tls: bool
    host: str
    port: int


class Poolable(Protocol):
    """What the pool needs to know of a connection."""

    origin: Origin
    closed: asyncio.Future[None]

    def is_quiet(self) -> bool:
        """Whether the peer has neither sent anything nor hung up since the last response."""
        ...

    def close(self) -> None:
        """End it at once, whatever is on the way; `closed` is done soon after."""
        ...


C = TypeVar("C", bound=Poolable)


class Pool(Generic[C]):
    """All connections of a client, in use or idle. The one used last is taken first, so that what is too many ages.

    `idle`: seconds that an unused connection is kept; one timer sweeps for all of them.
    """

    def __init__(self, idle: float, max_idle_per_origin: int) -> None:
        self._lifetime = idle
        self._max_idle = max_idle_per_origin
        self._all: set[C] = set()
        self._idle: defaultdict[Origin, dict[C, float]] = defaultdict(dict)
        """By origin the idle ones, oldest first, with the time until which each may be used."""
        self._timer: asyncio.TimerHandle | None = None
        self._open = True

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: C) -> None:
        """Know of a new connection, which is in use."""
        self._all.add(connection)

    def take(self, origin: Origin) -> C | None:
        """A connection to `origin` that is as good as a new one, now in use; None where there is none."""
        now = monotonic()
        idle = self._idle[origin]
        while idle:
            connection, until = idle.popitem()
            if until > now and connection.is_quiet():
                return connection
            connection.close()
        return None

    def put(self, connection: C, lifetime: float | None = None) -> None:
        """Keep a connection for the next request, at most for the `lifetime` in seconds that the peer gives it."""
        lifetime = self._lifetime if lifetime is None else min(lifetime, self._lifetime)
        if not self._open or lifetime <= 0:
            connection.close()
            return
        idle = self._idle[connection.origin]
        if len(idle) >= self._max_idle:
            oldest = next(iter(idle))
            del idle[oldest]
            oldest.close()
        idle[connection] = monotonic() + lifetime
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(lifetime, self._sweep)

    def remove(self, connection: C) -> None:
        """Forget a connection that has ended."""
        self._all.discard(connection)
        self._idle[connection.origin].pop(connection, None)

    async def close(self) -> None:
        """End every connection, those in use too, and wait until they are gone. Later ones are not kept."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        connections = list(self._all)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.closed for connection in connections])

    def _sweep(self) -> None:
        now = monotonic()
        for idle in self._idle.values():
            for connection in [each for each, until in idle.items() if until <= now]:
                del idle[connection]
                connection.close()
        ends = [until for idle in self._idle.values() for until in idle.values()]
        self._timer = asyncio.get_running_loop().call_later(min(ends) - now, self._sweep) if ends else None
