"""The sandbox as a client meets it: the official SDK, and the bill beside what the SDK was told."""

import asyncio
import json
import socket
from contextlib import suppress
from fractions import Fraction
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from sandbox_process import SandboxProcess

PRICES = {"sandbox-small": ("0.10", "0.40"), "sandbox-medium": ("0.50", "2"), "sandbox-large": ("3", "15")}
"""USD per million tokens of input and output, written down again so that nothing is shared with the sandbox."""
USER = [{"role": "user", "content": "How is the weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The forecast.", "parameters": CITY}}


def saying(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def usd(model: str, input_tokens: int, output_tokens: int) -> Fraction:
    price_in, price_out = (Fraction(price) / 10**6 for price in PRICES[model])
    return input_tokens * price_in + output_tokens * price_out


async def chunks(client: openai.AsyncOpenAI, **request: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(stream=True, **request)
    return [chunk async for chunk in stream]


async def test_an_answer_has_every_field_of_openais(sandbox: SandboxProcess) -> None:
    answer = await sandbox.openai().chat.completions.create(model="sandbox-large", messages=USER)

    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert (answer.object, answer.model, answer.service_tier) == ("chat.completion", "sandbox-large", "default")
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs, choice.message.role) == (0, "stop", None, "assistant")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 64
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


async def test_a_streamed_answer_is_the_same_as_a_whole_one(sandbox: SandboxProcess) -> None:
    request: dict[str, Any] = {"model": "sandbox-large", "messages": saying("Tell of lines\u2028and ends"), "n": 2}
    whole = await sandbox.openai().chat.completions.create(**request)
    stream = await chunks(sandbox.openai(), **request, stream_options={"include_usage": True})

    said = ["", ""]
    for chunk in stream[:-1]:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
        assert chunk.usage is None
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == [choice.message.content for choice in whole.choices]
    assert (stream[-1].choices, stream[-1].usage) == ([], whole.usage)
    assert stream[0].choices[0].delta.role == "assistant"


async def test_a_tool_is_called_and_its_result_used(sandbox: SandboxProcess) -> None:
    client = sandbox.openai()
    request: dict[str, Any] = {"model": "sandbox-small", "tools": [WEATHER]}
    called = await client.chat.completions.create(messages=USER, **request)
    message = called.choices[0].message
    assert message.tool_calls is not None
    assert called.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls[0].function.arguments == '{"city":"Paris"}'

    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "12 degrees"}
    turns = [*USER, message.model_dump(exclude_none=True), result]
    used = await client.chat.completions.create(messages=turns, **request)
    assert "12 degrees" in str(used.choices[0].message.content)


async def test_a_streamed_tool_call_adds_up_to_its_arguments(sandbox: SandboxProcess) -> None:
    deltas = [
        chunk.choices[0].delta.tool_calls[0].function.arguments
        for chunk in await chunks(sandbox.openai(), model="sandbox-small", messages=USER, tools=[WEATHER])
        if chunk.choices[0].delta.tool_calls
    ]

    assert deltas[0] == ""
    assert json.loads("".join(deltas)) == {"city": "Paris"}
    assert len(deltas) > 2


async def test_the_models_are_listed(sandbox: SandboxProcess) -> None:
    listed = await sandbox.openai().models.list()

    assert [model.id for model in listed.data] == ["sandbox-small", "sandbox-medium", "sandbox-large", "exact"]


async def test_refusals_are_the_sdks_typed_errors(sandbox: SandboxProcess, key: str) -> None:
    client = sandbox.openai(key)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="gpt-5", messages=USER)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="exact", messages=[])
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").chat.completions.create(model="exact", messages=USER)

    assert sandbox.billed(key) == []


