import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from http_server import GET, PATIENCE, QUICK, SLOW, App, Running, running

from gateway.server import Limits

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server_with_short_deadlines() -> AsyncIterator[Running]:
    async with running(QUICK) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server_with_long_deadlines() -> AsyncIterator[Running]:
    async with running(SLOW) as server:
        yield server


@pytest.fixture
def quick(server_with_short_deadlines: Running) -> Running:
    server_with_short_deadlines.app = App()
    return server_with_short_deadlines


@pytest.fixture
def slow(server_with_long_deadlines: Running) -> Running:
    server_with_long_deadlines.app = App()
    return server_with_long_deadlines


def error(body: bytes) -> Any:
    parsed = json.loads(body)
    assert set(parsed) == {"error"}
    assert set(parsed["error"]) == {"message", "type", "param", "code"}
    return parsed["error"]


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
async def test_a_silent_connection_is_closed_without_an_answer(quick: Running, sent: bytes) -> None:
    client = await quick.connect()
    client.send(sent)

    assert await client.rest() == b""


async def test_headers_that_never_end_are_answered_408(quick: Running) -> None:
    status, headers, body = await quick.exchange(b"GET /hello HTTP/1.1\r\nhost: te")

    assert (status, error(body)["code"]) == (408, "request_timeout")
    assert headers["content-type"] == "application/json"


async def test_what_is_answered_here_tells_sdks_what_the_application_would(quick: Running) -> None:
    answers = [await quick.exchange(sent) for sent in (b"nonsense\r\n\r\n", GET[:20], b"GET /fail HTTP/1.1\r\n\r\n")]

    told = [(status, headers["x-should-retry"], headers["connection"]) for status, headers, _ in answers]
    assert told == [(400, "false", "close"), (408, "true", "close"), (500, "false", "close")]
    ids = {headers["x-request-id"] for _, headers, _ in answers}
    assert len(ids) == 3
    assert all(name.startswith("req_") for name in ids)


async def test_the_id_of_what_was_refused_here_is_in_the_log(slow: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="gateway.server"):
        _, headers, _ = await slow.exchange(b"nonsense\r\n\r\n")

    assert caplog.messages == [f"request {headers['x-request-id']} was answered 400 malformed_request"]


async def test_headers_that_drip_do_not_move_the_deadline(quick: Running) -> None:
    client = await quick.connect()
    client.send(b"GET /hello HTTP/1.1\r\n")
    answer = asyncio.create_task(client.answer())
    while not answer.done():
        client.send(b"x")
        await asyncio.wait([answer], timeout=0.05)

    assert (await answer)[0] == 408


async def test_a_slow_second_request_is_answered_408(quick: Running) -> None:
    client = await quick.connect()
    client.send(GET)
    assert (await client.answer())[0] == 200
    client.send(GET[:20])

    assert (await client.answer())[0] == 408


async def test_an_idle_connection_outlives_the_header_deadline(quick: Running) -> None:
    idle, silent = await quick.connect(), await quick.connect()
    idle.send(GET)
    await idle.answer()
    await silent.rest()
    later = await quick.connect()
    await later.rest()
    idle.send(GET)

    assert (await idle.answer())[0] == 200


async def test_a_body_that_never_ends_is_answered_408_and_the_application_sees_the_client_gone(quick: Running) -> None:
    status, _, body = await quick.exchange(b"POST /read HTTP/1.1\r\ncontent-length: 10\r\n\r\n12345")

    assert (status, error(body)["type"]) == (408, "invalid_request_error")
    await asyncio.wait_for(quick.app.disconnected.wait(), PATIENCE)


async def test_a_body_may_take_longer_than_the_headers() -> None:
    async with running(Limits(header_timeout=0.2, body_timeout=60.0)) as server:
        client, silent = await server.connect(), await server.connect()
        client.send(b"POST /read HTTP/1.1\r\ncontent-length: 10\r\n\r\n12345")
        await silent.rest()
        client.send(b"67890")

        assert (await client.answer())[2] == b"10 bytes"


