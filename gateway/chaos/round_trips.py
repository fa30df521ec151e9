"""How often a request asks Redis, by what Redis itself hears (`MONITOR`); work in the background is left out."""

from redis.asyncio import Redis
from redis.asyncio.client import Monitor

from budgets.redis_connection import load_script
from gateway.chaos.load import chat
from gateway.chaos.world import World

LATER = 20
"""Requests after the first one."""
SETTLE = load_script("settle").sha1
BACKGROUND = {load_script(name).sha1 for name in ("reap", "renew", "restore")}


async def round_trips(world: World) -> dict[str, float]:
    """Of the first request of a key, and the most of a later one; to be asked where all else is quiet."""
    await _requests(world, 1)  # whatever Redis was told before, it knows the scripts now
    counts = await _requests(world, 1 + LATER)
    return {"round trips of a key's first request": counts[0], "round trips of a later one": max(counts[1:])}


async def _requests(world: World, times: int) -> list[int]:
    """The round trips of each request of a new key, over one connection and so by one worker."""
    key, counts = await world.create_key(), []
    async with Redis.from_url(world.redis.url) as redis, redis.monitor() as monitor:
        with world.caller(key) as caller:
            for _ in range(times):
                await caller.ask(**chat("exact", "round trips"))
                counts.append(await _until_settled(monitor, key.account))
    return counts


async def _until_settled(monitor: Monitor, account: str) -> int:
    """How many commands about the account are heard, the next settle included."""
    count, command = 0, [""]
    while SETTLE not in command:
        said = await monitor.next_command()
        command = said["command"].split()
        is_ours = said["client_type"] != "lua" and f"{{{account}}}" in said["command"]
        count += is_ours and BACKGROUND.isdisjoint(command)
    return count
