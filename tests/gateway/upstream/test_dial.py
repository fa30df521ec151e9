import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from raw_http import cancelled, open_sockets, turns

from gateway.upstream.dial import Address, alternating, dial, first_connected

V4, V6 = socket.AF_INET, socket.AF_INET6
LOCALHOST = "127.0.0.1"

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@contextmanager
def listening(host: str = LOCALHOST) -> Iterator[Address]:
    """The address of somebody who answers."""
    with socket.create_server((host, 0), family=V6 if ":" in host else V4) as listener:
        yield listener.family, listener.getsockname()


def refusing() -> Address:
    """An address where nobody listens."""
    with listening() as address:
        return address


async def test_a_socket_is_connected_and_does_not_wait_to_fill_packets() -> None:
    with listening() as (_, (host, port, *_)), await dial(str(host), int(port)) as sock:
        assert sock.getpeername() == (host, port)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.getblocking()


async def test_an_ipv6_address_is_dialled() -> None:
    with listening("::1") as (_, (host, port, *_)), await dial(str(host), int(port)) as sock:
        assert sock.family == V6


def test_families_take_turns_and_the_resolvers_choice_comes_first() -> None:
    found: list[Address] = [(V6, ("a", 1)), (V6, ("b", 1)), (V6, ("c", 1)), (V4, ("d", 1)), (V4, ("e", 1))]

    assert "".join(str(where[0]) for _, where in alternating(found)) == "adbec"
    assert "".join(str(where[0]) for _, where in alternating(found[::-1])) == "ecdba"


async def test_after_a_refusal_the_next_address_is_tried() -> None:
    with listening() as address, await first_connected([refusing(), refusing(), address]) as sock:
        assert sock.getpeername() == address[1]


async def test_an_address_that_stays_silent_does_not_hold_up_the_next(black_hole: Address) -> None:
    with listening() as address, await first_connected([black_hole, address]) as sock:
        assert sock.getpeername() == address[1]


async def test_where_no_address_answers_the_first_ones_failure_is_told() -> None:
    with pytest.raises(ConnectionRefusedError):
        await first_connected([refusing(), refusing()])


async def test_several_that_answer_at_once_leave_one_socket() -> None:
    before = open_sockets()
    with listening() as address, await first_connected([address] * 5):
        await turns()
        assert len(open_sockets() - before) == 2


async def test_giving_up_leaves_no_socket(black_hole: Address) -> None:
    before = open_sockets()
    task = asyncio.create_task(first_connected([black_hole, black_hole]))
    await turns()
    assert len(open_sockets() - before) == 1

    await cancelled(task)

    assert open_sockets() == before


@pytest.mark.parametrize("count", range(12))
async def test_giving_up_in_any_turn_leaves_no_socket(count: int) -> None:
    before = open_sockets()
    with listening() as address:
        task = asyncio.create_task(first_connected([address]))
        await turns(count)
        task.cancel()
        with suppress(asyncio.CancelledError):
            (await task).close()

    assert open_sockets() == before
