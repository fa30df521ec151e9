import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from fakes import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Answer,
    Ending,
    FakeCaller,
    FakeUpstream,
    broken_stream,
    chunked,
    completion,
    delta,
    error,
    fake_upstream,
    head,
    stream,
    whole,
)

from budgets.ledger import Attempt, Reservation
from gateway.errors import CallerGone, UpstreamFailed
from gateway.settings import UpstreamSettings
from gateway.upstream.http import Answer as Received
from gateway.upstream.http import Call, Upstream

SOON = 0.05
"""Seconds for a deadline that is to pass."""
NEVER = 60.0
"""Seconds for a deadline that is not."""
PATIENT = UpstreamSettings(connect_timeout=NEVER, first_byte_timeout=NEVER, idle_timeout=NEVER, drain=NEVER)


@pytest.fixture
async def provider() -> AsyncIterator[FakeUpstream]:
    async with fake_upstream() as upstream:
        yield upstream


@asynccontextmanager
async def opened(**limits: Any) -> AsyncIterator[Upstream]:
    upstream = Upstream(PATIENT.model_copy(update=limits))
    try:
        yield upstream
    finally:
        await upstream.close()


def reservation() -> Reservation:
    return Reservation(Attempt("att_default_1", "default", "key_1", 1, ("account",), 1_000, True, "v1", "m"))


def call(port: int) -> Call:
    headers = {"content-type": "application/json", "authorization": "Bearer provider-secret"}
    return Call("acme", f"http://127.0.0.1:{port}/v1/chat/completions", headers, b'{"model": "m"}')


async def fetched(upstream: Upstream, port: int, held: Reservation, caller: FakeCaller | None = None) -> bytes:
    """The whole body of one attempt's answer."""
    bodies = []

    async def read(answer: Received) -> None:
        bodies.append(await answer.body())

    await upstream.send(call(port), held, caller or FakeCaller(), read)
    return bodies[0]


async def read_nothing(answer: Received) -> None:
    """An answer that nobody wants."""


async def failure(port: int, caller: FakeCaller | None = None, **limits: Any) -> tuple[UpstreamFailed, Reservation]:
    """How one attempt fails, and what its reservation knows then."""
    held = reservation()
    async with opened(**limits) as upstream:
        with pytest.raises(UpstreamFailed) as caught:
            await fetched(upstream, port, held, caller)
    return caught.value, held


def unknown(held: Reservation) -> bool:
    """Whether the provider may have billed something, nobody knows what."""
    return held.sent and held.spent is None


def costs_nothing(held: Reservation) -> bool:
    return held.spent == 0


# What goes well


async def test_a_request_is_sent_as_it_is_and_its_answer_is_read(provider: FakeUpstream) -> None:
    async def read(answer: Received) -> None:
        assert answer.content_type == "application/json"
        assert await answer.body() == completion()[1]

    async with opened() as upstream:
        await upstream.send(call(provider.port), reservation(), FakeCaller(), read)

    (asked,) = provider.asked
    assert (asked.path, asked.body) == ("/v1/chat/completions", {"model": "m"})
    assert asked.headers["authorization"] == "Bearer provider-secret"


async def test_a_connection_serves_more_than_one_request(provider: FakeUpstream) -> None:
    async with opened() as upstream:
        bodies = [await fetched(upstream, provider.port, reservation()) for _ in range(3)]

    assert len(provider.asked) == len(bodies) == 3


async def test_a_stream_comes_in_pieces_as_they_are_sent(provider: FakeUpstream) -> None:
    go_on = asyncio.Event()
    provider.will([STREAM_HEAD, chunked(delta("a")), go_on, chunked(DONE), LAST_CHUNK])

    async def read(answer: Received) -> None:
        assert await answer.read() == delta("a")
        go_on.set()
        assert await answer.body() == DONE
        assert answer.content_type == "text/event-stream"

    async with opened() as upstream:
        await upstream.send(call(provider.port), reservation(), FakeCaller(), read)
    assert go_on.is_set()