def test_everything_but_the_right_token_is_turned_away(sandbox: SandboxProcess) -> None:
    for method, path in (("GET", "/bill"), ("GET", "/bill/attempts"), ("POST", "/faults"), ("GET", "/v1/models")):
        for token in ("", "Bearer", "Bearer wrong", "sandbox-token"):
            answer = sandbox.http.request(method, path, headers={"authorization": token})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_path_that_is_not_there_is_not_found(sandbox: SandboxProcess) -> None:
    assert sandbox.http.get("/v1/embeddings").json()["error"]["message"] == "Invalid URL (GET /v1/embeddings)."


async def test_the_bill_is_what_the_usages_cost(sandbox: SandboxProcess, key: str) -> None:
    client = sandbox.openai(key)
    told = Fraction(0)
    for number, model in enumerate([*PRICES, *PRICES]):
        request: dict[str, Any] = {
            "model": model,
            "messages": saying(f"Question {number}" * number),
            "n": 1 + number % 2,
        }
        whole = (await client.chat.completions.create(**request)).usage
        streamed = (await chunks(client, **request, stream_options={"include_usage": True}))[-1].usage
        for usage in (whole, streamed):
            assert usage is not None
            told += usd(model, usage.prompt_tokens, usage.completion_tokens)

    assert Fraction(sandbox.bill()["by_key"][key]) == told
    assert len(sandbox.billed(key)) == 12


async def test_the_flat_model_costs_the_same_whatever_the_tokens(sandbox: SandboxProcess, key: str) -> None:
    client = sandbox.openai(key)
    await client.chat.completions.create(model="exact", messages=USER)
    await client.chat.completions.create(model="exact", messages=saying("long " * 1000), n=3)
    await chunks(client, model="exact", messages=USER)

    assert sandbox.bill()["by_key"][key] == "0.003"


async def test_cached_tokens_are_cheaper_and_told(sandbox: SandboxProcess, key: str) -> None:
    client = sandbox.openai(key)
    request: dict[str, Any] = {"model": "sandbox-large", "messages": saying("cached " * 1500)}
    usages = [(await client.chat.completions.create(**request)).usage for _ in range(2)]

    assert [usage.prompt_tokens_details.cached_tokens for usage in usages] == [0, 1408]  # type: ignore[union-attr]
    saved = 1408 * (Fraction(3) - Fraction("0.30")) / 10**6
    paid = sum(usd("sandbox-large", usage.prompt_tokens, usage.completion_tokens) for usage in usages if usage)
    assert Fraction(sandbox.bill()["by_key"][key]) == paid - saved


def test_the_bill_names_attempt_and_key(sandbox: SandboxProcess, key: str) -> None:
    body = {"model": "exact", "messages": USER}
    for _ in range(2):
        sandbox.post(body, x_paymaster_attempt="att_default_7", x_paymaster_key=key)

    assert [charge["attempt"] for charge in sandbox.billed(key)] == ["att_default_7"] * 2


def test_the_bill_names_an_attempt_by_its_request_id_where_it_has_no_other(sandbox: SandboxProcess, key: str) -> None:
    body = {"model": "exact", "messages": USER}
    sandbox.post(body, x_client_request_id="att_default_8", x_paymaster_key=key)
    sandbox.post(body, x_client_request_id="another", x_paymaster_attempt="att_default_9", x_paymaster_key=key)

    assert [charge["attempt"] for charge in sandbox.billed(key)] == ["att_default_8", "att_default_9"]


def test_a_request_without_a_key_is_billed_to_the_unknown(sandbox: SandboxProcess) -> None:
    before = Fraction(sandbox.bill()["by_key"].get("unknown", 0))
    sandbox.post({"model": "exact", "messages": USER})

    assert Fraction(sandbox.bill()["by_key"]["unknown"]) - before == Fraction("0.001")


def test_the_totals_are_the_sum_of_the_attempts(sandbox: SandboxProcess, key: str) -> None:
    sandbox.post({"model": "sandbox-large", "messages": USER}, x_paymaster_key=key)

    bill = sandbox.bill()
    charges = [json.loads(line) for line in sandbox.http.get("/bill/attempts").text.splitlines()]
    assert Fraction(bill["total_usd"]) == Fraction(sum(charge["nano_usd"] for charge in charges), 10**9)
    assert Fraction(bill["total_usd"]) == sum(map(Fraction, bill["by_key"].values()))
    assert bill["attempts"] == len(charges)


