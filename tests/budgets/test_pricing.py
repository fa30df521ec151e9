"""Prices are exact: every figure here is compared with fractions, computed in another way."""

import random
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.pricing import FREE, RATE_NAMES, Price, cost
from budgets.usage import Usage

PLAIN = Price.from_usd_per_million({"input": "0.10", "output": "0.40"})
FULL = Price.from_usd_per_million(
    {
        "input": "2",
        "output": "10",
        "cache_read": "0.2",
        "cache_write": "2.5",
        "cache_write_1h": "4",
        "audio_input": "32",
        "reasoning": "12",
        "audio_output": "64",
        "request": "0.001",
        "above": {200_000: {"input": "4", "output": "15", "cache_read": "0.4"}},
        "tiers": {"priority": {"input": "4", "output": "20"}, "flex": {"input": "1", "output": "5"}},
    }
)


def random_usage(chance: random.Random) -> Usage:
    """A usage that can be: parts within their totals."""
    most = chance.choice([10, 1_000, 400_000])
    total_input, total_output = chance.randint(0, most), chance.randint(0, most)
    read = chance.randint(0, total_input)
    written = chance.randint(0, total_input - read)
    reasoned = chance.randint(0, total_output)
    return Usage(
        total_input,
        total_output,
        read,
        written,
        cache_creation_1h_input_tokens=chance.randint(0, written),
        audio_input_tokens=chance.randint(0, total_input - read - written),
        reasoning_output_tokens=reasoned,
        audio_output_tokens=chance.randint(0, total_output - reasoned),
        service_tier=chance.choice([None, "default", "priority", "flex"]),
    )


@st.composite
def price_mappings(draw: st.DrawFn) -> dict[str, Any]:
    """A price that states every class, so that the oracle need not know what an unstated one costs."""
    amounts = st.integers(0, 10**9).map(lambda pico: str(Decimal(pico) / 10**6))

    def rates() -> dict[str, str]:
        return {name: draw(amounts) for name in RATE_NAMES}

    above = {str(draw(st.integers(0, 300_000))): rates()}
    tiers = {tier: rates() | {"above": {next(iter(above)): rates()}} for tier in ("priority", "flex")}
    return rates() | {"above": above, "tiers": tiers, "request": draw(st.sampled_from(["0.000001", "0.25"]))}


