"""What a caller gets of an answer, through a whole gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fakes import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    USAGE,
    Answer,
    Ending,
    broken_stream,
    chunked,
    completion,
    delta,
    error,
    head,
    stream,
    usage_event,
    whole,
)
from running import PROVIDER_KEY, Key, Running, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

COST_LARGE = 11 * 3_000 + 5 * 15_000
SECRET_WORDS = f"Incorrect API key provided: {PROVIDER_KEY}."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Each model is asked once: what goes wrong comes out."""
    url, folder = f"unix://{valkey_socket}", tmp_path_factory.mktemp("gateway")
    async with running(url, folder, upstream={"max_attempts": 1}) as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(shared: Running) -> Running:
    return shared.fresh()


@pytest_asyncio.fixture(loop_scope="module")
async def key(gateway: Running) -> Key:
    return await gateway.create_key("100/lifetime")


def told(answer: httpx.Response) -> Any:
    return answer.json()["error"]


# Whole answers


async def test_an_answer_comes_as_it_was_sent(gateway: Running, key: Key) -> None:
    body = json.dumps(
        {"id": "x", "choices": [{"message": {"content": "é😀\u2028"}}], "vendor": {"a": [1.50]}, "usage": USAGE}
    )
    gateway.upstream.will(whole(body.encode()))

    answer = await gateway.chat(key)

    assert answer.content == body.encode()
    assert answer.headers["content-type"] == "application/json"


async def test_headers_tell_what_was_chosen_and_what_it_cost(gateway: Running, key: Key) -> None:
    named, routed = await gateway.chat(key, "large"), await gateway.chat(key, "auto")

    assert (named.headers["x-paymaster-model"], named.headers["x-paymaster-route"]) == ("large", "by-name")
    assert named.headers["x-paymaster-cost-usd"] == f"{COST_LARGE / 10**9:.6f}"
    assert routed.headers["x-paymaster-model"] in ("small", "large")
    assert routed.headers["x-paymaster-route"].startswith("auto/")


async def test_headers_of_the_provider_stay_behind(gateway: Running, key: Key) -> None:
    answer = completion()[1]
    assert isinstance(answer, bytes)
    gateway.upstream.will(whole(answer, set_cookie="a=b", openai_organization="org", x_ratelimit_remaining="3"))

    headers = (await gateway.chat(key)).headers

    assert not {"set-cookie", "openai-organization", "x-ratelimit-remaining"} & set(headers)


async def test_what_goes_to_the_provider_is_ours(gateway: Running, key: Key) -> None:
    theirs = {"cookie": "a=b", "x-api-key": key.text, "openai-organization": "mine", "x-forwarded-for": "10.0.0.1"}

    await gateway.chat(key, headers=theirs)

    (asked,) = gateway.upstream.asked
    assert set(asked.headers) == {
        "host",
        "accept-encoding",
        "content-length",
        "content-type",
        "authorization",
        "x-client-request-id",
    }
    assert asked.headers["accept-encoding"] == "identity"
    assert key.text not in str(asked)


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"<html>oops</html>", content_type="text/html"),
        whole(b""),
        whole([1]),
        whole({"error": {"message": "overloaded"}}),
        whole(DONE, content_type="text/event-stream"),
    ],
)
async def test_what_is_no_answer_is_a_bad_gateway(gateway: Running, key: Key, answer: Answer) -> None:
    gateway.upstream.will(answer)

    refused = await gateway.chat(key)

    assert (refused.status_code, told(refused)["code"]) == (502, "upstream_failed")
    assert told(refused)["metadata"]["reason"] == "upstream_garbage"


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET])
async def test_half_an_answer_is_none(gateway: Running, key: Key, ending: Ending) -> None:
    gateway.upstream.will([head(content_type="application/json", content_length="1000"), b'{"choices": [', ending])

    refused = await gateway.chat(key)

    assert (refused.status_code, told(refused)["metadata"]["reason"]) == (502, "upstream_cut")