@pytest.mark.parametrize(
    "request_head",
    [
        pytest.param(b"GET /hello HTTP/1.1\r\nx: " + b"x" * 70_000, id="one endless header"),
        pytest.param(b"GET /hello HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, id="many headers"),
        pytest.param(b"GET /" + b"x" * 70_000, id="an endless path"),
        pytest.param(b"GET /hello HTTP/1.1\r\nx: " + b"x" * 70_000 + b"\r\n\r\n", id="complete"),
    ],
)
async def test_headers_above_the_limit_are_answered_431(slow: Running, request_head: bytes) -> None:
    client = await slow.connect()
    client.send(request_head)
    await client.writer.drain()
    client.send(b"x" * 400_000)
    status, _, body = await client.answer()

    assert (status, error(body)["code"]) == (431, "headers_too_large")
    assert await client.rest() == b""


async def test_headers_just_below_the_limit_pass(slow: Running) -> None:
    assert (await slow.exchange(b"GET /hello HTTP/1.1\r\nx: " + b"x" * 65_000 + b"\r\n\r\n"))[0] == 200


async def test_endless_trailers_are_answered_431(slow: Running) -> None:
    client = await slow.connect()
    client.send(b"POST /read HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx: ")
    answer = asyncio.create_task(client.answer())
    while not answer.done():
        client.send(b"x" * 10_000)
        await asyncio.wait([answer], timeout=0.01)

    assert (await answer)[0] == 431


async def test_trailers_do_not_pass_for_headers(slow: Running) -> None:
    chunked = b"POST /read HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-secret: x\r\n\r\n"
    await slow.exchange(chunked)

    assert slow.app.bodies == [b"body"]
    assert slow.app.headers == [{b"transfer-encoding": b"chunked"}]


@pytest.mark.parametrize(
    "malformed",
    [
        b"nonsense\r\n\r\n",
        b"GET /hello\x00 HTTP/1.1\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nx : space before the colon\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nx: folded\r\n line\r\n\r\n",
        b"CONNECT host:443 HTTP/1.1\r\n\r\n",
        b"POST /read HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /read HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody!",
        b"POST /read HTTP/1.1\r\ncontent-length: +4\r\n\r\nbody",
        b"POST /read HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n",
        b"POST /read HTTP/1.1\r\ntransfer-encoding: chunked, identity\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ],
)
async def test_what_two_servers_could_read_differently_is_answered_400(slow: Running, malformed: bytes) -> None:
    client = await slow.connect()
    client.send(malformed)
    status, _, body = await client.answer()

    assert (status, error(body)["code"]) == (400, "malformed_request")
    assert await client.rest() == b""
    assert slow.app.bodies == []


async def test_garbage_behind_a_request_does_not_disturb_its_answer(slow: Running) -> None:
    client = await slow.connect()
    client.send(b"GET /stream HTTP/1.1\r\n\r\n")
    head = await client.until(b"first\r\n")
    client.send(b"\x00garbage\r\n\r\n")
    slow.app.released.set()

    assert b"400" not in head
    assert await client.rest() == b"4\r\nlast\r\n0\r\n\r\n"


async def test_pipelined_requests_are_answered_in_order(quick: Running) -> None:
    client = await quick.connect()
    client.send(b"POST /read HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody" + GET)

    assert (await client.answer())[2] == b"4 bytes"
    assert (await client.answer())[2] == b"hello"


async def test_an_offer_to_change_the_protocol_is_declined_by_answering(slow: Running) -> None:
    upgrade = b"GET /hello HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    status, headers, body = await slow.exchange(upgrade)

    assert (status, headers["connection"], body) == (200, "close", b"hello")


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
async def test_an_early_answer_arrives_although_the_body_is_still_being_sent(slow: Running, connection: bytes) -> None:
    client = await slow.connect()
    size = 11 * 2**20
    client.send(b"POST /early HTTP/1.1\r\nconnection: %b\r\ncontent-length: %d\r\n\r\n" % (connection, size))
    client.send(b"x" * size)
    await asyncio.wait_for(client.writer.drain(), PATIENCE)

    assert (await client.answer())[::2] == (413, b"too large")


async def test_a_connection_goes_on_after_the_rest_of_an_answered_body_was_thrown_away(slow: Running) -> None:
    client = await slow.connect()
    client.send(b"POST /early HTTP/1.1\r\ncontent-length: 200000\r\n\r\n")
    assert (await client.answer())[0] == 413
    client.send(b"x" * 200_000 + GET)

    assert (await client.answer())[0] == 200


async def test_throwing_a_body_away_has_a_deadline(quick: Running) -> None:
    client = await quick.connect()
    client.send(b"POST /early HTTP/1.1\r\ncontent-length: 200000\r\n\r\nx")
    await client.answer()

    assert await client.rest() == b""


async def test_a_client_that_waits_to_be_asked_for_its_body_is_let_go_after_an_early_answer(slow: Running) -> None:
    client = await slow.connect()
    client.send(b"POST /early HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 200000\r\n\r\n")

    assert (await client.answer())[0] == 413
    assert await client.rest() == b""


async def test_an_answer_left_incomplete_cuts_the_connection_without_alarm(
    slow: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client = await slow.connect()
    client.send(b"GET /cut HTTP/1.1\r\n\r\n")

    assert (await client.rest()).endswith(b"5\r\nfirst\r\n")
    assert caplog.records == []


@pytest.mark.parametrize("path", [b"/fail", b"/silent", b"/headless"])
async def test_an_application_that_fails_is_answered_for(
    slow: Running, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    status, _, body = await slow.exchange(b"GET %b HTTP/1.1\r\n\r\n" % path)

    assert (status, error(body)["type"]) == (500, "server_error")
    assert b"secret" not in body
    assert len(caplog.records) == 1


async def test_a_hang_up_is_told_to_the_running_request_although_another_was_pipelined(slow: Running) -> None:
    client = await slow.connect()
    client.send(b"POST /linger HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody" + GET)
    await client.close()

    await asyncio.wait_for(slow.app.disconnected.wait(), PATIENCE)
