"""Streams that are held in instalments: what fits into a budget, how one ends that runs out of it, what is booked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from bank import until
from fakes import (
    COST,
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Answer,
    Ending,
    broken_stream,
    chunked,
    delta,
    stream,
    usage_event,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Key, Money, Running, ledger_server, running

from budgets.errors import BudgetExceeded, InstalmentRefused
from budgets.keys import KeyRecord
from budgets.ledger import Attempt, Reservation
from budgets.money import NanoUSD, from_usd
from budgets.pricing import Price
from budgets.tokens import TokenCounter
from gateway.auth import Caller
from gateway.catalog import Target
from gateway.planner import Route
from gateway.quotes import Quote, Quotes
from gateway.relay import Relay
from gateway.settings import LedgerSettings
from gateway.telemetry.record import RequestRecord
from gateway.wire.chat import parse_request
from routing.deployment import Candidate, Deployment
from routing.router import by_name

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP = 100
"""Tokens of an instalment."""
OUT = 400
"""Nano-USD: a token of output at `small`."""
LONG = 16_000
"""Tokens: the output cap of the streams here, far more than they come to."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("gateway")
    async with running(f"unix://{valkey_socket}", folder) as gateway:
        await in_instalments(gateway)
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(shared: Running) -> Running:
    return shared.fresh()


async def in_instalments(gateway: Running, tokens: int | None = STEP) -> None:
    """Have the provider's streams held so; None: all at once."""
    configuration = json.loads(gateway.config.read_text())
    configuration["providers"]["acme"] |= {"on_disconnect": "abort", "instalment": tokens}
    gateway.config.write_text(json.dumps(configuration))
    (await gateway.admin("POST", "/config/reload")).raise_for_status()


async def first_hold(gateway: Running, **fields: Any) -> NanoUSD:
    """What such a stream holds at first, by what a key without money is told that it needs."""
    refused = await gateway.chat(
        await gateway.create_key("0/lifetime"), **{"max_tokens": LONG, "stream": True, **fields}
    )
    return from_usd(refused.json()["error"]["metadata"]["needed_usd"])


async def held(gateway: Running, key: Key) -> NanoUSD:
    return from_usd((await gateway.admin("GET", f"/keys/{key.id}")).json()["held_usd"])


async def read_all(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """The rest of an answer, and whether it has the clean end that a chunked body has."""
    try:
        return await reader.readuntil(LAST_CHUNK), True
    except asyncio.IncompleteReadError as ended:
        return ended.partial, False


def told(content: bytes) -> Any:
    """The error in the last event of a stream."""
    return json.loads(content[content.rindex(b"data: ") + 6 :].split(b"\n")[0])["error"]


def in_turns(*pieces: bytes, then: Answer = ()) -> tuple[Answer, list[asyncio.Event]]:
    """A stream of these pieces, each of which waits for its turn, and then the rest."""
    turns = [asyncio.Event() for _ in pieces]
    steps = [step for turn, piece in zip(turns, pieces, strict=True) for step in (turn, chunked(piece))]
    return [STREAM_HEAD, *steps, *then], turns


# What fits


async def admitted(gateway: Running, key: Key, callers: int) -> int:
    """How many of so many callers at once, who want long streams, are served. All answers are short."""
    go_on = asyncio.Event()
    rest = stream("a")[1:]
    gateway.upstream.will(*([STREAM_HEAD, chunked(delta("Once")), go_on, *rest] for _ in range(callers)))
    asked = [asyncio.create_task(gateway.chat(key, stream=True, max_tokens=LONG)) for _ in range(callers)]

    async def all_are_refused_or_under_way() -> bool:
        return sum(task.done() for task in asked) + len(gateway.upstream.asked) == callers

    await until(all_are_refused_or_under_way)
    go_on.set()
    statuses = [(await task).status_code for task in asked]
    gateway.upstream.forget()
    return statuses.count(200)


async def test_case_25_a_budget_for_one_long_answer_has_room_for_ten_that_may_be_as_long(gateway: Running) -> None:
    await in_instalments(gateway, None)
    whole = await first_hold(gateway)
    budget = f"{whole + 12 * COST}e-9/lifetime"
    one_by_one = await admitted(gateway, await gateway.create_key(budget), 10)

    await in_instalments(gateway)
    key = await gateway.create_key(budget)
    together = await admitted(gateway, key, 10)

    assert (one_by_one, together) == (1, 10)
    assert await gateway.spent(key) == 10 * COST


async def test_a_long_stream_is_topped_up_on_its_way_and_settled_to_the_nano_dollar(gateway: Running) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 900, "total_tokens": 911}
    end = delta(finish="stop") + usage_event(usage) + DONE
    answer, turns = in_turns(*[delta("x" * STEP)] * 9, end, then=[LAST_CHUNK])
    gateway.upstream.will(answer)
    key = await gateway.create_key("1/lifetime")
    first = await first_hold(gateway)

    reader, writer = await gateway.open_chat(key, stream=True, max_tokens=LONG)
    holds = []
    for turn in turns[:-1]:
        turn.set()
        await reader.readuntil(delta("x" * STEP))
        holds.append(await held(gateway, key))
    turns[-1].set()
    content, clean = await read_all(reader)
    writer.close()

    assert [hold - first for hold in holds] == [tokens * OUT for tokens in range(STEP, 10 * STEP, STEP)]
    assert (clean, DONE in content) == (True, True)
    assert await gateway.spent(key) == 11 * 100 + 900 * OUT


