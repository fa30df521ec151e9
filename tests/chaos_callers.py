"""Many of `paymaster chaos`'s callers at once, for tests of whole gateways."""

import asyncio
from collections.abc import Awaitable, Callable

from gateway.chaos.load import Caller


async def crowd(port: int, key: str, size: int, act: Callable[[Caller], Awaitable[None]]) -> None:
    """Let so many callers act at once, and wait for all of them."""
    callers = [Caller(port, key) for _ in range(size)]
    try:
        await asyncio.gather(*(act(caller) for caller in callers))
    finally:
        for caller in callers:
            caller.hang_up()