async def test_an_answer_without_a_length_ends_with_its_connection(provider: FakeUpstream) -> None:
    provider.will([head(content_type="text/event-stream", connection="close"), DONE, Ending.CLOSE])

    async with opened() as upstream:
        assert await fetched(upstream, provider.port, reservation()) == DONE


async def test_an_answer_that_was_not_read_is_left_without_harm_to_the_next(provider: FakeUpstream) -> None:
    provider.will(broken_stream(delta("a"), Ending.SILENCE))

    async with opened() as upstream:
        await upstream.send(call(provider.port), reservation(), FakeCaller(), read_nothing)
        await provider.left.wait()
        assert await fetched(upstream, provider.port, reservation()) == completion()[1]


# What goes wrong before anything was sent


@contextmanager
def nobody() -> Iterator[int]:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that never answers a connection: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for each in waiting:
                each.close()


@pytest.mark.parametrize("where", [nobody, black_hole])
async def test_without_a_connection_nothing_was_sent(where: Any) -> None:
    with where() as port:
        failed, held = await failure(port, connect_timeout=SOON)

    assert (failed.kind, failed.provider_name, failed.status) == ("connect", "acme", None)
    assert (held.sent, held.spent) == (False, None)


async def test_a_host_that_does_not_exist_is_no_connection() -> None:
    held = reservation()
    nowhere = Call("acme", "http://no-such-host.invalid/v1", {}, b"{}")
    async with opened() as upstream:
        with pytest.raises(UpstreamFailed) as caught:
            await upstream.send(nowhere, held, FakeCaller(), read_nothing)

    assert (caught.value.kind, held.sent) == ("connect", False)


@pytest.mark.parametrize(
    ("url", "key"), [("http://127.0.0.1:1/v1", "sk-a\n"), ("", "sk-a"), ("ftp://127.0.0.1/v1", "sk-a")]
)
async def test_what_cannot_be_sent_was_not_sent(url: str, key: str) -> None:
    held = reservation()
    malformed = Call("acme", url, {"authorization": f"Bearer {key}"}, b"{}")
    async with opened() as upstream:
        with pytest.raises(UpstreamFailed) as caught:
            await upstream.send(malformed, held, FakeCaller(), read_nothing)

    assert (caught.value.kind, held.sent) == ("connect", False)
    assert "sk-a" not in caught.value.message


# What goes wrong afterwards


BREAKS: dict[str, Answer] = {
    "closed before an answer": [Ending.CLOSE],
    "reset before an answer": [Ending.RESET],
    "closed in the headers": [head()[:-8], Ending.CLOSE],
    "reset in the headers": [head()[:-8], Ending.RESET],
    "closed in a body of known length": [head(content_length="100"), b"{", Ending.CLOSE],
    "reset in a body of known length": [head(content_length="100"), b"{", Ending.RESET],
    "closed between chunks": broken_stream(delta("a"), Ending.CLOSE),
    "reset between chunks": broken_stream(delta("a"), Ending.RESET),
    "closed in a chunk": [STREAM_HEAD, b"100\r\ndata: ", Ending.CLOSE],
    "closed before the last chunk's end": [STREAM_HEAD, chunked(DONE), b"0\r\n", Ending.CLOSE],
    "reset in a body without length": [head(connection="close"), b"{", Ending.RESET],
    "no HTTP at all": [b"SSH-2.0-OpenSSH_9.2\r\n", Ending.SILENCE],
    "a chunk of no size": [STREAM_HEAD, b"zz\r\ndata\r\n", Ending.SILENCE],
}


@pytest.mark.parametrize("answer", BREAKS.values(), ids=BREAKS.keys())
async def test_a_connection_that_breaks_leaves_the_cost_unknown(provider: FakeUpstream, answer: Answer) -> None:
    provider.will(answer)

    failed, held = await failure(provider.port)

    assert (failed.kind, failed.provider_name, failed.streaming) == ("cut", "acme", False)
    assert unknown(held)


