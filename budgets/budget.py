"""Limit: how much money a scope may spend in a window. Text forms for people (`5/day`) and for the scope's hash."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from budgets.money import MAX_NANO, NanoUSD, from_usd, to_usd
from budgets.windows import WINDOWS


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` nano-USD spent, held and in suspense within one period of `window`.

    Raises ValueError for an unknown window (it names the nearest one) or an amount outside 0 … `MAX_NANO`.
    """

    amount: NanoUSD
    window: str

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise ValueError(unknown_window(self.window))
        if not 0 <= self.amount <= MAX_NANO:
            raise ValueError(f"a limit of {to_usd(self.amount)} USD; it must be between 0 and {to_usd(MAX_NANO)} USD")

    def __str__(self) -> str:
        """The form `parse_limit` reads: `5/day`, in dollars."""
        return f"{to_usd(self.amount)}/{self.window}"


def parse_limit(text: str) -> Limit:
    """Dollars and a window, `5/day` or `0.01/lifetime`, as a limit. Raises ValueError that says what is wrong."""
    amount, slash, window = text.partition("/")
    if not slash:
        raise ValueError(f"{text}: a limit is dollars/window, such as 5/day; windows: {', '.join(WINDOWS)}")
    try:
        return Limit(from_usd(amount.strip()), window.strip())
    except ValueError as exc:
        raise ValueError(f"{text}: {exc}") from exc


def check_limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """The limits as a tuple. Raises ValueError where two are for the same window."""
    checked = tuple(limits)
    windows = [limit.window for limit in checked]
    for window in WINDOWS:
        if windows.count(window) > 1:
            raise ValueError(f"{windows.count(window)} limits for the window '{window}'; one is enough")
    return checked


def to_hash(limits: Iterable[Limit]) -> str:
    """The `limits` field of a scope's hash: `lifetime=10000000 day=5000000`, in nano-USD."""
    return " ".join(f"{limit.window}={limit.amount}" for limit in limits)


def unknown_window(name: str) -> str:
    """The message for a window that does not exist."""
    near = get_close_matches(name, WINDOWS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return f"unknown window '{name}'{hint} known: {', '.join(WINDOWS)}"
