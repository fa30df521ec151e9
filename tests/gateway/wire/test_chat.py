import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.errors import AbsurdUsage
from budgets.usage import Usage
from gateway.wire.chat import MAX_CHOICES, MAX_OUTPUT_TOKENS, parse_request, read_answer, task_text, upstream_body
from gateway.wire.errors import InvalidAnswer, InvalidRequest
from gateway.wire.request import ModelRequest
from gateway.wire.strict_json import dump

OURS = ("model", "max_tokens", "max_completion_tokens", "stream", "stream_options")
"""The fields that the body sent upstream may have changed."""
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=6,
)
KNOWN_FIELDS = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "video", "video": {"id": "v"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
        {"role": "tool", "tool_call_id": "1", "content": "4", "vendor": {"x": [1.5e-7]}},
    ],
    "temperature": 0.1,
    "top_p": 1,
    "presence_penalty": -2.0,
    "frequency_penalty": 0,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "top_logprobs": 3,
    "metadata": {"a": "b"},
    "n": 2,
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    "seed": 42,
    "service_tier": "auto",
    "stop": ["a", "b"],
    "store": False,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "user": "u",
    "reasoning_effort": "low",
    "modalities": ["text"],
    "top_k": 40,
    "safety_settings": [{"category": "X"}],
}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


def parsed(**fields: Any) -> ModelRequest:
    return parse_request(json.dumps(body(**fields)).encode())


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    return caught.value


def sent(request: ModelRequest, *, cap_field: str = "max_tokens", output_cap: int | None = None) -> dict[str, Any]:
    return upstream_body(request, "their-name", cap_field, output_cap)


def usage_of(usage: Any, **fields: Any) -> Usage | None:
    return read_answer(json.dumps({"model": "m", "choices": [{}], "usage": usage, **fields}).encode())[1]


# Requests


def test_the_smallest_request_is_understood() -> None:
    raw = dump(body())

    request = parse_request(raw)

    assert (request.operation_name, request.model, request.stream, request.n) == ("chat", "m", False, 1)
    assert (request.output_cap, request.wants_usage, request.size_bytes) == (None, False, len(raw))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", [1, True, ["m"], {}]),
        ("messages", ["hi", {}, 1, True]),
        ("stream", ["true", 1, 0, "yes", []]),
        ("stream_options", [True, "include_usage", []]),
        ("n", ["1", 1.0, 1e2, True, [1]]),
        ("max_tokens", ["100", 1.5, 1e2, True, False, {}]),
        ("max_completion_tokens", ["100", 1.5, True]),
        ("temperature", ["0.5", True, []]),
        ("top_p", ["1", False]),
        ("presence_penalty", ["1", {}]),
        ("frequency_penalty", ["1", True]),
        ("logit_bias", [[], "x"]),
        ("logprobs", [1, "true"]),
        ("top_logprobs", [True, "3", 1.5]),
        ("metadata", ["x", []]),
        ("parallel_tool_calls", [0, "false"]),
        ("response_format", ["json_object", []]),
        ("seed", ["1", 1.5, True]),
        ("service_tier", [1, True, {}]),
        ("stop", [1, {}, True]),
        ("store", [1, "true"]),
        ("tools", [{}, "x", True]),
        ("tool_choice", [1, [], True]),
        ("user", [1, {}]),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_by_name(field: str, values: list[Any]) -> None:
    for value in values:
        error = refusal(**{field: value})

        assert error.param == field
        assert f"`{field}` must be" in error.message


@pytest.mark.parametrize("model", [None, "", ...])
def test_a_request_without_a_model_is_refused(model: Any) -> None:
    fields = body(model=model)
    if model is ...:
        del fields["model"]

    with pytest.raises(InvalidRequest, match="`model` is missing") as caught:
        parse_request(json.dumps(fields).encode())
    assert caught.value.param == "model"


@pytest.mark.parametrize("messages", [None, []])
def test_a_request_without_messages_is_refused(messages: Any) -> None:
    assert refusal(messages=messages).param == "messages"


@pytest.mark.parametrize("message", ["hi", None, 1, [], {}, {"content": "hi"}, {"role": None}, {"role": 1}])
def test_a_message_without_a_role_is_refused_by_its_place(message: Any) -> None:
    assert refusal(messages=[{"role": "user", "content": "hi"}, message]).param == "messages[1]"