def oracle(usage: Usage, prices: dict[str, Any]) -> int:
    """The cost from the written prices, in fractions of dollars, rounded up to nano-dollars."""
    tier = prices["tiers"].get(usage.service_tier, prices)
    longer = [int(above) for above in tier["above"] if usage.input_tokens > int(above)]
    rates = tier["above"][str(max(longer))] if longer else tier
    written = usage.cache_creation_input_tokens - usage.cache_creation_1h_input_tokens
    plain_input = usage.input_tokens - usage.cache_read_input_tokens - usage.cache_creation_input_tokens
    tokens = {
        "input": plain_input - usage.audio_input_tokens,
        "cache_read": usage.cache_read_input_tokens,
        "cache_write": written,
        "cache_write_1h": usage.cache_creation_1h_input_tokens,
        "audio_input": usage.audio_input_tokens,
        "output": usage.output_tokens - usage.reasoning_output_tokens - usage.audio_output_tokens,
        "reasoning": usage.reasoning_output_tokens,
        "audio_output": usage.audio_output_tokens,
    }
    usd = sum((count * Fraction(rates[name]) / 10**6 for name, count in tokens.items()), Fraction(prices["request"]))
    nano = usd * 10**9
    return -(-nano.numerator // nano.denominator)


@settings(max_examples=100, deadline=None)
@given(price_mappings(), st.integers(0, 2**32))
def test_case_21_the_cost_is_the_exact_sum_rounded_up_once(prices: dict[str, Any], seed: int) -> None:
    price, chance = Price.from_usd_per_million(prices), random.Random(seed)

    for usage in (random_usage(chance) for _ in range(200)):
        assert cost(usage, price) == oracle(usage, prices)


@pytest.mark.parametrize(
    ("usage", "price", "nano"),
    [
        (Usage(0, 0), PLAIN, 0),
        (Usage(1, 0), PLAIN, 100),
        (Usage(1_000_000, 1_000_000), PLAIN, 500_000_000),
        (Usage(0, 0), FULL, 1_000_000),
        (Usage(1_000, 100, cache_read_input_tokens=400), FULL, 1_000_000 + 600 * 2_000 + 400 * 200 + 100 * 10_000),
        (Usage(1_000, 0, 0, 500, 200), FULL, 1_000_000 + 500 * 2_000 + 300 * 2_500 + 200 * 4_000),
        (Usage(200_000, 10), FULL, 1_000_000 + 200_000 * 2_000 + 10 * 10_000),
        (Usage(200_001, 10), FULL, 1_000_000 + 200_001 * 4_000 + 10 * 15_000),
        (Usage(10, 100, reasoning_output_tokens=60), FULL, 1_000_000 + 10 * 2_000 + 40 * 10_000 + 60 * 12_000),
        (Usage(10, 10, audio_input_tokens=4, audio_output_tokens=3), FULL, 1_000_000 + 140_000 + 70_000 + 192_000),
        (Usage(10, 10, service_tier="flex"), FULL, 1_000_000 + 10_000 + 50_000),
        (Usage(10, 10, service_tier="fast"), FULL, 1_000_000 + 40_000 + 200_000),
        (Usage(10**6, 10**6), FREE, 0),
        (Usage(0, 0), FREE, 0),
    ],
)
def test_case_20_each_class_step_and_tier_has_its_rate(usage: Usage, price: Price, nano: int) -> None:
    assert cost(usage, price) == nano


def test_a_fraction_of_a_nano_dollar_is_charged_as_a_whole_one_once_an_attempt() -> None:
    tiny = Price.from_usd_per_million({"input": "0.000001", "output": "0.000001"})

    assert [cost(Usage(n, n), tiny) for n in (0, 1, 500, 501)] == [0, 1, 1, 2]


def test_a_tier_that_the_price_does_not_know_costs_what_the_dearest_does() -> None:
    assert cost(Usage(10, 10, service_tier="turbo"), FULL) == cost(Usage(10, 10, service_tier="priority"), FULL)
    assert cost(Usage(10, 10, service_tier="on_demand"), PLAIN) == cost(Usage(10, 10), PLAIN)


@pytest.mark.parametrize(
    ("name", "usd"),
    [
        (None, 2),
        ("default", 2),
        ("standard", 2),
        ("auto", 2),
        ("priority", 4),
        ("fast", 4),
        ("batch", 1),
        ("batches", 1),
        ("gold", 9),
        ("turbo", 9),
    ],
)
def test_every_name_of_a_tier_leads_to_its_rates(name: str | None, usd: int) -> None:
    tiers = {tier: {"input": rate, "output": rate} for tier, rate in (("priority", 4), ("batch", 1), ("gold", 9))}
    price = Price.from_usd_per_million({"input": 2, "output": 2, "tiers": tiers})

    assert cost(Usage(1_000_000, 0, service_tier=name), price) == usd * 10**9


def test_sound_that_was_read_from_the_cache_is_charged_as_sound_and_no_token_twice() -> None:
    both = Usage(100, 0, cache_read_input_tokens=80, audio_input_tokens=60)

    assert cost(both, FULL) == 1_000_000 + 60 * 32_000 + 40 * 200


def test_an_unstated_class_costs_what_its_kind_costs() -> None:
    (step,) = PLAIN.standard

    assert {getattr(step.rates, name) for name in RATE_NAMES} == {100_000, 400_000}


@pytest.mark.parametrize("dearest", ["input", "cache_read", "cache_write", "cache_write_1h"])
def test_the_dearest_input_token_is_that_of_any_class(dearest: str) -> None:
    rates = dict.fromkeys(("input", "cache_read", "cache_write", "cache_write_1h"), 1) | {dearest: 3}
    price = Price.from_usd_per_million({**rates, "output": 2})

    assert price.standard[0].rates.dearest_input(audio=False) == 3_000_000


def test_a_step_or_tier_that_leaves_a_class_out_takes_no_discount_for_granted() -> None:
    longer = FULL.standard[1].rates
    flex, flex_long = FULL.tiers["flex"]

    assert (longer.cache_write, longer.audio_input, longer.reasoning) == (4_000_000, 32_000_000, 15_000_000)
    assert (flex.rates.cache_read, flex.rates.cache_write, flex.rates.output) == (1_000_000, 2_500_000, 5_000_000)
    assert (flex_long.above, flex_long.rates.input, flex_long.rates.output) == (200_000, 4_000_000, 15_000_000)


def test_what_a_tier_does_not_say_costs_the_dearest_of_what_may_be_meant() -> None:
    longer = {"1000": {"input": "7", "output": "9", "cache_read": "0.5"}}
    flex = {"input": "1", "above": {"1000": {"input": "2"}}}
    price = Price.from_usd_per_million({"input": 2, "output": 3, "above": longer, "tiers": {"flex": flex}})
    short, long = price.tiers["flex"]

    assert (short.rates.input, short.rates.output) == (1_000_000, 3_000_000)
    assert (long.rates.input, long.rates.output, long.rates.cache_read) == (2_000_000, 9_000_000, 2_000_000)


def test_a_tier_has_the_steps_of_the_standard_one_each_from_its_own_first_token_on() -> None:
    above = {"10": {"input": "5"}, "11": {"input": "7"}, "20": {"input": "30"}}
    flex = {"input": "1", "above": {"21": {"input": "40"}}}
    price = Price.from_usd_per_million({"input": 2, "output": 0, "above": above, "tiers": {"flex": flex}})

    assert [cost(Usage(tokens, 0, service_tier="flex"), price) for tokens in (10, 11, 12, 21, 22)] == [
        tokens * rate * 1_000 for tokens, rate in ((10, 1), (11, 5), (12, 7), (21, 30), (22, 40))
    ]


def test_a_longer_request_may_be_free_of_what_a_shorter_one_is_free_of() -> None:
    price = Price.from_usd_per_million({"input": 0, "output": 1, "above": {"10": {"output": 2}}})

    assert cost(Usage(1_000, 0), price) == 0


def test_the_dearest_price_there_may_be_is_one() -> None:
    dearest = {"input": "1000000", "output": "1000000", "request": "1000"}

    assert cost(Usage(1, 1), Price.from_usd_per_million(dearest)) == 1_002 * 10**9


@pytest.mark.parametrize("written", ["0.10", "0.1", 0.10, Decimal("0.1"), "1e-1"])
def test_a_tenth_is_exactly_a_tenth_however_it_is_written(written: Any) -> None:
    assert Price.from_usd_per_million({"input": written, "output": 4}).standard[0].rates.input == 100_000


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({"input": "1"}, "the price of output is missing"),
        ({}, "the price of input is missing"),
        ({"input": "1", "output": "2", "cached": "1"}, "nearest is 'cache_read'"),
        ({"input": "1", "outptu": "2"}, "nearest is 'output'"),
        ({"input": "-1", "output": "2"}, "input: '-1' is not a price"),
        ({"input": "NaN", "output": "2"}, "is not a price"),
        ({"input": "Infinity", "output": "2"}, "is not a price"),
        ({"input": float("nan"), "output": "2"}, "is not a price"),
        ({"input": "cheap", "output": "2"}, "is not a price; write a decimal"),
        ({"input": True, "output": "2"}, "is not a price"),
        ({"input": None, "output": "2"}, "is not a price"),
        ({"input": "1000001", "output": "2"}, "from 0 to 1000000 USD"),
        (
            {"input": 0, "output": 0, "request": "1001"},
            "^request: '1001' is not a price; it must be from 0 to 1000 USD",
        ),
        ({"input": "0.0000001", "output": "2"}, "finer than 0.000001 USD"),
        ({"input": 0, "output": 0}, "^a price of zero must say that it is meant: write {free: true}$"),
        ({"input": 0, "output": 0, "free": False}, "write {free: true}"),
        ({"free": True, "input": 1}, "no part of a price"),
        ({"input": 1, "output": 1, "tiers": {"flex": 3}}, "tiers: rates are given by name"),
        ({"input": 1, "output": 1, "above": {"200000": {"request": 3}}}, "no part of a price"),
        ({"input": 1, "output": 1, "above": {"many": {"input": 3}}}, "many"),
        ({"input": 1, "output": 1, "above": {"-5": {"input": 3}}}, "above"),
        ({"input": 1, "output": 1, "tiers": {"flex": {"inptu": 3}}}, "nearest is 'input'"),
    ],
)
def test_a_price_that_cannot_be_meant_is_refused_with_what_to_write(prices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Price.from_usd_per_million(prices)


def test_free_is_said_and_never_guessed() -> None:
    assert Price.from_usd_per_million({"free": True}) == FREE
    assert FREE.free
    assert not PLAIN.free
    assert not Price.from_usd_per_million({"input": 0, "output": 0, "request": "0.001"}).free


def test_a_gateway_that_prices_a_request_has_not_loaded_tiktoken() -> None:
    code = "import sys, budgets.price_book, budgets.estimate, budgets.tokens; budgets.price_book.PriceBook.load(); "
    code += "sys.exit(any(name in sys.modules for name in ('tiktoken', 'litellm')))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
