"""Many callers at once, over connections of their own that they can break off at any byte: what no SDK lets one do."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A whole answer. A streamed one's body is all of its events."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> Any:
        return json.loads(self.body)


class Caller:
    """One keep-alive connection, over which chat requests are sent one after the other."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, **request: Any) -> Answer:
        """One request and its answer. Raises OSError or EOFError where the gateway breaks off."""
        try:
            reader = await self._send(request)
            status, headers = await _head(reader)
            body = await _chunks(reader) if "content-length" not in headers else await _sized(reader, headers)
        except BaseException:
            self.hang_up()
            raise
        if headers.get("connection") == "close":
            self.hang_up()
        return Answer(status, headers, body)

    async def walk_out(self, events: int, **request: Any) -> int:
        """Ask for a stream, read so many of its events, and hang up without a word. The answer's status."""
        try:
            reader = await self._send({**request, "stream": True})
            status, _ = await _head(reader)
            for _ in range(events if status == 200 else 0):
                await reader.readuntil(b"\n\n")
            return status
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None

    async def _send(self, request: Mapping[str, Any]) -> asyncio.StreamReader:
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._connection
        body = json.dumps(request).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self._key}\r\n"
        writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return reader


async def crowd(port: int, key: str, size: int, act: Callable[[Caller], Awaitable[None]]) -> None:
    """Let so many callers act at once, and wait for all of them."""
    callers = [Caller(port, key) for _ in range(size)]
    try:
        await asyncio.gather(*(act(caller) for caller in callers))
    finally:
        for caller in callers:
            caller.hang_up()


def chat(model: str, prompt: str, **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    fields = (line.partition(": ") for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, _, value in fields}


async def _sized(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    return await reader.readexactly(int(headers["content-length"]))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body
