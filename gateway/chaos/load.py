"""Many callers at once, over connections of their own that they can break off at any byte: what no SDK lets one do.

Lean on purpose: the callers share a small machine with the gateway they put under load.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, cast

T = TypeVar("T")

_CLEAN_END = b"\r\n0\r\n\r\n"
_EMPTY = b"0\r\n\r\n"
_EVENT_END = b"\n\n"
_HEAD_END = b"\r\n\r\n"


class Ending(StrEnum):
    """What became of a request, as its caller sees it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """For want of money: 402 or 429."""
    UNAVAILABLE = "unavailable"
    """503: the ledger is away, or no provider is fit."""
    FAILED = "failed"
    """Any other error status."""
    BROKEN = "broken"
    """The connection ended before the answer did, as it does after an error in mid-stream."""
    LEFT = "left"
    """The caller hung up."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. A streamed one's body is all of its events."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> Any:
        return json.loads(self.body)

    @property
    def ending(self) -> Ending:
        if self.status in (402, 429):
            return Ending.REFUSED
        if self.status == 503:
            return Ending.UNAVAILABLE
        return Ending.ANSWERED if self.status == 200 else Ending.FAILED

    @property
    def stream_ending(self) -> Ending:
        """Of a streamed answer: one that ends without the word that it is complete was cut short."""
        if self.ending is Ending.ANSWERED and not self.body.endswith(b"data: [DONE]\n\n"):
            return Ending.BROKEN
        return self.ending


class Caller:
    """One keep-alive connection, over which chat requests are sent one after the other.

    Who uses it as a context manager hangs up at the end.
    """

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._wire: _Wire | None = None

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    async def ask(self, **request: Any) -> Answer:
        """One request and its answer. Raises OSError or EOFError where the gateway breaks off."""
        with ExitStack() as undo:
            undo.callback(self.hang_up)
            wire = await self._send(request)
            status, headers = await wire.head()
            body = await wire.chunks() if "content-length" not in headers else await wire.sized(headers)
            if headers.get("connection") != "close":
                undo.pop_all()
        return Answer(status, headers, body)

    async def ending(self, **request: Any) -> Ending:
        """What becomes of one request."""
        try:
            return (await self.ask(**request)).ending
        except (OSError, EOFError):
            return Ending.BROKEN

    async def stream(self, **request: Any) -> Ending:
        """What becomes of a stream that is read to its end."""
        try:
            return (await self.ask(**{**request, "stream": True})).stream_ending
        except (OSError, EOFError):
            return Ending.BROKEN

    async def walk_out(self, events: int, **request: Any) -> int:
        """Ask for a stream, read so many of its events, and hang up without a word. The answer's status."""
        try:
            wire = await self._send({**request, "stream": True})
            status, _ = await wire.head()
            if status == 200:
                await wire.events(events)
            return status
        finally:
            self.hang_up()

    async def hang_up_after(self, seconds: float, **request: Any) -> Ending:
        """Ask, and hang up after so many seconds unless the answer is there."""
        try:
            async with asyncio.timeout(seconds):
                return await self.ending(**request)
        except TimeoutError:
            return Ending.LEFT

    def hang_up(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._wire is not None:
            self._wire.abort()
            self._wire = None

    async def _send(self, request: Mapping[str, Any]) -> "_Wire":
        if self._wire is None or self._wire.ended:
            loop = asyncio.get_running_loop()
            _, self._wire = await loop.create_connection(_Wire, "127.0.0.1", self._port)
        body = json.dumps(request).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self._key}\r\n"
        head = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._wire.say(head.encode() + body)
        return self._wire


class _Wire(asyncio.Protocol):
    """Gathers what comes, and wakes the one who waits for it."""

    def __init__(self) -> None:
        self.ended = False
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._wake()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def say(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers, by their names in lower case."""
        while (end := self._buffer.find(_HEAD_END)) < 0:
            await self._more()
        status, *lines = self._take(end + len(_HEAD_END)).decode("latin-1").strip().split("\r\n")
        fields = (line.partition(": ") for line in lines)
        return int(status.split()[1]), {name.lower(): value for name, _, value in fields}

    async def sized(self, headers: Mapping[str, str]) -> bytes:
        length = int(headers["content-length"])
        while len(self._buffer) < length:
            await self._more()
        return self._take(length)

    async def chunks(self) -> bytes:
        """A chunked body, taken apart once all of it is there: no event has the bytes of a clean end inside."""
        while not self._has_ended_cleanly:
            await self._more()
        raw, body, place = self._take(len(self._buffer)), bytearray(), 0
        while True:
            end = raw.index(b"\r\n", place)
            size = int(raw[place:end], 16)
            if not size:
                return bytes(body)
            body += raw[end + 2 : end + 2 + size]
            place = end + size + 4

    async def events(self, number: int) -> None:
        """Wait for so many events of a stream, or for its end."""
        while self._buffer.count(_EVENT_END) < number and not self._has_ended_cleanly:
            await self._more()

    @property
    def _has_ended_cleanly(self) -> bool:
        return self._buffer.endswith(_CLEAN_END) or self._buffer == _EMPTY

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    async def _more(self) -> None:
        if self.ended:
            raise EOFError
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


@asynccontextmanager
async def meanwhile(*acts: Awaitable[T]) -> AsyncIterator[asyncio.Future[list[T]]]:
    """Let callers act while the body runs, which awaits what came of it; where it fails they are stopped."""
    acting = asyncio.gather(*acts)
    try:
        yield acting
    finally:
        acting.cancel()
        await asyncio.wait([acting])
        if not acting.cancelled():
            acting.exception()  # told to whoever awaits it; nobody does where the body has failed


@asynccontextmanager
async def throughout(act: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Let `act` go on while the body runs. The event tells it that it is enough: it is not cancelled in the middle."""
    enough = asyncio.Event()
    acting = asyncio.create_task(act(enough))
    try:
        yield
    finally:
        enough.set()
        await acting


def chat(model: str, prompt: str, **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}
