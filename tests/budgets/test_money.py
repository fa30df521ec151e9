from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.money import MAX_NANO, from_usd, to_usd


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        ("0", 0),
        ("0.01", 10_000_000),
        ("5", 5_000_000_000),
        (7, 7_000_000_000),
        (Decimal("0.5"), 500_000_000),
        ("1e-9", 1),
        ("0.0000000001", 1),
        ("1.0000000001", 1_000_000_001),
        ("9007199.254740991", MAX_NANO),
    ],
)
def test_dollars_become_nano_dollars_rounded_up(usd: str | int | Decimal, nano: int) -> None:
    assert from_usd(usd) == nano


@pytest.mark.parametrize(
    "usd", ["", "five", "1,5", "$5", "NaN", "Infinity", "-1", "-0.01", "9007199.254740992", "1e30"]
)
def test_what_is_no_amount_is_refused(usd: str) -> None:
    with pytest.raises(ValueError, match=r"amount of dollars|too much"):
        from_usd(usd)


@pytest.mark.parametrize(
    ("nano", "usd"),
    [(0, "0"), (1, "0.000000001"), (10_000_000, "0.01"), (5_000_000_000, "5"), (-10_000_000, "-0.01")],
)
def test_nano_dollars_are_shown_without_needless_zeros(nano: int, usd: str) -> None:
    assert to_usd(nano) == usd


@given(st.integers(0, MAX_NANO))
def test_what_is_shown_reads_the_same_again(nano: int) -> None:
    assert from_usd(to_usd(nano)) == nano
