"""What an attempt costs: `Price`, exact for every class of token, and `cost`, rounded up once.

`python -m budgets.pricing refresh` makes the price book anew (budgets/price_table.py).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any

from budgets.money import NanoUSD
from budgets.usage import Usage

PicoUSD = int
"""A millionth of a millionth of a US dollar: every price in the book is a whole number of them per token."""

PICO_PER_USD = 10**12
PICO_PER_NANO = 1_000
TOKENS_PER_UNIT = 1_000_000
"""Prices are written in USD per so many tokens."""

MAX_RATE: PicoUSD = PICO_PER_USD
"""A token that costs more than a dollar is a slip of the pen."""
MAX_REQUEST: PicoUSD = 1_000 * PICO_PER_USD

STANDARD_TIERS = frozenset({None, "default", "standard", "auto"})
"""The names of the ordinary tier in requests and answers (OpenAI's `default`, Anthropic's `standard`)."""
TIER_SYNONYMS = {"fast": "priority", "batches": "batch"}


@dataclass(frozen=True, slots=True)
class Rates:
    """What a token costs by its class, in pico-USD."""

    input: PicoUSD
    output: PicoUSD
    cache_read: PicoUSD
    cache_write: PicoUSD
    cache_write_1h: PicoUSD
    audio_input: PicoUSD
    reasoning: PicoUSD
    audio_output: PicoUSD

    def dearest_input(self, *, audio: bool) -> PicoUSD:
        """The most an input token can cost; a prompt is written to a cache without being asked by some providers."""
        text = max(self.input, self.cache_read, self.cache_write, self.cache_write_1h)
        return max(text, self.audio_input) if audio else text

    def dearest_output(self, *, audio: bool) -> PicoUSD:
        """The most an output token can cost."""
        text = max(self.output, self.reasoning)
        return max(text, self.audio_output) if audio else text


RATE_NAMES = tuple(rate.name for rate in fields(Rates))


@dataclass(frozen=True, slots=True)
class Step:
    """The rates of a whole request whose input has more than `above` tokens."""

    above: int
    rates: Rates


Tariff = tuple[Step, ...]
"""Steps of one service tier by rising `above`; the first one starts at -1, so that it holds for an empty input."""


def rates_at(tariff: Tariff, input_tokens: int) -> Rates:
    """The rates of a request with so many input tokens: a long context is dearer from its first token on."""
    return next(step.rates for step in reversed(tariff) if input_tokens > step.above)


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs: a tariff for the standard tier, one for each further tier, and a fee per request."""

    standard: Tariff
    tiers: Mapping[str, Tariff] = field(default_factory=dict)
    request: PicoUSD = 0

    @property
    def free(self) -> bool:
        """Whether nothing about the model costs anything."""
        rates = (step.rates for tariff in (self.standard, *self.tiers.values()) for step in tariff)
        return not self.request and not any(getattr(each, name) for each in rates for name in RATE_NAMES)

    def tariff(self, service_tier: str | None) -> Tariff | None:
        """The tariff of a service tier, None where the price does not know its name."""
        if service_tier in STANDARD_TIERS:
            return self.standard
        name = str(service_tier)
        return self.tiers.get(TIER_SYNONYMS.get(name, name))

    def tariffs(self, service_tier: str | None) -> tuple[Tariff, ...]:
        """The tariffs that may apply to a tier: its own, or all of them where its name is not known."""
        known = self.tariff(service_tier)
        return (self.standard, *self.tiers.values()) if known is None else (known,)

    @classmethod
    def from_usd_per_million(cls, prices: Mapping[str, Any]) -> "Price":
        """A price as written in the configuration and in the price book: USD per million tokens, `request` in USD.

        `input` and `output` must be said, and `{free: true}` where nothing costs anything; the other classes cost
        what their kind costs unless they are given. `above` maps a number of input tokens to the rates of longer
        requests, `tiers` a service tier to its own rates. Numbers are whole or decimal, as text or as YAML reads
        them (a float counts as it is written: 0.1 is exactly one tenth).
        Raises ValueError for an unknown key (naming the nearest), a missing or negative price, one that is finer
        than a pico-dollar per token, and a zero price that does not say that it is meant.
        """
        if prices.get("free") is True:
            _refuse_unknown(prices, ("free",))
            return FREE
        _refuse_unknown(prices, (*RATE_NAMES, "above", "tiers", "request", "free"))
        request = _pico(prices.get("request", 0), "request", PICO_PER_USD, MAX_REQUEST)
        stated = _steps(prices)
        standard = _tariff(stated, {})
        tiers = {}
        for name, rates in _section(prices, "tiers").items():
            _refuse_unknown(rates, (*RATE_NAMES, "above"))
            tiers[str(name)] = _with_steps_of(standard, _tariff(_steps(rates), stated))
        price = cls(standard, tiers, request)
        if price.free:
            raise ValueError("a price of zero must say that it is meant: write {free: true}")
        return price


FREE = Price(standard=(Step(-1, Rates(*[0] * len(RATE_NAMES))),))
"""The price of a model that costs nothing, such as one on the user's own machine."""


def cost(usage: Usage, price: Price) -> NanoUSD:
    """What `usage` costs at `price`, rounded up once for the whole attempt.

    `usage` has passed `Usage.within`. Parts are taken off their total before they are charged at their own rate.
    Where audio was read from a cache, it is charged as audio: no answer tells how much of it was.
    A service tier whose name the price does not know costs what the dearest tier would.
    """
    return nano(max([_tokens_cost(usage, tariff) for tariff in price.tariffs(usage.service_tier)]) + price.request)


