import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.errors import CannotStart
from gateway.listeners import open_listeners, split_address


@contextmanager
def closed_afterwards(listeners: list[socket.socket]) -> Iterator[int]:
    """The port of the listeners, which are closed in the end."""
    try:
        yield listeners[0].getsockname()[1]
    finally:
        for listener in listeners:
            listener.close()


def foreign(port: int = 0, *, shared: bool = False) -> socket.socket:
    """Another program's listener."""
    return socket.create_server(("127.0.0.1", port), reuse_port=shared)


async def test_connections_are_shared_out_among_all_listeners() -> None:
    listeners = await open_listeners("127.0.0.1", 0, 2)
    with closed_afterwards(listeners) as port:
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
        accepted = [pending(listener) for listener in listeners]

        assert sum(accepted) == len(clients)
        assert all(accepted)
        for client in clients:
            client.close()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_port_of_another_program_is_not_shared_with_it(shared: bool, count: int) -> None:
    with foreign(shared=shared) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=f"port {port} is in use by another program"):
            await open_listeners("127.0.0.1", port, count, patience=0.0)


async def test_a_port_that_is_let_go_in_time_is_taken() -> None:
    other = foreign()
    port = other.getsockname()[1]
    opening = asyncio.create_task(open_listeners("127.0.0.1", port, 1, patience=60.0))
    await asyncio.sleep(0)
    assert not opening.done()
    other.close()

    with closed_afterwards(await asyncio.wait_for(opening, 10.0)) as taken:
        assert taken == port


async def test_nobody_else_gets_the_port_of_our_only_listener() -> None:
    with closed_afterwards(await open_listeners("127.0.0.1", 0, 1)) as port, pytest.raises(OSError, match="in use"):
        foreign(port, shared=True)


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
async def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(CannotStart, match=f"cannot listen on {host}:0"):
        await open_listeners(host, 0, 1)


async def test_localhost_is_found_over_ipv4() -> None:
    with closed_afterwards(await open_listeners("localhost", 0, 1)) as port:
        socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    ("text", "address"), [("127.0.0.1:4001", ("127.0.0.1", 4001)), ("[::1]:4001", ("::1", 4001)), ("a.b:1", ("a.b", 1))]
)
def test_an_address_is_split_into_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


def pending(listener: socket.socket) -> int:
    """How many connections wait in the queue."""
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1
