"""What an answer looks like on the wire, and what is refused before it gets there."""

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from gateway.cycle import Cycle

HEAD = [(b"content-type", b"text/plain")]


class Wire(asyncio.Transport):
    """A transport that keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True


def cycle(wire: Wire, *, method: str = "GET", keep_alive: bool = True) -> Cycle:
    nobody = logging.getLogger("nobody")
    return Cycle(
        scope=cast(Any, {"method": method}),
        transport=wire,
        flow=FlowControl(wire),
        logger=nobody,
        access_logger=nobody,
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )


async def start(of: Cycle, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await of.send({"type": "http.response.start", "status": status, "headers": HEAD if headers is None else headers})


async def body(of: Cycle, data: bytes, *, more: bool = False) -> None:
    await of.send({"type": "http.response.body", "body": data, "more_body": more})


async def test_a_whole_answer_is_one_write() -> None:
    wire = Wire()
    answer = cycle(wire)
    await start(answer, headers=[(b"content-length", b"5")])
    await body(answer, b"hello")

    assert wire.writes == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 5\r\n\r\nhello"]
    assert answer.response_complete
    assert not wire.closed


async def test_an_answer_without_a_length_is_chunked_and_its_head_leaves_with_the_first_piece() -> None:
    wire = Wire()
    answer = cycle(wire)
    await start(answer)
    assert wire.writes == []
    for piece, more in ((b"a" * 17, True), (b"b", True), (b"", False)):
        await body(answer, piece, more=more)

    head, first = wire.writes[0].split(b"\r\n\r\n")
    assert head.endswith(b"content-type: text/plain\r\ntransfer-encoding: chunked")
    assert [first, *wire.writes[1:]] == [b"11\r\n" + b"a" * 17 + b"\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_an_answer_that_has_no_body_is_a_head_alone(method: str, status: int) -> None:
    wire = Wire()
    answer = cycle(wire, method=method)
    await start(answer, status)
    await body(answer, b"")

    assert len(wire.writes) == 1
    assert wire.writes[0].endswith(b"content-type: text/plain\r\n\r\n")


async def test_the_length_of_what_a_head_request_is_spared_is_told() -> None:
    wire = Wire()
    answer = cycle(wire, method="HEAD")
    await start(answer, headers=[(b"content-length", b"5")])
    await body(answer, b"hello")

    assert wire.writes == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 5\r\n\r\n"]


@pytest.mark.parametrize(("kept", "headers"), [(False, []), (True, [(b"connection", b"Close")])])
async def test_a_last_answer_says_so_once_and_closes(kept: bool, headers: list[tuple[bytes, bytes]]) -> None:
    wire = Wire()
    answer = cycle(wire, keep_alive=kept)
    await start(answer, headers=[(b"content-length", b"0"), *headers])
    await body(answer, b"")

    assert wire.writes[0].lower().count(b"connection: close\r\n") == 1
    assert wire.closed


async def test_the_framing_is_ours_whatever_the_application_says() -> None:
    wire = Wire()
    answer = cycle(wire)
    await start(answer, headers=[(b"Transfer-Encoding", b"chunked"), (b"connection", b"keep-alive, close")])
    await body(answer, b"a")

    assert wire.writes == [
        b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n"
    ]
    assert wire.closed


async def test_a_length_is_one_in_capitals_too_and_headers_may_be_left_out() -> None:
    wire = Wire()
    answer = cycle(wire)
    await start(answer, headers=[(b"Content-Length", b"1")])
    await body(answer, b"a")
    await cycle(wire).send({"type": "http.response.start", "status": 200})

    assert b"chunked" not in wire.writes[0]


@pytest.mark.parametrize("header", [(b"a", b"b\r\nc: d"), (b"a", b"b\n"), (b"a\r", b"b"), (b"a", b"\0")])
async def test_a_line_break_in_a_header_is_refused_before_anything_is_sent(header: tuple[bytes, bytes]) -> None:
    wire = Wire()
    answer = cycle(wire)
    with pytest.raises(RuntimeError, match="line break"):
        await start(answer, headers=[header])

    assert wire.writes == []
    assert not answer.response_started


async def test_an_answer_whose_head_is_not_out_has_not_started() -> None:
    answer = cycle(Wire())
    await start(answer)
    assert not answer.response_started

    await body(answer, b"a", more=True)
    assert answer.response_started


@pytest.mark.parametrize(("length", "data"), [(b"4", b"hello"), (b"6", b"hello")])
async def test_a_body_of_another_length_than_was_told_is_not_passed_off_as_whole(length: bytes, data: bytes) -> None:
    wire = Wire()
    answer = cycle(wire)
    await start(answer, headers=[(b"content-length", length)])
    with pytest.raises(RuntimeError, match="content-length"):
        await body(answer, data)

    assert not answer.response_complete


async def test_nothing_follows_a_complete_answer() -> None:
    answer = cycle(Wire())
    await start(answer)
    await body(answer, b"")

    with pytest.raises(RuntimeError, match="complete already"):
        await body(answer, b"more")


async def test_nothing_is_written_to_a_client_that_is_gone() -> None:
    wire = Wire()
    answer = cycle(wire)
    answer.disconnected = True
    await start(answer)
    await body(answer, b"")

    assert wire.writes == []
