"""Workers of the ledger that meet faults: messages that go wrong, an end by SIGKILL, a Redis with an older state."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from redis.asyncio import Redis

from budgets.errors import LedgerUnavailable
from budgets.journal import Journal
from budgets.marks import Marks
from budgets.redis_connection import Answer, RedisConnection, Script
from budgets.redis_ledger import LedgerPolicy, RedisLedger

PATIENCE = 10.0
"""Seconds after which something that should have happened counts as failed."""
POLICY = LedgerPolicy(lease=3600, tombstone=3600, accept_after=1800)
"""So long that nothing happens by itself while a test runs: the test says when."""

Fault: TypeAlias = Literal["lost", "unanswered", "late", "twice"]
"""What becomes of a message: it never arrives; it arrives, and the answer does not; both, but long after it was given
up; it arrives twice."""
Message: TypeAlias = Callable[[RedisConnection], Awaitable[Any]]
"""A script on its way, to be sent over any connection."""


class Wire(RedisConnection):
    """A connection on which the next script can go wrong, and nothing comes through while it is cut."""

    def __init__(self, url: str) -> None:
        super().__init__(url, deadline=PATIENCE)
        self.fault: Fault | None = None
        self.is_cut = False
        self.late: list[Message] = []

    @property
    def connected(self) -> bool:
        return super().connected and not self.is_cut

    async def call(self, *command: bytes | str | int) -> Any:
        if self.is_cut:
            raise LedgerUnavailable("it is cut off")
        return await super().call(*command)

    def script(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Answer:
        fault, self.fault = self.fault, None
        loop = asyncio.get_running_loop()
        failed: Answer = loop.create_future()
        if self.is_cut:
            fail(failed)
            return failed
        match fault:
            case "lost":
                loop.call_soon(fail, failed)
                return failed
            case "late":
                self.late.append(lambda connection: connection.script(script, keys, args))
                loop.call_soon(fail, failed)
                return failed
            case "unanswered":
                super().script(script, keys, args).add_done_callback(lambda _: fail(failed))
                return failed
            case "twice":
                super().script(script, keys, args)
        return super().script(script, keys, args)


def fail(answer: Answer) -> None:
    if not answer.done():
        answer.set_exception(LedgerUnavailable("no answer came"))


@dataclass
class Worker:
    """One gateway worker's ledger, whose background work runs."""

    wire: Wire
    ledger: RedisLedger
    journal: Journal
    _work: "asyncio.Task[None]" = field(repr=False)

    async def die(self) -> None:
        """As by SIGKILL: nothing is said any more, and the locks on its journal are free."""
        self.wire.is_cut = True
        self._work.cancel()
        await asyncio.wait([self._work])
        await self.wire.close()
        for generation in self.journal._generations:
            generation.file.close()


@asynccontextmanager
async def open_worker(url: str, folder: Path) -> AsyncIterator[Worker]:
    """A worker on a folder that others may share."""
    wire = Wire(url)
    await wire.connect()
    journal = Journal(folder, "worker")
    ledger = RedisLedger(wire, journal, Marks(folder / "marks.json", time.time), POLICY, time.time)
    worker = Worker(wire, ledger, journal, asyncio.create_task(ledger.run()))
    try:
        yield worker
    finally:
        await worker.die()


DUMP = """
local found = {}
for _, pattern in ipairs(ARGV) do
  for _, key in ipairs(redis.call("KEYS", pattern)) do
    found[#found + 1] = key
    found[#found + 1] = redis.call("DUMP", key)
  end
end
return found
"""


@dataclass
class Snapshot:
    """What Redis has at one moment, to be put back later."""

    dumps: dict[bytes, bytes]

    @classmethod
    async def of(cls, redis: Redis, *patterns: str) -> "Snapshot":
        """Of everything, or of the keys with these patterns."""
        found = await redis.eval(DUMP, 0, *(patterns or ("*",)))
        return cls(dict(zip(found[::2], found[1::2], strict=True)))

    async def put_back(self, redis: Redis) -> None:
        """In the place of all that there is."""
        pipe = redis.pipeline(transaction=True)
        pipe.flushdb()
        for key, dump in self.dumps.items():
            pipe.restore(key, 0, dump)
        await pipe.execute()
