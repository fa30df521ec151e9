import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_http import CHUNKED, OK, TO_THE_END, WHOLE, Line, ask, body_of, cancelled, raw_server, saying, turns

from gateway.upstream.connection import MAX_BUFFERED_BYTES, MAX_HEAD_BYTES, Connection, ConnectionBroken
from gateway.upstream.http1 import HttpClient
from gateway.upstream.pool import Origin, Pool


@pytest.mark.parametrize(
    ("answer", "status", "body", "framed"),
    [
        (WHOLE, 200, b"hello", True),
        (OK + b"content-length: 0\r\n\r\n", 200, b"", True),
        (CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", 200, b"hello", True),
        (CHUNKED + b"5\r\nhello\r\n0\r\ndigest: abc\r\n\r\n", 200, b"hello", True),
        (TO_THE_END + b"hello", 200, b"hello", False),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" + WHOLE, 200, b"hello", True),
        (b"HTTP/1.1 503\r\ncontent-length: 1\r\n\r\n!", 503, b"!", True),
    ],
)
async def test_each_framing_is_understood(
    client: HttpClient, answer: bytes, status: int, body: bytes, framed: bool
) -> None:
    async with raw_server(saying(answer)) as server:
        response = await client.post(server.url(), {}, b"{}")

        assert (response.status, await body_of(response), response.framed) == (status, body, framed)
        response.release()


async def test_headers_are_found_by_their_lower_case_name_and_trailers_and_hints_are_not_headers(
    client: HttpClient,
) -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nx-hint: 1\r\n\r\n" + OK + b"Retry-After: 7\r\nretry-after: 8\r\nx-name: \xe9\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\nx-trailer: 1\r\n\r\n"
    )
    async with raw_server(saying(answer)) as server:
        response = await client.post(server.url(), {}, b"{}")
        await body_of(response)
        response.release()

    found = {name: response.header(name) for name in ("retry-after", "x-name", "x-trailer", "x-hint")}
    assert found == {"retry-after": "7", "x-name": "é", "x-trailer": None, "x-hint": None}


async def test_a_piece_of_the_body_is_there_as_soon_as_it_was_sent(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED)
        for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"):
            await taken.acquire()
            await line.say(piece)

    taken = asyncio.Semaphore(0)
    pieces = []
    async with raw_server(talk) as server:
        response = await client.post(server.url(), {}, b"{}")
        for _ in range(3):
            taken.release()
            pieces.append(await response.read())
        response.release()

    assert pieces == [b"one", b"two", None]


