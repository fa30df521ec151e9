"""Windows of a limit and their periods, aligned to the UTC calendar; instants are Unix seconds. Pure."""

from calendar import timegm
from functools import lru_cache
from time import gmtime

WINDOWS = ("lifetime", "month", "day")
"""Longest first, the order in which limits are checked: of two that refuse, the later reset is the one to name."""

WINDOWS_WITH_PERIODS = WINDOWS[1:]

DAY = 86_400
MOST_APART = 300
"""Seconds that the clocks of Redis and of a gateway may differ; further apart, one of them has jumped."""


def start_of(window: str, at: float, offset: int = 0) -> int:
    """The first second of the period that contains `at`, or of the one `offset` periods later.

    Raises ValueError for a window without periods.
    """
    match window:
        case "month":
            now = gmtime(at)
            year, month = divmod(now.tm_year * 12 + now.tm_mon - 1 + offset, 12)
            return timegm((year, month + 1, 1, 0, 0, 0))
        case "day":
            return (int(at // DAY) + offset) * DAY
    raise ValueError(f"'{window}' is no window with periods")


def boundaries(at: float) -> str:
    """What the scripts must know of the calendar around `at`: `<earliest> <latest> month <four instants> day …`.

    A clock of Redis outside of the first two instants is wrong. The four are the starts of the previous, this and the
    next period, and the next one's end; the scripts pick the period by the clock of Redis, which may be behind us.
    """
    now = int(at)
    return f"{now - MOST_APART} {now + MOST_APART} {_boundaries_of_day(now // DAY)}"


@lru_cache(maxsize=4)
def _boundaries_of_day(day: int) -> str:
    parts = []
    for window in WINDOWS_WITH_PERIODS:
        parts += [window, *(str(start_of(window, day * DAY, offset)) for offset in (-1, 0, 1, 2))]
    return " ".join(parts)
