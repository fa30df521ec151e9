"""Streams that one side breaks off after any number of events: what they cost, and what the other side is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from fakes import COST, DONE, LAST_CHUNK, STREAM_HEAD, Ending, Step, chunked, delta, usage_event
from running import Key, Money, Running, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

OUTPUT = 400
"""Nano-USD that an output token costs; an event counts as one."""
EVENTS = [delta("Once"), delta(" upon"), delta(" a"), delta(" time"), delta(finish="stop"), usage_event(), DONE]
HEARD = [delta("Once"), delta(" upon"), delta(" a"), delta(" time"), delta(finish="stop"), DONE]
"""What of it goes to a caller who did not ask for the usage."""
HASTY = {"idle_timeout": 0.1, "first_byte_timeout": 0.1, "max_attempts": 1}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(f"unix://{valkey_socket}", tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """It waits for no provider for long."""
    async with running(f"unix://{valkey_socket}", tmp_path_factory.mktemp("hasty"), upstream=HASTY) as gateway:
        yield gateway


async def use(gateway: Running, policy: str) -> None:
    """Have the provider's answers read on, or cut, once nobody waits for them."""
    configuration = json.loads(gateway.config.read_text())
    configuration["providers"]["acme"]["on_disconnect"] = policy
    gateway.config.write_text(json.dumps(configuration))
    (await gateway.admin("POST", "/config/reload")).raise_for_status()


async def hold(gateway: Running) -> int:
    """What a stream holds, by what a key without money is told that it needs."""
    refused = await gateway.chat(await gateway.create_key("0/lifetime"), stream=True)
    return round(float(refused.json()["error"]["metadata"]["needed_usd"]) * 10**9)


async def estimate(gateway: Running, key: Key) -> int:
    """Our own idea of what the attempt of a key cost that is in suspense, in nano-USD."""
    listed = (await gateway.admin("GET", "/suspense?limit=1000")).json()["data"]
    (found,) = (each for each in listed if each["key_id"] == key.id)
    return round(float(found["estimate_usd"]) * 10**9)


# Callers who hang up


async def hang_up(gateway: Running, key: Key, events: int, then: Sequence[Step]) -> None:
    """A stream whose caller hangs up after so many events; `then` is how the provider goes on."""
    gateway.fresh().upstream.will([STREAM_HEAD, *map(chunked, EVENTS[:events]), *then])
    reader, writer = await gateway.open_chat(key, stream=True)
    await gateway.upstream.was_asked.wait()
    if events:
        await reader.readuntil(HEARD[events - 1])
    writer.transport.abort()
    await writer.wait_closed()


@pytest.mark.parametrize("events", range(len(HEARD)))
async def test_case_11_a_caller_who_hangs_up_after_any_event_pays_the_usage_that_still_comes(
    gateway: Running, events: int
) -> None:
    await use(gateway, "drain")
    key, go_on = await gateway.create_key("1/lifetime"), asyncio.Event()

    await hang_up(gateway, key, events, [go_on, *map(chunked, EVENTS[events:]), LAST_CHUNK])
    go_on.set()

    assert await gateway.money(key) == Money(COST, 0, 0)


@pytest.mark.parametrize("events", range(len(HEARD) - 1))
async def test_case_11_a_provider_that_is_cut_then_keeps_the_hold_with_what_was_delivered_as_an_estimate(
    gateway: Running, events: int
) -> None:
    await use(gateway, "abort")
    held, keys = await hold(gateway), [await gateway.create_key("1/lifetime") for _ in range(2)]

    for key, so_many in zip(keys, (0, events), strict=True):
        await hang_up(gateway, key, so_many, [Ending.SILENCE])
        await gateway.upstream.left.wait()
        assert await gateway.money(key) == Money(0, 0, held)

    without_output, with_some = [await estimate(gateway, key) for key in keys]
    assert without_output > 0  # the input was read, even where nothing came of it
    assert with_some == without_output + events * OUTPUT


async def test_case_11_a_usage_of_nothing_costs_nothing(gateway: Running) -> None:
    await use(gateway, "drain")
    key, go_on = await gateway.create_key("1/lifetime"), asyncio.Event()
    nothing = usage_event({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})

    await hang_up(gateway, key, 1, [go_on, *map(chunked, [delta(finish="stop"), nothing, DONE]), LAST_CHUNK])
    go_on.set()

    assert await gateway.money(key) == Money(0, 0, 0)


# Providers who break off


@pytest.mark.parametrize("how", [Ending.CLOSE, Ending.RESET, Ending.SILENCE, b'data: {"choi'], ids=str)
@pytest.mark.parametrize("events", range(len(EVENTS) - 2))
async def test_case_12_an_answer_that_breaks_off_is_no_clean_end_and_keeps_the_hold(
    hasty: Running, events: int, how: Step
) -> None:
    held, key = await hold(hasty), await hasty.create_key("1/lifetime")
    pieces = EVENTS[:events] if isinstance(how, Ending) else [*EVENTS[:events], how]
    hasty.fresh().upstream.will([STREAM_HEAD, *map(chunked, pieces), how if isinstance(how, Ending) else Ending.CLOSE])

    content, clean = await hasty.stream(key)

    assert DONE not in content
    assert b'"error"' in content
    assert clean == (events == 0)  # before the first event there is a status to tell it by
    assert await hasty.money(key) == Money(0, 0, held)
    assert await estimate(hasty, key) > 0
