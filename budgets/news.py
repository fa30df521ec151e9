"""What is worth a line in the log: a state once, and not each of the many requests that meet it."""

import time
from collections.abc import Callable

QUIET = 60.0
"""Seconds without which a state counts as over: when it comes again, that is news."""
MOST = 100
"""States that are remembered."""


class News:
    """Tells what is new from what goes on. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._met_at: dict[str, float] = {}

    def is_new(self, state: str) -> bool:
        """Whether `state` was not met for a while; from now on it was."""
        now = self._clock()
        met_at = self._met_at.pop(state, None)
        self._met_at[state] = now
        if len(self._met_at) > MOST:
            del self._met_at[next(iter(self._met_at))]
        return met_at is None or now - met_at > QUIET
