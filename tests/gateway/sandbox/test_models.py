from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox.models import MODELS, Usage, to_usd

PER_MILLION = {
    "sandbox-small": ("0.10", "0.10", "0.40"),
    "sandbox-medium": ("0.50", "0.50", "2"),
    "sandbox-large": ("3", "0.30", "15"),
    "exact": ("0", "0", "0"),
}


@given(st.sampled_from(sorted(MODELS)), *[st.integers(0, 10**7)] * 3)
def test_a_charge_is_tokens_times_price_to_the_nano_dollar(name: str, fresh: int, cached: int, output: int) -> None:
    charge = MODELS[name].charge(Usage(fresh + cached, output, cached_input_tokens=cached))

    prices = [Fraction(price) / 10**6 for price in PER_MILLION[name]]
    usd = sum(price * tokens for price, tokens in zip(prices, (fresh, cached, output), strict=True))
    usd += Fraction(1, 1000) if name == "exact" else 0
    assert Fraction(charge, 10**9) == usd


@given(st.integers(0, 2**53))
def test_dollars_are_written_without_loss(nano: int) -> None:
    assert Decimal(to_usd(nano)) * 10**9 == nano


@pytest.mark.parametrize(("nano", "usd"), [(0, "0"), (10_000_000, "0.01"), (1, "0.000000001"), (10 * 10**9, "10")])
def test_dollars_are_written_without_needless_zeros(nano: int, usd: str) -> None:
    assert to_usd(nano) == usd