class FedTransport(asyncio.Transport):
    """A transport without a wire: the test plays the peer by calling the connection itself."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.reading = True
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self._closing = True


@contextmanager
def fed() -> Iterator[tuple[Connection, FedTransport]]:
    """A connection whose peer the test plays."""
    transport = FedTransport()
    with socket.socket() as sock:
        connection = Connection(Pool(55, 1), Origin(False, "127.0.0.1", 1), sock)
        connection.connection_made(transport)
        yield connection, transport


async def hear(pieces: list[bytes], unasked: bytes = b"") -> tuple[int | None, bytes, str]:
    """Status, body and ending ("end" or "broken") of an answer that arrives in exactly these pieces, then EOF.

    `unasked` arrives before the request is sent.
    """
    status, body = None, b""
    with fed() as (connection, _):
        if unasked:
            connection.data_received(unasked)
        exchange = asyncio.create_task(connection.exchange(b"POST / HTTP/1.1\r\n\r\n", b""))
        await asyncio.sleep(0)
        for piece in pieces:
            connection.data_received(piece)
        connection.eof_received()
        connection.connection_lost(None)
        try:
            response = await exchange
            status = response.status
            while (piece := await response.read()) is not None:
                body += piece
        except ConnectionBroken:
            return status, body, "broken"
    return status, body, "end"


ANSWERS = [
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"x-a: b\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nyou",
    CHUNKED + b"5\r\nhello\r\nA;ext=1\r\n0123456789\r\n0\r\nx-trailer: 1\r\n\r\n",
    TO_THE_END + b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    WHOLE + WHOLE,
    CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n",
    OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
]


@given(st.sampled_from(ANSWERS), st.data())
async def test_any_chunking_gives_the_same_answer(answer: bytes, data: st.DataObject) -> None:
    answer = answer[: data.draw(st.integers(0, len(answer)), label="cut after")]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer))), label="split at"))
    pieces = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True) if start < end]

    assert await hear(pieces) == await hear([answer] if answer else [])


@pytest.mark.parametrize("answer", ANSWERS[:4])
async def test_a_byte_at_a_time_gives_the_whole_answer(answer: bytes) -> None:
    heard = await hear([answer[i : i + 1] for i in range(len(answer))])

    assert heard == await hear([answer])
    assert heard[2] == "end"


@pytest.mark.parametrize("unasked", [WHOLE, b"HTTP/1.1", b"220 smtp.example ESMTP\r\n"])
async def test_what_came_before_the_request_does_not_answer_it(unasked: bytes) -> None:
    assert await hear([WHOLE], unasked) == (None, b"", "broken")


async def test_what_comes_after_a_break_does_not_mend_it() -> None:
    reason = b"a" * 1000

    assert await hear([b"HTTP/1.1 200 ", *[reason] * 70, b"\r\ncontent-length: 0\r\n\r\n"]) == (None, b"", "broken")


async def test_a_connection_that_has_ended_is_not_kept_count_of() -> None:
    pool = Pool[Connection](55, 1)
    with socket.socket() as sock:
        connection = Connection(pool, Origin(False, "127.0.0.1", 1), sock)
        pool.add(connection)
        connection.connection_lost(None)

    assert len(pool) == 0


# What breaks off


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 20",
        OK,
        OK + b"content-length: 5\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        OK + b"content-length: 5\r\n\r\nhell",
        CHUNKED,
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        OK + b"transfer-encoding: gzip\r\n\r\nhello",
    ],
)
async def test_an_end_too_early_is_never_taken_for_the_end(client: HttpClient, answer: bytes) -> None:
    async with raw_server(saying(answer)) as server:
        with pytest.raises(ConnectionBroken):
            await ask(client, server.url())

    assert server.connections == 1


async def test_a_reset_is_not_the_end_of_a_body_that_has_no_other(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(TO_THE_END + b"hel")
        await heard.wait()
        sock = line.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.writer.transport.abort()

    heard = asyncio.Event()
    async with raw_server(talk) as server:
        response = await client.post(server.url(), {}, b"{}")
        assert await response.read() == b"hel"
        heard.set()
        with pytest.raises(ConnectionBroken):
            await response.read()
        response.release()


async def test_what_came_before_the_break_is_read_first(client: HttpClient) -> None:
    async with raw_server(saying(CHUNKED + b"5\r\nhello\r\nnonsense\r\n")) as server:
        response = await client.post(server.url(), {}, b"{}")
        assert await response.read() == b"hello"
        with pytest.raises(ConnectionBroken, match="not valid HTTP"):
            await response.read()
        response.release()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        OK + b"content-length: +5\r\n\r\nhello",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        OK + b"content-length: 5\n\nhello",
        OK + b"x-folded: a\r\n b\r\ncontent-length: 5\r\n\r\nhello",
        CHUNKED + b"5\nhello\n0\n\n",
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + WHOLE,
    ],
)
async def test_what_is_not_strictly_http_is_refused(client: HttpClient, answer: bytes) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(answer)
        await line.ended()

    async with raw_server(talk) as server:
        with pytest.raises(ConnectionBroken, match="not valid HTTP"):
            await ask(client, server.url())


HOARD = b"a" * 1000


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"".join(b"x-%d: %s\r\n" % (i, HOARD) for i in range(70)) + b"content-length: 5\r\n\r\nhello",
        OK + b"x-one: " + HOARD * 70,
        b"HTTP/1.1 200 " + HOARD * 70,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
        CHUNKED + b"5;" + HOARD * 70,
        CHUNKED + b"5\r\nhello\r\n0\r\nx-trailer: " + HOARD * 400,
    ],
)
async def test_headers_are_not_hoarded(client: HttpClient, answer: bytes) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(answer)
        await line.ended()

    async with raw_server(talk) as server:
        with pytest.raises(ConnectionBroken, match="64 KiB"):
            await ask(client, server.url())


async def test_headers_below_the_limit_pass_with_a_large_body_behind_them(client: HttpClient) -> None:
    body = bytes(2**20)
    head = OK + b"x-large: " + b"a" * (MAX_HEAD_BYTES - 100) + b"\r\ncontent-length: %d\r\n\r\n" % len(body)

    async with raw_server(saying(head + body)) as server:
        assert await ask(client, server.url()) == body


# Back-pressure, both ways


async def test_a_body_that_is_not_read_makes_the_server_wait(client: HttpClient) -> None:
    size, sent = 64 * 2**20, 0

    async def talk(line: Line) -> None:
        nonlocal sent
        await line.request()
        await line.say(OK + b"content-length: %d\r\n\r\n" % size)
        while sent < size:
            await line.say(bytes(2**18))
            sent += 2**18

    async with raw_server(talk) as server:
        response = await client.post(server.url(), {}, b"{}")
        before = -1
        while before < sent:
            before = sent
            await turns()
        assert sent < size / 2

        received = 0
        while (piece := await response.read()) is not None:
            received += len(piece)
            assert len(piece) < 2**20
        response.release()

    assert received == size


async def test_a_large_body_arrives_whole_at_a_server_that_reads_slowly(client: HttpClient) -> None:
    body = os.urandom(10 * 2**20)
    received = hashlib.sha256()

    async def talk(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        left = len(body)
        while left:
            piece = await line.reader.read(50_000)
            received.update(piece)
            left -= len(piece)
            await asyncio.sleep(0)
        await line.say(WHOLE)

    async with raw_server(talk) as server:
        response = await client.post(server.url(), {}, body)
        response.release()

    assert received.digest() == hashlib.sha256(body).digest()


async def test_an_answer_before_the_body_was_sent_is_taken_and_the_connection_is_not_used_again(
    client: HttpClient,
) -> None:
    async def talk(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge")
        await release.wait()

    release = asyncio.Event()
    async with raw_server(talk) as server:
        for _ in range(2):
            response = await client.post(server.url(), {}, bytes(20 * 2**20))
            assert (response.status, await body_of(response)) == (413, b"large")
            response.release()
        release.set()

    assert server.connections == 2


async def test_the_rest_of_a_body_is_sent_on_under_an_early_answer(client: HttpClient) -> None:
    body = bytes(5 * 2**20)

    async def talk(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(CHUNKED)
        await line.reader.readexactly(len(body))
        await line.say(b"3\r\nall\r\n0\r\n\r\n")

    async with raw_server(talk) as server:
        response = await client.post(server.url(), {}, body)
        assert await body_of(response) == b"all"
        response.release()


async def test_a_large_body_is_handed_over_only_as_fast_as_the_transport_takes_it() -> None:
    head, body = b"POST / HTTP/1.1\r\n\r\n", os.urandom(2**20)
    with fed() as (connection, transport):
        connection.pause_writing()
        exchange = asyncio.create_task(connection.exchange(head, body))
        await asyncio.sleep(0)
        assert transport.sent == head

        connection.resume_writing()
        assert transport.sent == head + body

        await cancelled(exchange)


async def test_the_peer_has_to_wait_only_while_much_is_unread() -> None:
    with fed() as (connection, transport):
        exchange = asyncio.create_task(connection.exchange(b"POST / HTTP/1.1\r\n\r\n", b""))
        await asyncio.sleep(0)
        connection.data_received(TO_THE_END + bytes(MAX_BUFFERED_BYTES + 1))
        response = await exchange
        waits = [transport.reading]
        await response.read()
        waits.append(transport.reading)
        connection.data_received(b"a little")
        waits.append(transport.reading)

    assert waits == [False, True, True]


async def test_a_peer_that_ends_its_side_during_an_upload_is_not_sent_the_rest(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.writer.write_eof()
        await answered.wait()

    answered = asyncio.Event()
    async with raw_server(talk) as server:
        with pytest.raises(ConnectionBroken, match="too early"):
            await client.post(server.url(), {}, bytes(20 * 2**20))
        answered.set()