@pytest.mark.parametrize(
    ("status", "ours", "code", "retry"),
    [
        (400, 400, "some_code", "false"),
        (404, 404, "some_code", "false"),
        (413, 413, "some_code", "false"),
        (422, 422, "some_code", "false"),
        (401, 502, "upstream_failed", "false"),
        (402, 502, "upstream_failed", "false"),
        (403, 502, "upstream_failed", "false"),
        (302, 502, "upstream_failed", "false"),
        (429, 429, "rate_limit_exceeded", "true"),
        (500, 502, "upstream_failed", "false"),
        (503, 502, "upstream_failed", "false"),
    ],
)
async def test_the_callers_mistakes_are_theirs_and_the_providers_are_a_bad_gateway(
    gateway: Running, key: Key, status: int, ours: int, code: str, retry: str
) -> None:
    gateway.upstream.will(error(status, "what was wrong"))

    refused = await gateway.chat(key)

    assert (refused.status_code, told(refused)["code"]) == (ours, code)
    assert refused.headers["x-should-retry"] == retry
    assert "what was wrong" in told(refused)["message"]
    assert told(refused)["metadata"]["upstream_status"] == status
    assert await gateway.spent(key) == 0


async def test_a_provider_without_credit_is_not_the_callers_to_wait_for(gateway: Running, key: Key) -> None:
    gateway.upstream.will(whole({"error": {"message": "no credit", "code": "insufficient_quota"}}, 429))

    refused = await gateway.chat(key)

    assert (refused.status_code, refused.headers["x-should-retry"]) == (502, "false")