@pytest.mark.parametrize("stream", [True, False])
def test_a_scripted_failure_is_not_billed(sandbox: SandboxProcess, key: str, stream: bool) -> None:
    body = {"model": "exact", "messages": saying("[[fail 429 retry-after=2]]"), "stream": stream}
    answer = sandbox.post(body, x_paymaster_key=key)

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert sandbox.billed(key) == []


def test_the_first_attempts_of_a_prompt_fail(sandbox: SandboxProcess, key: str) -> None:
    body = {"model": "exact", "messages": saying(f"[[first 2 fail 500]] {key}")}

    assert [sandbox.post(body).status_code for _ in range(3)] == [500, 500, 200]


def test_faults_are_scripted_from_outside(sandbox: SandboxProcess) -> None:
    body = {"model": "sandbox-medium", "messages": USER}
    told = sandbox.http.post("/faults", json={"model": "sandbox-medium", "fail": 503, "times": 3})
    statuses = [sandbox.post(body | {"model": model}).status_code for model in ("exact", "sandbox-medium")]
    forgotten = sandbox.http.delete("/faults")

    assert (told.status_code, statuses, forgotten.status_code) == (200, [200, 503], 200)
    assert sandbox.post(body).status_code == 200
    assert sandbox.http.post("/faults", json={"dance": True}).status_code == 400


async def test_usage_can_be_left_out_or_absurd_while_the_bill_stays_honest(sandbox: SandboxProcess, key: str) -> None:
    client = sandbox.openai(key)
    silent = await client.chat.completions.create(model="sandbox-small", messages=saying("[[no-usage]] hi"))
    text = "[[absurd-usage negative]] hi"
    lying = await chunks(client, model="sandbox-small", messages=saying(text), stream_options={"include_usage": True})

    assert silent.usage is None
    assert lying[-1].usage is not None
    assert lying[-1].usage.completion_tokens < 0
    assert [charge["output_tokens"] > 0 for charge in sandbox.billed(key)] == [True, True]


async def test_a_stream_can_tell_its_usage_twice(sandbox: SandboxProcess, key: str) -> None:
    client = sandbox.openai(key)
    request: dict[str, Any] = {"model": "sandbox-small", "messages": saying("[[double-usage]] hi")}
    told = [chunk.usage for chunk in await chunks(client, **request, stream_options={"include_usage": True})]
    unasked = await chunks(client, **request)

    assert told[-2] == told[-1] is not None
    assert [chunk.usage for chunk in unasked if chunk.usage] == []
    assert len(sandbox.billed(key)) == 2


async def test_a_long_answer_has_its_length_within_the_cap(sandbox: SandboxProcess) -> None:
    client = sandbox.openai()
    request: dict[str, Any] = {"model": "sandbox-small", "messages": saying("[[long 400]]")}
    usages = [(await client.chat.completions.create(**request, **cap)).usage for cap in ({}, {"max_tokens": 90})]

    assert [usage.completion_tokens for usage in usages if usage] == [400, 90]


async def test_a_stall_comes_before_the_first_byte_or_after_some_events(sandbox: SandboxProcess) -> None:
    client = sandbox.openai()
    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(model="exact", messages=saying("[[stall]]"), timeout=0.3)

    stream = await client.chat.completions.create(model="exact", messages=saying("[[stall after=2]]"), stream=True)
    received = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(1), stream:
            async for _ in stream:
                received += 1
    assert received == 2


async def test_a_short_stall_only_delays(sandbox: SandboxProcess) -> None:
    messages = saying("[[stall 10ms]] hi")

    for stream in (True, False):
        assert sandbox.post({"model": "exact", "messages": messages, "stream": stream}).status_code == 200
    assert sandbox.post({"model": "exact", "messages": saying("[[stall 10ms]] [[fail 500]]")}).status_code == 500


