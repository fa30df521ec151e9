"""The official SDK, unchanged, as the client: all that it offers for chat works, and is paid for."""

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest
from gateway_process import GatewayProcess, Key
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "What is the weather like in Lima?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
        },
    },
}


@pytest.fixture
def key(gateway: GatewayProcess) -> Iterator[Key]:
    """A key whose books must be the sandbox's bill in the end, and not empty."""
    key = gateway.create_key("1/day")
    yield key
    assert gateway.settled(key).spent == gateway.billed(key) > 0


@pytest.fixture
def client(gateway: GatewayProcess, key: Key) -> Iterator[OpenAI]:
    with gateway.openai(key) as client:
        yield client


def test_a_plain_answer_is_typed_and_told_with_its_cost(client: OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(model="sandbox-small", messages=QUESTION)
    completion = answer.parse()

    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"
    usage = completion.usage
    assert usage is not None
    spent = (usage.prompt_tokens * Decimal("0.10") + usage.completion_tokens * Decimal("0.40")) / 1_000_000
    assert Decimal(answer.headers["x-paymaster-cost-usd"]) == spent
    assert answer.headers["x-paymaster-model"] == "sandbox-small"
    assert answer.headers["x-request-id"]


def test_a_stream_says_what_the_plain_answer_says(client: OpenAI) -> None:
    plain = client.chat.completions.create(model="sandbox-medium", messages=QUESTION)
    chunks = list(client.chat.completions.create(model="sandbox-medium", messages=QUESTION, stream=True))

    assert text_of(chunks) == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_has_no_usage_unless_it_was_asked_for(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="sandbox-small", messages=QUESTION, stream=True))

    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_the_usage_that_was_asked_for(client: OpenAI) -> None:
    options = {"include_usage": True}
    *chunks, last = client.chat.completions.create(
        model="sandbox-small", messages=QUESTION, stream=True, stream_options=options
    )

    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens > 0


def test_a_tool_is_called_and_its_result_is_answered(client: OpenAI) -> None:
    first = client.chat.completions.create(model="sandbox-small", messages=QUESTION, tools=[WEATHER])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["days"], int)

    result = {"role": "tool", "tool_call_id": call.id, "content": "Fog, 17 degrees"}
    second = client.chat.completions.create(
        model="sandbox-small", messages=[*QUESTION, message.model_dump(exclude_none=True), result], tools=[WEATHER]
    )
    assert second.choices[0].message.content
    assert second.choices[0].finish_reason == "stop"


def test_a_streamed_tool_call_is_put_together_by_the_sdks_own_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model="sandbox-small", messages=QUESTION, tools=[WEATHER]) as stream:
        pieces = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message

    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    assert len(pieces) > 1


def test_several_choices_come_plain_and_streamed(client: OpenAI) -> None:
    plain = client.chat.completions.create(model="sandbox-small", messages=QUESTION, n=3)
    chunks = list(client.chat.completions.create(model="sandbox-small", messages=QUESTION, n=3, stream=True))

    assert [choice.index for choice in plain.choices] == [0, 1, 2]
    assert [text_of(chunks, index) for index in range(3)] == [choice.message.content for choice in plain.choices]


class Report(BaseModel):
    """What the answer is to look like."""

    city: str
    degrees: int
    rain: bool


def test_a_response_format_is_parsed_into_the_callers_own_type(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model="sandbox-large", messages=QUESTION, response_format=Report)

    assert isinstance(answer.choices[0].message.parsed, Report)


def test_fields_that_no_version_of_the_gateway_knows_reach_the_provider_and_come_back(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="sandbox-large", messages=QUESTION, reasoning_effort="high", extra_body={"a_field_of_tomorrow": [1, None]}
    )

    assert answer.model_extra is not None
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    assert answer.system_fingerprint == "fp_sandbox"


@pytest.mark.parametrize(
    ("prompt", "model"),
    [
        ("hi", "sandbox-small"),
        ("Prove that the square root of two is irrational, and explain why each step is needed.", "sandbox-large"),
    ],
)
def test_auto_takes_a_cheaper_model_for_an_easy_task_and_a_stronger_one_for_a_hard_one(
    client: OpenAI, prompt: str, model: str
) -> None:
    messages = [{"role": "user", "content": prompt}]
    answer = client.chat.completions.with_raw_response.create(model="auto", messages=messages)
    streamed = client.chat.completions.with_raw_response.create(model="auto", messages=messages, stream=True)

    assert answer.parse().model == answer.headers["x-paymaster-model"] == model
    assert {chunk.model for chunk in streamed.parse()} == {streamed.headers["x-paymaster-model"]} == {model}
    assert answer.headers["x-paymaster-route"].startswith("auto/")


def test_the_models_are_listed(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]

    assert {"auto", "exact", "sandbox-small"} <= set(names)
    client.chat.completions.create(model=names[0], messages=QUESTION)


async def test_the_asynchronous_client_streams_too(gateway: GatewayProcess, key: Key) -> None:
    async with gateway.async_openai(key) as client:
        stream = await client.chat.completions.create(model="sandbox-small", messages=QUESTION, stream=True)
        chunks = [chunk async for chunk in stream]

    assert text_of(chunks)


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    """What the chunks say in the choice with this index."""
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)
