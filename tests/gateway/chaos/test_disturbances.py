"""Moments in which a Redis server is not itself."""

from collections import Counter
from pathlib import Path

import pytest
from bank import until

from gateway.chaos import disturbances
from gateway.chaos.disturbances import DISTURBANCES, disturbed
from gateway.chaos.redis_server import RedisServer


async def test_it_is_disturbed_in_every_way_and_itself_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disturbances, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(disturbances, "LENGTHS", (0.0, 0.01))
    counts: Counter[str] = Counter()

    async def all_kinds() -> bool:
        return len(counts) == len(DISTURBANCES)

    async with RedisServer(tmp_path / "redis") as server:
        async with disturbed(server, 1, counts):
            await until(all_kinds)
        await server.call("SET", "name", "value")

        assert await server.call("GET", "name") == b"value"
        assert (await server.call("ROLE"))[0] == b"master"
        assert (await server.call("CONFIG", "GET", "maxmemory")) in ({b"maxmemory": b"0"}, {"maxmemory": "0"})
