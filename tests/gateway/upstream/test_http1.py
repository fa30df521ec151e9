import asyncio
import socket
import struct
from contextlib import suppress

import pytest
from raw_http import (
    CHUNKED,
    OK,
    WHOLE,
    Line,
    ask,
    body_of,
    cancelled,
    open_sockets,
    raw_server,
    repeating,
    saying,
    turns,
)

from gateway.upstream.dial import Address
from gateway.upstream.http1 import ConnectFailed, ConnectionBroken, HttpClient, target
from gateway.upstream.pool import Origin

# What is sent


async def test_a_request_has_the_headers_that_http_needs_and_the_ones_given(client: HttpClient) -> None:
    requests: list[bytes] = []

    async def talk(line: Line) -> None:
        for _ in range(2):
            requests.append(await line.request())
            await line.say(WHOLE)

    async with raw_server(talk) as server:
        for response in (
            await client.post(server.url(), {"Authorization": "Bearer key"}, b"{}"),
            await client.get(server.url(), {"x-id": "é"}),
        ):
            assert await body_of(response) == b"hello"
            response.release()

    common = b"HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\n" % server.port
    assert requests == [
        b"POST /v1/chat?x=1 " + common + b"content-length: 2\r\nAuthorization: Bearer key\r\n\r\n{}",
        b"GET /v1/chat?x=1 " + common + b"x-id: \xe9\r\n\r\n",
    ]


@pytest.mark.parametrize(
    ("url", "origin", "path", "host"),
    [
        ("http://a.example", Origin(False, "a.example", 80), "/", "a.example"),
        ("https://A.example:443/v1?q=1#part", Origin(True, "a.example", 443), "/v1?q=1", "a.example"),
        ("https://a.example:80/v1", Origin(True, "a.example", 80), "/v1", "a.example:80"),
        ("http://[::1]:8080/v1", Origin(False, "::1", 8080), "/v1", "[::1]:8080"),
    ],
)
def test_a_url_names_an_origin_and_leaves_default_ports_out_of_the_host_header(
    url: str, origin: Origin, path: str, host: str
) -> None:
    assert target(url) == (origin, path, host)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/",
        "/v1/chat",
        "http://",
        "http://user:password@a.example/",
        "http://a.example/a b",
        "http://a.example/\r\nx: y",
        "http://a.example/\0",
        "http://ä.example/",
        "http://a.example:99999/",
        "http://a.example:x/",
    ],
)
async def test_a_url_that_cannot_be_sent_is_refused(client: HttpClient, url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the message is Python's own for ports
        await client.post(url, {}, b"")


@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\r\nx: y", "a\0b", "\x7f", "€"])
async def test_a_header_value_cannot_bring_another_header(client: HttpClient, bad: str) -> None:
    with pytest.raises(ValueError, match="x-key") as refused:
        await client.post("http://127.0.0.1:1/", {"x-key": bad}, b"")

    assert bad not in str(refused.value)


@pytest.mark.parametrize("bad", ["", "a b", "a:b", "a\r\nb", "é", "Host", "content-length", "Transfer-Encoding"])
async def test_a_header_name_must_be_a_token_and_not_one_of_the_clients_own(client: HttpClient, bad: str) -> None:
    with pytest.raises(ValueError, match="header"):
        await client.get("http://127.0.0.1:1/", {"x-id": "1", bad: "a"})


# Which connections are used again


async def test_a_connection_is_used_again(client: HttpClient) -> None:
    async with raw_server(repeating(WHOLE)) as server:
        assert [await ask(client, server.url()) for _ in range(5)] == [b"hello"] * 5

        assert server.connections == 1
        await client.close()


async def test_a_connection_is_used_again_once_all_has_come_even_if_it_was_not_read(client: HttpClient) -> None:
    async with raw_server(repeating(WHOLE)) as server:
        for _ in range(3):
            response = await client.post(server.url(), {}, b"{}")
            response.release()
            response.release()

        assert server.connections == 1
        await client.close()


async def test_concurrent_requests_have_a_connection_each_and_keep_them(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        while True:
            request = await line.request()
            if server.open == 8:
                all_here.set()
            await all_here.wait()
            await line.say(OK + b"content-length: 2\r\n\r\n" + request[-2:])

    async def echoed(text: bytes) -> bool:
        response = await client.post(server.url(), {}, text)
        try:
            return await body_of(response) == text
        finally:
            response.release()

    all_here = asyncio.Event()
    async with raw_server(talk) as server:
        for _ in range(10):
            assert all(await asyncio.gather(*(echoed(b"%2d" % i) for i in range(8))))

        assert server.connections == 8
        await client.close()


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        OK + b"keep-alive: timeout=1\r\ncontent-length: 5\r\n\r\nhello",
        WHOLE + b"!",
        WHOLE + WHOLE,
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    ],
)
async def test_a_connection_that_is_not_to_be_kept_or_has_bytes_left_over_is_closed(
    client: HttpClient, answer: bytes
) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(answer)
        await line.ended()

    async with raw_server(talk) as server:
        assert [await ask(client, server.url()) for _ in range(2)] == [b"hello"] * 2

    assert server.connections == 2


async def test_a_connection_is_not_used_again_while_a_part_of_the_response_is_still_to_come(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED + b"5\r\nhello\r\n")
        await line.ended()

    async with raw_server(talk) as server:
        for _ in range(2):
            response = await client.post(server.url(), {}, b"{}")
            assert await response.read() == b"hello"
            response.release()

    assert server.connections == 2


