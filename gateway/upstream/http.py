"""One attempt over HTTP: its deadlines, and every way it can fail, told apart."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import orjson

from budgets.ledger import Reservation
from gateway.errors import CallerGone, UpstreamFailed
from gateway.settings import UpstreamSettings
from gateway.upstream.http1 import ConnectFailed, ConnectionBroken, HttpClient, Response
from gateway.upstream.refusals import failure_of

MAX_ERROR_BYTES = 64 * 1024
LINGER = 1.0
"""Seconds; a connection is not worth waiting longer."""
POOL_IDLE = 55.0
"""Seconds; shorter than the keep-alive of common load balancers (60 s), so that they are not the first to close."""


@dataclass(slots=True)
class Call:
    """What to send where."""

    provider_name: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    drains: bool = True
    """Whether the answer is read on for its usage once nobody waits for it; else it is cut at once."""


class Waiting(Protocol):
    """The caller who waits for the answer."""

    started: bool
    """Whether they have had a part of it."""
    gone: bool
    """Whether they hung up."""

    def when_gone(self, act: "Hurry | None") -> None:
        """Have `act` called once the caller hangs up; None takes it back."""
        ...


class Hurry(Protocol):
    """Told that nobody waits any more."""

    def __call__(self) -> None: ...


class Answer:
    """A provider's answer with status 200: headers now, body as it comes."""

    def __init__(self, response: Response, patience: "_Patience", limits: UpstreamSettings) -> None:
        self._response = response
        self._patience = patience
        self._limits = limits
        self._size_bytes = 0
        self.content_type = response.header("content-type") or ""

    async def read(self) -> bytes | None:
        """What has come of the body, as soon as there is any; None at its end.

        Raises ConnectionBroken where it breaks off or has more bytes than allowed.
        """
        if not self._response.ready:
            self._patience.expect(self._limits.idle_timeout)
        piece = await self._response.read()
        self._patience.rest()
        self._size_bytes += len(piece or b"")
        if self._size_bytes > self._limits.max_response_bytes:
            raise ConnectionBroken(f"more than {self._limits.max_response_bytes} bytes")
        return piece

    async def linger(self) -> None:
        """Let the end of a body that has told all arrive too, so that its connection can be used again."""
        with contextlib.suppress(ConnectionBroken, TimeoutError):
            async with asyncio.timeout(LINGER):
                while await self._response.read() is not None:
                    pass

    async def body(self) -> bytes:
        """The whole body."""
        pieces = []
        while (piece := await self.read()) is not None:
            pieces.append(piece)
        return b"".join(pieces)


Relay: TypeAlias = Callable[[Answer], Awaitable[None]]


class _Patience:
    """One timer for one attempt: first byte, silence between bytes, the whole, and the drain once nobody waits."""

    def __init__(self, timer: asyncio.Timeout, limits: UpstreamSettings, drain: float, started: float) -> None:
        self._timer = timer
        self._drain = drain
        self._clock = asyncio.get_running_loop().time
        self._latest = started + limits.total_timeout
        self.waiting = True
        """Whether it is the provider we wait for, and not the caller who takes no bytes."""

    def expect(self, within: float) -> None:
        """The provider has `within` seconds; an eighth less is as good, for moving a timer costs more than an event."""
        self.waiting = True
        now = self._clock()
        due = min(self._latest, now + within)
        if not due - within / 8 <= (self._timer.when() or 0.0) <= due:
            self._timer.reschedule(due)

    def rest(self) -> None:
        self.waiting = False

    def hurry(self) -> None:
        """The caller is gone: what is left of the answer has `drain` seconds to show its usage."""
        self._latest = min(self._latest, self._clock() + self._drain)
        if not self._timer.expired():
            self._timer.reschedule(min(self._latest, self._timer.when() or self._latest))


class Upstream:
    """The connections to all providers, and the only way out."""

    def __init__(self, limits: UpstreamSettings) -> None:
        self._limits = limits
        self._client = HttpClient(connect_timeout=limits.connect_timeout, idle=POOL_IDLE)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def send(self, call: Call, reservation: Reservation, caller: Waiting, relay: Relay) -> None:
        """Send `call` and give the answer to `relay`; `reservation` learns whether anything may have been billed.

        The deadlines hold for `relay` too.

        A definite refusal (an error status of the provider itself) costs nothing; no connection means that nothing
        was sent; whatever else goes wrong leaves the cost unknown.
        Raises UpstreamFailed, or CallerGone when the caller's absence, or its not reading, ended the attempt.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.first_byte_timeout) as timer:
                drain = self._limits.drain if call.drains else 0.0
                patience = _Patience(timer, self._limits, drain, loop.time())
                caller.when_gone(patience.hurry)
                response = await self._post(call, reservation)
                try:
                    if response.status != 200:
                        raise await _refused(call, response, reservation, self._limits.idle_timeout)
                    await relay(Answer(response, patience, self._limits))
                finally:
                    response.release()
        except ConnectionBroken as exc:
            raise UpstreamFailed(call.provider_name, "cut", str(exc), streaming=caller.started) from exc
        except TimeoutError as exc:
            if not timer.expired():
                raise
            if caller.gone or not patience.waiting:
                raise CallerGone from exc
            raise UpstreamFailed(
                call.provider_name, "timeout", "no answer came in time", streaming=caller.started
            ) from exc
        finally:
            caller.when_gone(None)

    async def _post(self, call: Call, reservation: Reservation) -> Response:
        reservation.sent = True
        try:
            return await self._client.post(call.url, call.headers, call.body)
        except ConnectFailed as exc:
            reservation.sent = False
            raise UpstreamFailed(call.provider_name, "connect", "no connection could be made") from exc
        except ValueError as exc:
            reservation.sent = False
            raise UpstreamFailed(call.provider_name, "connect", "its address or credential is malformed") from exc


async def _refused(call: Call, response: Response, reservation: Reservation, within: float) -> UpstreamFailed:
    """The failure that a status means, explained by what comes of its body `within` so many seconds.

    A gateway's 502 or 504 does not tell whether the model ran, nor does a success of another kind.
    """
    if response.status >= 300 and response.status not in (408, 502, 504):
        reservation.spent = 0
    body = b""
    with contextlib.suppress(ConnectionBroken, TimeoutError):
        async with asyncio.timeout(within):
            while len(body) < MAX_ERROR_BYTES and (chunk := await response.read()) is not None:
                body += chunk
    headers = {name: value for name in ("retry-after", "retry-after-ms") if (value := response.header(name))}
    return failure_of(call.provider_name, response.status, headers, _json(body))


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
