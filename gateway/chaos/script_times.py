"""What the ledger's two scripts of a request cost Redis at five scopes, by its own count (`INFO commandstats`)."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from budgets import redis_layout
from budgets.redis_connection import load_script
from budgets.windows import boundaries
from gateway.chaos.redis_server import RedisServer

SCOPES = ("account", "team:chaos", "user:chaos", "key:key_chaos_0123456789abcdef", "run:run_chaos_1")
WINDOWS = {"one window": ("day",), "three windows": ("lifetime", "month", "day")}
"""Those that each of the scopes limits; its lifetime is always counted."""
BATCHES = 40
CALLS = 50
"""In a batch. The median of the batches is told and the best, since the machine may do other things meanwhile."""
LONG_MS = 3_600_000
PLENTY = 10**15


async def script_times(batches: int = BATCHES) -> dict[str, float]:
    """Microseconds for a call of each script, on a server of its own."""
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        async with RedisServer(Path(folder)) as server, Redis.from_url(server.url) as redis:
            await redis.hset(redis_layout.key("chaos", "k"), mapping={"record": "{}", "version": 1})
            for name, windows in WINDOWS.items():
                await _limit(redis, windows)
                pairs = [await _batch(redis, f"{name}{number}") for number in range(batches)]
                for script, figures in zip(("reserve", "settle"), zip(*pairs, strict=True), strict=True):
                    times[f"{script} at {name}, µs"] = round(statistics.median(figures), 1)
                    times[f"{script} at {name}, at best, µs"] = round(min(figures), 1)
    return times


async def _limit(redis: Redis, windows: tuple[str, ...]) -> None:
    for scope in SCOPES:
        limits = " ".join(f"{window}={PLENTY}" for window in windows)
        await redis.hset(redis_layout.scope("chaos", scope), "limits", limits)


async def _batch(redis: Redis, name: str) -> tuple[float, float]:
    """Reserve and settle some attempts; microseconds a call of each."""
    ids = [f"att_chaos_{name.replace(' ', '')}_{number}" for number in range(CALLS)]
    now = time.time()
    facts: tuple[Any, ...] = ("k", 1, 1000, LONG_MS, "prices", "model", "", 0, boundaries(now), *SCOPES)
    reserving, held = await _timed(redis, "reserve", [(each, *facts) for each in ids])
    latest = round(now * 1000) + LONG_MS
    settles = [(each, 900, answer[3], LONG_MS, latest, 1) for each, answer in zip(ids, held, strict=True)]
    settling, _ = await _timed(redis, "settle", settles)
    return reserving, settling


async def _timed(redis: Redis, script: str, calls: list[tuple[Any, ...]]) -> tuple[float, list[Any]]:
    digest = await redis.script_load(load_script(script).source)
    await redis.config_resetstat()
    async with redis.pipeline(transaction=False) as pipe:
        for arguments in calls:
            pipe.evalsha(digest, 1, redis_layout.leases("chaos"), *arguments)
        answers = await pipe.execute()
    return (await redis.info("commandstats"))["cmdstat_evalsha"]["usec_per_call"], answers
