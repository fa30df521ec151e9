"""Every fault of the proxy, before a server that answers each line with the same line."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from bank import until

from gateway.chaos.proxy import KINDS, FaultProxy, Faults, Kind


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


LINE = b"0123456789 abcdefghijklmnopqrstuvwxyz 0123456789\n"


@dataclass
class Echo:
    """Keeps all it has heard."""

    name: bytes = b""
    heard: bytearray = field(default_factory=bytearray)
    port: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.heard += data
                if data.endswith(b"\n"):
                    writer.write(self.name + data)
        self.ended.set()
        writer.close()


@asynccontextmanager
async def echo(name: bytes = b"") -> AsyncIterator[Echo]:
    server = Echo(name)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server


@asynccontextmanager
async def proxied(faults: Faults | None = None, seed: int = 1) -> AsyncIterator[tuple[Echo, FaultProxy]]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(echo())
        target = ("127.0.0.1", server.port)
        proxy = await stack.enter_async_context(FaultProxy(target, name="echo", seed=seed, faults=faults))
        yield server, proxy


async def ask(proxy: FaultProxy, line: bytes = LINE) -> bytes:
    """All that comes in answer to one line, or before the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    received = bytearray()
    try:
        writer.write(line)
        with suppress(ConnectionError):
            while len(received) < len(line) and (data := await reader.read(65536)):
                received += data
    finally:
        writer.close()
    return bytes(received)


async def when(condition: Callable[[], bool]) -> None:
    async def is_true() -> bool:
        return condition()

    await until(is_true)


def asked(server: Echo, number: int) -> bool:
    return server.heard.count(b"\n") == number


async def test_without_faults_it_passes_everything_on() -> None:
    async with proxied() as (server, proxy):
        assert await ask(proxy) == LINE == server.heard
        assert (proxy.connections, proxy.counts) == (1, {})


async def test_a_refused_connection_never_reaches_the_server() -> None:
    async with proxied() as (server, proxy):
        proxy.inject("refused")

        assert (await ask(proxy), server.heard) == (b"", b"")
        assert await ask(proxy) == LINE


@pytest.mark.parametrize("kind", ["delay", "stall"])
async def test_a_late_reply_comes_after_one_that_was_asked_for_later(kind: Kind) -> None:
    async with proxied(Faults(delay=(0.2, 0.2), stall=(0.2, 0.2))) as (_, proxy):
        order = []

        async def note(name: str) -> None:
            assert await ask(proxy) == LINE
            order.append(name)

        proxy.inject(kind)
        late = asyncio.create_task(note("late"))
        await when(lambda: proxy.counts[kind] > 0)
        await note("prompt")
        await late

    assert order == ["prompt", "late"]


async def test_a_slow_reply_comes_in_many_pieces() -> None:
    async with proxied() as (_, proxy):
        proxy.inject("slow")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(LINE)
        pieces = []
        while sum(map(len, pieces)) < len(LINE):
            pieces.append(await reader.read(65536))
        writer.close()

    assert b"".join(pieces) == LINE
    assert len(pieces) > 1


async def test_what_is_said_behind_a_late_reply_stays_behind_it() -> None:
    async with proxied(Faults(delay=(0.05, 0.05))) as (server, proxy):
        proxy.inject("delay")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for number, line in enumerate((b"first\n", b"second\n"), 1):
            writer.write(line)
            await when(partial(asked, server, number))
        answers = [await reader.readline(), await reader.readline()]
        writer.close()

    assert answers == [b"first\n", b"second\n"]


async def test_a_cut_request_is_never_carried_out() -> None:
    async with proxied() as (server, proxy):
        proxy.inject("cut request")

        assert await ask(proxy) == b""
        await server.ended.wait()
        assert LINE.startswith(server.heard)
        assert len(server.heard) < len(LINE)


