import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox import tokens
from gateway.sandbox.answers import Answer, answers
from gateway.sandbox.chat_request import parse

QUESTION = "What is the capital of France?"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The forecast.", "parameters": CITY}}
SHELL = {"type": "function", "function": {"name": "runShell", "description": "Execute a command", "parameters": CITY}}


def answered(prompt: str = QUESTION, length: int | None = None, **fields: Any) -> list[Answer]:
    messages = [{"role": "user", "content": prompt}]
    return answers(parse(orjson.dumps({"model": "sandbox-small", "messages": messages} | fields)), length)


def answer(prompt: str = QUESTION, length: int | None = None, **fields: Any) -> Answer:
    return answered(prompt, length, **fields)[0]


def test_the_same_question_has_the_same_answer() -> None:
    assert answer() == answer()
    assert answer().text != answer("What is the capital of Spain?").text


def test_dearer_models_answer_at_more_length_and_the_dearest_reasons() -> None:
    small, medium, large = (answer(model=f"sandbox-{size}") for size in ("small", "medium", "large"))

    assert len(small.text) < len(medium.text) < len(large.text)
    assert (small.reasoning_tokens, medium.reasoning_tokens, large.reasoning_tokens) == (0, 0, 64)
    assert large.output_tokens == 64 + tokens.count(large.text)


def test_the_choices_of_an_answer_differ() -> None:
    assert len({each.text for each in answered(n=4)}) == 4


@given(
    st.integers(1, 300),
    st.sampled_from(["sandbox-small", "sandbox-large", "exact"]),
    st.none() | st.integers(0, 400),
    st.sampled_from([{}, {"tools": [WEATHER], "tool_choice": "required"}, {"reasoning_effort": "high"}]),
)
def test_no_answer_exceeds_the_cap(cap: int, model: str, length: int | None, fields: dict[str, Any]) -> None:
    given_answer = answer(max_tokens=cap, model=model, length=length, **fields)

    assert given_answer.output_tokens <= cap
    assert tokens.count(given_answer.text) == len(given_answer.pieces)


def test_an_answer_cut_by_its_cap_says_so() -> None:
    whole = answer()
    cut = answer(max_tokens=5)

    assert (cut.finish_reason, cut.pieces) == ("length", whole.pieces[:5])
    assert answer(max_tokens=whole.output_tokens).finish_reason == "stop"


def test_a_text_made_to_measure_has_exactly_that_many_tokens() -> None:
    assert answer(length=400).output_tokens == 400
    assert answer(length=400, max_tokens=300).finish_reason == "length"
    assert answer(length=0).text == ""


@pytest.mark.parametrize("stop", ["capital", ["France", " capital"]])
def test_an_answer_ends_before_a_stop_sequence(stop: str | list[str]) -> None:
    stopped = answer(stop=stop)

    assert stopped.text.rstrip() == "The sandbox was asked: “What is the"
    assert stopped.finish_reason == "stop"


@pytest.mark.parametrize("prompt", ["How is the weather in Paris?", "A forecast for Paris, give me the weathers"])
def test_a_tool_that_the_prompt_asks_for_is_called(prompt: str) -> None:
    called = answer(prompt, tools=[SHELL, WEATHER])

    assert (called.tool, called.finish_reason) == ("get_weather", "tool_calls")
    assert json.loads(called.text)["city"]


def test_words_inside_a_camel_case_name_count() -> None:
    assert answer("Open a shell", tools=[WEATHER, SHELL]).tool == "runShell"


def test_no_tool_is_called_that_the_prompt_does_not_ask_for() -> None:
    assert answer(QUESTION, tools=[WEATHER, SHELL]).tool is None
    assert answer("How is the weather?", tools=[WEATHER], tool_choice="none").tool is None


def test_a_required_tool_is_called_whatever_the_prompt() -> None:
    assert answer(QUESTION, tools=[WEATHER], tool_choice="required").tool == "get_weather"


def test_arguments_cut_by_the_cap_say_so() -> None:
    cut = answer("Weather in Paris", tools=[WEATHER], max_tokens=2)

    assert (cut.finish_reason, cut.output_tokens) == ("length", 2)


def test_the_results_of_tools_are_used_in_the_answer() -> None:
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    results = [{"role": "tool", "tool_call_id": name, "content": f"result {name}"} for name in ("a", "b")]
    messages = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "tool_calls": calls}, *results]

    used = answer(messages=messages, tools=[WEATHER])
    assert used.tool is None
    assert used.text.startswith("The tools answered: result a; result b.")


def test_json_is_answered_where_json_is_asked_for() -> None:
    plain = answer("Answer in JSON: who?", response_format={"type": "json_object"})
    shaped = answer("In Paris", response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}})

    assert json.loads(plain.text) == {"answer": "Answer in JSON: who?"}
    assert json.loads(shaped.text) == {"city": "Paris"}


def test_directives_are_not_quoted_and_long_prompts_are_shortened() -> None:
    assert "[[" not in answer("[[slow 1ms]] Hello").text
    assert len(answer("word " * 1000).text) < 400
    assert answer("").text.startswith("The sandbox was asked nothing.")
