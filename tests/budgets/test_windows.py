from calendar import timegm
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.windows import MOST_APART, boundaries, start_of

INSTANTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


def at(text: str) -> int:
    return timegm(datetime.fromisoformat(text).timetuple())


@given(INSTANTS)
def test_a_day_starts_at_midnight_utc(moment: datetime) -> None:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)

    assert start_of("day", moment.timestamp()) == midnight.timestamp()
    assert start_of("day", moment.timestamp(), 1) == (midnight + timedelta(days=1)).timestamp()


@given(INSTANTS)
def test_a_month_starts_on_its_first_and_ends_where_the_next_starts(moment: datetime) -> None:
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    next_first = (first + timedelta(days=31)).replace(day=1)

    assert start_of("month", moment.timestamp()) == first.timestamp()
    assert start_of("month", moment.timestamp(), 1) == next_first.timestamp()
    assert start_of("month", next_first.timestamp(), -1) == first.timestamp()


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2028-02-29T23:59:59", "2028-03-01"),
        ("2027-02-28T23:59:59", "2027-03-01"),
        ("2100-02-28T12:00:00", "2100-03-01"),
        ("2026-12-31T23:59:59", "2027-01-01"),
        ("2026-12-01T00:00:00", "2027-01-01"),
    ],
)
def test_months_end_where_the_calendar_says(now: str, end: str) -> None:
    assert start_of("month", at(now), 1) == at(end)


def test_the_last_moment_of_a_day_belongs_to_it_and_the_next_does_not() -> None:
    midnight = at("2026-11-23")

    assert start_of("day", midnight - 0.000001) == at("2026-11-22")
    assert start_of("day", midnight) == midnight


def test_the_scripts_are_told_the_previous_this_and_the_next_period_of_each_window() -> None:
    months = [at(f"2026-{month}-01") for month in (10, 11, 12)] + [at("2027-01-01")]
    days = [at(f"2026-11-{day}") for day in (21, 22, 23, 24)]

    now = at("2026-11-22T11:00:00")
    bounds = [str(now - MOST_APART), str(now + MOST_APART)]

    assert boundaries(now).split() == [*bounds, "month", *map(str, months), "day", *map(str, days)]


def test_the_scripts_are_told_how_far_the_clocks_may_be_apart() -> None:
    assert boundaries(1_000_000_000.9).split()[:2] == ["999999700", "1000000300"]


def test_a_window_without_periods_has_no_start() -> None:
    with pytest.raises(ValueError, match="'lifetime' is no window with periods"):
        start_of("lifetime", 0)
