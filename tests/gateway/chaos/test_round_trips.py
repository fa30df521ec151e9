import pytest

from gateway.chaos.round_trips import round_trips
from gateway.chaos.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_request_asks_redis_twice_and_once_more_where_its_key_is_new(world: World) -> None:
    assert list((await round_trips(world)).values()) == [3, 2]
