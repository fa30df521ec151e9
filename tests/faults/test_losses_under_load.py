"""Redis loses what it had while requests go on: no limit is had twice, and what was spent is told again."""

from pathlib import Path

from callers import crowd
from fakes import COST
from redis.asyncio import Redis
from running import running
from workers import Snapshot

from budgets.money import from_usd


async def test_case_07_an_older_state_lets_nobody_spend_twice_and_mends_itself(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path) as gateway, Redis.from_url(redis_url) as redis:
        keys = [await gateway.create_key("1/day") for _ in range(3)] + [await gateway.create_key() for _ in range(3)]
        async with crowd(gateway, *keys) as callers:
            for caller in callers:
                await caller.hears(200)
            before = await Snapshot.of(redis)
            for caller in callers:
                await caller.hears(200)
            await before.put_back(redis)
            for caller in callers:
                await caller.hears(200)

        for caller in callers:
            assert await gateway.spent(caller.key) == COST * caller.served
            assert set(caller.statuses) <= {200, 503}
        assert {status for caller in callers[3:] for status in caller.statuses} == {200}


async def test_case_07_an_emptied_redis_admits_nobody_with_a_limit_until_an_operator_confirms(
    redis_url: str, tmp_path: Path
) -> None:
    async with running(redis_url, tmp_path, ledger={"key_cache": 0.001}) as gateway, Redis.from_url(redis_url) as redis:
        async with crowd(gateway, await gateway.create_key("1/day"), await gateway.create_key()) as (capped, free):
            await capped.hears(200)
            await free.hears(200)
            await redis.flushdb()
            await capped.hears(503)
            served = capped.served
            await free.hears(200)
            await capped.hears(503)
            ready = await gateway.http.get("/readyz")
            assert capped.served == served

            (await gateway.admin("POST", "/ledger/confirm", {"account": "default"})).raise_for_status()
            await capped.hears(401)  # the keys are gone too

        assert set(free.statuses) <= {200, 401}
        assert (ready.status_code, ready.json()["ledger"]) == (503, "behind")
        await gateway.drained()
        account = (await gateway.admin("GET", "/accounts/default")).json()
        assert from_usd(account["spent_usd"]) == COST * (capped.served + free.served)