@pytest.mark.parametrize("content", [None, "", 5, True, {}, [], ["text"], [{"type": "text"}], [{"text": 3}], [None]])
def test_whatever_a_content_is_it_is_the_providers_to_judge(content: Any) -> None:
    request = parsed(messages=[{"role": "user", "content": content}])

    assert task_text(request).user == ""
    assert sent(request)["messages"] == [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", -1),
        ("n", MAX_CHOICES + 1),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 10**12),
        ("max_tokens", MAX_OUTPUT_TOKENS + 1),
        ("max_completion_tokens", 0),
        ("max_completion_tokens", 2**63),
    ],
)
def test_a_number_out_of_bounds_is_refused_with_its_bounds(field: str, value: int) -> None:
    error = refusal(**{field: value})

    assert error.param == field
    assert f"must be between 1 and {MAX_CHOICES if field == 'n' else MAX_OUTPUT_TOKENS}, not {value}" in error.message


def test_the_bounds_themselves_are_allowed() -> None:
    request = parsed(n=MAX_CHOICES, max_tokens=MAX_OUTPUT_TOKENS)

    assert (request.n, request.output_cap) == (MAX_CHOICES, MAX_OUTPUT_TOKENS)


def test_null_is_the_same_as_left_out() -> None:
    names = ("stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "temperature", "tools", "stop")

    request = parsed(**dict.fromkeys(names))

    assert (request.stream, request.wants_usage, request.n, request.output_cap) == (False, False, 1, None)


@pytest.mark.parametrize(
    ("caps", "cap"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 7, "max_completion_tokens": 7}, 7),
        ({"max_tokens": None, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 9, "max_completion_tokens": None}, 9),
    ],
)
def test_both_spellings_of_the_output_cap_are_read(caps: dict[str, Any], cap: int) -> None:
    assert parsed(**caps).output_cap == cap


def test_two_different_output_caps_are_refused() -> None:
    assert refusal(max_tokens=5, max_completion_tokens=6).param == "max_tokens"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({"include_usage": True}, True), ({"include_usage": False}, False), ({}, False), ({"include_usage": 1}, False)],
)
def test_whether_the_caller_wants_the_usage_event_is_known(options: dict[str, Any], wanted: bool) -> None:
    assert parsed(stream=True, stream_options=options).wants_usage is wanted


# What is sent upstream


@settings(max_examples=60)
@given(st.dictionaries(TEXT.filter(lambda name: name not in {**KNOWN_FIELDS, "model": 0}), ANYTHING, max_size=4))
def test_fields_we_do_not_know_survive_byte_for_byte(unknown: dict[str, Any]) -> None:
    unknown = {name: value for name, value in unknown.items() if name not in OURS}
    request = parse_request(dump(body(**KNOWN_FIELDS) | unknown))

    out = sent(request, output_cap=100)

    for name, value in (KNOWN_FIELDS | unknown).items():
        assert dump(out[name]) == dump(value)
    assert set(out) == {"model", "max_tokens", *KNOWN_FIELDS, *unknown}


def test_the_callers_own_body_is_left_as_it_is() -> None:
    request = parsed(max_tokens=5, stream=True, stream_options={"include_obfuscation": False})
    before = dump(request.body)

    sent(request, output_cap=3)

    assert dump(request.body) == before


def test_the_model_is_called_by_the_providers_name() -> None:
    assert sent(parsed())["model"] == "their-name"


@pytest.mark.parametrize(
    ("asked", "cap_field", "spelling"),
    [
        ({}, "max_tokens", "max_tokens"),
        ({}, "max_completion_tokens", "max_completion_tokens"),
        ({"max_tokens": 9}, "max_tokens", "max_tokens"),
        ({"max_tokens": 9}, "max_completion_tokens", "max_tokens"),
        ({"max_completion_tokens": 9}, "max_tokens", "max_tokens"),
        ({"max_completion_tokens": 9}, "max_completion_tokens", "max_completion_tokens"),
        ({"max_tokens": 9, "max_completion_tokens": 9}, "max_tokens", "max_tokens"),
        ({"max_tokens": None}, "max_completion_tokens", "max_completion_tokens"),
    ],
)
def test_the_output_cap_is_written_once_in_a_spelling_that_is_understood(
    asked: dict[str, Any], cap_field: str, spelling: str
) -> None:
    out = sent(parsed(**asked), cap_field=cap_field, output_cap=4)

    assert {name: out[name] for name in out if name.startswith("max_")} == {spelling: 4}