def hang_up_after(sandbox: SandboxProcess, key: str, events: int, directives: str) -> None:
    """Read so many events of an endless stream, then close the connection."""
    messages = saying(f"{directives} [[long 16000]]")
    received = b""
    with sandbox.raw({"model": "sandbox-small", "messages": messages, "stream": True}, key) as connection:
        while received.count(b"data: ") < events:
            received += connection.recv(65_536)
        connection.shutdown(socket.SHUT_RDWR)


def billed_in_the_end(sandbox: SandboxProcess, key: str) -> dict[str, Any]:
    """The one charge of `key`, as soon as it is on the bill; the sandbox is asked until then."""
    asked = (sandbox.billed(key) for _ in range(10_000))
    (charge,) = next(charges for charges in asked if charges)
    return charge


def test_a_client_that_hangs_up_pays_for_everything_at_once(sandbox: SandboxProcess, key: str) -> None:
    hang_up_after(sandbox, key, 3, "")

    (charge,) = sandbox.billed(key)
    assert Fraction(charge["nano_usd"], 10**9) == usd("sandbox-small", charge["input_tokens"], 16_000)


def test_a_client_that_hangs_up_may_pay_for_what_was_delivered(sandbox: SandboxProcess, key: str) -> None:
    hang_up_after(sandbox, key, 12, "[[bill delivered]]")

    charge = billed_in_the_end(sandbox, key)
    assert 10 <= charge["output_tokens"] < 16_000
    cost = usd("sandbox-small", charge["input_tokens"], charge["output_tokens"])
    assert Fraction(charge["nano_usd"], 10**9) == cost


def test_a_client_that_hangs_up_may_pay_nothing(sandbox: SandboxProcess, key: str) -> None:
    hang_up_after(sandbox, f"{key}-first", 3, "[[bill nothing]]")
    hang_up_after(sandbox, f"{key}-second", 3, "[[bill delivered]]")

    billed_in_the_end(sandbox, f"{key}-second")
    assert sandbox.billed(f"{key}-first") == []


@pytest.mark.parametrize("policy", ["delivered", "nothing"])
def test_whoever_listens_to_the_end_pays_for_everything(sandbox: SandboxProcess, key: str, policy: str) -> None:
    messages = saying(f"[[bill {policy}]] [[long 30]]")
    for stream in (True, False):
        sandbox.post({"model": "sandbox-small", "messages": messages, "stream": stream}, x_paymaster_key=key)

    assert [charge["output_tokens"] for charge in sandbox.billed(key)] == [30, 30]


@pytest.mark.parametrize(
    ("policy", "tokens"), [("all", [500]), ("delivered", [2]), ("nothing", [])], ids=["all", "delivered", "nothing"]
)
def test_a_stream_that_the_sandbox_cuts_is_billed_by_the_policy(
    sandbox: SandboxProcess, key: str, policy: str, tokens: list[int]
) -> None:
    messages = saying(f"[[cut 3]] [[bill {policy}]] [[long 500]]")
    body = {"model": "sandbox-small", "messages": messages, "stream": True}
    with pytest.raises(httpx.RemoteProtocolError):
        sandbox.post(body, x_paymaster_key=key)

    assert [charge["output_tokens"] for charge in sandbox.billed(key)] == tokens


def test_a_client_that_hangs_up_in_silence_pays_for_everything(sandbox: SandboxProcess, key: str) -> None:
    body = {"model": "sandbox-small", "messages": saying("[[stall]] [[long 500]]")}
    with sandbox.raw(body, key), pytest.raises(httpx.ReadTimeout):
        sandbox.http.post("/v1/chat/completions", json=body, headers={"x-paymaster-key": key}, timeout=0.3)

    assert [charge["output_tokens"] for charge in sandbox.billed(key)] == [500, 500]
