"""Stand-ins that several tests share, and that speak for real: a provider on a socket, that says what it is told to."""

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias


class Ending(Enum):
    """How a provider leaves an answer, other than well."""

    CLOSE = auto()
    """It closes the connection in order (FIN)."""
    RESET = auto()
    """It breaks the connection (RST)."""
    SILENCE = auto()
    """It says nothing more, and waits until the other side goes."""


Step: TypeAlias = bytes | asyncio.Event | Ending
"""Bytes that are sent, an event that is waited for, or an end."""
Answer: TypeAlias = Sequence[Step]

USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
COST = 11 * 100 + 5 * 400
"""Nano-USD: what `USAGE` comes to at `small`, 0.10 and 0.40 USD per million tokens."""


def head(status: int = 200, **headers: str) -> bytes:
    """A status line and headers; underscores in names stand for dashes."""
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(body: object, status: int = 200, **headers: str) -> Answer:
    """An answer with this JSON, or these bytes, of known length."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content_type": "application/json", "content_length": str(len(content))} | headers
    return [head(status, **headers), content]


def error(status: int, message: str = "no", **headers: str) -> Answer:
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": "some_error", "code": "some_code", "param": "some_param"}}
    return whole(body, status, **headers)


def completion(text: str = "Hello there!", usage: object = USAGE, **fields: Any) -> Answer:
    """A chat completion with its usage; None leaves that out."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": "fake-1", "choices": [choice], **fields}
    return whole(body if usage is None else {**body, "usage": usage})


def chunked(data: bytes) -> bytes:
    """A piece of a body whose length is not known."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
STREAM_HEAD = head(content_type="text/event-stream", transfer_encoding="chunked")


def delta(text: str | None = None, *, finish: str | None = None, **fields: Any) -> bytes:
    """An event of a chat stream."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "fake-1", "choices": [choice], **fields}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def usage_event(usage: object = USAGE) -> bytes:
    """The extra event of a stream that was asked for its usage."""
    return b"data: " + json.dumps({"model": "fake-1", "choices": [], "usage": usage}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(*texts: str, usage: object = USAGE) -> Answer:
    """A chat stream, each event in a chunk of its own, with its usage; None leaves that out."""
    events = [*map(delta, texts), delta(finish="stop"), *([] if usage is None else [usage_event(usage)]), DONE]
    return [STREAM_HEAD, *map(chunked, events), LAST_CHUNK]


def broken_stream(*steps: bytes | asyncio.Event | Ending) -> Answer:
    """A chat stream of these events that goes wrong somewhere."""
    return [STREAM_HEAD, *(chunked(step) if isinstance(step, bytes) else step for step in steps)]


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeUpstream:
    """A provider. It gives the answers it was told to, one a request, and then ordinary ones."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once somebody hung up on one of its silences."""
    _answers: deque[Answer] = field(default_factory=deque)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def will(self, *answers: Answer) -> None:
        """Say what it answers next."""
        self._answers.extend(answers)

    def forget(self) -> None:
        """What it was told and asked."""
        self._answers.clear()
        self.asked.clear()
        self.was_asked.clear()
        self.left.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                asked = await _request(reader)
                self.asked.append(asked)
                self.was_asked.set()
                answer = self._answers.popleft() if self._answers else _ordinary(asked)
                if not await self._say(answer, reader, writer):
                    break
        writer.close()

    async def _say(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Say it; false if the connection ends with it."""
        for step in answer:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case asyncio.Event():
                    await step.wait()
                case Ending.CLOSE:
                    return False
                case Ending.RESET:
                    _reset(writer)
                    return False
                case Ending.SILENCE:
                    with suppress(ConnectionError):
                        await reader.read()
                    self.left.set()
                    return False
        return True


def _ordinary(asked: Asked) -> Answer:
    return stream("Hello", " there", "!") if asked.body.get("stream") else completion()


async def _request(reader: asyncio.StreamReader) -> Asked:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:] if line)
    headers = {name.lower(): value for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(lines[0].split(" ")[1], headers, json.loads(body) if body else None)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection so that the other side sees a reset, not an end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def fake_upstream() -> AsyncIterator[FakeUpstream]:
    """A provider that listens until the body is left."""
    upstream = FakeUpstream()
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            with suppress(asyncio.CancelledError):  # asyncio's streams cannot bear a connection that was cancelled
                await upstream.serve(reader, writer)
        finally:
            connections.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)


@dataclass
class FakeCaller:
    """Who waits for an answer, as `gateway.upstream.http` knows them."""

    started: bool = False
    gone: bool = False
    _act: Callable[[], None] | None = None

    def when_gone(self, act: Callable[[], None] | None) -> None:
        self._act = act
        if act is not None and self.gone:
            act()

    def hang_up(self) -> None:
        self.gone = True
        if self._act is not None:
            self._act()
