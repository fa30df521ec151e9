from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox.chat_request import IMAGE_TOKENS, ChatRequest, parse
from gateway.sandbox.errors import Refused

HELLO = [{"role": "user", "content": "Hello there"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def asked(**fields: Any) -> ChatRequest:
    return parse(orjson.dumps({"model": "sandbox-small", "messages": HELLO} | fields))


def refused(**fields: Any) -> Refused:
    with pytest.raises(Refused) as refusal:
        asked(**fields)
    return refusal.value


def test_a_plain_request_asks_for_one_answer_as_long_as_the_model_can() -> None:
    request = asked()

    assert (request.choices, request.max_tokens, request.stream) == (1, 16_384, False)
    assert request.input_tokens == 3 + 3 + 2


def test_null_is_the_same_as_nothing() -> None:
    names = ("n", "max_tokens", "stop", "stream", "stream_options", "tools", "tool_choice", "response_format")

    assert asked(**dict.fromkeys(names)) == asked()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_cap_is_read_under_both_of_its_names(name: str) -> None:
    assert asked(**{name: 12}).max_tokens == 12


def test_the_prompt_is_the_last_thing_that_the_user_said() -> None:
    parts = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "two"},
    ]
    later = {"role": "assistant", "content": "three"}

    assert asked(messages=[*HELLO, {"role": "user", "content": parts}, later]).prompt == "one\n\ntwo"
    assert asked(messages=[later]).prompt == ""


def test_images_tools_and_formats_are_counted() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}

    assert asked(messages=[image]).input_tokens == 3 + 3 + IMAGE_TOKENS
    assert asked(tools=[TOOL]).input_tokens > asked().input_tokens


def test_a_named_tool_is_the_only_one_that_may_be_called() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    request = asked(tools=[other, TOOL], tool_choice={"type": "function", "function": {"name": "add"}})

    assert [tool.name for tool in request.tools] == ["add"]
    assert request.must_call


def test_no_tool_may_be_called_where_none_is_wanted() -> None:
    assert asked(tools=[TOOL], tool_choice="none").tools == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "5"}]}, "messages"),
        ({"messages": [{"role": "tool", "tool_call_id": [], "content": "5"}]}, "tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}, *HELLO]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "call_1"}]}]}, "messages[0].tool_calls"),
        ({"n": -1}, "n"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.0}, "n"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [3]}, "stop"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "include_usage"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"reasoning_effort": "heroic"}, "reasoning_effort"),
        ({"tools": [{}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0]"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_object"}}, "messages"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_what_openai_refuses_is_refused_and_the_field_named(fields: dict[str, Any], param: str) -> None:
    refusal = refused(**fields)

    assert (refusal.status, refusal.param) == (400, param)


def test_a_model_that_is_not_sold_is_not_found() -> None:
    refusal = refused(model="gpt-5")

    assert (refusal.status, refusal.code) == (404, "model_not_found")


def test_a_prompt_beyond_the_context_window_is_refused() -> None:
    messages = [{"role": "user", "content": "word " * 140_000}]

    assert refused(messages=messages).code == "context_length_exceeded"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"a": NaN}', b'"\xff"', b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"]
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        parse(body)

    assert refusal.value.status == 400


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
PARTS = st.one_of(
    TEXT.map(lambda text: {"type": "text", "text": text}),
    TEXT.map(lambda url: {"type": "image_url", "image_url": {"url": url}}),
)
USER = st.one_of(TEXT, st.lists(PARTS, max_size=4)).map(lambda content: {"role": "user", "content": content})
ASSISTANT = st.tuples(TEXT, TEXT).map(
    lambda call: {
        "role": "assistant",
        "tool_calls": [{"id": "", "type": "function", "function": {"name": call[0], "arguments": call[1]}}],
    }
)
RESULT = {"role": "tool", "tool_call_id": "", "content": ""}
TURNS = st.one_of(USER.map(lambda user: [user]), ASSISTANT.map(lambda assistant: [assistant, RESULT]))


@given(st.lists(TURNS, min_size=1, max_size=6), st.none() | TEXT)
def test_a_prompt_has_no_more_tokens_than_its_json_has_bytes_and_its_images_cost(
    turns: list[list[dict[str, Any]]], description: str | None
) -> None:
    messages = [message for turn in turns for message in turn]
    tool = {"type": "function", "function": {"name": "t", "description": description}}
    body = orjson.dumps({"model": "exact", "messages": messages, "tools": [tool] if description else None})

    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    images = sum(part["type"] == "image_url" for content in contents for part in content)
    assert parse(body).input_tokens <= len(body) + images * IMAGE_TOKENS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["messages", "n", "stop", "tools", "tool_choice", "response_format", "stream_options", "max_tokens"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_nonsense_is_refused_and_never_a_crash(fields: dict[str, Any]) -> None:
    with suppress(Refused):
        asked(**fields)
