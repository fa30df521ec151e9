import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox import tokens
from gateway.sandbox.answers import Answer
from gateway.sandbox.chat_answer import ChatAnswer
from gateway.sandbox.models import MODELS

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def saying(*choices: Answer, usage: dict[str, Any] | None = USAGE) -> ChatAnswer:
    return ChatAnswer(MODELS["sandbox-small"], list(choices), usage, created=1_767_225_600)


def streamed(answer: ChatAnswer, *, include_usage: bool = False) -> list[dict[str, Any]]:
    events = [event.data for event in answer.events(include_usage=include_usage)]
    assert events.pop() == b"data: [DONE]\n\n"
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [json.loads(event[6:]) for event in events]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3))
def test_the_stream_says_what_the_whole_answer_says(texts: list[str]) -> None:
    answer = saying(*(Answer(tokens.pieces(text), None, "stop", 0) for text in texts))
    said = [""] * len(texts)
    for chunk in streamed(answer):
        for choice in chunk["choices"]:
            said[choice["index"]] += choice["delta"].get("content", "")

    whole = json.loads(answer.whole())
    assert said == [choice["message"]["content"] for choice in whole["choices"]] == texts


def test_the_stream_delivers_as_many_tokens_as_are_billed() -> None:
    choices = [Answer(["{", "}"], "add", "tool_calls", 5), Answer(["a", "b", "c"], None, "stop", 0)]

    delivered = sum(event.tokens for event in saying(*choices).events(include_usage=True))
    assert delivered == sum(choice.output_tokens for choice in choices) == 11


@pytest.mark.parametrize("include_usage", [True, False])
def test_usage_comes_in_a_chunk_of_its_own_if_asked_for(include_usage: bool) -> None:
    chunks = streamed(saying(Answer(["a"], None, "stop", 0)), include_usage=include_usage)

    if include_usage:
        assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], USAGE)
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
    else:
        assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)


def test_usage_left_out_is_left_out_of_both() -> None:
    answer = saying(Answer(["a"], None, "stop", 0), usage=None)

    assert "usage" not in json.loads(answer.whole())
    assert all(chunk["choices"] for chunk in streamed(answer, include_usage=True))


def test_a_tool_call_is_streamed_as_its_name_and_fragments_of_its_arguments() -> None:
    chunks = streamed(saying(Answer(['{"a"', ":1}"], "add", "tool_calls", 0)))
    first, *rest, last = (chunk["choices"][0] for chunk in chunks)
    call = first["delta"]["tool_calls"][0]

    assert (first["delta"]["role"], call["index"], call["function"]) == (
        "assistant",
        0,
        {"name": "add", "arguments": ""},
    )
    assert call["id"].startswith("call_")
    assert [part["delta"]["tool_calls"][0]["function"]["arguments"] for part in rest] == ['{"a"', ":1}"]
    assert (last["delta"], last["finish_reason"]) == ({}, "tool_calls")
