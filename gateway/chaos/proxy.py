"""A proxy that breaks connections on purpose, at points that matter to a protocol of requests and replies.

It stands between a gateway and its Redis server or its provider. Every choice comes from a seed, every fault counts.

    refused        the connection is closed as soon as it is made
    delay          the reply comes late
    stall          it comes so late that nobody waits for it any more
    slow           it comes a few bytes at a time
    cut request    the connection breaks after n bytes of the request: it is never carried out
    cut reply      it breaks after n bytes of the reply: it was carried out
    lost reply     it breaks once the reply is produced and before any of it is passed on: it was carried out
    half-close     the side that waits sees the end of the stream, while its request is carried out
    corrupt        a run of the reply's bytes is overwritten by 0xFF, which is no digit and no UTF-8
"""

import asyncio
import random
import socket
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

Target: TypeAlias = tuple[str, int] | Path
"""Where a server listens: host and port, or a unix socket."""

Kind = Literal["refused", "delay", "stall", "slow", "cut request", "cut reply", "lost reply", "half-close", "corrupt"]
KINDS: tuple[Kind, ...] = (
    "refused",
    "delay",
    "stall",
    "slow",
    "cut request",
    "cut reply",
    "lost reply",
    "half-close",
    "corrupt",
)
_BACKLOG = 2_048
_TRICKLE_BYTES = 7
_TRICKLE_PAUSE = 0.001
_MOST_TRICKLES = 64
_LONGEST_CORRUPTION = 16


@dataclass(frozen=True, slots=True)
class Faults:
    """Which faults, how often, how long (seconds)."""

    rate: float = 0.0
    """The share of requests that meet one; of `refused`, of connections."""
    kinds: tuple[Kind, ...] = KINDS
    delay: tuple[float, float] = (0.005, 0.1)
    stall: tuple[float, float] = (0.3, 0.8)


class FaultProxy:
    """Listens, and passes on to `target` what it hears, with faults. Use it as an asynchronous context manager.

    `faults` and `target` may be changed at any time; a new target is for new connections (see `switch`).
    """

    def __init__(
        self,
        target: Target,
        *,
        name: str,
        seed: int,
        listen: Target = ("127.0.0.1", 0),
        faults: Faults | None = None,
    ) -> None:
        """`name` is for the counts and for the seed: two proxies of one seed choose differently."""
        self.name = name
        self.target = target
        self.faults = faults or Faults()
        self.counts: Counter[str] = Counter()
        """Faults by kind."""
        self.connections = 0
        self._listen = listen
        self._seed = seed
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._ordered: deque[Kind] = deque()
        self._silent = False

    async def __aenter__(self) -> "FaultProxy":
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()
        self.drop()

    @property
    def port(self) -> int:
        """Where it listens, of a proxy on a port."""
        return cast(tuple[str, int], self._listen)[1]

    @property
    def named_counts(self) -> Counter[str]:
        """The faults by kind, each with the proxy's name."""
        return Counter({f"{self.name}: {kind}": number for kind, number in self.counts.items()})

    def inject(self, kind: Kind, times: int = 1) -> None:
        """Have the next requests (of `refused`, the next connections) meet this fault, whatever the seed says."""
        self._ordered.extend([kind] * times)

    # All connections at once

    def drop(self) -> None:
        """Break all connections."""
        for link in list(self._links):
            link.abort()

    def switch(self, target: Target) -> None:
        """Lead everybody to another server from now on."""
        self.target = target
        self.drop()

    async def refuse(self) -> None:
        """Refuse connections as a port does where nobody listens, and break those there are."""
        self.counts["away: refused"] += 1
        await self._close()
        self.drop()

    def black_hole(self) -> None:
        """Take connections and bytes, and pass nothing on in either direction."""
        self.counts["away: black hole"] += 1
        self._silent = True

    async def pass_on(self) -> None:
        """Be a good proxy again. Connections from which bytes have been swallowed are broken."""
        if self._silent:
            self._silent = False
            self.drop()
        if self._server is None:
            await self._open()

    @property
    def silent(self) -> bool:
        return self._silent

    # What its connections ask it

    def joined(self, link: "_Link") -> random.Random:
        """Count a connection; what decides about its faults."""
        self._links.add(link)
        self.connections += 1
        return random.Random(f"{self._seed}:{self.name}:{self.connections}")  # noqa: S311 - replayable, not secret

    def left(self, link: "_Link") -> None:
        self._links.discard(link)

    def is_refused(self, chance: random.Random) -> bool:
        """Whether a new connection is closed at once."""
        if self._ordered and self._ordered[0] == "refused":
            self._ordered.popleft()
        elif "refused" not in self.faults.kinds or chance.random() >= self.faults.rate:
            return False
        self.counts["refused"] += 1
        return True

    def choose(self, chance: random.Random) -> Kind | None:
        """The fault that a request meets."""
        if self._ordered and self._ordered[0] != "refused":
            kind = self._ordered.popleft()
        elif self.faults.rate and chance.random() < self.faults.rate:
            kinds = [kind for kind in self.faults.kinds if kind != "refused"]
            if not kinds:
                return None
            kind = chance.choice(kinds)
        else:
            return None
        self.counts[kind] += 1
        return kind

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        make: Callable[[], _Near] = lambda: _Near(_Link(self))  # noqa: E731
        if isinstance(self._listen, Path):
            self._server = await loop.create_unix_server(make, str(self._listen), backlog=_BACKLOG)
            return
        self._server = await loop.create_server(make, *self._listen, backlog=_BACKLOG)
        self._listen = self._server.sockets[0].getsockname()[:2]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)