async def test_a_request_is_never_sent_twice_by_itself(provider: FakeUpstream) -> None:
    provider.will(completion(), [Ending.CLOSE])

    async with opened() as upstream:
        await fetched(upstream, provider.port, reservation())
        with pytest.raises(UpstreamFailed):
            await fetched(upstream, provider.port, reservation())

    assert len(provider.asked) == 2


@pytest.mark.parametrize(
    ("answer", "deadline"),
    [
        ([Ending.SILENCE], "first_byte_timeout"),
        ([head()[:-8], Ending.SILENCE], "first_byte_timeout"),
        ([head(content_length="100"), b"{", Ending.SILENCE], "idle_timeout"),
        (broken_stream(delta("a"), Ending.SILENCE), "idle_timeout"),
        (broken_stream(Ending.SILENCE), "idle_timeout"),
        (broken_stream(delta("a"), Ending.SILENCE), "total_timeout"),
    ],
)
async def test_a_provider_that_falls_silent_is_left_and_the_cost_is_unknown(
    provider: FakeUpstream, answer: Answer, deadline: str
) -> None:
    provider.will(answer)

    failed, held = await failure(provider.port, None, **{deadline: SOON})

    assert failed.kind == "timeout"
    assert unknown(held)
    await provider.left.wait()


async def test_a_stream_that_goes_on_is_not_idle_but_ends_with_the_total_time(provider: FakeUpstream) -> None:
    provider.will(EndlessStream())

    failed, _ = await failure(provider.port, total_timeout=2 * SOON)

    assert failed.kind == "timeout"


class EndlessStream(list[Any]):
    """An answer of events without end."""

    def __iter__(self) -> Iterator[Any]:
        yield STREAM_HEAD
        while True:
            yield chunked(delta("a"))


async def test_an_answer_has_a_greatest_size(provider: FakeUpstream) -> None:
    provider.will(EndlessStream())

    failed, held = await failure(provider.port, max_response_bytes=10_000)

    assert (failed.kind, failed.provider_name) == ("cut", "acme")
    assert "10000 bytes" in failed.message
    assert unknown(held)


async def test_a_failure_tells_whether_the_caller_has_had_a_part(provider: FakeUpstream) -> None:
    provider.will(broken_stream(delta("a"), Ending.RESET), broken_stream(delta("a"), Ending.SILENCE))

    cut, _ = await failure(provider.port, FakeCaller(started=True))
    late, _ = await failure(provider.port, FakeCaller(started=True), idle_timeout=SOON)

    assert cut.streaming
    assert late.streaming


# Refusals


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 429, 500, 501, 503, 529])
async def test_a_refusal_costs_nothing_and_says_why(provider: FakeUpstream, status: int) -> None:
    provider.will(error(status, "not today"))

    failed, held = await failure(provider.port)

    assert (failed.kind, failed.status, failed.message) == ("status", status, "not today")
    assert (failed.code, failed.param) == ("some_code", "some_param")
    assert costs_nothing(held)


@pytest.mark.parametrize("status", [408, 499, 502, 504, 520, 522, 524, 530, 598, 201, 202, 204])
async def test_a_status_that_does_not_tell_whether_the_model_ran_leaves_the_cost_unknown(
    provider: FakeUpstream, status: int
) -> None:
    provider.will([head(204)] if status == 204 else error(status))

    failed, held = await failure(provider.port)

    assert failed.status == status
    assert unknown(held)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(provider: FakeUpstream, status: int) -> None:
    async with fake_upstream() as elsewhere:
        provider.will(whole({}, status, location=f"{elsewhere.url}/chat/completions"))

        failed, held = await failure(provider.port)

    assert (failed.kind, failed.status, elsewhere.asked) == ("status", status, [])
    assert costs_nothing(held)


