"""Money as an integer number of nano-dollars. Decimal dollars exist only at the edges."""

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import TypeAlias

NanoUSD: TypeAlias = int
"""A billionth of a US dollar."""

NANO_PER_USD = 1_000_000_000
MAX_NANO: NanoUSD = 2**53 - 1
"""Redis scripts count in doubles, which are exact up to here (about nine million dollars)."""


def from_usd(usd: str | int | Decimal) -> NanoUSD:
    """Decimal dollars as nano-dollars, rounded up; `"0.01"` is 10,000,000.

    Raises ValueError for what is no amount: text, NaN, a negative number, or more than `MAX_NANO`.
    """
    try:
        amount = Decimal(usd)
    except InvalidOperation as exc:
        raise ValueError(f"{usd!r} is not an amount of dollars; write it as a decimal, such as 0.50") from exc
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{usd!r} is not an amount of dollars; it must be zero or more")
    nano = int((amount * NANO_PER_USD).to_integral_value(ROUND_CEILING))
    if nano > MAX_NANO:
        raise ValueError(f"{usd} USD is too much for one budget; the most is {to_usd(MAX_NANO)} USD")
    return nano


def to_usd(nano: NanoUSD) -> str:
    """Nano-dollars as a decimal string of dollars without needless zeros; 10,000,000 is `"0.01"`."""
    whole, part = divmod(abs(nano), NANO_PER_USD)
    digits = f"{part:09d}".rstrip("0")
    return f"{'-' if nano < 0 else ''}{whole}{'.' if digits else ''}{digits}"
