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
MAYBE_RUN = {408, 499}
"""Statuses from 300 to 499 that do not tell whether the model ran: somebody on the way had waited for long enough."""
NEVER_RUN = {500, 501, 503, 529}
"""Statuses from 500 on that a provider itself answers, instead of what it would bill."""
LINGER = 1.0
"""Seconds; a connection is not worth waiting longer."""
TICK = 0.02
"""Seconds between two looks at the deadlines; who misses one is told that much later at most."""
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
    """How long one attempt may go on: first byte, silence between bytes, the whole, the drain once nobody waits.

    What is overdue is cancelled, as `asyncio.timeout` does it.
    """

    def __init__(self, limits: UpstreamSettings, drain: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        self._drain = drain
        now = self._loop.time()
        self._latest = now + limits.total_timeout
        self._due = min(self._latest, now + limits.first_byte_timeout)
        self._expired = False
        self._is_over = False
        self._was_ours = False
        self.waiting = True
        """Whether it is the provider we wait for, and not the caller who takes no bytes."""

    def expect(self, within: float) -> None:
        """The provider has `within` seconds from now."""
        self.waiting = True
        self._due = min(self._latest, self._loop.time() + within)

    def rest(self) -> None:
        self.waiting = False

    def hurry(self) -> None:
        """The caller is gone: what is left of the answer has `drain` seconds to show its usage."""
        self._latest = min(self._latest, self._loop.time() + self._drain)
        self._due = min(self._due, self._latest)
        self._loop.call_soon(self.look)

    def look(self) -> None:
        """End the attempt if it is overdue."""
        if self._loop.time() >= self._due and self._task is not None and not (self._expired or self._is_over):
            self._expired = True
            self._task.cancel()

    def end(self) -> bool:
        """The attempt is over. Whether its being cancelled was our doing alone."""
        if not self._is_over:
            self._is_over = True
            self._was_ours = self._expired and self._task is not None and self._task.uncancel() <= self._cancelling
        return self._was_ours


class Upstream:
    """The connections to all providers, and the only way out."""

    def __init__(self, limits: UpstreamSettings) -> None:
        self._limits = limits
        self._client = HttpClient(connect_timeout=limits.connect_timeout, idle=POOL_IDLE)
        self._running: set[_Patience] = set()
        self._watch: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def send(self, call: Call, reservation: Reservation, caller: Waiting, relay: Relay) -> None:
        """Send `call` and give the answer to `relay`; `reservation` learns whether anything may have been billed.

        The deadlines hold for `relay` too. A definite refusal (an error status of the provider itself) costs nothing;
        no connection means that nothing was sent; whatever else goes wrong leaves the cost unknown.
        Raises UpstreamFailed, or CallerGone when the caller's absence, or its not reading, ended the attempt.
        """
        patience = _Patience(self._limits, self._limits.drain if call.drains else 0.0)
        self._running.add(patience)
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(TICK, self._look)
        caller.when_gone(patience.hurry)
        try:
            response = await self._post(call, reservation)
            try:
                if response.status != 200:
                    raise await _refused(call, response, reservation, self._limits.idle_timeout)
                await relay(Answer(response, patience, self._limits))
            finally:
                response.release()
        except ConnectionBroken as exc:
            raise UpstreamFailed(call.provider_name, "cut", str(exc), streaming=caller.started) from exc
        except asyncio.CancelledError as exc:
            if not patience.end():
                raise
            if caller.gone or not patience.waiting:
                raise CallerGone from exc
            raise UpstreamFailed(
                call.provider_name, "timeout", "no answer came in time", streaming=caller.started
            ) from exc
        finally:
            patience.end()
            self._running.discard(patience)
            caller.when_gone(None)

    def _look(self) -> None:
        """One timer for all attempts: one for each would cost more than what most of them do."""
        for patience in list(self._running):
            patience.look()
        self._watch = asyncio.get_running_loop().call_later(TICK, self._look) if self._running else None

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

    Those of gateways (502, 504, 520 and the like) do not tell whether the model ran, nor does another success.
    """
    status = response.status
    if status in NEVER_RUN or (300 <= status < 500 and status not in MAYBE_RUN):
        reservation.spent = 0
    body = b""
    with contextlib.suppress(ConnectionBroken, TimeoutError):
        async with asyncio.timeout(within):
            while len(body) < MAX_ERROR_BYTES and (chunk := await response.read()) is not None:
                body += chunk
    headers = {name: value for name in ("retry-after", "retry-after-ms") if (value := response.header(name))}
    return failure_of(call.provider_name, status, headers, _json(body))


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
