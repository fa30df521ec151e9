"""Case 30: a line of Redis whose end was lost on the way swallows the next answer. Nobody may get that of another."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

import pytest

from budgets.errors import BudgetError, LedgerUnavailable
from budgets.redis_connection import RedisConnection

GARBLED = [b"-OOM command not allowed\xff\xff", b"-NOSCRIPT No matching script.\xff\xff", b"-ERR\xff\xff\xff\xff"]


@asynccontextmanager
async def redis_saying(*answers: bytes) -> AsyncIterator[RedisConnection]:
    """A connection to what greets as Redis does, and then gives these answers, all in one piece."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            asked = b""
            while b"first" not in asked:
                asked += (command := await reader.readuntil(b"\r\n"))
                writer.write({b"PING\r\n": b"+PONG\r\n", b"INFO\r\n": b"$0\r\n\r\n"}.get(command, b""))
            await reader.readuntil(b"third\r\n")
            writer.write(b"".join(answers))
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = RedisConnection(f"redis://127.0.0.1:{port}/0", deadline=0.05)
        await connection.connect()
        try:
            yield connection
        finally:
            await connection.close()


async def outcome(answer: Awaitable[object]) -> object:
    try:
        return await answer
    except BudgetError as exc:
        return type(exc)


@pytest.mark.parametrize("garbled", GARBLED)
async def test_case_30_no_command_gets_the_answer_of_another(garbled: bytes) -> None:
    async with redis_saying(garbled, b":2\r\n", b":3\r\n") as connection:
        answers = [connection.send("GET", name) for name in ("first", "second", "third")]
        _, second, third = [await outcome(answer) for answer in answers]

    assert second in (2, LedgerUnavailable)
    assert third in (3, LedgerUnavailable)
