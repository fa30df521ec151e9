import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from raw_http import open_sockets, turns

from gateway.upstream.dial import Address
from gateway.upstream.http1 import HttpClient


@pytest_asyncio.fixture
async def nothing_stays_open() -> AsyncIterator[None]:
    """Fails a test that leaves a network socket behind."""
    before = open_sockets()
    yield
    await turns()
    assert open_sockets() <= before


@pytest_asyncio.fixture
async def client(nothing_stays_open: None) -> AsyncIterator[HttpClient]:
    client = HttpClient(connect_timeout=5, idle=55)
    yield client
    await client.close()


@pytest.fixture
def black_hole() -> Iterator[Address]:
    """An address that answers no attempt to connect: its queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        queued = [socket.socket() for _ in range(4)]
        for sock in queued:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield socket.AF_INET, listener.getsockname()
        for sock in queued:
            sock.close()
