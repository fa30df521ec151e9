"""What the tests of the ledger work with: a ledger on a real server with keys that spend, and a server to be killed."""

import asyncio
import itertools
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis
from conftest import valkey_binary
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from budgets import redis_layout
from budgets.budget import parse_limit
from budgets.journal import Journal
from budgets.keys import KeyRecord, KeyStore
from budgets.ledger import Attempt, ScopeStatus
from budgets.marks import Marks
from budgets.redis_connection import RedisConnection
from budgets.redis_ledger import LedgerPolicy, RedisLedger

LEASES = redis_layout.leases("default")


@dataclass
class Bank:
    """One gateway worker's view of the ledger, and the admin's."""

    redis: Redis
    connection: RedisConnection
    journal: Journal
    marks: Marks
    ledger: RedisLedger
    keys: KeyStore
    _name: str = field(default_factory=lambda: secrets.token_hex(4))
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def key(self, *limits: str) -> KeyRecord:
        record, _ = await self.keys.create("a key", limits=[parse_limit(limit) for limit in limits])
        return record

    def attempt(self, key: KeyRecord, amount: int) -> Attempt:
        """A new attempt of a key that was never changed."""
        return Attempt(
            id=f"att_{key.account}_{self._name}_{next(self._numbers)}",
            account=key.account,
            key_id=key.id,
            key_version=1,
            scopes=("account", f"key:{key.id}"),
            amount=amount,
            capped=True,
            price_version="2026-11-22",
            model="small",
        )

    async def book(self, key: KeyRecord, held: int, spent: int) -> None:
        """One attempt from its hold to its settlement."""
        reservation = await self.ledger.reserve(self.attempt(key, held))
        reservation.spent = spent
        self.ledger.resolve(reservation)
        await self.ledger.drained()

    async def leases(self) -> int:
        return int(await self.redis.zcard(LEASES))

    async def status(self, key: KeyRecord) -> ScopeStatus:
        return await self.ledger.status(key.account, f"key:{key.id}")

    async def used(self, key: KeyRecord) -> tuple[int, int, int]:
        """Spent, held and in suspense over the key's lifetime; the account has the same, where the key is its only."""
        status = await self.status(key)
        return status.spent, status.held, status.suspense

    async def let_leases_run_out(self) -> None:
        for attempt_id in await self.redis.zrange(LEASES, 0, -1):
            await self.redis.zadd(LEASES, {attempt_id: 1})


async def until(happened: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something in Redis or in another task that gives no sign."""
    async with asyncio.timeout(20):
        while not await happened():  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(0)


@asynccontextmanager
async def open_bank(
    url: str,
    folder: Path,
    *,
    lease: float = 60,
    deadline: float = 10,
    accept_after: float | None = None,
    running: bool = True,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Bank]:
    """A bank whose ledger does its background work, unless `running` is false."""
    client = Redis.from_url(url)
    connection = RedisConnection(url, deadline=deadline)
    await connection.connect()
    journal = Journal(folder, "worker")
    marks = Marks(folder / "marks.json", clock)
    ledger = RedisLedger(connection, journal, marks, LedgerPolicy(lease, 3600, accept_after), clock)
    work = asyncio.create_task(ledger.run()) if running else None
    try:
        yield Bank(client, connection, journal, marks, ledger, KeyStore(client, b"pepper"))
    finally:
        if work is not None:
            work.cancel()
            await asyncio.wait([work])
        await connection.close()
        await client.aclose()
        journal.close()


class Server:
    """A Valkey server of one test, which may stop and start again with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/valkey.sock"

    def start(self) -> None:
        command = [valkey_binary(), "--port", "0", "--unixsocket", f"{self._folder}/valkey.sock"]
        command += ["--dir", str(self._folder), "--appendonly", "yes", "--save", ""]
        command += ["--appendfsync", "no"]  # else a slow disk puts writes off, and a kill loses them
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0))
        while True:
            with suppress(redis.ConnectionError):
                client.ping()
                return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
