"""The gateway's books: what each scope has spent, holds and has in suspense, read from Redis past every fault."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from budgets import redis_layout
from budgets.budget import Limit, to_hash
from budgets.redis_connection import RedisConnection, load_script
from budgets.windows import boundaries

LIFETIME = "lifetime:0"
NO_TTL = -1
SCAN = 1_000
"""Names that Redis looks through with one command."""
SCOPES = ("account", "team:chaos", "user:chaos", "run:chaos")
"""What pays besides the key, where the chaos worker adds scopes."""


@dataclass(frozen=True, slots=True)
class Money:
    """Of one scope; nano-dollars."""

    spent: int
    held: int
    suspense: int

    @property
    def counted(self) -> int:
        """All that counts against limits."""
        return self.spent + self.held + self.suspense

    @property
    def is_below_zero(self) -> bool:
        return self.held < 0 or self.suspense < 0


class Books:
    """Reads a ledger with the production ledger's own script. Use it as an asynchronous context manager."""

    def __init__(self, redis_url: str, *, deadline: float = 2.0) -> None:
        """`redis_url` leads to the server itself, which has `deadline` seconds for an answer."""
        self._connection = RedisConnection(redis_url, deadline=deadline)
        self._status = load_script("status")

    async def __aenter__(self) -> "Books":
        await self._connection.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def money(self, account: str, scope: str = "account") -> Money:
        """Raises LedgerUnavailable."""
        key = redis_layout.scope(account, scope)
        spent, held, suspense, *_ = await self._connection.script(self._status, (key,), (boundaries(time.time()),))
        return Money(spent, held, suspense)

    async def periods(self, account: str, scope: str = "account") -> dict[str, Money]:
        """Of every period that Redis has of a scope, `day:<start>` and `lifetime:0`, the past ones too.

        Raises LedgerUnavailable.
        """
        fields = await self._connection.call("HGETALL", redis_layout.scope(account, scope))
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return {name.decode(): Money(*map(int, text.split())) for name, text in pairs if b":" in name}

    async def windows(self, account: str, scope: str) -> list[str]:
        """Those that a scope is limited in. Raises LedgerUnavailable."""
        limits = await self._connection.call("HGET", redis_layout.scope(account, scope), "limits") or b""
        return [limit.partition("=")[0] for limit in limits.decode().split()]

    async def limit(self, account: str, scope: str, amount: int) -> None:
        """Let a scope spend so much, ever, in the place of the limits that it has. Raises LedgerUnavailable."""
        key = redis_layout.scope(account, scope)
        await self._connection.call("HSET", key, "limits", to_hash([Limit(amount, "lifetime")]))

    async def held(self, account: str, scopes: Sequence[str]) -> dict[str, int]:
        """What is held, by scope and period, as in `account day:86400`. Raises LedgerUnavailable."""
        return {
            f"{scope} {period}": money.held
            for scope in scopes
            for period, money in (await self.periods(account, scope)).items()
            if money.held
        }

    async def left(self, account: str, scopes: Sequence[str]) -> list[str]:
        """What is left, once nothing is held, that must not be, in words. Raises LedgerUnavailable."""
        wrong = [
            f"{scope} {period} has {money}"
            for scope in scopes
            for period, money in (await self.periods(account, scope)).items()
            if money.is_below_zero
        ]
        leases = await self._connection.call("ZCARD", redis_layout.leases(account))
        if leases:
            wrong.append(f"{leases} leases are left")
        return wrong + [f"{name} is kept for ever" for name in await self._kept(account)]

    async def _kept(self, account: str) -> list[str]:
        """The attempts that do not expire, although they are not in suspense."""
        prefix = redis_layout.leases(account).removesuffix("leases") + "attempt:"
        kept, cursor = set(), b""
        while cursor != b"0":
            cursor, names = await self._connection.call("SCAN", cursor or 0, "MATCH", f"{prefix}*", "COUNT", SCAN)
            ttls = await asyncio.gather(*(self._connection.call("PTTL", name) for name in names))
            kept |= {name.decode() for name, ttl in zip(names, ttls, strict=True) if ttl == NO_TTL}
        waiting = {
            f"{prefix}{attempt.decode()}"
            for attempt in await self._connection.call("ZRANGE", redis_layout.suspense(account), 0, -1)
        }
        return sorted(kept - waiting)
