import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.budget import Limit, check_limits, parse_limit, to_hash
from budgets.money import MAX_NANO
from budgets.windows import WINDOWS

LIMITS = st.builds(Limit, st.integers(0, MAX_NANO), st.sampled_from(WINDOWS))


def test_dollars_and_a_window_make_a_limit() -> None:
    assert parse_limit("5/day") == Limit(5_000_000_000, "day")
    assert parse_limit(" 0.01 / lifetime ") == Limit(10_000_000, "lifetime")


@given(LIMITS)
def test_a_limit_reads_back_as_it_is_written(limit: Limit) -> None:
    assert parse_limit(str(limit)) == limit


def test_the_hash_says_nano_dollars() -> None:
    assert to_hash([parse_limit("0.01/lifetime"), parse_limit("5/day")]) == "lifetime=10000000 day=5000000000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5/dya", "5/dya: unknown window 'dya'; did you mean 'day'? known: lifetime, month, day"),
        ("5/fortnight", "5/fortnight: unknown window 'fortnight'; known: lifetime, month, day"),
        ("5", "5: a limit is dollars/window, such as 5/day; windows: lifetime, month, day"),
        ("1/2/day", "1/2/day: unknown window '2/day'; did you mean 'day'? known: lifetime, month, day"),
        ("five/day", "five/day: 'five' is not an amount of dollars; write it as a decimal, such as 0.50"),
        ("-1/day", "-1/day: '-1' is not an amount of dollars; it must be zero or more"),
        ("1e30/day", "1e30/day: 1e30 USD is too much for one budget; the most is 9007199.254740991 USD"),
    ],
)
def test_what_is_no_limit_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  the message is compared whole
        parse_limit(text)

    assert str(refusal.value) == message


def test_a_limit_of_more_than_redis_can_count_is_refused() -> None:
    with pytest.raises(ValueError, match="must be between 0 and"):
        Limit(MAX_NANO + 1, "day")


def test_the_most_that_redis_can_count_is_a_limit() -> None:
    assert Limit(MAX_NANO, "day").amount == MAX_NANO


def test_limits_for_different_windows_are_kept_in_their_order() -> None:
    limits = [parse_limit("5/day"), parse_limit("7/month")]

    assert check_limits(iter(limits)) == tuple(limits)


def test_two_limits_for_one_window_are_refused() -> None:
    with pytest.raises(ValueError, match="2 limits for the window 'day'; one is enough"):
        check_limits([parse_limit("5/day"), parse_limit("6/day"), parse_limit("7/month")])