async def test_a_refusal_in_html_is_told_by_its_status(provider: FakeUpstream) -> None:
    provider.will(whole(b"<html><h1>Service unavailable</h1></html>", 503, content_type="text/html"))

    failed, held = await failure(provider.port)

    assert (failed.status, failed.message, failed.code) == (503, "status 503 without an explanation", None)
    assert costs_nothing(held)


async def test_the_time_to_wait_is_read(provider: FakeUpstream) -> None:
    provider.will(error(429, retry_after="7"), error(429, retry_after_ms="1500"))

    first, _ = await failure(provider.port)
    second, _ = await failure(provider.port)

    assert (first.retry_after, second.retry_after) == (7.0, 1.5)


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET, Ending.SILENCE])
async def test_a_refusal_whose_words_do_not_come_is_one_all_the_same(provider: FakeUpstream, ending: Ending) -> None:
    provider.will([head(429, content_length="1000", retry_after="3"), b'{"error"', ending])

    failed, held = await failure(provider.port, idle_timeout=SOON)

    assert (failed.kind, failed.status, failed.retry_after) == ("status", 429, 3.0)
    assert costs_nothing(held)


async def test_a_refusal_of_endless_words_is_cut_short(provider: FakeUpstream) -> None:
    provider.will([head(400, transfer_encoding="chunked"), *EndlessChunks()])

    failed, held = await failure(provider.port)

    assert failed.status == 400
    assert costs_nothing(held)


class EndlessChunks(list[Any]):
    """More bytes than anybody wants."""

    def __iter__(self) -> Iterator[Any]:
        return iter([chunked(b"x" * 10_000)] * 100)


# The caller goes


async def test_a_caller_who_hangs_up_is_waited_for_as_long_as_the_drain_allows(provider: FakeUpstream) -> None:
    go_on = asyncio.Event()
    provider.will([STREAM_HEAD, chunked(delta("a")), go_on, chunked(DONE), LAST_CHUNK])
    caller = FakeCaller()

    async def read(answer: Received) -> None:
        await answer.read()
        caller.hang_up()
        go_on.set()
        assert await answer.body() == DONE

    async with opened(drain=NEVER) as upstream:
        await upstream.send(call(provider.port), reservation(), caller, read)
    assert go_on.is_set()


@pytest.mark.parametrize("answer", [[Ending.SILENCE], broken_stream(delta("a"), Ending.SILENCE)])
async def test_a_caller_who_hung_up_ends_the_attempt_when_the_drain_is_over(
    provider: FakeUpstream, answer: Answer
) -> None:
    provider.will(answer)
    caller, held = FakeCaller(), reservation()
    caller.hang_up()

    async with opened(drain=SOON) as upstream:
        with pytest.raises(CallerGone):
            await fetched(upstream, provider.port, held, caller)

    assert unknown(held)
    await provider.left.wait()


async def test_a_provider_that_bills_nothing_then_is_cut_as_soon_as_the_caller_hangs_up(provider: FakeUpstream) -> None:
    provider.will([Ending.SILENCE])
    caller, held = FakeCaller(), reservation()
    caller.hang_up()
    cut = Call("acme", f"http://127.0.0.1:{provider.port}/v1", {}, b"{}", drains=False)

    async with opened(drain=NEVER) as upstream:
        with pytest.raises(CallerGone):
            await upstream.send(cut, held, caller, read_nothing)

    assert unknown(held)


async def test_a_caller_who_takes_no_bytes_ends_the_attempt(provider: FakeUpstream) -> None:
    provider.will(stream("a"))

    async with opened(idle_timeout=SOON) as upstream:
        with pytest.raises(CallerGone):
            await upstream.send(call(provider.port), reservation(), FakeCaller(), relay_to_nobody)


async def relay_to_nobody(answer: Received) -> None:
    await answer.read()
    await asyncio.Event().wait()  # a write that does not end


async def test_a_deadline_that_is_not_ours_stays_what_it_is(provider: FakeUpstream) -> None:
    provider.will([Ending.SILENCE])

    async with opened() as upstream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await fetched(upstream, provider.port, reservation())

    await provider.left.wait()
