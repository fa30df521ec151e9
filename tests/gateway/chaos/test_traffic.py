"""Requests at random from a seed."""

import random
from collections import Counter
from typing import Any

import pytest
from raw_http import CHUNKED, OK, Line, raw_server

from gateway.chaos.load import Caller
from gateway.chaos.traffic import MODELS, RETRIED, UNREADABLE, Mix, Tally, Traffic
from gateway.sandbox.faults import Faults
from gateway.sandbox.usage_shapes import ABSURDITIES

ALL = Mix(faults=(*RETRIED, *UNREADABLE), faulty=0.5, leaving=0.2)


def requests(seed: int, mix: Mix, number: int = 300) -> list[dict[str, Any]]:
    traffic = Traffic(seed, "test", mix, Tally())
    chance = random.Random(seed)
    return [dict(traffic.request(chance, str(turn))) for turn in range(number)]


def test_the_same_seed_asks_the_same() -> None:
    assert requests(1, ALL) == requests(1, ALL) != requests(2, ALL)


def test_there_is_something_of_everything() -> None:
    asked = requests(1, ALL)

    assert {request["model"] for request in asked} == set(MODELS)
    for field in ("stream", "tools", "n", "stream_options"):
        assert 0 < sum(field in request for request in asked) < len(asked)


def test_no_two_requests_have_the_same_prompt() -> None:
    prompts = Counter(request["messages"][0]["content"] for request in requests(1, ALL))

    assert max(prompts.values()) == 1


def test_the_sandbox_understands_every_directive() -> None:
    for directive in ALL.faults:
        Faults().take("exact", directive)


def test_every_way_in_which_the_sandbox_tells_a_wrong_usage_is_asked_for() -> None:
    kinds = {fault.split()[1].strip("]") for fault in UNREADABLE if fault.startswith("[[absurd-usage ")}

    assert kinds == set(ABSURDITIES)


def test_a_mix_without_faults_asks_for_none() -> None:
    prompts = [request["messages"][0]["content"] for request in requests(1, Mix())]

    assert not [prompt for prompt in prompts if any(fault in prompt for fault in ALL.faults)]


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        (OK + b"content-length: 0\r\n\r\n", {"provider: cut"}),
        (OK.replace(b"200", b"502") + b"content-length: 0\r\n\r\n", {"provider: cut"}),
        (OK.replace(b"200", b"503") + b"content-length: 0\r\n\r\n", set()),
        (OK.replace(b"200", b"402") + b"content-length: 0\r\n\r\n", set()),
    ],
    ids=["answered", "failed", "ledger away", "no money"],
)
async def test_a_fault_counts_where_the_provider_was_asked(answer: bytes, faults: set[str]) -> None:
    traffic = Traffic(1, "test", Mix(streamed=0.0, faults=("[[cut 3]] [[bill nothing]]",), faulty=1.0), Tally())

    async def talk(line: Line) -> None:
        await line.request()
        traffic.enough.set()
        await line.say(answer)

    async with raw_server(talk) as server:
        with Caller(server.port, "sk-1") as caller:
            await traffic.act(caller)

    assert traffic.tally.requests == 1
    assert set(traffic.tally.faults) == faults


async def test_outcomes_are_counted_until_there_is_enough() -> None:
    traffic = Traffic(1, "test", Mix(streamed=0.5, leaving=0.3), Tally())

    async def talk(line: Line) -> None:
        while True:
            streamed = b'"stream"' in await line.request()
            await line.say(CHUNKED + b"0\r\n\r\n" if streamed else OK + b"content-length: 0\r\n\r\n")
            if traffic.tally.requests > 50:
                traffic.enough.set()

    async with raw_server(talk) as server:
        caller = Caller(server.port, "sk-1")
        await traffic.act(caller)
        caller.hang_up()

    assert traffic.tally.requests > 50
    assert traffic.tally.answered > 0
    assert traffic.tally.faults["caller: hangs up"] > 0
