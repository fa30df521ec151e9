"""The gateway's books: what each scope has spent, holds and has in suspense, read from Redis past every fault."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from budgets import redis_layout
from budgets.budget import Limit, to_hash
from budgets.redis_connection import RedisConnection, load_script
from budgets.windows import boundaries

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

    async def limit(self, account: str, scope: str, amount: int) -> None:
        """Let a scope spend so much, ever, in the place of the limits that it has. Raises LedgerUnavailable."""
        key = redis_layout.scope(account, scope)
        await self._connection.call("HSET", key, "limits", to_hash([Limit(amount, "lifetime")]))

    async def held(self, account: str, scopes: Sequence[str]) -> dict[str, int]:
        """The scopes of an account that hold something, with how much. Raises LedgerUnavailable."""
        found = {scope: (await self.money(account, scope)).held for scope in scopes}
        return {scope: held for scope, held in found.items() if held}