def nano(pico: PicoUSD) -> NanoUSD:
    """Pico-dollars as nano-dollars, rounded up."""
    return -(-pico // PICO_PER_NANO)


def _tokens_cost(usage: Usage, tariff: Tariff) -> PicoUSD:
    rates = rates_at(tariff, usage.input_tokens)
    kept_an_hour = usage.cache_creation_1h_input_tokens
    input_parts = (
        (kept_an_hour, rates.cache_write_1h),
        (usage.cache_creation_input_tokens - kept_an_hour, rates.cache_write),
        (usage.audio_input_tokens, rates.audio_input),
        (usage.cache_read_input_tokens, rates.cache_read),
    )
    output_parts = (
        (usage.reasoning_output_tokens, rates.reasoning),
        (usage.audio_output_tokens, rates.audio_output),
    )
    return _charge(usage.input_tokens, rates.input, input_parts) + _charge(
        usage.output_tokens, rates.output, output_parts
    )


def _charge(total: int, rate: PicoUSD, parts: tuple[tuple[int, PicoUSD], ...]) -> PicoUSD:
    """The cost of `total` tokens of which `parts` have rates of their own; no token is charged twice."""
    pico, left = 0, total
    for tokens, part_rate in parts:
        if tokens:
            charged = min(tokens, left)
            pico += charged * part_rate
            left -= charged
    return pico + left * rate


_Stated = Mapping[str, PicoUSD]
"""The rates that were given, by class."""


def _steps(prices: Mapping[str, Any]) -> dict[int, _Stated]:
    """What one tier states, by the number of input tokens above which it holds."""
    steps: dict[int, _Stated] = {-1: _stated(prices)}
    for above, rates in _section(prices, "above").items():
        _refuse_unknown(rates, RATE_NAMES)
        if not str(above).isdecimal():
            raise ValueError(f"above: {above!r} is no number of input tokens")
        steps[int(above)] = _stated(rates)
    return steps


def _stated(prices: Mapping[str, Any]) -> _Stated:
    scale = PICO_PER_USD // TOKENS_PER_UNIT
    return {name: _pico(prices[name], name, scale, MAX_RATE) for name in RATE_NAMES if name in prices}


def _tariff(own: Mapping[int, _Stated], standard: Mapping[int, _Stated]) -> Tariff:
    """The steps that one tier states, their gaps filled from its shorter steps and from the standard tier."""
    steps = []
    for above in sorted(own):
        lesser = [rates for tier in (own, standard) for start, rates in tier.items() if start <= above]
        steps.append(Step(above, _rates(own[above], lesser)))
    return tuple(steps)


def _with_steps_of(standard: Tariff, tariff: Tariff) -> Tariff:
    """A tier with the steps that only the standard tier states: there each class is the dearer one of the two."""
    steps = {step.above: step for step in tariff}
    for above in {step.above for step in standard} - set(steps):
        both = rates_at(standard, above + 1), rates_at(tariff, above + 1)
        steps[above] = Step(above, Rates(*(max(getattr(rates, name) for rates in both) for name in RATE_NAMES)))
    return tuple(steps[above] for above in sorted(steps))


def _rates(stated: _Stated, lesser: Sequence[_Stated]) -> Rates:
    """The rates of one step: what is stated for it, else the dearest of what may be meant, for no discount is assumed.

    That is what its kind costs here (a cached token is an input token), and what `lesser` steps and tiers ask for it.
    Raises ValueError where input or output has no rate at all.
    """
    for name in ("input", "output"):
        if not any(name in rates for rates in (stated, *lesser)):
            raise ValueError(f'the price of {name} is missing; write {name}: "0" where it costs nothing')

    def rate(name: str, kind: PicoUSD = 0) -> PicoUSD:
        return stated.get(name, max([kind, *(rates.get(name, 0) for rates in lesser)]))

    base, output = rate("input"), rate("output")
    cache_write = rate("cache_write", base)
    return Rates(
        input=base,
        output=output,
        cache_read=rate("cache_read", base),
        cache_write=cache_write,
        cache_write_1h=rate("cache_write_1h", cache_write),
        audio_input=rate("audio_input", base),
        reasoning=rate("reasoning", output),
        audio_output=rate("audio_output", output),
    )


def _pico(amount: object, name: str, scale: int, most: PicoUSD) -> PicoUSD:
    """A decimal amount times `scale`, exactly. Raises ValueError for what is no price."""
    try:
        value = Decimal(str(amount)) * scale
    except InvalidOperation as exc:
        raise ValueError(f'{name}: {amount!r} is not a price; write a decimal, such as "0.50"') from exc
    if not value.is_finite() or not 0 <= value <= most:
        raise ValueError(f"{name}: {amount!r} is not a price; it must be from 0 to {most // scale} USD")
    if value != int(value):
        raise ValueError(f"{name}: {amount!r} is finer than {1 / Decimal(scale):f} USD, the smallest part that is kept")
    return int(value)


def _section(prices: Mapping[str, Any], name: str) -> Mapping[Any, Mapping[str, Any]]:
    """The part `above` or `tiers`, checked to be a mapping of mappings."""
    section = prices.get(name, {})
    if not isinstance(section, Mapping) or not all(isinstance(rates, Mapping) for rates in section.values()):
        raise ValueError(f"{name}: rates are given by name, such as {name}: {{200000: {{input: 6, output: 22.50}}}}")
    return section


def _refuse_unknown(prices: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in prices:
        if key not in known:
            nearest = get_close_matches(str(key), known, n=1, cutoff=0)
            raise ValueError(f"{key!r} is no part of a price; the nearest is {nearest[0]!r}")


if __name__ == "__main__":
    from budgets.price_table import main

    sys.exit(main(sys.argv[1:]))