def test_without_a_cap_to_write_none_is_written() -> None:
    assert "max_tokens" not in sent(parsed())


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": "no"}])
def test_a_stream_is_asked_for_its_usage(options: Any) -> None:
    assert sent(parsed(stream=True, stream_options=options))["stream_options"] == {"include_usage": True}


def test_the_other_stream_options_stay() -> None:
    out = sent(parsed(stream=True, stream_options={"include_obfuscation": False}))

    assert out["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_what_is_no_stream_has_no_stream_options_of_ours() -> None:
    assert "stream_options" not in sent(parsed())


# Answers


def test_an_answers_model_and_usage_are_read() -> None:
    raw = json.dumps({"model": "m-1", "usage": {"prompt_tokens": 7, "completion_tokens": 3}, "choices": [{}]})

    assert read_answer(raw.encode()) == ("m-1", Usage(7, 3))


def test_case_23_every_class_of_tokens_is_read() -> None:
    usage = usage_of(
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 20, "audio_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 7, "accepted_prediction_tokens": 1},
        },
        service_tier="priority",
    )

    assert usage == Usage(
        input_tokens=100,
        output_tokens=50,
        cache_read_input_tokens=10,
        cache_creation_input_tokens=20,
        audio_input_tokens=5,
        reasoning_output_tokens=30,
        audio_output_tokens=7,
        service_tier="priority",
    )


@pytest.mark.parametrize("details", [None, {}, [], "x", {"cached_tokens": None}])
def test_parts_that_are_not_told_are_none(details: Any) -> None:
    assert usage_of({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": details}) == Usage(7, 3)


@pytest.mark.parametrize("usage", [None, [], "x", 5])
def test_an_answer_without_a_usage_has_none(usage: Any) -> None:
    assert usage_of(usage) is None


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details"]), ANYTHING))
def test_no_usage_breaks_the_reading_and_only_a_sound_one_is_believed(usage: dict[str, Any]) -> None:
    found = usage_of(usage)

    assert found is not None
    try:
        found.within(1_000, 1_000)
    except AbsurdUsage:
        return
    assert (found.input_tokens, found.output_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


@pytest.mark.parametrize("model", [None, 5, []])
def test_a_model_that_is_no_name_is_none(model: Any) -> None:
    assert read_answer(json.dumps({"model": model, "choices": []}).encode())[0] is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>Bad gateway</html>",
        b"[]",
        b"null",
        b'"ok"',
        b'{"choices": [',
        b'{"error": {"message": "no"}}',
        b'{"error": "no", "choices": []}',
        b'{"usage": {"prompt_tokens": NaN}}',
        b"data: {}\n\n",
    ],
)
def test_what_is_no_answer_is_told_from_one(raw: bytes) -> None:
    with pytest.raises(InvalidAnswer):
        read_answer(raw)


# What routing may see


def test_routing_sees_the_task_and_what_it_brings_along() -> None:
    request = parsed(
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "ok"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}},
                    {"type": "text", "text": "here"},
                ],
            },
        ],
        tools=[{"type": "function", "function": {"name": "search"}}, {"type": "function", "function": {"name": 5}}, 7],
        response_format={"type": "json_object"},
        max_tokens=50,
    )

    task = task_text(request)

    assert (task.user, task.system) == ("look\nhere", "Be kind.\nBe brief.")
    assert (task.turns, task.images, task.tools) == (2, 1, ("search",))
    assert (task.response_format, task.output_cap, task.in_tool_loop) == ("json_object", 50, False)
    assert task.context_bytes == request.size_bytes


def test_routing_knows_an_agent_in_its_loop() -> None:
    request = parsed(messages=[{"role": "user", "content": "go"}, {"role": "tool", "content": "4"}])

    assert task_text(request).in_tool_loop


def test_a_request_without_a_user_has_no_task() -> None:
    task = task_text(parsed(messages=[{"role": "assistant", "content": "hi"}]))

    assert (task.user, task.system, task.turns) == ("", "", 0)
