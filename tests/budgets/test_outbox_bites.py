"""The outbox step by step, before a Redis whose answers come when the test says so."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from bank import until
from journals import settle

from budgets.errors import LedgerUnavailable, ScriptFailed
from budgets.journal import Journal
from budgets.ledger import LedgerCounters, Resolution
from budgets.marks import Marks
from budgets.outbox import Outbox
from budgets.redis_connection import RedisConnection, Script, load_script

SETTLED = settle(1, at=time.time())
VOIDED = replace(SETTLED, kind="void")
SUSPENDED = replace(SETTLED, kind="suspend")
LOST = LedgerUnavailable("Redis died before it answered")
REFUSED = LedgerUnavailable("Redis is loading", answered=True)
NAMES = {load_script(name).sha1: name for name in ("settle", "void", "suspend")}
STEPS = 5
"""Where in a script's arguments it stands whether this is a step of the account's era."""


class SlowRedis:
    """A connection whose answers come when the test says so."""

    def __init__(self) -> None:
        self.connected = True
        self.asked: list[tuple[str, tuple[str | int, ...]]] = []
        self.answers: list[asyncio.Future[Any]] = []

    def script(self, script: Script, _: object, arguments: tuple[str | int, ...]) -> "asyncio.Future[Any]":
        self.asked.append((NAMES[script.sha1], arguments))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


class Desk:
    """An outbox, what it talks to, and what it told. The account's era is known, and read."""

    def __init__(self, folder: Path) -> None:
        self.redis = SlowRedis()
        self.journal = Journal(folder, "worker")
        self.marks = Marks(folder / "marks.json", time.time)
        self.marks.heard("default", "1:5", 7)
        self.told: list[tuple[bytes, int | None]] = []
        self.outbox = Outbox(
            cast(RedisConnection, self.redis),
            self.journal,
            self.marks,
            tombstone=3600,
            counters=LedgerCounters(),
            answered=lambda _, outcome, count: self.told.append((outcome, count)),
        )

    async def asked(self, times: int) -> None:
        async def heard() -> bool:
            return len(self.redis.asked) >= times

        await until(heard)

    async def answer(self, which: int, answer: object) -> None:
        future = self.redis.answers[which]
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        await asyncio.sleep(0)

    def steps(self, which: int) -> int:
        return int(self.redis.asked[which][1][STEPS])

    async def is_drained(self) -> bool:
        waiting = asyncio.create_task(self.outbox.drained())
        await asyncio.sleep(0)
        is_drained = waiting.done()
        waiting.cancel()
        return is_drained


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


@pytest.fixture
async def sending(desk: Desk) -> AsyncIterator[None]:
    """What failed is sent again."""
    task = asyncio.create_task(desk.outbox.run())
    yield
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_what_has_nothing_to_send_is_drained(desk: Desk) -> None:
    assert await desk.is_drained()


async def test_it_is_drained_once_all_is_acknowledged(desk: Desk) -> None:
    desk.outbox.put(SETTLED)
    desk.outbox.put(replace(SETTLED, attempt_id="att_default_2"))

    await desk.answer(0, [b"settled", 8])
    assert not await desk.is_drained()
    await desk.answer(1, [b"settled", 9])
    assert await desk.is_drained()
    assert desk.told == [(b"settled", 8), (b"settled", 9)]


@pytest.mark.parametrize("later", [SETTLED, SUSPENDED])
async def test_the_answer_to_a_void_does_not_acknowledge_what_took_its_place(desk: Desk, later: Resolution) -> None:
    desk.outbox.put(VOIDED)
    desk.outbox.put(later)

    await desk.answer(0, [b"voided", None])
    await desk.answer(1, LOST)

    assert desk.journal.pending() == [later]
    assert desk.told == []


async def test_the_answer_to_a_void_does_not_acknowledge_the_note_that_took_its_place(desk: Desk) -> None:
    desk.outbox.put(VOIDED)
    desk.outbox.note(SUSPENDED)

    await desk.answer(0, [b"voided", None])

    assert desk.journal.pending() == [SUSPENDED]
    assert desk.told == []


