"""Books that are wrong: what tests show to those who look for it."""

from dataclasses import dataclass

from budgets import redis_layout
from gateway.chaos.world import Key, World


@dataclass(frozen=True)
class Forger:
    """Changes an account's books in Redis by hand."""

    world: World
    key: Key

    async def periods(self, scope: str, **periods: str) -> None:
        """Write `<spent> <held> <in suspense>`: of the lifetime, and of the day that began at `day` in Unix seconds."""
        for name, text in periods.items():
            period = "lifetime:0" if name == "lifetime" else f"day:{name.removeprefix('day')}"
            await self.world.redis.call("HSET", redis_layout.scope(self.key.account, scope), period, text)

    async def attempt(self, name: str, text: str | None, *options: str | int) -> None:
        """Write what Redis has of an attempt, or nothing."""
        key = redis_layout.leases(self.key.account).removesuffix("leases") + f"attempt:{name}"
        await self.world.redis.call(*(("DEL", key) if text is None else ("SET", key, text, *options)))

    async def lease(self, name: str, ends_at: float) -> None:
        await self.world.redis.call("ZADD", redis_layout.leases(self.key.account), round(ends_at * 1000), name)
