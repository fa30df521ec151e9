"""The ledger's scripts as plain functions, for tests that speak to Redis without a ledger between."""

import time
from dataclasses import dataclass
from typing import Any

import redis

from budgets import redis_layout
from budgets.budget import parse_limit, to_hash
from budgets.redis_connection import load_script
from budgets.windows import boundaries

LEASES = redis_layout.leases("a")
SUSPENSE = "pm:{a}:suspense"
TOMBSTONE_MS = 3_600_000
ESTIMATES_MS = 86_400_000
HOUR = 3600


@dataclass
class Scripts:
    """The account `a`, whose key `k` is in version 1; scopes are any names. Money is nano-USD."""

    client: redis.Redis
    known: tuple[str, int] = ("", 0)
    """The mark that a gateway has seen."""

    def __post_init__(self) -> None:
        self.client.hset(redis_layout.key("a", "k"), mapping={"record": "{}", "version": 1})

    def limit(self, scope: str, *limits: str) -> None:
        self.client.hset(redis_layout.scope("a", scope), "limits", to_hash(map(parse_limit, limits)))

    def limit_nano(self, scope: str, amount: int) -> None:
        self.client.hset(redis_layout.scope("a", scope), "limits", f"lifetime={amount}")

    def reserve(self, attempt: str, amount: int | str, *scopes: str, version: int = 1, now: float | None = None) -> Any:
        windows = boundaries(time.time() if now is None else now)
        facts = ("prices", "model", *self.known)
        answer = self._run("reserve", LEASES, attempt, "k", version, amount, 60_000, *facts, windows, *scopes)
        return answer[:4] if answer[0] == "held" else answer  # the mark is told by `mark`

    def settle(self, attempt: str, spent: int | str, holds: str = "", *, age: float = 0) -> str:
        return str(self._run("settle", LEASES, attempt, spent, holds, TOMBSTONE_MS, _latest(age), 1)[0])

    def void(self, attempt: str) -> str:
        return str(self._run("void", LEASES, attempt, TOMBSTONE_MS)[0])

    def suspend(self, attempt: str, amount: int, estimate: int, holds: str = "", *, age: float = 0) -> str:
        facts = ("k", "prices", "model", int(age * 1000))
        return str(self._run("suspend", LEASES, attempt, amount, estimate, holds, _latest(age), 1, *facts)[0])

    def renew(self, *attempts: str) -> list[str]:
        return list(self._run("renew", LEASES, 60_000, *attempts))

    def restore(self, attempt: str, amount: int, holds: str) -> str:
        return str(self._run("restore", LEASES, attempt, amount, 60_000, holds, "k", "prices", "model"))

    def extend(self, attempt: str, wanted: int | str) -> Any:
        return self._run("extend", LEASES, attempt, wanted, *self.known)

    def reap(self, most: int = 100) -> int:
        return self._tend(most, "")[0]

    def accept(self, after: float, most: int = 100) -> int:
        return int(
            self._run("reap", LEASES, most, f"{after:.0f}", ESTIMATES_MS, *self.known, boundaries(time.time()))[1]
        )

    def reconcile(self, attempt: str, billed: int | str) -> Any:
        return self._run("reconcile", LEASES, attempt, billed, TOMBSTONE_MS, 1)[:2]

    def free(self, attempt: str) -> Any:
        """A bill that should have it does not."""
        return self.reconcile(attempt, "")

    def waited(self, attempt: str, seconds: float) -> None:
        """It has been in suspense for so long."""
        self.client.zadd(SUSPENSE, {attempt: int(self.client.time()[0] - seconds)}, xx=True)

    def suspended(self, *attempts: str) -> list[Any]:
        return list(self._run("suspense", LEASES, *attempts))

    def confirm(self) -> Any:
        return self._run("confirm", LEASES, self.known[0])

    def resolve(self, digest: str) -> Any:
        return self._run("resolve", redis_layout.secret("a", digest), boundaries(time.time()), *self.known)

    def mark(self) -> tuple[str, int]:
        era, count = self.client.hmget(redis_layout.mark("a"), "era", "count")
        return era or "", int(count or 0)

    def let_leases_run_out(self) -> None:
        for attempt in self.client.zrange(LEASES, 0, -1):
            self.client.zadd(LEASES, {attempt: 1})

    def used(self, scope: str, period: str = "lifetime:0") -> tuple[int, ...]:
        """Spent, held and in suspense."""
        return tuple(map(int, (self.client.hget(redis_layout.scope("a", scope), period) or "0 0 0").split()))

    def attempt(self, attempt: str) -> dict[str, str]:
        text = self.client.get(f"pm:{{a}}:attempt:{attempt}")
        if text is None:
            return {}
        head, *rest = text.split("\n", 4)
        if not rest:
            return dict(zip(("state", "spent"), head.split(" "), strict=False))
        return dict(zip(("state", "amount", "estimate", "remaining"), head.split(" "), strict=True)) | dict(
            zip(("key", "prices", "model", "holds"), rest, strict=True)
        )

    def lives_for_ever(self, attempt: str) -> bool:
        return self.client.pttl(f"pm:{{a}}:attempt:{attempt}") == -1

    def _tend(self, most: int, accept_after: str) -> tuple[int, int]:
        now = boundaries(time.time())
        reaped, accepted, *_ = self._run("reap", LEASES, most, accept_after, ESTIMATES_MS, *self.known, now)
        return reaped, accepted

    def _run(self, name: str, key: str, *args: str | int) -> Any:
        return self.client.eval(load_script(name).source, 1, key, *args)


def _latest(age: float) -> int:
    return int((time.time() - age) * 1000) + TOMBSTONE_MS
