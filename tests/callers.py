"""Callers who ask a gateway again and again, whatever happens to it meanwhile."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bank import until
from running import Key, Running


@dataclass
class Caller:
    """Asks again and again, until it is enough."""

    gateway: Running
    key: Key
    statuses: list[int] = field(default_factory=list)
    enough: bool = False

    async def go_on(self) -> None:
        for turn in itertools.count():
            if self.enough:
                break
            self.statuses.append((await self.gateway.chat(self.key, stream=turn % 2 == 0)).status_code)

    async def hears(self, status: int) -> None:
        """Wait until it is answered with this status several times on end."""
        heard = len(self.statuses)

        async def only() -> bool:
            return self.statuses[heard:][-4:] == [status] * 4

        await until(only)

    @property
    def served(self) -> int:
        return self.statuses.count(200)


@asynccontextmanager
async def crowd(gateway: Running, *keys: Key) -> AsyncIterator[list[Caller]]:
    """Callers who are over when the body is, with their last answers."""
    callers = [Caller(gateway, key) for key in keys]
    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(caller.go_on())
        yield callers
        for caller in callers:
            caller.enough = True
