"""What a request costs whom, by arithmetic that is not the gateway's."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fakes import (
    COST,
    DONE,
    STREAM_HEAD,
    USAGE,
    Ending,
    broken_stream,
    chunked,
    completion,
    delta,
    error,
    stream,
    usage_event,
)
from redis.asyncio import Redis
from running import Money, Running, ledger_server, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

COST_LARGE = 11 * 3_000 + 5 * 15_000


async def hold(gateway: Running, **fields: Any) -> int:
    """What such a request holds, by what a key without money is told that it needs."""
    key = await gateway.create_key("0/lifetime")
    refused = (await gateway.chat(key, **fields)).json()["error"]["metadata"]["needed_usd"]
    return round(float(refused) * 10**9)


async def estimates(redis_url: str) -> list[int]:
    """Our own estimates beside what is in suspense."""
    async with Redis.from_url(redis_url) as redis:
        found = [(await redis.get(key)).split() async for key in redis.scan_iter("pm:{default}:attempt:*")]
    return [int(estimate) for state, _, estimate, *_ in found if state == b"suspense"]


# What is spent


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}])
async def test_spent_is_the_usage_at_the_models_price(gateway: Running, fields: dict[str, Any]) -> None:
    key = await gateway.create_key("1/lifetime")

    for _ in range(3):
        assert (await gateway.chat(key, **fields)).status_code == 200
    assert (await gateway.chat(key, "large", **fields)).status_code == 200

    assert await gateway.spent(key) == 3 * COST + COST_LARGE


async def test_case_23_every_class_of_tokens_has_its_price(tmp_path: Path, redis_url: str) -> None:
    price = {
        "input": "1",
        "output": "2",
        "cache_read": "0.1",
        "cache_write": "1.25",
        "reasoning": "3",
        "request": "0.01",
    }
    models = {"priced": {"provider": "acme", "model": "m", "price": price}}
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    async with running(redis_url, tmp_path, models=models, routes={}) as gateway:
        gateway.upstream.will(completion(usage=usage))
        key = await gateway.create_key("1/lifetime")

        await gateway.chat(key, "priced")

        dollars_per_million = 30 * 1 + 60 * 0.1 + 10 * 1.25 + 30 * 2 + 20 * 3
        assert await gateway.spent(key) == round(dollars_per_million * 1_000) + 10_000_000


async def test_the_account_pays_for_all_of_its_keys(tmp_path: Path, redis_url: str) -> None:
    async with running(redis_url, tmp_path) as gateway, Redis.from_url(redis_url) as redis:
        for key in [await gateway.create_key(), await gateway.create_key("1/day", "2/lifetime")]:
            await gateway.chat(key)
            assert await gateway.spent(key) == COST

        spent = await redis.hget("pm:{default}:scope:account", "lifetime:0")
    assert spent == b"%d 0 0" % (2 * COST)


async def test_an_uncapped_key_is_counted_too(gateway: Running) -> None:
    key = await gateway.create_key()

    await gateway.chat(key)

    assert await gateway.spent(key) == COST


async def test_what_is_refused_costs_nothing(gateway: Running) -> None:
    key = await gateway.create_key("1/lifetime")
    gateway.upstream.will(error(400), error(401), error(404), error(422))

    answers = [await gateway.chat(key) for _ in range(4)]
    answers += [await gateway.chat(key, "no-such-model"), await gateway.chat(key, n=-1)]

    assert [answer.is_success for answer in answers] == [False] * 6
    assert await gateway.money(key) == Money(0, 0, 0)


# Budgets


async def test_a_request_is_admitted_if_its_hold_just_fits(gateway: Running) -> None:
    needed = await hold(gateway)
    enough = await gateway.create_key(f"{needed / 10**9:.9f}/lifetime")
    too_little = await gateway.create_key(f"{(needed - 1) / 10**9:.9f}/lifetime")

    assert (await gateway.chat(enough)).status_code == 200
    assert (await gateway.chat(too_little)).status_code == 402
    assert await gateway.money(too_little) == Money(0, 0, 0)
    assert len(gateway.upstream.asked) == 1


async def test_the_hold_covers_the_dearest_the_request_can_come_to(gateway: Running) -> None:
    plain = await hold(gateway, max_tokens=100)

    assert await hold(gateway, max_tokens=1_100) == plain + 1_000 * 400 + len("1100") * 100 - len("100") * 100
    assert await hold(gateway, max_tokens=100, n=4) >= plain + 3 * 100 * 400
    assert await hold(gateway, max_tokens=100, model="large") > 10 * plain


async def test_a_budget_that_does_not_suffice_is_told_in_full(gateway: Running) -> None:
    key = await gateway.create_key("0.0000001/lifetime")

    answer = await gateway.chat(key, max_tokens=10)

    told = answer.json()["error"]
    assert (answer.status_code, answer.headers["x-should-retry"]) == (402, "false")
    assert (told["type"], told["code"]) == ("insufficient_quota", "insufficient_quota")
    facts = told["metadata"]
    assert (facts["reason"], facts["scope"], facts["window"]) == ("budget_exceeded", f"key:{key.id}", "lifetime")
    assert (facts["limit_usd"], facts["remaining_usd"], facts["resets_at"]) == ("0.0000001", "0.0000001", None)
    assert float(facts["needed_usd"]) > 0.0000001


async def test_a_budget_that_resets_says_when(gateway: Running) -> None:
    key = await gateway.create_key("0/day")

    told = (await gateway.chat(key)).json()["error"]

    assert told["metadata"]["resets_at"] % 86_400 == 0
    assert "It resets at " in told["message"]


async def test_what_runs_at_the_same_time_holds_at_the_same_time(gateway: Running) -> None:
    go_on = asyncio.Event()
    gateway.upstream.will([go_on, *completion()])
    key = await gateway.create_key(f"{1.5 * await hold(gateway) / 10**9:.9f}/lifetime")

    first = asyncio.create_task(gateway.chat(key))
    await gateway.upstream.was_asked.wait()
    second = await gateway.chat(key)
    go_on.set()

    assert ((await first).status_code, second.status_code) == (200, 402)
    assert (await gateway.chat(key)).status_code == 200


# Attempts


async def test_a_retry_takes_a_hold_of_its_own(gateway: Running) -> None:
    held = await hold(gateway)
    key = await gateway.create_key("1/lifetime")
    gateway.upstream.will([Ending.RESET])

    assert (await gateway.chat(key)).status_code == 200

    assert await gateway.money(key) == Money(COST, 0, held)
    first, second = (asked.headers["x-client-request-id"] for asked in gateway.upstream.asked)
    assert first != second


async def test_a_retry_that_cannot_be_held_is_not_made(gateway: Running) -> None:
    held = await hold(gateway)
    key = await gateway.create_key(f"{1.5 * held / 10**9:.9f}/lifetime")
    gateway.upstream.will([Ending.RESET])

    failed = await gateway.chat(key)

    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "upstream_failed")
    assert await gateway.money(key) == Money(0, 0, held)
    assert len(gateway.upstream.asked) == 1


async def test_case_31_a_fallback_to_a_dearer_model_holds_and_pays_the_dearer_price(
    tmp_path: Path, redis_url: str
) -> None:
    routes = {"auto": {"tiers": {"standard": ["small", "large"]}}}
    async with running(redis_url, tmp_path, routes=routes) as gateway:
        key = await gateway.create_key("1/lifetime")
        gateway.upstream.will(error(401))

        answer = await gateway.chat(key, "auto")

        assert (answer.status_code, answer.headers["x-paymaster-model"]) == (200, "large")
        assert answer.headers["x-paymaster-route"] == "auto/standard"
        assert [asked.body["model"] for asked in gateway.upstream.asked] == ["acme-small", "acme-large"]
        assert await gateway.spent(key) == COST_LARGE


async def test_an_alias_is_refused_only_where_none_of_its_models_can_be_held(tmp_path: Path, redis_url: str) -> None:
    routes = {"auto": {"tiers": {"standard": ["large", "small"]}}}
    async with running(redis_url, tmp_path, routes=routes) as gateway:
        needed = {model: await held_for(gateway, model) for model in ("small", "large")}
        key = await gateway.create_key(f"{needed['large'] - 1:d}e-9/lifetime")
        poor = await gateway.create_key(f"{needed['small'] - 1:d}e-9/lifetime")

        answer, refused = await gateway.chat(key, "auto"), await gateway.chat(poor, "auto")

        assert (answer.status_code, answer.headers["x-paymaster-model"]) == (200, "small")
        assert refused.status_code == 402
        assert [asked.body["model"] for asked in gateway.upstream.asked] == ["acme-small"]


async def held_for(gateway: Running, model: str) -> int:
    """What a request to `model` holds, in nano-USD, as a refusal tells it."""
    refused = await gateway.chat(await gateway.create_key("0/lifetime"), model)
    return int(Decimal(refused.json()["error"]["metadata"]["needed_usd"]) * 10**9)


async def test_a_failure_before_the_first_event_is_not_noticed_by_the_caller(tmp_path: Path, redis_url: str) -> None:
    routes = {"auto": {"tiers": {"standard": ["small", "large"]}}}
    async with running(redis_url, tmp_path, routes=routes, upstream={"max_attempts": 2}) as gateway:
        key = await gateway.create_key("1/lifetime")
        gateway.upstream.will([STREAM_HEAD, chunked(b'data: {"error": {"message": "overloaded"}}\n\n'), Ending.CLOSE])

        answer = await gateway.chat(key, "auto", stream=True)

        assert answer.status_code == 200
        assert b"overloaded" not in answer.content
        assert answer.content.endswith(DONE)


async def test_case_12_a_failure_after_the_first_event_is_told_and_not_repaired(tmp_path: Path, redis_url: str) -> None:
    routes = {"auto": {"tiers": {"standard": ["small", "large"]}}}
    async with running(redis_url, tmp_path, routes=routes) as gateway:
        key = await gateway.create_key("1/lifetime")
        gateway.upstream.will(broken_stream(delta("Once upon"), Ending.RESET))

        received, clean = await gateway.stream(key, model="auto")

        assert not clean
        assert received.startswith(delta("Once upon"))
        assert json.loads(received.split(b"data: ")[2])["error"]["code"] == "upstream_failed"
        assert b"[DONE]" not in received
        assert len(gateway.upstream.asked) == 1
        assert (await gateway.money(key)).suspense > 0


# Callers who go


async def test_case_11_a_caller_who_hangs_up_in_a_stream_pays_what_was_billed(gateway: Running) -> None:
    go_on = asyncio.Event()
    gateway.upstream.will(broken_stream(delta("a"), go_on, delta(finish="stop"), usage_event(), DONE, Ending.CLOSE))
    key = await gateway.create_key("1/lifetime")

    reader, writer = await gateway.open_chat(key, stream=True)
    await reader.readuntil(delta("a"))
    writer.transport.abort()
    go_on.set()

    assert await gateway.spent(key) == COST


@pytest.mark.parametrize("streamed", [False, True])
async def test_case_11_a_caller_who_hangs_up_before_the_answer_pays_what_was_billed(
    gateway: Running, streamed: bool
) -> None:
    go_on = asyncio.Event()
    gateway.upstream.will([go_on, *(stream("a") if streamed else completion())])
    key = await gateway.create_key("1/lifetime")

    _, writer = await gateway.open_chat(key, stream=streamed)
    await gateway.upstream.was_asked.wait()
    writer.transport.abort()
    await writer.wait_closed()
    go_on.set()

    assert await gateway.spent(key) == COST


@pytest.mark.parametrize("first", [[], [STREAM_HEAD, chunked(delta("a"))]])
async def test_case_11_after_the_drain_the_hold_of_a_caller_who_hung_up_is_in_suspense(
    tmp_path: Path, redis_url: str, first: list[bytes]
) -> None:
    async with running(redis_url, tmp_path, upstream={"drain": 0.05}) as gateway:
        gateway.upstream.will([*first, Ending.SILENCE])
        key = await gateway.create_key("1/lifetime")
        held = await hold(gateway, stream=True)

        reader, writer = await gateway.open_chat(key, stream=True)
        if first:
            await reader.readuntil(delta("a"))
        await gateway.upstream.was_asked.wait()
        writer.transport.abort()
        await gateway.upstream.left.wait()

        assert await gateway.money(key) == Money(0, 0, held)
        (estimate,) = await estimates(redis_url)
        assert 0 < estimate < held


# What nobody knows


@pytest.mark.parametrize("streamed", [False, True])
async def test_without_a_usage_the_hold_is_in_suspense_with_an_estimate_beside_it(
    tmp_path: Path, redis_url: str, streamed: bool
) -> None:
    async with running(redis_url, tmp_path) as gateway:
        gateway.upstream.will(stream("a", "b", usage=None) if streamed else completion(usage=None))
        key = await gateway.create_key("1/lifetime")
        held = await hold(gateway, stream=streamed)

        answer = await gateway.chat(key, stream=streamed)

        assert answer.status_code == 200
        assert await gateway.money(key) == Money(0, 0, held)
        (estimate,) = await estimates(redis_url)
        assert 0 < estimate < held


async def test_a_provider_that_never_answers_leaves_the_estimate_of_the_input(tmp_path: Path, redis_url: str) -> None:
    async with running(redis_url, tmp_path, upstream={"first_byte_timeout": 0.05, "max_attempts": 1}) as gateway:
        gateway.upstream.will([Ending.SILENCE])
        key = await gateway.create_key("1/lifetime")
        held = await hold(gateway)

        answer = await gateway.chat(key)

        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        assert await gateway.money(key) == Money(0, 0, held)
        (estimate,) = await estimates(redis_url)
        assert 0 < estimate < held


@pytest.mark.parametrize(
    "usage",
    [
        {**USAGE, "prompt_tokens": -(10**9)},
        {**USAGE, "prompt_tokens": True},
        {**USAGE, "completion_tokens": "5"},
        {**USAGE, "completion_tokens": 10**18},
        {**USAGE, "completion_tokens": 5.0},
        {**USAGE, "prompt_tokens_details": {"cached_tokens": 12}},
        {**USAGE, "completion_tokens_details": {"reasoning_tokens": 6}},
        {"prompt_tokens": 11},
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_usage_that_cannot_be_true_costs_no_less_than_the_hold(
    gateway: Running, usage: dict[str, Any], streamed: bool
) -> None:
    gateway.upstream.will(stream("a", usage=usage) if streamed else completion(usage=usage))
    key = await gateway.create_key("1/lifetime")
    held = await hold(gateway, stream=streamed)

    answer = await gateway.chat(key, stream=streamed)

    assert answer.status_code == 200
    assert await gateway.money(key) == Money(0, 0, held)
    assert (await gateway.logged(answer))["error.type"].startswith("absurd_usage:")


# Prices that are not known


UNPRICED = {
    "models": {
        "small": {"provider": "acme", "model": "m", "price": {"input": "0.10", "output": "0.40"}},
        "mystery": {"provider": "acme", "model": "nobody-knows-this-one"},
    },
    "routes": {},
}


async def test_a_model_without_a_price_is_refused_to_who_has_a_budget_and_counted_for_who_has_none(
    tmp_path: Path, redis_url: str
) -> None:
    async with running(redis_url, tmp_path, **UNPRICED) as gateway:
        capped, free = await gateway.create_key("1/lifetime"), await gateway.create_key()

        refused, passed = await gateway.chat(capped, "mystery"), await gateway.chat(free, "mystery")

        told = refused.json()["error"]
        assert (refused.status_code, told["code"], told["param"]) == (400, "unpriced_model", "model")
        assert "'mystery'" in told["message"]
        assert passed.status_code == 200
        assert "x-paymaster-cost-usd" not in passed.headers
        assert await gateway.metric("paymaster_unpriced_requests_total", deployment="mystery") == 1
        assert (await gateway.spent(capped), await gateway.spent(free)) == (0, 0)


async def test_a_request_whose_cost_has_no_bound_is_refused_to_who_has_a_budget(gateway: Running) -> None:
    capped, free = await gateway.create_key("1/lifetime"), await gateway.create_key()

    refused = await gateway.chat(capped, web_search_options={"search_context_size": "high"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unbounded_cost")
    assert "web_search_options" in refused.json()["error"]["message"]
    assert (await gateway.chat(free, web_search_options={})).status_code == 200


# The ledger away


async def test_while_the_ledger_hangs_callers_with_a_budget_are_refused_and_the_others_booked_afterwards(
    tmp_path: Path,
) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path, ledger={"key_cache": 0.001}, redis={"deadline": 0.1}) as gateway:
            capped, free = await gateway.create_key("1/lifetime"), await gateway.create_key()
            for key in (capped, free):
                assert (await gateway.chat(key)).status_code == 200
            await gateway.drained()

            ledger.pause()
            refused, passed = await gateway.chat(capped), await gateway.chat(free)
            ledger.resume()

            told = refused.json()["error"]
            assert (refused.status_code, told["code"]) == (503, "ledger_unavailable")
            assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
            assert passed.status_code == 200
            assert (await gateway.spent(capped), await gateway.spent(free)) == (COST, 2 * COST)


async def test_case_03_a_stream_under_way_outlives_the_ledger_and_is_booked_when_it_is_back(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path, redis={"deadline": 0.1}) as gateway:
            gateway.upstream.will(
                broken_stream(delta("a"), go_on, delta(finish="stop"), usage_event(), DONE, Ending.CLOSE)
            )
            key = await gateway.create_key("1/lifetime")
            reader, writer = await gateway.open_chat(key, stream=True)
            await reader.readuntil(delta("a"))

            ledger.kill()
            go_on.set()
            await reader.readuntil(DONE)
            writer.close()
            ledger.start()

            assert await gateway.spent(key) == COST


@pytest.mark.parametrize("field", ["n_predict", "models", "Max_Tokens", "web_search_options"])
async def test_case_27_a_field_that_could_cost_more_than_is_held_is_refused_to_who_has_a_budget(
    gateway: Running, field: str
) -> None:
    capped, free = await gateway.create_key("1/lifetime"), await gateway.create_key()

    refused = await gateway.chat(capped, **{field: {}})

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unbounded_cost")
    assert field in refused.json()["error"]["message"]
    assert (await gateway.chat(free, **{field: {}})).status_code == 200


async def test_case_22_a_usage_beyond_the_hold_is_booked_as_it_is_and_marked(gateway: Running) -> None:
    key = await gateway.create_key("1/lifetime")
    usage = {"prompt_tokens": 11, "completion_tokens": 100_000, "total_tokens": 100_011}
    gateway.upstream.will(completion(usage=usage))

    answer = await gateway.chat(key, "small", max_tokens=5)

    assert answer.status_code == 200
    assert (await gateway.money(key)).spent > (await gateway.money(key)).suspense == 0
    assert (await gateway.logged(answer))["error.type"] == "overrun"