async def test_a_provider_that_asks_to_wait_long_is_passed_on_with_a_bearable_time(gateway: Running, key: Key) -> None:
    gateway.upstream.will(error(429, retry_after="3600"), error(429, retry_after="7"))

    assert [(await gateway.chat(key)).headers["retry-after"] for _ in range(2)] == ["60", "7"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_secret_in_a_refusal_is_not_passed_on(gateway: Running, key: Key, streamed: bool) -> None:
    gateway.upstream.will(error(400, SECRET_WORDS))

    assert "canary" not in (await gateway.chat(key, stream=streamed)).text


async def test_a_secret_in_a_streams_error_is_not_passed_on(gateway: Running, key: Key) -> None:
    go_on = asyncio.Event()
    event = b'data: {"error": {"message": "%s"}}\n\n' % SECRET_WORDS.encode()
    gateway.upstream.will([*broken_stream(delta("a"), go_on, event), LAST_CHUNK])
    content, clean = await gateway.stream(key, go_on)
    assert (b"canary" in content, clean) == (False, False)


# Streams


async def test_a_stream_comes_as_it_was_sent_but_for_the_usage(gateway: Running, key: Key) -> None:
    content, clean = await gateway.stream(key)

    assert (content, clean) == (delta("Hello") + delta(" there") + delta("!") + delta(finish="stop") + DONE, True)
    assert gateway.upstream.asked[0].body["stream_options"] == {"include_usage": True}


async def test_a_caller_who_asks_for_the_usage_gets_it(gateway: Running, key: Key) -> None:
    content, _ = await gateway.stream(key, stream_options={"include_usage": True})

    assert content.endswith(usage_event() + DONE)


async def test_a_stream_is_told_not_to_be_held_back(gateway: Running, key: Key) -> None:
    answer = await gateway.chat(key, stream=True)

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert answer.headers["x-paymaster-model"] == "small"


async def test_an_event_is_passed_on_before_the_next_one_comes(gateway: Running, key: Key) -> None:
    go_on = asyncio.Event()
    gateway.upstream.will([*broken_stream(delta("a"), go_on, delta(finish="stop"), DONE), LAST_CHUNK])

    reader, writer = await gateway.open_chat(key, stream=True)
    await reader.readuntil(delta("a"))
    go_on.set()

    assert (await reader.readuntil(LAST_CHUNK)).endswith(DONE + b"\r\n" + LAST_CHUNK)
    writer.close()


BROKEN: dict[str, tuple[Answer, bytes]] = {
    "reset": ([Ending.RESET], b"broke off"),
    "closed": ([Ending.CLOSE], b"broke off"),
    "closed in an event": ([chunked(b'data: {"choices"'), Ending.CLOSE], b"broke off"),
    "ended early": ([LAST_CHUNK], b"ended early"),
    "ended in an event": ([chunked(delta(finish="stop")[:-9]), LAST_CHUNK], b"in the middle"),
    "an error event": ([chunked(b'data: {"error": "full"}\n\n'), chunked(DONE), LAST_CHUNK], b"full"),
    "ended after the usage": ([chunked(usage_event()), LAST_CHUNK], b"ended early"),
}


@pytest.mark.parametrize(("rest", "words"), BROKEN.values(), ids=BROKEN.keys())
async def test_case_12_a_stream_that_breaks_never_looks_like_one_that_ends(
    gateway: Running, key: Key, rest: Answer, words: bytes
) -> None:
    go_on = asyncio.Event()
    gateway.upstream.will([STREAM_HEAD, chunked(delta("a")), go_on, *rest])

    content, clean = await gateway.stream(key, go_on)

    assert not clean
    assert content.startswith(delta("a"))
    *_, last = content.split(b"data: ")
    assert json.loads(last)["error"]["code"] == "upstream_failed"
    assert words in last
    assert DONE not in content


async def test_a_stream_that_falls_silent_is_told(valkey_socket: str, tmp_path: Any) -> None:
    limits = {"idle_timeout": 0.05, "max_attempts": 1}
    async with running(f"unix://{valkey_socket}", tmp_path, upstream=limits) as gateway:
        key = await gateway.create_key()
        gateway.upstream.will(broken_stream(delta("a"), Ending.SILENCE))

        content, clean = await gateway.stream(key)

    assert not clean
    assert b"upstream_timeout" in content


async def test_a_stream_without_a_last_done_gets_one(gateway: Running, key: Key) -> None:
    gateway.upstream.will([*broken_stream(delta("a"), delta(finish="stop"), usage_event()), LAST_CHUNK])

    assert await gateway.stream(key) == (delta("a") + delta(finish="stop") + DONE, True)


@pytest.mark.parametrize("ending", [Ending.RESET, Ending.CLOSE])
async def test_what_happens_after_done_is_no_concern_of_the_caller(gateway: Running, key: Key, ending: Ending) -> None:
    gateway.upstream.will(broken_stream(delta("a"), delta(finish="stop"), usage_event(), DONE, ending))

    content, clean = await gateway.stream(key)

    assert (content, clean) == (delta("a") + delta(finish="stop") + DONE, True)
    assert (await gateway.money(key)).suspense == 0


async def test_whole_json_in_place_of_a_stream_is_a_bad_gateway(gateway: Running, key: Key) -> None:
    gateway.upstream.will(completion())

    refused = await gateway.chat(key, stream=True)

    assert (refused.status_code, refused.headers["content-type"]) == (502, "application/json")
    assert "application/json instead of a stream" in told(refused)["message"]


async def test_an_empty_stream_is_a_bad_gateway(gateway: Running, key: Key) -> None:
    gateway.upstream.will([STREAM_HEAD, LAST_CHUNK])

    assert (await gateway.chat(key, stream=True)).status_code == 502


# What is told of it


async def test_an_answered_request_is_logged_with_its_usage_and_its_cost(gateway: Running, key: Key) -> None:
    line = await gateway.logged(await gateway.chat(key, "large"))

    assert (line["http.response.status_code"], line.get("client_gone"), line.get("error.type")) == (200, None, None)
    assert (line["gen_ai.usage.input_tokens"], line["gen_ai.usage.output_tokens"]) == (11, 5)
    assert line["cost_usd"] == f"{COST_LARGE / 10**9:.6f}"
    assert (line["deployment"], line["gen_ai.response.model"], line["attempts"]) == ("large", "fake-1", ["large: ok"])
    assert "Hi!" not in json.dumps(line)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answered_caller_is_not_taken_for_one_who_hung_up(gateway: Running, key: Key, streamed: bool) -> None:
    line = await gateway.logged(await gateway.chat(key, stream=streamed))

    assert (line["http.response.status_code"], line.get("client_gone")) == (200, None)


async def test_a_routed_request_is_compared_with_the_strongest_model(gateway: Running, key: Key) -> None:
    answer = await gateway.chat(key, "auto", text="Say hello.")

    line = await gateway.logged(answer)

    assert answer.headers["x-paymaster-model"] == "small"
    assert line["baseline_usd"] == f"{COST_LARGE / 10**9:.6f}"


async def test_a_stream_tells_the_model_that_answered(gateway: Running, key: Key) -> None:
    gateway.upstream.will(stream("a", usage=None))

    assert (await gateway.logged(await gateway.chat(key, stream=True)))["gen_ai.response.model"] == "fake-1"
