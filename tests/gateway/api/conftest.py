"""A gateway that the tests of one module share; each sees its provider without what another told it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from running import Running, running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(f"unix://{valkey_socket}", tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: Running) -> Running:
    return shared_gateway.fresh()