async def test_the_request_goes_out_with_the_cap_it_came_with(gateway: Running) -> None:
    await gateway.chat(await gateway.create_key("1/lifetime"), stream=True, max_tokens=LONG)

    assert gateway.upstream.asked[0].body["max_tokens"] == LONG


@pytest.mark.parametrize("fields", [{"stream": False}, {"reasoning_effort": "high"}, {"max_tokens": STEP}])
async def test_everything_else_is_held_for_at_once(gateway: Running, fields: dict[str, Any]) -> None:
    now = await first_hold(gateway, **fields)
    await in_instalments(gateway, None)
    before = await first_hold(gateway, **fields)
    await in_instalments(gateway)

    assert now == before


# What does not


async def test_case_25_a_stream_ends_where_the_budget_does_and_says_so(gateway: Running) -> None:
    answer, turns = in_turns(*[delta("x" * STEP)] * 3, then=[Ending.SILENCE])
    gateway.upstream.will(answer)
    first = await first_hold(gateway)
    key = await gateway.create_key(f"{first + STEP * OUT + 7}e-9/lifetime")  # for one top-up

    reader, writer = await gateway.open_chat(key, stream=True, max_tokens=LONG)
    turns[0].set()
    await reader.readuntil(delta("x" * STEP))
    for turn in turns[1:]:
        turn.set()
    content, clean = await read_all(reader)
    writer.close()
    await gateway.upstream.left.wait()  # it was cut: it would have waited for ever

    error = told(content)
    assert (clean, DONE in content, b"xxx" in content) == (False, False, False)
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error["message"].startswith("The answer was cut, because the budget of this key does not cover more of it")
    facts = error["metadata"]
    assert (facts["reason"], facts["scope"], facts["window"]) == ("budget_exceeded", f"key:{key.id}", "lifetime")
    assert (from_usd(facts["remaining_usd"]), from_usd(facts["needed_usd"]) % (STEP * OUT)) == (7, 0)
    assert await gateway.money(key) == Money(0, 0, first + STEP * OUT)


async def test_a_stream_that_is_refused_more_before_it_began_is_refused_as_any_request_is(gateway: Running) -> None:
    gateway.upstream.will(broken_stream(delta("x" * 1_000), Ending.SILENCE))
    first = await first_hold(gateway, text="Say hello.")
    key = await gateway.create_key(f"{first}e-9/lifetime")

    refused = await gateway.chat(key, "auto", stream=True, max_tokens=LONG, text="Say hello.")

    assert (refused.status_code, refused.headers["x-should-retry"]) == (402, "false")
    assert "The answer was cut" in refused.json()["error"]["message"]
    assert len(gateway.upstream.asked) == 1  # what came has been paid for: nothing else is tried
    assert (await gateway.money(key)).suspense == first


async def test_an_answer_that_is_known_to_the_end_is_booked_as_it_is_though_it_was_cut(gateway: Running) -> None:
    gateway.upstream.will(stream("x" * 1_000))
    key = await gateway.create_key(f"{await first_hold(gateway)}e-9/lifetime")

    assert (await gateway.chat(key, stream=True, max_tokens=LONG)).status_code == 402

    assert await gateway.spent(key) == COST


async def test_a_caller_who_hangs_up_leaves_in_suspense_what_was_held_so_far(gateway: Running) -> None:
    answer, turns = in_turns(delta("x" * STEP), then=[Ending.SILENCE])
    gateway.upstream.will(answer)
    first = await first_hold(gateway)
    key = await gateway.create_key("1/lifetime")

    reader, writer = await gateway.open_chat(key, stream=True, max_tokens=LONG)
    turns[0].set()
    await reader.readuntil(delta("x" * STEP))
    writer.transport.abort()
    await gateway.upstream.left.wait()

    assert await gateway.money(key) == Money(0, 0, first + STEP * OUT)