async def test_a_cut_reply_breaks_off_what_was_carried_out() -> None:
    async with proxied() as (server, proxy):
        proxy.inject("cut reply")
        received = await ask(proxy)

    assert server.heard == LINE
    assert LINE.startswith(received)
    assert len(received) < len(LINE)


@pytest.mark.parametrize("kind", ["lost reply", "half-close"])
async def test_a_lost_reply_was_carried_out_and_nobody_hears_of_it(kind: Kind) -> None:
    async with proxied() as (server, proxy):
        proxy.inject(kind)
        received = await ask(proxy)
        await server.ended.wait()

    assert (received, server.heard) == (b"", LINE)


async def test_a_corrupted_reply_has_bytes_that_are_neither_digits_nor_text() -> None:
    async with proxied() as (_, proxy):
        proxy.inject("corrupt")
        received = await ask(proxy)

    changed = [(was, now) for was, now in zip(LINE, received, strict=True) if was != now]
    assert changed
    assert {now for _, now in changed} == {0xFF}


async def test_every_kind_is_injected_and_counted_by_its_name() -> None:
    async with proxied(Faults(delay=(0, 0), stall=(0, 0))) as (_, proxy):
        for kind in KINDS:
            proxy.inject(kind, times=2)
            await ask(proxy)
            await ask(proxy)

        assert proxy.named_counts == {f"echo: {kind}": 2 for kind in KINDS}


async def test_the_same_seed_makes_the_same_choices() -> None:
    faults = Faults(rate=0.5, delay=(0, 0), stall=(0, 0))
    counts = []
    for seed in (1, 1, 2):
        async with proxied(faults, seed) as (_, proxy):
            for _ in range(40):
                await ask(proxy)
            counts.append(dict(proxy.counts))

    assert counts[0] == counts[1] != counts[2]
    assert len(counts[0]) > 5


async def test_it_can_refuse_as_a_port_does_where_nobody_listens() -> None:
    async with proxied() as (_, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.refuse()

        with pytest.raises(ConnectionRefusedError):
            await ask(proxy)
        assert await reader.read() == b""
        writer.close()
        await proxy.pass_on()
        assert await ask(proxy) == LINE


async def test_it_can_be_a_black_hole() -> None:
    async with proxied() as (server, proxy):
        proxy.black_hole()
        asking = asyncio.create_task(ask(proxy))
        await when(lambda: proxy.connections > 0)
        unanswered, _ = await asyncio.wait([asking], timeout=0.05)
        await proxy.pass_on()

        assert (unanswered, server.heard) == (set(), b"")
        assert await asking == b""
        assert await ask(proxy) == LINE


async def test_it_can_lead_to_another_server() -> None:
    async with proxied() as (_, proxy), echo(b"2") as other:
        proxy.switch(("127.0.0.1", other.port))

        assert await ask(proxy) == b"2" + LINE


async def test_a_server_that_is_not_there_ends_the_connection() -> None:
    async with proxied() as (_, proxy):
        with_nobody = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = with_nobody.sockets[0].getsockname()[1]
        with_nobody.close()
        proxy.switch(("127.0.0.1", port))

        assert await ask(proxy) == b""


async def test_what_is_said_to_a_server_that_has_just_gone_is_dropped() -> None:
    gone = asyncio.Event()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        gone.set()

    errors: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with proxied() as (_, proxy), await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
        proxy.switch(listening.sockets[0].getsockname()[:2])
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for _ in range(50):
            if not writer.is_closing():
                writer.write(LINE)
            await asyncio.sleep(0)
        await gone.wait()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    assert errors == []


async def test_it_stands_before_unix_sockets_too(tmp_path: Path) -> None:
    server = Echo()
    near, far = tmp_path / "near", tmp_path / "far"
    async with await asyncio.start_unix_server(server.serve, far), FaultProxy(far, name="e", seed=1, listen=near):
        reader, writer = await asyncio.open_unix_connection(near)
        writer.write(LINE)
        assert await reader.readline() == LINE
        writer.close()