@pytest.mark.usefixtures("sending")
@pytest.mark.parametrize("answer", [LOST, b"settled", [], [b"settled"], [b"settled", b"8"], [7, 8], None])
async def test_what_is_not_answered_or_not_so_that_it_can_be_read_is_sent_again(desk: Desk, answer: object) -> None:
    desk.outbox.put(SETTLED)
    await desk.answer(0, answer)
    assert desk.told == []

    await desk.asked(2)
    await desk.answer(1, [b"settled", 8])
    assert await desk.is_drained()
    desk.outbox.put(replace(SETTLED, attempt_id="att_default_2"))
    await desk.answer(2, LOST)

    await desk.asked(4)  # round after round
    assert [kind for kind, _ in desk.redis.asked] == ["settle"] * 4


@pytest.mark.usefixtures("sending")
@pytest.mark.parametrize("entry", [SETTLED, SUSPENDED])
async def test_a_step_that_redis_may_have_counted_counts_as_none_that_is_new(desk: Desk, entry: Resolution) -> None:
    desk.outbox.put(entry)
    await desk.answer(0, LOST)
    desk.marks.doubt()  # what is new is no step until the mark is read

    await desk.asked(2)

    assert (desk.steps(0), desk.steps(1)) == (1, 1)


@pytest.mark.usefixtures("sending")
@pytest.mark.parametrize("entry", [SETTLED, SUSPENDED])
async def test_a_step_that_redis_has_not_counted_is_new_when_it_is_sent_again(desk: Desk, entry: Resolution) -> None:
    desk.outbox.put(entry)
    await desk.answer(0, REFUSED)
    desk.marks.doubt()

    await desk.asked(2)

    assert (desk.steps(0), desk.steps(1)) == (1, 0)


@pytest.mark.usefixtures("sending")
async def test_a_void_that_was_sent_makes_no_step_of_what_takes_its_place(desk: Desk) -> None:
    desk.outbox.put(VOIDED)
    await desk.answer(0, LOST)
    desk.marks.doubt()
    desk.outbox.put(SETTLED)

    assert desk.steps(1) == 0


@pytest.mark.usefixtures("sending")
async def test_what_the_dead_left_is_sent_as_what_redis_may_have_counted(desk: Desk, tmp_path: Path) -> None:
    desk.marks.doubt()
    dead = Journal(tmp_path, "dead")
    dead.append(SETTLED)
    dead.close()

    await desk.outbox.adopt()

    assert not await desk.is_drained()
    await desk.asked(1)
    assert desk.steps(0) == 1
    await desk.answer(0, [b"again", None])
    assert await desk.is_drained()


async def test_the_pauses_between_rounds_grow_until_all_is_acknowledged(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def none(_: float, longest: float) -> float:
        pauses.append(longest)
        return 0.0

    monkeypatch.setattr("budgets.outbox.random.uniform", none)
    sending = asyncio.create_task(desk.outbox.run())
    desk.outbox.put(SETTLED)
    for number in range(8):
        await desk.asked(number + 1)
        await desk.answer(number, LOST)
    await desk.asked(9)
    await desk.answer(8, [b"settled", 8])
    desk.outbox.put(replace(SETTLED, attempt_id="att_default_2"))
    await desk.answer(9, LOST)
    await desk.asked(11)

    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.05]
    sending.cancel()


@pytest.mark.usefixtures("sending")
async def test_case_30_what_redis_refuses_for_good_is_logged_once_and_sent_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.outbox.put(SETTLED)
    for number in range(3):
        await desk.asked(number + 1)
        await desk.answer(number, ScriptFailed("WRONGTYPE", "WRONGTYPE Operation against a key"))

    (record,) = caplog.records
    told = "Redis refuses to settle the attempt att_default_1, and maybe others; what it refuses stays in the journal"
    assert record.getMessage() == f"{told}: WRONGTYPE Operation against a key"
    assert desk.journal.pending() == [SETTLED]


async def test_how_long_a_suspension_is_over_is_told(desk: Desk) -> None:
    began_at = time.time()
    desk.outbox.put(replace(SUSPENDED, at=began_at - 7.5))
    desk.outbox.put(replace(SUSPENDED, attempt_id="att_default_2", at=began_at + 60))

    ago, ahead = (int(arguments[-1]) for _, arguments in desk.redis.asked)
    assert 7500 <= ago <= 7500 + (time.time() - began_at) * 1000
    assert ahead == 0


async def test_while_redis_is_away_nothing_grows_old(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(desk.journal, "flush", lambda *, away: told.append(away))

    for connected in (True, False):
        desk.redis.connected = connected
        await desk.outbox.adopt()

    assert told == [False, True]