@pytest.mark.parametrize(("limits", "clean"), [(["1/lifetime"], False), ([], True)])
async def test_while_the_ledger_is_away_only_who_has_a_limit_is_cut(
    tmp_path: Any, limits: list[str], clean: bool
) -> None:
    with ledger_server() as server:
        async with running(server.url, tmp_path) as gateway:
            await in_instalments(gateway)
            key = await gateway.create_key(*limits)
            end = delta(finish="stop") + usage_event() + DONE
            answer, turns = in_turns(*[delta("x" * STEP)] * 2, end, then=[LAST_CHUNK])
            gateway.upstream.will(answer)
            reader, writer = await gateway.open_chat(key, stream=True, max_tokens=LONG)
            turns[0].set()
            await reader.readuntil(delta("x" * STEP))
            server.kill()
            turns[1].set()
            if clean:
                await reader.readuntil(delta("x" * STEP))
                turns[2].set()
            content, was_clean = await read_all(reader)
            writer.close()
            server.start()

            assert was_clean == clean
            if clean:
                assert await gateway.spent(key) == COST
            else:
                assert told(content)["code"] == "ledger_unavailable"
                money = await gateway.money(key)
                assert (money.spent, money.held, money.suspense > 2 * STEP * OUT) == (0, 0, True)


# Whatever comes


class Purse:
    """A ledger with so much left."""

    def __init__(self, left: NanoUSD) -> None:
        self.left = left

    async def extend(self, reservation: Reservation, more: NanoUSD) -> None:
        if more > self.left:
            raise BudgetExceeded("account", "lifetime", 0, self.left, more, None)
        self.left -= more
        reservation.attempt.amount += more


class Arriving:
    """A provider's answer in these pieces."""

    content_type = "text/event-stream"

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content = content
        self._sizes = iter(sizes)

    async def read(self) -> bytes | None:
        size = next(self._sizes, len(self._content)) or 1
        piece, self._content = self._content[:size], self._content[size:]
        return piece or None

    async def linger(self) -> None:
        pass


class Reader:
    """A caller who looks at what is held for what they get."""

    started = gone = False

    def __init__(self, held: Callable[[], NanoUSD], worth: Callable[[int], NanoUSD]) -> None:
        self._held = held
        self._worth = worth
        self.content = b""

    async def start_stream(self, headers: object) -> None:
        self.started = True

    async def write(self, chunk: bytes) -> None:
        self.content += chunk
        assert self._held() >= self._worth(self.content.count(b"x"))

    async def end(self) -> None:
        pass


@given(
    st.lists(st.integers(0, 300), max_size=30),
    st.lists(st.integers(0, 2_000), max_size=30),
    st.integers(32, 400),
    st.integers(0, 2_000_000),
)
@settings(deadline=None)
async def test_what_a_caller_gets_is_held_for_before_they_get_it(
    texts: list[int], sizes: list[int], step: int, left: NanoUSD
) -> None:
    """Every byte of the texts here may be a token."""
    content = b"".join(delta("x" * size) for size in texts) + delta(finish="stop") + DONE
    quoted = quote(step)
    reservation = Reservation(Attempt("att_a_1", "a", "key_a_1", 1, ("account",), quoted.hold, True, "prices", "small"))
    reader = Reader(lambda: reservation.attempt.amount, lambda tokens: quoted.costs_at_most(min(tokens, LONG)))
    record = RequestRecord("req_1", "chat", lambda: 0.0, 0.0)
    plan = by_name(Candidate(quoted.target.deployment, None))
    relay = Relay(reader, Route(plan, {}, "prices"), record, Purse(left))  # type: ignore[arg-type]

    try:
        await relay.answer(quoted, reservation, Arriving(content, sizes))  # type: ignore[arg-type]
    except InstalmentRefused:
        assert content.startswith(reader.content)
        assert DONE not in reader.content
    else:
        assert reader.content == content
    assert reservation.attempt.amount <= quoted.amount


def quote(step: int) -> Quote:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi!"}], "stream": True, "max_tokens": LONG}
    price = Price.from_usd_per_million({"input": "0.10", "output": "0.40"})
    target = Target(
        Deployment("small", "acme", "m"), "http://acme/v1", {}, price, None, None, "max_tokens", False, False, step
    )
    caller = Caller(KeyRecord("key_a_1", "k", "a", ("*",), (), False, 0.0, None), 1, capped=True)
    quotes = Quotes(LedgerSettings(), TokenCounter(None))
    return quotes.quote(parse_request(json.dumps(body).encode()), target, caller)
