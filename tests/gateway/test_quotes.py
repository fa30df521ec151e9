import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bank import Bank, open_bank
from fakes import USAGE
from running import running

from budgets.errors import AbsurdUsage, UnpricedModel
from budgets.keys import KeyRecord
from budgets.ledger import Attempt, reserved
from budgets.pricing import Price
from budgets.usage import Usage
from gateway.auth import Caller
from gateway.catalog import Target
from gateway.errors import UnboundedCost
from gateway.quotes import BELIEVABLE, Quote, Quotes
from gateway.settings import LedgerSettings
from gateway.wire.chat import parse_request
from routing.deployment import Deployment

PRICE = Price.from_usd_per_million({"input": "1", "output": "10"})
IN, OUT = 1_000, 10_000
"""Nano-USD a token."""


class Counter:
    """Counts words, of texts in an encoding called `words`."""

    def __init__(self) -> None:
        self.counted = 0

    async def count(self, texts: Sequence[str], encoding: str | None) -> int | None:
        self.counted += 1
        return sum(len(text.split()) for text in texts) if encoding == "words" else None

    def close(self) -> None:
        pass


def target(price: Price | None = PRICE, **fields: Any) -> Target:
    window, cap_field = fields.pop("window", None), fields.pop("cap_field", "max_tokens")
    return Target(
        deployment=Deployment("mine", "acme", "acme-1", context_window=window),
        url="http://acme/v1",
        headers={},
        price=price,
        max_output_tokens=fields.pop("max_output_tokens", None),
        encoding=fields.pop("encoding", None),
        cap_field=cap_field,
        drains=True,
        tells_keys=False,
        instalment=fields.pop("instalment", None),
    )


def caller(*, capped: bool = True) -> Caller:
    return Caller(KeyRecord("key_a_1", "k", "a", ("*",), (), False, 0.0, None), 1, capped)


def quote(to: Target | None = None, by: Caller | None = None, policy: Any = None, **fields: Any) -> Quote:
    body = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], **fields}
    request = parse_request(json.dumps(body).encode())
    quotes = Quotes(LedgerSettings(**(policy or {})), Counter())  # type: ignore[arg-type]
    return quotes.quote(request, to or target(), by or caller())


def sent(quoted: Quote) -> Any:
    return json.loads(quoted.body)


def test_the_hold_covers_every_byte_that_is_sent_and_the_output_cap() -> None:
    quoted = quote(max_tokens=50)

    assert quoted.amount == quoted.bounds.input_tokens * IN + 50 * OUT
    assert quoted.bounds.input_tokens >= len(quoted.body)


def test_case_25_the_cap_that_is_priced_is_the_one_that_is_sent() -> None:
    for asked, most in ((None, None), (50, None), (None, 30), (50, 30), (20, 30)):
        quoted = quote(target(max_output_tokens=most), max_tokens=asked)

        assert sent(quoted)["max_tokens"] == quoted.bounds.output_tokens
        assert quoted.bounds.output_tokens == min(asked or LedgerSettings().output_cap, most or 10**9)


def test_the_cap_is_spelled_as_the_target_knows_it() -> None:
    quoted = quote(target(cap_field="max_completion_tokens"))

    assert sent(quoted)["max_completion_tokens"] == LedgerSettings().output_cap
    assert "max_tokens" not in sent(quoted)


def test_case_25_without_the_injection_the_models_maximum_is_held_and_nothing_written() -> None:
    policy = {"inject_output_cap": False}

    quoted = quote(target(max_output_tokens=700), policy=policy)
    assert ("max_tokens" in sent(quoted), quoted.bounds.output_tokens) == (False, 700)

    by_window = quote(target(window=900), policy=policy)
    assert by_window.bounds.output_tokens == 900

    asked = quote(target(max_output_tokens=700), policy=policy, max_tokens=50)
    assert (sent(asked)["max_tokens"], asked.bounds.output_tokens) == (50, 50)


def test_several_answers_are_held_for() -> None:
    one, four = quote(max_tokens=50), quote(max_tokens=50, n=4)

    assert four.amount - one.amount == 3 * 50 * OUT + (len(four.body) - len(one.body)) * IN


def test_an_unknown_price_is_refused_to_who_has_a_budget_and_holds_nothing_otherwise() -> None:
    with pytest.raises(UnpricedModel) as caught:
        quote(target(None))
    assert caught.value.model == "mine"

    free = quote(target(None), caller(capped=False))
    assert (free.amount, free.cost(Usage(1, 1)), free.estimate(5)) == (0, None, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"web_search_options": {"x": 1}},
        {"tools": [{"type": "web_search"}]},
        {"service_tier": "priority"},
        {"modalities": ["text", "audio"]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
    ],
)
def test_what_has_no_bound_is_refused_to_who_has_a_budget_only(fields: dict[str, Any]) -> None:
    with pytest.raises(UnboundedCost):
        quote(**fields)

    assert quote(by=caller(capped=False), **fields).body


def test_a_file_is_bounded_by_the_models_context() -> None:
    file = {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}

    assert quote(target(window=10_000), messages=[file]).bounds.input_tokens == 10_000


def test_the_cost_is_the_usages_even_where_that_is_more_than_was_held() -> None:
    quoted = quote(max_tokens=50)

    assert quoted.cost(Usage(11, 5)) == 11 * IN + 5 * OUT
    assert quoted.cost(Usage(11, BELIEVABLE)) == 11 * IN + BELIEVABLE * OUT


def test_a_usage_that_cannot_be_is_no_cost() -> None:
    quoted = quote(max_tokens=50)

    with pytest.raises(AbsurdUsage):
        quoted.cost(Usage(11, BELIEVABLE + 1))
    with pytest.raises(AbsurdUsage):
        quoted.cost(Usage(BELIEVABLE + 1, 5))


