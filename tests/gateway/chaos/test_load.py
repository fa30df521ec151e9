"""Callers without an SDK: what they make of answers, and how they break off."""

import asyncio
import json

import pytest
from raw_http import CHUNKED, OK, WHOLE, Line, raw_server, repeating, saying

from gateway.chaos.load import Answer, Caller, Ending, chat

STREAM = CHUNKED + b"7\r\nab\n\ncd\n\r\n" + b"4\r\n\nef\n\r\n" + b"0\r\n\r\n"
REQUEST = chat("exact", "Hello!", max_tokens=5)


async def test_a_request_is_a_chat_completion_with_the_key() -> None:
    heard = []

    async def talk(line: Line) -> None:
        heard.append(await line.request())
        await line.say(WHOLE)

    async with raw_server(talk) as server:
        answer = await Caller(server.port, "sk-1").ask(**REQUEST)

    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"hello", "5")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"authorization: Bearer sk-1" in head
    assert json.loads(body) == {"model": "exact", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 5}


@pytest.mark.parametrize("answer", [STREAM, CHUNKED + b"0\r\n\r\n", OK + b"content-length: 0\r\n\r\n", WHOLE])
async def test_answers_of_all_framings_come_over_one_connection_whatever_the_pieces_are(answer: bytes) -> None:
    async def talk(line: Line) -> None:
        while True:
            await line.request()
            for byte in answer:
                await line.say(bytes([byte]))
                await asyncio.sleep(0)

    async with raw_server(talk) as server:
        caller = Caller(server.port, "sk-1")
        bodies = [(await caller.ask(**REQUEST)).body for _ in range(2)]
        assert server.connections == 1
        caller.hang_up()

    assert bodies[0] == bodies[1] == {STREAM: b"ab\n\ncd\n\nef\n", WHOLE: b"hello"}.get(answer, b"")


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (200, Ending.ANSWERED),
        (402, Ending.REFUSED),
        (429, Ending.REFUSED),
        (503, Ending.UNAVAILABLE),
        (400, Ending.FAILED),
        (500, Ending.FAILED),
    ],
)
def test_a_status_tells_the_ending(status: int, ending: Ending) -> None:
    assert Answer(status, {}, b"").ending is ending


@pytest.mark.parametrize("part", [b"", OK, WHOLE[:-2], STREAM[:-5], STREAM[:-7]])
async def test_an_answer_that_ends_early_is_broken(part: bytes) -> None:
    async with raw_server(saying(part)) as server:
        assert await Caller(server.port, "sk-1").ending(**REQUEST) is Ending.BROKEN


async def test_who_finds_nobody_has_no_answer() -> None:
    async with raw_server(saying()) as server:
        caller = Caller(server.port, "sk-1")

    assert await caller.ending(**REQUEST) is Ending.BROKEN


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (CHUNKED + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", Ending.ANSWERED),
        (STREAM, Ending.BROKEN),
        (CHUNKED, Ending.BROKEN),
        (WHOLE.replace(b"200 OK", b"503 Away"), Ending.UNAVAILABLE),
    ],
    ids=["complete", "without its last word", "cut", "refused"],
)
async def test_a_stream_is_answered_where_it_says_that_it_is_complete(answer: bytes, ending: Ending) -> None:
    async with raw_server(saying(answer)) as server:
        assert await Caller(server.port, "sk-1").stream(**REQUEST) is ending


async def test_a_connection_that_was_ended_is_made_anew() -> None:
    goodbye = OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello"
    async with raw_server(saying(goodbye)) as server:
        caller = Caller(server.port, "sk-1")

        assert [await caller.ending(**REQUEST) for _ in range(2)] == [Ending.ANSWERED] * 2
        assert server.connections == 2


async def test_a_caller_walks_out_after_some_events() -> None:
    gone = asyncio.Event()

    async def talk(line: Line) -> None:
        assert b'"stream": true' in await line.request()
        await line.say(CHUNKED + b"4\r\nab\n\n\r\n")
        await line.ended()
        gone.set()

    async with raw_server(talk) as server:
        assert await Caller(server.port, "sk-1").walk_out(1, **REQUEST) == 200
        await gone.wait()


async def test_a_stream_that_ends_before_the_caller_walks_out_is_left_at_its_end() -> None:
    async with raw_server(repeating(STREAM)) as server:
        assert await Caller(server.port, "sk-1").walk_out(9, **REQUEST) == 200


async def test_a_caller_hangs_up_after_a_while_unless_the_answer_is_there() -> None:
    async def silent(line: Line) -> None:
        await line.ended()

    async with raw_server(silent) as server:
        assert await Caller(server.port, "sk-1").hang_up_after(0.01, **REQUEST) is Ending.LEFT
    async with raw_server(repeating(WHOLE)) as server:
        with Caller(server.port, "sk-1") as caller:
            assert await caller.hang_up_after(10, **REQUEST) is Ending.ANSWERED
