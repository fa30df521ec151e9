"""The models that the sandbox sells, and what it charges for them.

The price table is written down here and nowhere else: the gateway has a copy of its own, so that each side checks the
other. Every price is a whole number of nano-dollars (billionths of a dollar) per token: 0.10 USD per million tokens
are 100. All arithmetic is therefore exact, and rounding up once per attempt leaves every charge as it is.
"""

from dataclasses import dataclass

NANO_PER_USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one attempt, summed over its choices; the totals include their parts."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """One model: its prices in nano-dollars per token (per request for `request_price`) and how well it does.

    `cached_input_price` is None for a model without a prompt cache. `sentences` is the length of an everyday answer.
    """

    name: str
    input_price: int = 0
    output_price: int = 0
    cached_input_price: int | None = None
    request_price: int = 0
    sentences: int = 1
    reasons: bool = False
    max_output_tokens: int = 16_384
    context_window: int = 131_072

    def charge(self, usage: Usage) -> int:
        """What an attempt costs, in nano-dollars; cached tokens are charged at their own price instead of the full."""
        cached_price = self.input_price if self.cached_input_price is None else self.cached_input_price
        fresh = usage.input_tokens - usage.cached_input_tokens
        tokens = fresh * self.input_price + usage.cached_input_tokens * cached_price
        return self.request_price + tokens + usage.output_tokens * self.output_price


MODELS = {
    model.name: model
    for model in (
        Model("sandbox-small", input_price=100, output_price=400, sentences=1),
        Model("sandbox-medium", input_price=500, output_price=2_000, sentences=3),
        Model(
            "sandbox-large",
            input_price=3_000,
            output_price=15_000,
            cached_input_price=300,
            sentences=7,
            reasons=True,
        ),
        Model("exact", request_price=1_000_000),
    )
}
"""By name. In USD per million tokens: 0.10/0.40, 0.50/2, 3/15 (cached 0.30), and 0.001 USD per request."""


def to_usd(nano: int) -> str:
    """Nano-dollars (zero or more) as a decimal string of dollars without needless zeros: 10,000,000 is `"0.01"`."""
    whole, part = divmod(nano, NANO_PER_USD)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")
