import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from bank import until

from gateway.api.exchange import Exchange
from gateway.errors import BodyEncoded, BodyTooLarge, CallerGone

REQUEST = {"type": "http.request"}
GONE = {"type": "http.disconnect"}


@dataclass
class Wire:
    """What an ASGI server hands over, message by message; at the end it waits."""

    incoming: Iterable[dict[str, Any]] = ()
    sent: list[Any] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    watched: bool = False
    """Whether somebody waits for the hanging up."""

    def __post_init__(self) -> None:
        self._messages = iter(self.incoming)

    async def receive(self) -> Any:
        message = next(self._messages, None)
        if message is None:
            self.watched = True
            await self.hung_up.wait()
            self.watched = False
            return GONE
        return message

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def exchange(self, limit: int = 10, **headers: str) -> Exchange:
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return Exchange({"headers": lines}, self.receive, self.send, "req_1", limit)


def parts(*texts: bytes) -> list[dict[str, Any]]:
    *first, last = texts
    return [*({**REQUEST, "body": text, "more_body": True} for text in first), {**REQUEST, "body": last}]


@pytest.mark.parametrize("texts", [[b"abc"], [b""], [b"a", b"bc"], [b"", b"0123456789", b""]])
async def test_a_body_is_put_together(texts: list[bytes]) -> None:
    assert await Wire(parts(*texts)).exchange().body() == b"".join(texts)


@pytest.mark.parametrize("texts", [[b"0" * 11], [b"0" * 10, b"1"], [b"0"] * 11])
async def test_a_body_is_limited_while_it_is_read(texts: list[bytes]) -> None:
    with pytest.raises(BodyTooLarge) as caught:
        await Wire(parts(*texts)).exchange().body()

    assert caught.value.limit_bytes == 10


async def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    wire = Wire()

    with pytest.raises(BodyTooLarge):
        await wire.exchange(content_length="11").body()


async def test_a_body_that_is_compressed_is_refused_unread() -> None:
    with pytest.raises(BodyEncoded) as caught:
        await Wire().exchange(content_encoding="gzip").body()

    assert caught.value.encoding == "gzip"


async def test_a_body_that_says_that_it_is_not_compressed_is_read() -> None:
    assert await Wire(parts(b"abc")).exchange(content_encoding="Identity").body() == b"abc"


@pytest.mark.parametrize("length", ["x", "-1", "", "1e9", "\u00b2"])
async def test_a_length_that_is_none_does_not_matter(length: str) -> None:
    assert await Wire(parts(b"abc")).exchange(content_length=length).body() == b"abc"


async def test_who_hangs_up_in_the_body_is_gone() -> None:
    wire = Wire([{**REQUEST, "body": b"a", "more_body": True}, GONE])
    exchange = wire.exchange()

    with pytest.raises(CallerGone):
        await exchange.body()
    assert exchange.gone


async def asked() -> tuple[Wire, Exchange]:
    """A request that was read."""
    wire = Wire(parts(b"a"))
    exchange = wire.exchange()
    await exchange.body()
    return wire, exchange


async def watched() -> tuple[Wire, Exchange, list[str]]:
    """A request that was read and is being worked on, and what is told of its caller's hanging up."""
    wire, exchange = await asked()
    told: list[str] = []
    exchange.when_gone(lambda: told.append("gone"))
    await until(lambda: is_watched(wire))
    return wire, exchange, told


async def test_who_hangs_up_later_is_noticed_once() -> None:
    wire, exchange = await asked()
    noticed = asyncio.Event()
    exchange.when_gone(noticed.set)

    wire.hung_up.set()
    await noticed.wait()

    assert exchange.gone
    exchange.close()


async def test_what_the_server_says_after_the_end_of_a_stream_is_no_hang_up() -> None:
    wire, exchange, told = await watched()
    await exchange.start_stream({})
    await exchange.end()

    wire.hung_up.set()
    await until(lambda: is_unwatched(wire))

    assert not exchange.gone
    assert told == []


async def test_who_is_gone_already_is_noticed_at_once_by_the_next_attempt() -> None:
    wire, exchange = await asked()
    first, second = asyncio.Event(), []
    exchange.when_gone(first.set)
    wire.hung_up.set()
    await first.wait()

    exchange.when_gone(None)
    exchange.when_gone(lambda: second.append("noticed"))

    assert second == ["noticed"]


async def test_what_was_taken_back_is_not_called() -> None:
    wire, exchange = await asked()
    called: list[str] = []
    exchange.when_gone(lambda: called.append("called"))
    exchange.when_gone(None)

    wire.hung_up.set()
    await until(lambda: is_gone(exchange))

    assert called == []


async def is_gone(exchange: Exchange) -> bool:
    return exchange.gone


async def is_watched(wire: Wire) -> bool:
    return wire.watched


async def is_unwatched(wire: Wire) -> bool:
    return not wire.watched


async def test_a_closed_exchange_tells_nobody_of_a_hang_up() -> None:
    wire, exchange, told = await watched()

    exchange.close()
    wire.hung_up.set()
    await until(lambda: is_gone(exchange))

    assert told == []


async def test_a_whole_answer_has_its_length_and_its_request() -> None:
    wire = Wire()
    exchange = wire.exchange()

    await exchange.answer(418, {"x-a": "é", "x-b": "漢"}, b"tea")

    start, body = wire.sent
    assert (start["status"], body) == (418, {"type": "http.response.body", "body": b"tea"})
    assert start["headers"] == [
        (b"x-a", b"\xe9"),
        (b"x-b", b"?"),
        (b"content-length", b"3"),
        (b"x-request-id", b"req_1"),
    ]
    assert exchange.started


async def test_a_stream_has_a_beginning_pieces_and_an_end() -> None:
    wire = Wire()
    exchange = wire.exchange()

    await exchange.start_stream({"x-a": "b"})
    await exchange.write(b"data: 1\n\n")
    await exchange.end()

    start, piece, end = wire.sent
    assert (start["status"], dict(start["headers"])[b"content-type"]) == (200, b"text/event-stream; charset=utf-8")
    assert (piece["body"], piece["more_body"]) == (b"data: 1\n\n", True)
    assert (end["body"], end.get("more_body", False)) == (b"", False)
