"""A hold covers whatever the attempt can come to cost: cases 20, 24 and 25 of the failures that ledgers get wrong."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.estimate import Bounds, counted_bound, input_bound, texts, unpriceable, uses_audio, worst_case
from budgets.pricing import FREE, RATE_NAMES, Price, cost
from budgets.usage import Usage

CHEAP = Price.from_usd_per_million({"input": "0.10", "output": "0.40"})
TIERED = Price.from_usd_per_million(
    {
        "input": "2",
        "output": "10",
        "cache_write": "2.5",
        "reasoning": "12",
        "audio_input": "32",
        "audio_output": "64",
        "request": "0.01",
        "above": {"200000": {"input": "4", "output": "15"}},
        "tiers": {"priority": {"input": "4", "output": "20"}, "flex": {"input": "1", "output": "5"}},
    }
)


def size(body: dict[str, Any]) -> int:
    """The request as it is sent: no spaces, UTF-8."""
    return len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def request(*content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": each} for each in content], **fields}


def image(url: str, **detail: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **detail}}


@st.composite
def partial_prices(draw: st.DrawFn) -> Price:
    """Any price: classes, steps and tiers may be missing, and longer requests may be cheaper."""
    amounts = st.integers(0, 10**8).map(lambda pico: f"{pico / 10**6:.6f}")

    def rates(*required: str) -> dict[str, str]:
        optional = draw(st.sets(st.sampled_from(RATE_NAMES)))
        return {name: draw(amounts) for name in RATE_NAMES if name in required or name in optional}

    above = {str(draw(st.integers(0, 3_000))): rates() for _ in range(draw(st.integers(0, 2)))}
    tiers = {
        tier: rates() | {"above": {"1000": rates()}} for tier in draw(st.sets(st.sampled_from(["flex", "priority"])))
    }
    written = rates("input", "output") | {"above": above, "tiers": tiers, "request": "0.001"}
    return Price.from_usd_per_million(written)


def random_usage(chance: random.Random, bounds: Bounds) -> Usage:
    """A usage within `bounds`, near its edges more often than chance would have it."""
    total_input = chance.choice([bounds.input_tokens, chance.randint(0, bounds.input_tokens)])
    most_output = bounds.output_tokens * bounds.n
    total_output = chance.choice([most_output, chance.randint(0, most_output)])
    cached = chance.choice([0, total_input, chance.randint(0, total_input)])
    written = chance.choice([0, cached, chance.randint(0, cached)])
    return Usage(
        total_input,
        total_output,
        cached - written,
        written,
        cache_creation_1h_input_tokens=chance.randint(0, written),
        audio_input_tokens=chance.randint(0, total_input) if bounds.audio else 0,
        reasoning_output_tokens=(reasoned := chance.choice([0, total_output])),
        audio_output_tokens=chance.randint(0, total_output - reasoned) if bounds.audio else 0,
        service_tier=chance.choice([None, "default", bounds.service_tier]),
    )


bounds_of_any_request = st.builds(
    Bounds,
    input_tokens=st.integers(0, 4_000),
    output_tokens=st.integers(0, 4_000),
    n=st.integers(1, 8),
    service_tier=st.sampled_from([None, "default", "auto", "flex", "priority", "fast", "never heard of"]),
    audio=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(partial_prices(), bounds_of_any_request, st.integers(0, 2**32))
def test_no_usage_within_its_bounds_costs_more_than_the_hold(price: Price, bounds: Bounds, seed: int) -> None:
    held, chance = worst_case(price, bounds), random.Random(seed)

    for usage in (random_usage(chance, bounds) for _ in range(50)):
        assert cost(usage.within(bounds.input_tokens, bounds.output_tokens * bounds.n), price) <= held


@pytest.mark.parametrize(
    ("bounds", "nano"),
    [
        (Bounds(0, 0), 10_000_000),
        (Bounds(1_000, 100, audio=False), 10_000_000 + 1_000 * 2_500 + 100 * 12_000),
        (Bounds(1_000, 100), 10_000_000 + 1_000 * 32_000 + 100 * 64_000),
        (Bounds(1_000, 100, n=5, audio=False), 10_000_000 + 1_000 * 2_500 + 500 * 12_000),
        (Bounds(200_000, 0, audio=False), 10_000_000 + 200_000 * 2_500),
        (Bounds(200_001, 100, audio=False), 10_000_000 + 200_001 * 4_000 + 100 * 15_000),
        (Bounds(1_000, 100, service_tier="priority", audio=False), 10_000_000 + 1_000 * 4_000 + 100 * 20_000),
        (Bounds(1_000, 100, service_tier="flex", audio=False), 10_000_000 + 1_000 * 2_500 + 100 * 12_000),
        (Bounds(1_000, 100, service_tier="warp", audio=False), 10_000_000 + 1_000 * 4_000 + 100 * 20_000),
    ],
)
def test_case_20_the_hold_is_priced_at_the_dearest_rate_the_request_can_reach(bounds: Bounds, nano: int) -> None:
    assert worst_case(TIERED, bounds) == nano


def test_a_flat_price_per_request_is_held_as_it_is_charged() -> None:
    exact = Price.from_usd_per_million({"input": "0", "output": "0", "request": "0.001"})

    assert worst_case(exact, Bounds(10**6, 10**6, n=3)) == cost(Usage(7, 7), exact) == 1_000_000
    assert worst_case(FREE, Bounds(10**6, 10**6)) == 0


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_a_text_never_has_more_tokens_than_its_bound(contents: list[str]) -> None:
    body = request(*contents)
    bound = input_bound(body, size(body), "m", None)

    assert bound is not None
    assert bound >= sum(len(text.encode()) for text in contents) + 128 + 8 * len(contents)


def test_an_image_counts_by_table_and_not_by_the_bytes_it_is_sent_as() -> None:
    inline = "data:image/png;base64," + "A" * 100_000
    plain = request([{"type": "text", "text": "look"}, image("https://example.org/cat.png")])
    low = request([image("https://example.org/cat.png", detail="low")])
    sent = request([image(inline)])

    assert input_bound(plain, 0, "gpt-4o-mini-2024-07-18", None) == 128 + 8 + 48_169
    assert input_bound(plain, 0, "gpt-4o", None) == 128 + 8 + 1_445
    assert input_bound(plain, 0, "gpt-5-mini", None) == 128 + 8 + 25_000
    assert input_bound(low, 0, "gpt-4o-mini", None) == 128 + 8 + 2_833
    assert input_bound(low, 0, "my-own-name-for-it", None) == 128 + 8 + 48_169
    assert input_bound(sent, size(sent), "gpt-4o", None) == 128 + 8 + 1_445 + size(sent) - len(inline)


@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        ("gpt-4o-mini", 2_833, 48_169),
        ("gpt-4o", 85, 1_445),
        ("gpt-4.1", 25_000, 25_000),
        ("gpt-5", 25_000, 25_000),
        ("llava", 48_169, 48_169),
    ],
)
def test_an_image_is_bounded_by_its_models_own_rule(model: str, low: int, high: int) -> None:
    for detail, tokens in (({"detail": "low"}, low), ({"detail": "high"}, high), ({}, high)):
        assert input_bound(request([image("https://a.org/x.png", **detail)]), 0, model, None) == 128 + 8 + tokens


def test_only_an_image_inside_the_request_is_taken_off_its_size() -> None:
    nameless: dict[str, Any] = {"type": "image_url", "image_url": "data:,abc"}

    assert input_bound(request([nameless]), 1_000, "gpt-4o", None) == 1_000 + 128 + 8 + 1_445
    for url, taken_off in (("data:,abc", 9), ("data:,ä", 0), ("xdata:,abc", 0), ("https://a.org/x.png", 0)):
        assert input_bound(request([image(url)]), 1_000, "gpt-4o", None) == 1_000 + 128 + 8 + 1_445 - taken_off


@pytest.mark.parametrize("kind", ["input_audio", "file", "video_url", "something_new", None, 7])
def test_what_cannot_be_measured_is_bounded_by_the_context_window_or_not_at_all(kind: Any) -> None:
    body = request([{"type": "text", "text": "listen"}, {"type": kind, "file": {"file_id": "file-1"}}])

    assert input_bound(body, size(body), "m", 128_000) == 128_000
    assert input_bound(body, size(body), "m", None) is None
    assert counted_bound(body, 10, "m") is None


def test_tools_and_messages_add_what_a_chat_template_may_add() -> None:
    body = request("a", "b", tools=[{"type": "function", "function": {"name": "f"}}])

    assert input_bound(body, 500, "m", None) == 500 + 128 + 2 * 8 + 1_024


def test_sound_is_noticed_going_in_and_coming_out() -> None:
    assert uses_audio(request([{"type": "input_audio", "input_audio": {}}]))
    assert uses_audio(request("say it", modalities=["text", "audio"]))
    assert not uses_audio(request("write it", [{"type": "text", "text": "x"}]))


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "custom"}]}, None),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"web_search_options": None}, None),
        ({"n_predict": 10}, "n_predict"),
        ({"N": 5}, "N"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"speed": "fast"}, "speed"),
        ({"modalities": ["text"]}, None),
        ({"modalities": ["text", "image"]}, "modalities"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": ["text", ["audio"]]}, "modalities"),
        ({"service_tier": "auto"}, None),
        ({"service_tier": "default"}, None),
        ({"service_tier": "flex"}, None),
        ({"service_tier": "priority"}, "service_tier"),
        ({"service_tier": ["flex"]}, "service_tier"),
    ],
)
def test_case_24_a_field_whose_cost_no_price_bounds_is_named(fields: dict[str, Any], refused: str | None) -> None:
    assert unpriceable(request("hello", **fields), CHEAP) == refused


@pytest.mark.parametrize(
    "field",
    [
        "web_search_options",
        "search_parameters",
        "plugins",
        "enable_search",
        "prediction",
        "inference_geo",
        "speed",
        "models",
        "route",
        "best_of",
        "n_predict",
        "num_predict",
        "options",
        "max_new_tokens",
        "max_length",
        "max_output_tokens",
        "min_tokens",
        "min_length",
        "min_new_tokens",
        "min_completion_tokens",
        "extra_body",
        "provider",
        "providerOptions",
    ],
)
def test_case_24_what_may_cost_more_than_the_hold_is_refused_unless_it_is_switched_off(field: str) -> None:
    assert unpriceable(request("hello", **{field: 0}), CHEAP) == field
    assert unpriceable(request("hello", **{field: False}), CHEAP) is None
    assert unpriceable(request("hello", **{field: None}), CHEAP) is None


@pytest.mark.parametrize(
    "field",
    ["model", "messages", "max_tokens", "max_completion_tokens", "n", "stream_options", "service_tier", "modalities"],
)
def test_case_27_a_twin_of_a_field_that_is_priced_is_refused(field: str) -> None:
    body = request("hello", max_tokens=5, max_completion_tokens=5, n=2, stream_options={}, service_tier="batch")

    assert unpriceable(body, CHEAP) is None
    assert unpriceable({**body, field.upper(): 1}, CHEAP) == field.upper()


def test_what_has_a_price_of_its_own_is_let_through() -> None:
    assert unpriceable(request("say it", modalities=["text", "audio"]), TIERED) is None
    assert unpriceable(request("quick", service_tier="priority"), TIERED) is None
    assert unpriceable(request("quick", service_tier="fast"), TIERED) is None


def test_everything_a_tokenizer_sees_is_counted() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"q":"語"}'}}
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief", "name": "boss"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "user", "content": [{"type": "text", "text": "see"}, image("https://example.org/x.png")]},
        ],
        "tools": [{"type": "function", "function": {"name": "find", "description": "finds"}}],
    }
    seen = " ".join(texts(body))

    assert all(word in seen for word in ("be brief", "boss", "find", '{\\"q\\":\\"語\\"}', "see", "finds", "assistant"))
    assert "example.org" not in seen


def test_a_tokenizer_sees_the_structure_as_its_json_and_no_more() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}, image("https://a.org/x.png")]
    messages = [{"role": "user", "content": parts}, {"role": "tool", "content": "ü", "n": {"x": "ü"}}]
    body = {"model": "m", "stream": True, "messages": messages, "tools": [{"y": [1, 2]}]}

    assert texts(body) == ['[{"y":[1,2]}]', "user", "tool", "ü", '{"x":"ü"}', "a", "b"]
    assert input_bound(request(parts[:2]), 0, "m", None) == 128 + 8
    assert counted_bound(request(parts[:2]), 0, "m") == 6 + 1
    assert counted_bound({"functions": [{}, {}], **request("x")}, 0, "m") == 6 + 2 * 24 + 3


def test_a_count_gets_the_templates_share_and_a_margin() -> None:
    body = request("hello", "again")
    named = {"messages": [{"role": "user", "name": "ann", "content": "hello"}], "tools": [{"type": "function"}]}

    assert counted_bound(body, 80, "m") == 80 + 3 + 2 * 3 + 5
    assert counted_bound(named, 1_000, "m") == 1_000 + 3 + 3 + 1 + 24 + 52
    assert counted_bound(request([image("https://example.org/x.png")]), 0, "gpt-4o") == 6 + 1 + 1_445


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["text", "audio", "image_url", "data:,x", "low"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "detail", "text"]), inner),
    max_leaves=4,
)


def parts_of(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, anything))


wrong_messages = anything | st.lists(
    anything
    | st.fixed_dictionaries(
        {"content": anything | st.lists(anything | parts_of("type", "text", "image_url"), max_size=3)}
    ),
    max_size=3,
)
wrong_bodies = st.fixed_dictionaries(
    {"messages": wrong_messages},
    optional={
        "tools": anything | st.lists(anything | parts_of("type"), max_size=3),
        **dict.fromkeys(["functions", "modalities", "service_tier", "speed", "prediction"], anything),
    },
)


@settings(deadline=None)
@given(wrong_bodies)
def test_a_body_of_the_wrong_shape_is_estimated_without_an_error(body: dict[str, Any]) -> None:
    assert (input_bound(body, 10_000, "gpt-4o", None) or 0) >= 0
    assert uses_audio(body) in {True, False}
    assert unpriceable(body, TIERED) in {None, *body}
    assert (counted_bound(body, sum(map(len, texts(body))), "gpt-4o") or 0) >= 0
