"""The price book is made whole or not at all, and what it cannot price it leaves out, aloud."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from budgets.price_book import PriceBook
from budgets.price_table import TABLE, convert, main, read_table, render

CHAT = {"litellm_provider": "openai", "mode": "chat"}
PRICED = CHAT | {"input_cost_per_token": Decimal("1E-7"), "output_cost_per_token": Decimal("4E-7")}


def record(name: str = "m", **fields: Any) -> dict[str, Any]:
    """The record of a priced chat model with these fields besides, as the book has it."""
    ((_, made),) = convert({name: PRICED | fields})[0].items()
    return made


def reason(**fields: Any) -> str:
    """Why a model with these fields is left out."""
    records, (line,) = convert({"m": PRICED | fields})
    assert not records
    return line


def test_rates_become_usd_per_million_and_what_costs_what_its_kind_does_is_left_out() -> None:
    assert record(
        cache_read_input_token_cost=Decimal("2.5E-8"),
        cache_creation_input_token_cost=Decimal("1E-7"),
        output_cost_per_reasoning_token=Decimal("4E-7"),
        input_cost_per_audio_token=0,
        max_input_tokens=128_000,
        max_output_tokens="many",
    ) == {"input": "0.1", "output": "0.4", "cache_read": "0.025", "max_input": 128_000}


def test_steps_and_tiers_find_their_places() -> None:
    assert record(
        input_cost_per_token_above_200k_tokens=Decimal("2E-7"),
        input_cost_per_token_above_128_tokens=Decimal("3E-7"),
        cache_creation_input_token_cost_above_1hr=Decimal("5E-7"),
        cache_creation_input_token_cost_above_1hr_above_200k_tokens=Decimal("6E-7"),
        input_cost_per_token_batches=Decimal("5E-8"),
        output_cost_per_token_above_200k_tokens_priority=Decimal("9E-7"),
    ) == {
        "input": "0.1",
        "output": "0.4",
        "cache_write_1h": "0.5",
        "above": {"128": {"input": "0.3"}, "200000": {"input": "0.2", "cache_write_1h": "0.6"}},
        "tiers": {"batch": {"input": "0.05"}, "priority": {"above": {"200000": {"output": "0.9"}}}},
    }


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("input_cost_per_token", "input"),
        ("output_cost_per_token", "output"),
        ("cache_read_input_token_cost", "cache_read"),
        ("cache_creation_input_token_cost", "cache_write"),
        ("cache_creation_input_token_cost_above_1hr", "cache_write_1h"),
        ("input_cost_per_audio_token", "audio_input"),
        ("output_cost_per_reasoning_token", "reasoning"),
        ("output_cost_per_audio_token", "audio_output"),
    ],
)
@pytest.mark.parametrize("tier", ["priority", "flex", "batches", "balanced", "ultrafast"])
def test_every_class_of_tokens_has_its_name_in_every_tier(field: str, name: str, tier: str) -> None:
    made = record(**{field: Decimal("7E-7"), f"{field}_{tier}": Decimal("9E-7")})

    assert made[name] == "0.7"
    assert made["tiers"] == {{"batches": "batch"}.get(tier, tier): {name: "0.9"}}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cache_read_input_token_cost", "input"),
        ("cache_creation_input_token_cost", "input"),
        ("cache_creation_input_token_cost_above_1hr", "cache_write"),
        ("input_cost_per_audio_token", "input"),
        ("output_cost_per_reasoning_token", "output"),
        ("output_cost_per_audio_token", "output"),
    ],
)
def test_a_class_that_costs_what_its_kind_does_is_no_word_in_the_book(name: str, kind: str) -> None:
    rates = {"input": "1", "output": "4", "cache_write": "2"}
    fields = {
        "input_cost_per_token": Decimal("1E-6"),
        "output_cost_per_token": Decimal("4E-6"),
        "cache_creation_input_token_cost": Decimal("2E-6"),
    }
    if name == "cache_creation_input_token_cost":
        del rates["cache_write"]

    assert record(**{**fields, name: Decimal(rates[kind]) / 1_000_000}) == rates


def test_a_provider_whose_step_begins_at_its_threshold_is_heeded() -> None:
    made = record(litellm_provider="xai", input_cost_per_token_above_200k_tokens=Decimal("2E-7"))

    assert made["above"] == {"199999": {"input": "0.2"}}


def test_a_list_of_ranges_becomes_steps() -> None:
    long = {"range": [Decimal(32_000), 64_000], "input_cost_per_token": Decimal("1E-6"), "output_cost_per_token": 1}
    short = {"range": [0, Decimal(32_000)], "input_cost_per_token": Decimal("5E-7"), "output_cost_per_token": 1}
    records, _ = convert({"qwen": CHAT | {"tiered_pricing": [long, short]}})

    assert records["openai/qwen"] == {
        "input": "0.5",
        "output": "1000000",
        "above": {"32000": {"input": "1", "output": "1000000"}},
    }


@pytest.mark.parametrize(
    ("name", "provider", "key"),
    [
        ("gpt-4o", "openai", "openai/gpt-4o"),
        ("groq/llama-3", "groq", "groq/llama-3"),
        ("openrouter/openai/gpt-4o", "openrouter", "openrouter/openai/gpt-4o"),
        ("gemini-2.5-pro", "vertex_ai-language-models", "vertex_ai/gemini-2.5-pro"),
        ("vertex_ai/claude", "vertex_ai-anthropic_models", "vertex_ai/claude"),
        ("anthropic.claude", "bedrock_converse", "bedrock/anthropic.claude"),
        ("command-r", "cohere_chat", "cohere/command-r"),
        ("azure/gpt-3.5-turbo-instruct", "azure_text", "azure/gpt-3.5-turbo-instruct"),
        ("fireworks_ai/nomic", "fireworks_ai-embedding-models", "fireworks_ai/nomic"),
        ("text-completion-codestral/codestral-latest", "text-completion-codestral", "codestral/codestral-latest"),
        ("gpt-3.5-turbo-instruct", "text-completion-openai", "openai/gpt-3.5-turbo-instruct"),
        ("perplexity/perplexity/sonnet", "perplexity", "perplexity/perplexity/sonnet"),
    ],
)
def test_a_model_is_named_by_its_provider_and_its_name_there(name: str, provider: str, key: str) -> None:
    assert list(convert({name: PRICED | {"litellm_provider": provider}})[0]) == [key]


def test_a_number_that_binary_floats_blurred_is_read_as_what_was_meant() -> None:
    assert record(input_cost_per_token=Decimal("1.0000000000000001E-7"))["input"] == "0.1"
    assert record(input_cost_per_token=Decimal("9.499999999999999E-7"))["input"] == "0.95"
    assert "finer than a pico-dollar" in reason(input_cost_per_token=Decimal("1.5E-13"))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"input_cost_per_token": None}, "no price for its tokens"),
        ({"input_cost_per_token": 0, "output_cost_per_token": 0}, "a price of zero"),
        ({"input_cost_per_token": 0}, "a price of zero"),
        ({"output_cost_per_token": Decimal("0.0")}, "a price of zero"),
        *(
            ({field: Decimal("2E-7")}, f"bills {field} apart")
            for field in (
                "input_cost_per_image_token",
                "output_cost_per_image_token",
                "input_cost_per_video_token",
                "output_cost_per_video_token",
                "input_cost_per_image",
                "input_cost_per_query",
                "input_cost_per_request",
                "input_cost_per_second",
                "input_cost_per_audio_per_second",
                "input_cost_per_video_per_second",
                "citation_cost_per_token",
            )
        ),
    ],
)
def test_a_model_whose_bill_could_be_more_is_left_out_and_told(fields: dict[str, Any], why: str) -> None:
    assert why in reason(**fields)


def test_a_model_that_always_searches_is_left_out() -> None:
    names = ["gpt-4o-search-preview", "gpt-5-search-api", "o3-deep-research", "perplexity/sonar-pro"]
    records, report = convert(dict.fromkeys([*names, "nousresearch-hermes"], PRICED))

    assert list(records) == ["openai/nousresearch-hermes"]
    assert len(report) == 4


def test_only_a_server_of_the_users_own_is_free_when_the_table_says_zero() -> None:
    zero = {"input_cost_per_token": 0, "output_cost_per_token": Decimal("0.0")}

    assert record("ollama/llama3", **zero, litellm_provider="ollama") == {"free": True}
    assert "zero" in reason(**zero, litellm_provider="gigachat")


def test_an_embedding_has_no_output_to_price() -> None:
    assert record(mode="embedding", output_cost_per_token=None) == {"input": "0.1", "output": "0"}


def test_an_image_token_that_costs_what_text_does_is_no_reason_to_leave_a_model_out() -> None:
    assert record(input_cost_per_image_token=Decimal("1E-7")) == {"input": "0.1", "output": "0.4"}


def test_of_two_entries_for_one_model_the_fuller_counts_and_none_if_they_disagree() -> None:
    fuller = PRICED | {"cache_read_input_token_cost": Decimal("1E-8")}
    dearer = PRICED | {"input_cost_per_token": Decimal("3E-7")}

    assert convert({"m": PRICED, "openai/m": fuller})[0]["openai/m"]["cache_read"] == "0.01"
    assert convert({"m": fuller, "openai/m": PRICED})[0]["openai/m"]["cache_read"] == "0.01"
    records, report = convert({"m": PRICED, "openai/m": dearer})
    assert not records
    assert "two prices" in report[0]


@pytest.mark.parametrize("value", [Decimal(-1), -1, "0.1", True, [1]])
def test_an_impossible_price_condemns_the_whole_table(value: Any) -> None:
    with pytest.raises(ValueError, match="which is no price"):
        convert({"good": PRICED, "m": PRICED | {"input_cost_per_token_flex": value}})


@pytest.mark.parametrize(
    "text", [b'{"m": {"input_cost_per_token": NaN}}', b"[]", b'{"m": 1}', b'{"m": Infinity}', b"{"]
)
def test_a_table_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"table|Expecting"):
        read_table(text)


def test_the_same_table_makes_the_same_bytes_whatever_its_order() -> None:
    table = {"b": PRICED, "a": PRICED | {"cache_read_input_token_cost": Decimal("1E-8")}}
    source = {"package": "litellm-1"}
    made = render(convert(table)[0], source)

    assert made == render(convert(dict(reversed(table.items())))[0], source)
    assert made.count(b"\n") == 5
    assert [name for name, _ in PriceBook(made)] == ["openai/a", "openai/b"]


def test_refresh_writes_a_book_that_loads_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "litellm"
    package.mkdir()
    (tmp_path / "litellm-1.2.3.dist-info").mkdir()
    entry = CHAT | {"input_cost_per_token": 1e-07, "output_cost_per_token": 4e-07}
    (package / TABLE).write_text(json.dumps({"gpt-4o": entry, "free-lunch": entry | {"input_cost_per_token": 0}}))
    target = tmp_path / "prices.json"

    assert main(["refresh", "--from", str(package / TABLE), "--to", str(target)]) == 0

    assert "free-lunch: a price of zero" in capsys.readouterr().out
    assert PriceBook.load(target).find("openai", "gpt-4o") is not None
    assert json.loads(target.read_text())["source"]["package"] == "litellm-1.2.3"


def test_a_damaged_table_leaves_the_old_book_in_place(tmp_path: Path) -> None:
    table, target = tmp_path / "table.json", tmp_path / "prices.json"
    table.write_text(json.dumps({"m": CHAT | {"input_cost_per_token": -1, "output_cost_per_token": 1}}))
    target.write_text("the old book")

    with pytest.raises(ValueError, match="which is no price"):
        main(["refresh", "--from", str(table), "--to", str(target)])

    assert target.read_text() == "the old book"


def test_the_command_needs_litellm_or_a_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "budgets.pricing", "refresh", "--from", str(tmp_path / "none.json")]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)

    assert finished.returncode != 0
    assert f"no table {tmp_path / 'none.json'}" in finished.stderr