async def test_bytes_that_nobody_asked_for_end_an_idle_connection(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(WHOLE)
        await asked.wait()
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        await line.ended()
        ended.set()

    asked, ended = asyncio.Event(), asyncio.Event()
    async with raw_server(talk) as server:
        assert await ask(client, server.url()) == b"hello"
        asked.set()
        await ended.wait()
        assert await ask(client, server.url()) == b"hello"


def answer_once(listener: socket.socket) -> socket.socket:
    """Take a connection and answer a request on it, outside of the event loop."""
    line, _ = listener.accept()
    line.recv(65536)
    line.sendall(WHOLE)
    return line


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_the_peer_has_ended_is_not_used_even_before_the_loop_knows(
    client: HttpClient, reset: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        first = asyncio.create_task(ask(client, url))
        line = await asyncio.to_thread(answer_once, listener)
        assert await first == b"hello"
        answering = asyncio.get_running_loop().run_in_executor(None, answer_once, listener)
        if reset:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()
        response = await client.post(url, {}, b"{}")  # looks for a connection before the loop turns again
        line = await answering
        assert await body_of(response) == b"hello"
        response.release()
        line.close()


async def test_a_connection_that_ends_while_idle_is_let_go(client: HttpClient) -> None:
    async with raw_server(saying(WHOLE)) as server:
        before = open_sockets()
        for _ in range(3):
            assert await ask(client, server.url()) == b"hello"
            await turns()
            assert open_sockets() <= before

    assert server.connections == 3


async def test_a_request_is_never_sent_twice(client: HttpClient) -> None:
    requests = 0

    async def talk(line: Line) -> None:
        nonlocal requests
        await line.request()
        await line.say(WHOLE)
        await line.request()
        requests += 1

    async with raw_server(talk) as server:
        assert await ask(client, server.url()) == b"hello"
        with pytest.raises(ConnectionBroken, match="too early"):
            await ask(client, server.url())

    assert (requests, server.connections) == (1, 1)


@pytest.mark.usefixtures("nothing_stays_open")
async def test_an_unused_connection_is_closed_after_its_time() -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(WHOLE)
        await line.ended()
        ended.set()

    ended = asyncio.Event()
    client = HttpClient(connect_timeout=5, idle=0.01)
    async with raw_server(talk) as server:
        assert await ask(client, server.url()) == b"hello"
        await ended.wait()
    await client.close()


async def test_closing_the_client_ends_what_is_under_way(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED)
        await line.ended()

    async with raw_server(talk) as server:
        response = await client.post(server.url(), {}, b"{}")
        reading = asyncio.create_task(response.read())
        await turns()
        await client.close()
        with pytest.raises(ConnectionBroken):
            await reading
        response.release()
        with pytest.raises(ConnectionBroken):
            await response.read()


# Giving up


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", CHUNKED, CHUNKED + b"5\r\nhel"])
async def test_giving_up_ends_the_connection(client: HttpClient, said: bytes) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(said)
        waiting.set()
        await line.ended()
        ended.set()

    waiting, ended = asyncio.Event(), asyncio.Event()
    async with raw_server(talk) as server:
        task = asyncio.create_task(ask(client, server.url()))
        await waiting.wait()
        await turns()
        await cancelled(task)
        await ended.wait()

        assert server.open == 0


async def test_giving_up_an_upload_ends_the_connection(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        waiting.set()
        await cancelled_event.wait()
        await line.ended()

    waiting, cancelled_event = asyncio.Event(), asyncio.Event()
    async with raw_server(talk) as server:
        task = asyncio.create_task(client.post(server.url(), {}, bytes(20 * 2**20)))
        await waiting.wait()
        await cancelled(task)
        cancelled_event.set()


async def test_giving_up_after_any_number_of_turns_leaves_nothing_behind(client: HttpClient) -> None:
    async with raw_server(repeating(WHOLE)) as server:
        for count in range(40):
            task = asyncio.create_task(ask(client, server.url().replace("127.0.0.1", "localhost")))
            await turns(count)
            task.cancel()
            with suppress(asyncio.CancelledError):
                assert await task == b"hello"
            assert await ask(client, server.url()) == b"hello"
            await client.close()


async def test_a_host_that_does_not_answer_fails_after_the_connect_timeout(black_hole: Address) -> None:
    client = HttpClient(connect_timeout=0.05, idle=55)

    with pytest.raises(ConnectFailed, match="too long"):
        await client.post(f"http://127.0.0.1:{black_hole[1][1]}/", {}, b"{}")


async def test_giving_up_an_attempt_to_connect_leaves_no_socket(client: HttpClient, black_hole: Address) -> None:
    before = open_sockets()
    task = asyncio.create_task(client.post(f"http://127.0.0.1:{black_hole[1][1]}/", {}, b"{}"))
    await turns()
    assert open_sockets() > before

    await cancelled(task)

    assert open_sockets() <= before


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b", "x" * 70])
async def test_a_host_that_is_not_there_means_that_nothing_was_sent(client: HttpClient, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(ConnectFailed, match=f"no connection to {host} port {port}"):
        await client.post(f"http://{host}:{port}/", {}, b"{}")


async def test_a_host_may_be_an_ipv6_address(client: HttpClient) -> None:
    async with raw_server(repeating(WHOLE), host="::1") as server:
        assert await ask(client, server.url("[::1]")) == b"hello"
        await client.close()
