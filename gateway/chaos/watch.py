"""Somebody who looks at the books all the while, and compares them with the bill."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from budgets.errors import LedgerUnavailable
from gateway.chaos.world import World

EVERY = 0.25
"""Seconds between two looks."""


@dataclass(slots=True)
class Watch:
    """What was seen."""

    samples: int = 0
    """Looks at one account."""
    violations: list[str] = field(default_factory=list)


@asynccontextmanager
async def watching(world: World, *accounts: str, lacking: Collection[str] = ()) -> AsyncIterator[Watch]:
    """Look at the accounts again and again: spent ≤ bill ≤ spent + held + suspense, at every moment.

    Of those that are `lacking` something is in journals while Redis is away: spent ≤ bill.
    """
    watch = Watch()
    looking = asyncio.create_task(_look(world, accounts, lacking, watch))
    try:
        yield watch
    finally:
        looking.cancel()
        await asyncio.wait([looking])
        if not looking.cancelled():
            looking.result()


async def _look(world: World, accounts: Collection[str], lacking: Collection[str], watch: Watch) -> None:
    while True:
        for account in (*accounts, *lacking):
            try:
                watch.violations += await world.look(account, may_lack=account in lacking)
            except LedgerUnavailable:
                continue  # Redis itself is away
            watch.samples += 1
        await asyncio.sleep(EVERY)
