"""What the peers' bugs of tests/mutations would do to a request's money, where no other test would notice."""

from pathlib import Path

import pytest
from fakes import completion, error, stream
from running import Money, Running, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


async def test_a_fallback_that_cannot_be_held_is_not_made(tmp_path: Path, redis_url: str) -> None:
    routes = {"auto": {"tiers": {"standard": ["small", "large"]}}}
    async with running(redis_url, tmp_path, routes=routes) as gateway:
        refused = (await gateway.chat(await gateway.create_key("0/lifetime"), "large")).json()["error"]
        too_little = round(float(refused["metadata"]["needed_usd"]) * 10**9) - 1
        key = await gateway.create_key(f"{too_little / 10**9:.9f}/lifetime")
        gateway.upstream.will(error(401))

        answer = await gateway.chat(key, "auto")

        assert answer.status_code == 502
        assert [asked.body["model"] for asked in gateway.upstream.asked] == ["acme-small"]
        assert await gateway.spent(key) == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_usage_of_zero_is_settled_at_nothing(gateway: Running, streamed: bool) -> None:
    gateway.upstream.will(stream("a", usage=ZERO) if streamed else completion(usage=ZERO))
    key = await gateway.create_key("1/lifetime")

    assert (await gateway.chat(key, stream=streamed)).status_code == 200

    assert await gateway.money(key) == Money(0, 0, 0)
