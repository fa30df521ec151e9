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
HOUR = 3600


@dataclass
class Scripts:
    """The account `a`, whose key `k` is in version 1; scopes are any names. Money is nano-USD."""

    client: redis.Redis

    def __post_init__(self) -> None:
        self.client.hset(redis_layout.key("a", "k"), mapping={"record": "{}", "version": 1})

    def limit(self, scope: str, *limits: str) -> None:
        self.client.hset(redis_layout.scope("a", scope), "limits", to_hash(map(parse_limit, limits)))

    def limit_nano(self, scope: str, amount: int) -> None:
        self.client.hset(redis_layout.scope("a", scope), "limits", f"lifetime={amount}")

    def reserve(self, attempt: str, amount: int | str, *scopes: str, version: int = 1, now: float | None = None) -> Any:
        windows = boundaries(time.time() if now is None else now)
        return self._run("reserve", LEASES, attempt, "k", version, amount, 60_000, "prices", "model", windows, *scopes)

    def settle(self, attempt: str, spent: int | str, holds: str = "", *, age: float = 0) -> str:
        return str(self._run("settle", LEASES, attempt, spent, holds, TOMBSTONE_MS, _latest(age)))

    def void(self, attempt: str) -> str:
        return str(self._run("void", LEASES, attempt, TOMBSTONE_MS))

    def suspend(self, attempt: str, amount: int, estimate: int, holds: str = "", *, age: float = 0) -> str:
        facts = ("k", "prices", "model")
        return str(self._run("suspend", LEASES, attempt, amount, estimate, holds, _latest(age), *facts))

    def renew(self, *attempts: str) -> None:
        self._run("renew", LEASES, 60_000, *attempts)

    def reap(self, most: int = 100) -> int:
        return int(self._run("reap", LEASES, most))

    def let_leases_run_out(self) -> None:
        for attempt in self.client.zrange(LEASES, 0, -1):
            self.client.zadd(LEASES, {attempt: 1})

    def used(self, scope: str, period: str = "lifetime:0") -> tuple[int, ...]:
        """Spent, held and in suspense."""
        fields = [f"{period}:{kind}" for kind in ("spent", "held", "suspense")]
        return tuple(int(value or 0) for value in self.client.hmget(redis_layout.scope("a", scope), fields))

    def attempt(self, attempt: str) -> dict[str, str]:
        return dict(self.client.hgetall(f"pm:{{a}}:attempt:{attempt}"))

    def lives_for_ever(self, attempt: str) -> bool:
        return self.client.pttl(f"pm:{{a}}:attempt:{attempt}") == -1

    def _run(self, name: str, key: str, *args: str | int) -> Any:
        return self.client.eval(load_script(name).source, 1, key, *args)


def _latest(age: float) -> int:
    return int((time.time() - age) * 1000) + TOMBSTONE_MS
