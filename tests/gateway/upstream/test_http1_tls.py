import asyncio
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from raw_http import (
    CHUNKED,
    OK,
    TO_THE_END,
    WHOLE,
    Line,
    Talk,
    ask,
    body_of,
    cancelled,
    raw_server,
    repeating,
    saying,
    turns,
)

from gateway.upstream.http1 import ConnectFailed, ConnectionBroken, HttpClient


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a certificate for `localhost`, made and signed by nobody else."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate[1], certificate[0])
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest_asyncio.fixture
async def trusting(nothing_stays_open: None, certificate: tuple[Path, Path]) -> AsyncIterator[HttpClient]:
    """A client that trusts the test's certificate."""
    context = ssl.create_default_context(cafile=certificate[1])
    client = HttpClient(connect_timeout=5, idle=55, ssl_context=context)
    yield client
    await client.close()


async def test_tls_connections_are_verified_and_used_again(trusting: HttpClient, server_tls: ssl.SSLContext) -> None:
    async with raw_server(repeating(WHOLE), tls=server_tls) as server:
        url = server.url("localhost", "https")
        assert [await ask(trusting, url) for _ in range(4)] == [b"hello"] * 4

        assert server.connections == 1
        await trusting.close()


async def test_a_stranger_or_another_host_is_not_talked_to(
    client: HttpClient, trusting: HttpClient, server_tls: ssl.SSLContext
) -> None:
    async with raw_server(repeating(WHOLE), tls=server_tls) as server:
        with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(client, server.url("localhost", "https"))
        with pytest.raises(ConnectFailed, match="IP address mismatch"):
            await ask(trusting, server.url("127.0.0.1", "https"))


async def test_a_client_speaks_http_1_to_a_server_that_also_knows_2(
    client: HttpClient, server_tls: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken: list[str | None] = []

    async def talk(line: Line) -> None:
        tls: ssl.SSLObject = line.writer.get_extra_info("ssl_object")
        spoken.append(tls.selected_alpn_protocol())
        await repeating(WHOLE)(line)

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    async with raw_server(talk, tls=server_tls) as server:
        assert await ask(client, server.url("localhost", "https")) == b"hello"
        await client.close()

    assert spoken == ["http/1.1"]


async def test_large_bodies_pass_through_tls_both_ways(trusting: HttpClient, server_tls: ssl.SSLContext) -> None:
    body = os.urandom(10 * 2**20)

    async def talk(line: Line) -> None:
        request = await line.request()
        await line.say(OK + b"content-length: %d\r\n\r\n" % len(body) + request.partition(b"\r\n\r\n")[2])

    async with raw_server(talk, tls=server_tls) as server:
        response = await trusting.post(server.url("localhost", "https"), {}, body)
        received = await body_of(response)
        response.release()

    assert received == body


@pytest.mark.parametrize("answer", [b"", OK, OK + b"content-length: 9\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n"])
async def test_an_end_too_early_is_seen_through_tls(
    trusting: HttpClient, server_tls: ssl.SSLContext, answer: bytes
) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(answer)
        line.writer.transport.abort()

    async with raw_server(talk, tls=server_tls) as server:
        with pytest.raises(ConnectionBroken):
            await ask(trusting, server.url("localhost", "https"))


async def test_a_body_that_only_the_connections_end_ends_passes_through_tls(
    trusting: HttpClient, server_tls: ssl.SSLContext
) -> None:
    async with raw_server(saying(TO_THE_END + b"hello"), tls=server_tls) as server:
        assert await ask(trusting, server.url("localhost", "https")) == b"hello"


async def test_a_body_that_is_not_read_can_be_given_up_under_tls(
    trusting: HttpClient, server_tls: ssl.SSLContext
) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(TO_THE_END)
        with suppress(ConnectionError):
            while True:
                await line.say(bytes(2**18))

    async with raw_server(talk, tls=server_tls) as server:
        response = await trusting.post(server.url("localhost", "https"), {}, b"{}")
        await turns(500)
        await trusting.close()
        while True:
            with suppress(ConnectionBroken):
                assert await response.read()
                continue
            break
        response.release()


async def test_giving_up_under_tls_ends_the_connection(trusting: HttpClient, server_tls: ssl.SSLContext) -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(CHUNKED)
        waiting.set()
        await line.ended()
        ended.set()

    waiting, ended = asyncio.Event(), asyncio.Event()
    async with raw_server(talk, tls=server_tls) as server:
        task = asyncio.create_task(ask(trusting, server.url("localhost", "https")))
        await waiting.wait()
        await turns()
        await cancelled(task)
        await ended.wait()


async def silence(line: Line) -> None:
    await line.ended()


async def plain_text(line: Line) -> None:
    await line.say(WHOLE)


@pytest.mark.usefixtures("nothing_stays_open")
@pytest.mark.parametrize("talk", [silence, plain_text])
async def test_a_tls_handshake_that_fails_or_never_ends_means_that_nothing_was_sent(talk: Talk) -> None:
    client = HttpClient(connect_timeout=0.1, idle=55)
    async with raw_server(talk) as server:
        with pytest.raises(ConnectFailed):
            await ask(client, server.url("localhost", "https"))


async def test_giving_up_a_tls_handshake_leaves_no_socket(client: HttpClient) -> None:
    async def talk(line: Line) -> None:
        waiting.set()
        await line.ended()
        ended.set()

    waiting, ended = asyncio.Event(), asyncio.Event()
    async with raw_server(talk) as server:
        task = asyncio.create_task(ask(client, server.url("localhost", "https")))
        await waiting.wait()
        await cancelled(task)
        await ended.wait()
