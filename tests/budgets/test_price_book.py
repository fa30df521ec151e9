"""The book that is shipped: every line holds, look-ups are exact, and a second source agrees with it."""

import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices.data import providers
from genai_prices.types import ClauseEquals, ClauseOr, ModelInfo

from budgets.price_book import BOOK, PriceBook
from budgets.pricing import Tariff

DIFFERENCES = Path(__file__).with_name("price_differences.json")
"""Where the two differ, reviewed: why → `provider/model tier class` → ours and theirs, USD per million tokens."""

PROVIDERS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "cerebras": "cerebras",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "google": "gemini",
    "groq": "groq",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshotai": "moonshot",
    "novita": "novita",
    "openai": "openai",
    "together": "together_ai",
    "voyageai": "voyage",
    "x-ai": "xai",
    "zai": "zai",
}
"""Their providers and ours, of those that bill in dollars under one list price."""
CLASSES = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
}
AT = datetime(2026, 11, 1, tzinfo=UTC)

Steps = dict[int, Decimal]


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.load()


def test_every_line_of_the_book_is_a_price(book: PriceBook) -> None:
    models = dict(book)

    assert len(models) > 2_500
    assert len(models) == BOOK.read_bytes().count(b"\n") - 3
    assert all(facts.price.free == name.startswith(("ollama/", "lemonade/")) for name, facts in models.items())


def test_a_model_is_found_by_its_exact_name_and_provider(book: PriceBook) -> None:
    mini = book.find("openai", "gpt-4o-mini")

    assert mini is not None
    assert mini.encoding == "o200k_base"
    assert (mini.max_input_tokens, mini.max_output_tokens) == (128_000, 16_384)
    assert book.find("openai", "openai/gpt-4o-mini") == mini
    assert book.find("litellm", "openai/gpt-4o-mini") == mini
    assert book.find("groq", "openai/gpt-oss-20b") == book.find("litellm", "groq/openai/gpt-oss-20b") is not None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini-2031-01-01"),
        ("openai", "gpt-4o-min"),
        ("openai", "GPT-4O-MINI"),
        ("openai", ""),
        ("openrouter", "openai/gpt-4o-mini"),
        ("acme", "gpt-4o-mini"),
        ("litellm", "gpt-4o-mini"),
        ("openai", 'gpt-4o-mini":{"input":"0"'),
        ("openai", "gpt-4o-mini\n"),
    ],
)
def test_case_18_a_name_the_book_does_not_list_has_no_price(book: PriceBook, provider: str, model: str) -> None:
    assert book.find(provider, model) is None


def test_a_model_of_openai_has_the_vocabulary_that_tiktoken_declares_and_others_have_none(book: PriceBook) -> None:
    declared = {
        ("openai", "gpt-5-mini"): "o200k_base",
        ("openai", "o3-mini"): "o200k_base",
        ("openai", "gpt-4"): "cl100k_base",
    }

    for (provider, model), encoding in declared.items():
        facts = book.find(provider, model)
        assert facts is not None
        assert facts.encoding == encoding
    assert all(name.startswith(("openai/", "azure/")) for name, facts in book if facts.encoding)


def test_the_version_names_the_prices(book: PriceBook) -> None:
    assert PriceBook.load().version == book.version
    assert len(book.version) == 12


@pytest.mark.parametrize("wrong", [b"", b"{}", b'{"digest":"0"}\n', None, -2, 5_000])
def test_case_19_a_damaged_book_is_refused_whole(wrong: bytes | int | None) -> None:
    text = BOOK.read_bytes()
    if wrong is None:
        text = text.replace(b'"input":"2.5"', b'"input":"0.25"', 1)
    elif isinstance(wrong, int):
        text = text[:wrong]
    else:
        text = wrong

    with pytest.raises(ValueError, match=r"damaged|JSON|Expecting|delimiter"):
        PriceBook(text)


def test_the_book_says_where_it_comes_from() -> None:
    head = json.loads(BOOK.read_bytes().partition(b"\n")[0].rstrip(b",") + b"}")

    assert head["source"]["licence"] == "MIT"
    assert head["source"]["package"].startswith("litellm-")


def test_the_loaded_book_holds_no_more_than_its_text() -> None:
    tracemalloc.start()
    book = PriceBook.load()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert book.find("openai", "gpt-4o") is not None
    assert held < 1_000_000


def test_the_differences_from_the_genai_prices_package_are_the_reviewed_ones(book: PriceBook) -> None:
    compared = 0
    found: dict[str, list[str]] = {}
    for name, key, ours, theirs in compare(book):
        compared += 1
        if ours != theirs:
            found[f"{name} {key}"] = [written(ours), written(theirs)]

    assert compared > 1_000
    reviewed = json.loads(DIFFERENCES.read_text())
    assert found == {name: rates for differences in reviewed.values() for name, rates in differences.items()}


def compare(book: PriceBook) -> Iterator[tuple[str, str, Steps, Steps]]:
    """Every price that both sources state: model, tier and class, and the rates of both by input tokens."""
    for provider in providers:
        for model in provider.models if provider.id in PROVIDERS else ():
            for name in exact_names(model):
                facts = book.find(PROVIDERS[provider.id], name)
                if facts is None:
                    continue
                for tier, prices in tiers(model).items():
                    tariff = facts.price.tariff(tier)
                    for rate, attribute in CLASSES.items():
                        theirs = getattr(prices, attribute, None)
                        if theirs is not None and tariff is not None:
                            yield (
                                f"{PROVIDERS[provider.id]}/{name}",
                                f"{tier} {rate}",
                                ours_of(tariff, rate),
                                theirs_of(theirs),
                            )


def exact_names(model: ModelInfo) -> set[str]:
    """The names that mean this model and no other: not the patterns that stand for any."""
    clauses = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
    return {model.id, *(clause.equals for clause in clauses if isinstance(clause, ClauseEquals))}


def tiers(model: ModelInfo) -> dict[str, Any]:
    """Their prices by our names of the service tiers."""
    found: dict[str, Any] = {"default": model.get_prices(AT)}
    for variant in model.price_variants or ():
        tier = "batch" if variant.when == {"processing": "batch"} else variant.when.get("service_tier")
        if tier in {"flex", "priority", "batch"} and len(variant.when) == 1:
            found[tier] = variant.prices
    return found


def ours_of(tariff: Tariff, rate: str) -> Steps:
    """One class by the input tokens above which a rate holds, as far as it changes."""
    return changes({max(step.above, 0): Decimal(getattr(step.rates, rate)) / 10**6 for step in tariff})


def theirs_of(price: Any) -> Steps:
    if isinstance(price, Decimal):
        return {0: price}
    return changes({0: price.base, **{tier.start: tier.price for tier in price.tiers}})


def changes(steps: Steps) -> Steps:
    kept: Steps = {}
    for above, rate in sorted(steps.items()):
        if not kept or list(kept.values())[-1] != rate:
            kept[above] = rate
    return kept


def written(steps: Steps) -> str:
    return ", ".join(f"{rate.normalize():f}" + (f" above {above}" if above else "") for above, rate in steps.items())
