"""The bill: what every attempt was charged, one JSON line each in a file that only grows.

A line is written with one `os.write` before the attempt's last bytes are sent, so that no answer a client has in full
is missing from the bill, even after `kill -9`. The same attempt id twice is charged twice, as a provider would.
"""

import fcntl
import os
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import orjson

from gateway.sandbox.models import Model, Usage, to_usd

Policy = Literal["all", "delivered", "nothing"]
"""What an attempt costs whose answer was not delivered to its end, whoever broke it off: everything that would have
been generated; the input and the output tokens that were sent; or nothing. When the sandbox itself is ended, only
`all` has charged what was under way."""

UNKNOWN_KEY = "unknown"


class BillDamaged(Exception):
    """The bill's file holds a line that is no charge; the sandbox does not start on it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is charged: the attempt and key ids that the caller gave (there may be none), the model, the tokens."""

    id: str | None
    key: str
    model: Model
    usage: Usage

    def line(self) -> bytes:
        """The attempt's line in the file, money in nano-dollars."""
        charge = {
            "attempt": self.id,
            "key": self.key,
            "model": self.model.name,
            "input_tokens": self.usage.input_tokens,
            "cached_input_tokens": self.usage.cached_input_tokens,
            "output_tokens": self.usage.output_tokens,
            "reasoning_tokens": self.usage.reasoning_tokens,
            "nano_usd": self.model.charge(self.usage),
        }
        return orjson.dumps(charge, option=orjson.OPT_APPEND_NEWLINE)


class Bill:
    """The file and, in memory, its totals by key."""

    def __init__(self, path: Path) -> None:
        """Open the bill at `path` and add up what it holds; a missing file is made.

        The file is locked for as long as the process lives, and a lock held by a dying predecessor is waited for.
        Raises BillDamaged for a line that is no charge, OSError where the file cannot be opened.
        """
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock()
        self._nano_by_key: defaultdict[str, int] = defaultdict(int)
        self._attempts = 0
        self._load()

    def add(self, attempt: Attempt) -> None:
        """Charge `attempt`. Raises OSError where the disk does not take the line whole; nothing is charged then."""
        line = attempt.line()
        written = os.write(self._file, line)
        if written != len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(f"{self._path} took only {written} of {len(line)} bytes")
        self._count(attempt.key, attempt.model.charge(attempt.usage))

    def summary(self) -> dict[str, Any]:
        """The totals as decimal strings of dollars, and how many attempts were charged."""
        by_key = {key: to_usd(nano) for key, nano in self._nano_by_key.items()}
        return {"total_usd": to_usd(sum(self._nano_by_key.values())), "attempts": self._attempts, "by_key": by_key}

    def lines(self) -> bytes:
        """Every charge, as the file holds it: JSON lines."""
        return self._path.read_bytes()

    def close(self) -> None:
        """Let go of the file, for another sandbox to take it over."""
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"sandbox: waiting for another sandbox to let go of {self._path}\n")
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def _load(self) -> None:
        lines = self.lines().split(b"\n")
        torn = len(lines.pop())  # a line without its end was never acknowledged: its writer died over it
        if torn:
            os.ftruncate(self._file, os.fstat(self._file).st_size - torn)
        for number, line in enumerate(lines, 1):
            try:
                charge = orjson.loads(line)
                self._count(charge["key"], charge["nano_usd"])
            except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
                raise BillDamaged(f"{self._path}, line {number}: not a charge") from exc

    def _count(self, key: str, nano: int) -> None:
        self._nano_by_key[key] += nano
        self._attempts += 1


class Charge:
    """Puts one attempt on the bill at most once, whatever becomes of its delivery.

    Under the policy `all` it is charged on entry, for the model runs to its end whoever listens. Under the others it
    is charged in full by `complete()` or in part by `break_off()`, whichever is called first; both are to be called
    before the last bytes, and the way out counts as breaking off.
    """

    def __init__(self, bill: Bill, attempt: Attempt, policy: Policy) -> None:
        self._bill = bill
        self._attempt = attempt
        self._policy = policy
        self._closed = False
        self.delivered_tokens = 0

    def __enter__(self) -> "Charge":
        if self._policy == "all":
            self.complete()
        return self

    def complete(self) -> None:
        """Charge the whole attempt."""
        if not self._closed:
            self._closed = True
            self._bill.add(self._attempt)

    def break_off(self) -> None:
        """Charge what the policy says of an answer of which no more will be delivered."""
        if not self._closed:
            self._closed = True
            if self._policy == "delivered":
                self._bill.add(self._delivered())

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.break_off()

    def _delivered(self) -> Attempt:
        usage = self._attempt.usage
        reasoning = min(usage.reasoning_tokens, self.delivered_tokens)
        sent = replace(usage, output_tokens=self.delivered_tokens, reasoning_tokens=reasoning)
        return replace(self._attempt, usage=sent)
