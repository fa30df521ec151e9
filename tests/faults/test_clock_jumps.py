"""The clock of Redis jumps while requests go on: no period is had twice, nothing is booked twice or given away.

Redis is a real server under libfaketime. The gateway's own clock is the true one, or the test's.
"""

import tempfile
import time
from calendar import timegm
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from bank import Bank, Server, open_bank, until
from callers import crowd
from fakes import COST
from running import running

from budgets.errors import BudgetExceeded, LedgerUnavailable
from budgets.keys import KeyRecord

HOUR = 3600
DAY = 24 * HOUR
LIMIT = 4
"""Nano-USD of a limited period: so many attempts of one each."""


class JumpingServer(Server):
    """A server whose clock can be set while it runs."""

    def __init__(self, folder: Path, library: Path) -> None:
        super().__init__(folder)
        self._library = library
        self._offset = folder / "offset"

    def start(self) -> None:
        self._write(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(self._library))
            patch.setenv("FAKETIME_TIMESTAMP_FILE", str(self._offset))
            patch.setenv("FAKETIME_NO_CACHE", "1")
            patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            super().start()

    def jump(self, ahead: int) -> None:
        """Have its clock be so many seconds ahead of the true one; return once it is."""
        self._write(ahead)
        give_up_at = time.monotonic() + 20
        with redis.Redis.from_url(self.url) as client:
            while abs(client.time()[0] - time.time() - ahead) > 30:
                assert time.monotonic() < give_up_at, "the clock of Redis cannot be set"

    def _write(self, ahead: int) -> None:
        draft = self._offset.with_suffix(".draft")
        draft.write_text(f"{ahead:+d}")
        draft.replace(self._offset)


@pytest.fixture
def server() -> Iterator[JumpingServer]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        server = JumpingServer(Path(folder), library)
        server.start()
        yield server
        server.kill()