class _Link:
    """One connection: two transports, and the fault that its current request meets."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.near: asyncio.Transport | None = None
        self.far: asyncio.Transport | None = None
        self.proxy = proxy
        self._chance = proxy.joined(self)
        self._early = bytearray()
        """What was said before the server was reached."""
        self._fault: Kind | None = None
        """What the next reply meets."""
        self._held: deque[tuple[float, bytes]] = deque()
        """Pieces of replies, and when they may go on."""
        self._timer: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._over = False

    def opened(self, transport: asyncio.Transport) -> None:
        """Somebody has connected."""
        self.near = transport
        if self.proxy.is_refused(self._chance):
            self.abort()
            return
        self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop, target = asyncio.get_running_loop(), self.proxy.target
        try:
            if isinstance(target, Path):
                transport, _ = await loop.create_unix_connection(lambda: _Far(self), str(target))
            else:
                transport, _ = await loop.create_connection(lambda: _Far(self), *target)
        except OSError:
            self.abort()
            return
        self.far = transport
        if self._over:
            transport.abort()
            return
        if self._early:
            early, self._early = bytes(self._early), bytearray()
            self.asked(early)

    def asked(self, data: bytes) -> None:
        """A request, or a further piece of one."""
        if self.proxy.silent:
            return
        if self.far is None:
            self._early += data
            return
        if self._fault is None:
            self._fault = self.proxy.choose(self._chance)
        if self._fault == "cut request":
            _write(self.far, data[: self._chance.randrange(len(data))])
            self._break()
            return
        _write(self.far, data)
        if self._fault == "half-close" and self.near is not None and self.near.can_write_eof():
            self._flush()
            if not self.near.is_closing():
                self.near.write_eof()

    def answered(self, data: bytes) -> None:
        """A reply, or a piece of one."""
        if self.proxy.silent:
            return
        fault, self._fault = self._fault, None
        chance, faults = self._chance, self.proxy.faults
        match fault:
            case "lost reply" | "half-close":
                self.abort()
            case "cut reply":
                self._send(data[: chance.randrange(len(data))])
                self._break()
            case "corrupt":
                self._send(_corrupted(data, chance))
            case "delay" | "stall":
                seconds = chance.uniform(*(faults.delay if fault == "delay" else faults.stall))
                self._hold(seconds, data)
            case "slow":
                self._trickle(data)
            case _:
                self._send(data)

    def ended(self) -> None:
        """One side has closed its connection: so does the other, after what is held."""
        if self._held and not self._over:
            asyncio.get_running_loop().call_later(self._held[-1][0] - self._now(), self.ended)
            return
        self._break()

    def abort(self) -> None:
        """Break the connection on both sides, without a word."""
        self._over = True
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
        for transport in (self.near, self.far):
            if transport is not None:
                transport.abort()
        self.proxy.left(self)

    def _break(self) -> None:
        """Close both sides; what was written before still arrives."""
        self._over = True
        self._flush()
        for transport in (self.near, self.far):
            if transport is not None:
                transport.close()
        self.proxy.left(self)

    def _send(self, data: bytes) -> None:
        if self._held:
            self._held.append((self._held[-1][0], data))
        elif data:
            _write(self.near, data)

    def _hold(self, seconds: float, data: bytes) -> None:
        last = self._held[-1][0] if self._held else self._now()
        self._held.append((max(last, self._now() + seconds), data))
        if self._timer is None:
            self._wait()

    def _trickle(self, data: bytes) -> None:
        size = max(_TRICKLE_BYTES, -(-len(data) // _MOST_TRICKLES))
        for number, start in enumerate(range(0, len(data), size)):
            self._hold(number * _TRICKLE_PAUSE, data[start : start + size])

    def _wait(self) -> None:
        due = max(0.0, self._held[0][0] - self._now())
        self._timer = asyncio.get_running_loop().call_later(due, self._release)

    def _release(self) -> None:
        self._timer = None
        while self._held and self._held[0][0] <= self._now():
            _, data = self._held.popleft()
            _write(self.near, data)
        if self._held:
            self._wait()

    def _flush(self) -> None:
        """Let go at once of what is held."""
        while self._held:
            _, data = self._held.popleft()
            _write(self.near, data)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class _Near(asyncio.Protocol):
    """The side that asks."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _be_quick(transport)
        self._link.opened(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._link.asked(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.abort()

    def pause_writing(self) -> None:
        if self._link.far is not None:
            self._link.far.pause_reading()

    def resume_writing(self) -> None:
        if self._link.far is not None:
            self._link.far.resume_reading()


class _Far(asyncio.Protocol):
    """The side that answers."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _be_quick(transport)

    def data_received(self, data: bytes) -> None:
        self._link.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._link.ended()
        else:
            self._link.abort()


def _write(transport: asyncio.Transport | None, data: bytes) -> None:
    """Pass on, unless the other side has just gone: uvloop's transports do not take that lightly."""
    if transport is not None and not transport.is_closing():
        transport.write(data)


def _be_quick(transport: asyncio.BaseTransport) -> None:
    connection = transport.get_extra_info("socket")
    with suppress(OSError):  # a unix socket has no such option
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _corrupted(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    length = min(len(data) - start, chance.randint(1, _LONGEST_CORRUPTION))
    return data[:start] + b"\xff" * length + data[start + length :]