def test_an_estimate_has_the_input_and_what_came_and_is_no_more_than_the_hold() -> None:
    quoted = quote(max_tokens=50)

    assert 0 < quoted.estimate(0) < quoted.estimate(20) <= quoted.amount
    assert quoted.estimate(10**6) == quoted.estimate(50) <= quoted.amount


# Instalments


def streamed(**fields: Any) -> Quote:
    """A quote for a stream of up to 1,000 tokens from a provider whose streams are held in instalments of 100."""
    return quote(target(instalment=100), **{"stream": True, "max_tokens": 1_000, **fields})


def test_a_stream_in_instalments_holds_its_input_and_the_first_one_and_may_still_be_as_long() -> None:
    quoted = streamed()

    assert quoted.hold == quoted.bounds.input_tokens * IN + 100 * OUT
    assert quoted.amount == quoted.bounds.input_tokens * IN + 1_000 * OUT
    assert sent(quoted)["max_tokens"] == 1_000


def test_all_of_it_is_held_where_instalments_are_off() -> None:
    quoted = quote(stream=True, max_tokens=1_000)

    assert (quoted.hold, quoted.instalment) == (quoted.amount, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": False},
        {"max_tokens": 100},
        {"by": caller(capped=False)},
        {"reasoning_effort": "high"},
        {"reasoning": {"max_tokens": 5_000}},
        {"thinking": {"type": "enabled"}},
    ],
)
def test_all_of_it_is_held_where_instalments_would_not_help_or_not_be_safe(fields: dict[str, Any]) -> None:
    quoted = streamed(**fields)

    assert (quoted.hold, quoted.instalment) == (quoted.amount, None)


def test_several_answers_share_an_instalment() -> None:
    one, four = streamed(), streamed(n=4)

    assert four.hold - one.hold == (len(four.body) - len(one.body)) * IN
    assert four.costs_at_most(4_000) == four.amount


def test_an_instalment_is_priced_at_the_dearest_rate() -> None:
    price = Price.from_usd_per_million({"input": "1", "output": "10", "reasoning": "30", "request": "0.01"})

    quoted = quote(target(price, instalment=100), stream=True, max_tokens=1_000)

    assert quoted.hold == quoted.bounds.input_tokens * IN + 100 * 3 * OUT + 10_000_000


def test_routing_counts_with_what_will_be_held() -> None:
    request = parse_request(json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode())
    request.stream = True
    quotes = Quotes(LedgerSettings(), Counter())  # type: ignore[arg-type]

    whole, first = quotes.highest_cost(request, target()), quotes.highest_cost(request, target(instalment=100))

    assert whole is not None
    assert first == whole - (LedgerSettings().output_cap - 100) * OUT


# Counting


def quotes_with(counter: Counter) -> Quotes:
    return Quotes(LedgerSettings(), counter)  # type: ignore[arg-type]


async def test_counted_tokens_make_a_smaller_hold_with_a_margin() -> None:
    quoted = quote(target(encoding="words"), max_tokens=50)

    bound = quoted.amount

    exact = await quotes_with(Counter()).exact(quoted)

    assert exact is not None
    assert 3 * IN + 50 * OUT < exact < bound
    assert exact == quoted.amount == quoted.hold


async def test_counted_tokens_make_a_smaller_first_instalment_too() -> None:
    quoted = quote(target(encoding="words", instalment=100), stream=True, max_tokens=1_000)

    exact = await quotes_with(Counter()).exact(quoted)

    assert exact == quoted.bounds.input_tokens * IN + 100 * OUT
    assert quoted.amount == exact + 900 * OUT


async def test_what_cannot_be_counted_keeps_its_bound() -> None:
    assert await quotes_with(Counter()).exact(quote(target(encoding=None))) is None


@pytest.fixture
async def bank(redis_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(redis_url, tmp_path) as bank:
        yield bank


async def test_counting_is_tried_only_when_the_cheap_bound_is_refused(bank: Bank) -> None:
    counter = Counter()
    quoted = quote(target(encoding="words"), max_tokens=50)
    bound = quoted.amount
    rich = await bank.key("1/lifetime")
    poor = await bank.key(f"{(quoted.amount - 1) / 10**9:.9f}/lifetime")

    held = [await held_by(bank, key, quoted, counter) for key in (rich, poor)]

    assert held[0] == bound > held[1]
    assert counter.counted == 1


async def held_by(bank: Bank, key: KeyRecord, quoted: Quote, counter: Counter) -> int:
    attempt: Attempt = bank.attempt(key, quoted.amount)
    async with reserved(bank.ledger, attempt, lambda: quotes_with(counter).exact(quoted)) as reservation:
        return reservation.attempt.amount


async def test_a_key_with_little_left_is_served_where_counting_shows_that_it_suffices(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def count(_: object, texts: Sequence[str], encoding: str | None) -> int | None:
        return len(texts) if encoding else None

    monkeypatch.setattr("budgets.tokens.TokenCounter.count", count)
    model = {"provider": "acme", "model": "m", "price": {"input": "100", "output": "0.4"}}
    models = {"counted": {**model, "encoding": "o200k_base"}, "bounded": model}
    async with running(redis_url, tmp_path, models=models, routes={}) as gateway:
        key = await gateway.create_key("0.02/lifetime")
        fields: dict[str, Any] = {"max_tokens": 10, "text": "word " * 200}

        bounded, counted = await gateway.chat(key, "bounded", **fields), await gateway.chat(key, "counted", **fields)

        assert (bounded.status_code, counted.status_code) == (402, 200)
        assert await gateway.spent(key) == USAGE["prompt_tokens"] * 100_000 + USAGE["completion_tokens"] * 400