# Redis alone jumps, and the gateway's clock is the true one


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, DAY, -DAY, 31 * DAY, -31 * DAY])
async def test_case_08_a_clock_that_jumps_far_refuses_who_has_a_limit_and_counts_everything_once(
    server: JumpingServer, tmp_path: Path, ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(server.url, tmp_path) as gateway:
        async with crowd(gateway, await gateway.create_key("1/day"), await gateway.create_key()) as (capped, free):
            await capped.hears(200)
            server.jump(ahead)
            await capped.hears(503)
            refused, ready = await gateway.chat(capped.key), await gateway.http.get("/readyz")
            await free.hears(200)
            server.jump(0)
            await capped.hears(200)

        assert set(capped.statuses) == {200, 503}
        assert set(free.statuses) == {200}
        for caller in (capped, free):
            assert await gateway.spent(caller.key) == COST * caller.served
        assert refused.json()["error"]["code"] == "ledger_unavailable"
        assert "clocks" in caplog.text
        assert ready.status_code == 503


async def test_case_08_a_clock_that_goes_a_little_wrong_troubles_nobody(server: JumpingServer, tmp_path: Path) -> None:
    async with running(server.url, tmp_path) as gateway:
        async with crowd(gateway, await gateway.create_key("1/lifetime")) as (capped,):
            for ahead in (240, -240, 120, 0):
                server.jump(ahead)
                await capped.hears(200)

        assert set(capped.statuses) == {200}
        assert await gateway.spent(capped.key) == COST * len(capped.statuses)


# Both clocks go by the test


@dataclass
class Clocks:
    """Those of Redis and of a gateway, each to be set to an instant, from where it goes on."""

    server: JumpingServer
    gateway: int = 0
    """Seconds ahead of the true one."""

    def __call__(self) -> float:
        return time.time() + self.gateway

    def set(self, gateway: int, redis: int) -> None:
        now = int(time.time())
        self.gateway = gateway - now
        self.server.jump(redis - now)


@pytest.fixture
def clocks(server: JumpingServer) -> Clocks:
    return Clocks(server)


@dataclass
class Spender:
    """Spends all that a key may."""

    bank: Bank
    key: KeyRecord
    by_period: Counter[str] = field(default_factory=Counter)

    async def spend_all(self) -> int:
        """How many attempts of one nano-USD there was room for."""
        admitted = 0
        while True:
            try:
                reservation = await self.bank.ledger.reserve(self.bank.attempt(self.key, 1))
            except BudgetExceeded:
                await self.bank.ledger.drained()
                return admitted
            reservation.spent = 1
            self.bank.ledger.resolve(reservation)
            admitted += 1
            self.by_period.update(reservation.holds.split()[-1:])


@asynccontextmanager
async def spender(clocks: Clocks, folder: Path, window: str) -> AsyncIterator[Spender]:
    async with open_bank(clocks.server.url, folder, clock=clocks) as bank:
        yield Spender(bank, await bank.key(f"{LIMIT}e-9/{window}"))


@pytest.mark.parametrize(
    ("boundary", "window"),
    [
        ((2027, 6, 15), "day"),
        ((2027, 5, 1), "day"),
        ((2027, 5, 1), "month"),
        ((2028, 2, 29), "day"),
        ((2028, 3, 1), "day"),
        ((2028, 3, 1), "month"),
        ((2028, 1, 1), "month"),
    ],
)
async def test_case_08_the_end_of_a_period_is_passed_once_however_the_clock_of_redis_swings(
    clocks: Clocks, tmp_path: Path, boundary: tuple[int, int, int], window: str
) -> None:
    midnight = timegm((*boundary, 0, 0, 0))
    swings = [(-100, -100), (-100, 150), (-100, -300), (-100, 199), (100, -199), (100, 100), (100, -150), (280, 280)]
    async with spender(clocks, tmp_path, window) as spend:
        admitted = []
        for gateway, redis_ in swings:
            clocks.set(midnight + gateway, midnight + redis_)
            admitted.append(await spend.spend_all())

        assert admitted == [LIMIT, LIMIT, 0, 0, 0, 0, 0, 0]
        assert sorted(spend.by_period.values()) == [LIMIT, LIMIT]
        assert await spend.bank.used(spend.key) == (2 * LIMIT, 0, 0)


@pytest.mark.parametrize("instant", [(2027, 3, 28, 1), (2027, 10, 31, 1), (2027, 3, 14, 7), (2027, 11, 7, 6)])
async def test_case_08_a_change_of_summer_time_is_nothing_to_the_ledger(
    clocks: Clocks, tmp_path: Path, instant: tuple[int, int, int, int]
) -> None:
    change = timegm((*instant, 0, 0))
    async with spender(clocks, tmp_path, "day") as spend:
        admitted = []
        for gateway, redis_ in [(-100, -100), (-100, 150), (100, -100), (100, 100), (HOUR, HOUR), (-HOUR, -HOUR)]:
            clocks.set(change + gateway, change + redis_)
            admitted.append(await spend.spend_all())

        assert admitted == [LIMIT, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("jump", "opened"), [(HOUR, 0), (-HOUR, 0), (DAY, LIMIT), (-DAY, 0), (2 * DAY, LIMIT), (31 * DAY, LIMIT)]
)
async def test_case_08_where_both_clocks_jump_no_period_is_had_twice(
    clocks: Clocks, tmp_path: Path, jump: int, opened: int
) -> None:
    noon = timegm((2027, 6, 15, 12, 0, 0))
    async with spender(clocks, tmp_path, "day") as spend:
        admitted = []
        for instant in (noon, noon + jump, noon, noon + HOUR):
            clocks.set(instant, instant)
            admitted.append(await spend.spend_all())

        assert admitted == [LIMIT, opened, 0, 0]
        assert await spend.bank.used(spend.key) == (sum(admitted), 0, 0)


# What Redis remembers for a time


async def test_case_09_a_settle_that_redis_has_forgotten_by_a_jump_is_not_booked_twice(
    server: JumpingServer, tmp_path: Path
) -> None:
    async with open_bank(server.url, tmp_path) as bank:
        key = await bank.key("1/lifetime")
        await bank.book(key, held=600, spent=250)

        server.jump(2 * HOUR)  # a tombstone lasts an hour here
        await send_again(bank)
        server.jump(0)

        assert await bank.used(key) == (250, 0, 0)


async def send_again(bank: Bank) -> None:
    """Whatever is recent, as where another server is behind the address."""
    before = bank.ledger.counters.replays
    bank.connection.when_changed()

    async def sent() -> bool:
        return bank.ledger.counters.replays > before

    await until(sent)
    await bank.ledger.drained()


@pytest.mark.parametrize("ahead", [HOUR, DAY])
async def test_case_09_a_jump_ends_no_lease_before_its_time(server: JumpingServer, tmp_path: Path, ahead: int) -> None:
    async with open_bank(server.url, tmp_path) as bank:
        key = await bank.key("1/lifetime")
        reservation = await bank.ledger.reserve(bank.attempt(key, 600))

        server.jump(ahead)
        with pytest.raises(LedgerUnavailable, match="clocks"):
            await bank.ledger.look()
        server.jump(0)

        assert await bank.used(key) == (0, 600, 0)
        reservation.spent = 250
        bank.ledger.resolve(reservation)
        await bank.ledger.drained()
        assert await bank.used(key) == (250, 0, 0)


async def test_case_09_what_a_limited_period_has_used_outlives_a_jump(server: JumpingServer, tmp_path: Path) -> None:
    async with open_bank(server.url, tmp_path) as bank:
        key = await bank.key("0.000001/month", "0.000001/lifetime")
        await bank.book(key, held=600, spent=250)

        server.jump(365 * DAY)
        with redis.Redis.from_url(server.url) as client:
            client.dbsize()  # what has run out goes now
        server.jump(0)

        (lifetime, month) = (await bank.status(key)).limits
        assert (lifetime.spent, month.spent) == (250, 250)


async def test_case_09_a_jump_accepts_no_estimate_before_its_time(server: JumpingServer, tmp_path: Path) -> None:
    async with open_bank(server.url, tmp_path, accept_after=DAY / 2) as bank:
        key = await bank.key("1/lifetime")
        unknown = await bank.ledger.reserve(bank.attempt(key, 600))
        unknown.sent = True
        bank.ledger.resolve(unknown)
        await bank.ledger.drained()

        server.jump(DAY)
        with pytest.raises(LedgerUnavailable, match="clocks"):
            await bank.ledger.look()

        server.jump(0)
        assert await bank.used(key) == (0, 0, 600)
