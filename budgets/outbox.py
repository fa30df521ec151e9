"""Resolutions on their way to Redis: in the journal first, then sent, and sent again until Redis has acknowledged them.

Sending twice is safe, because the scripts know an attempt by its id. So what was acknowledged lately is sent once more
where Redis may have lost it: a failover loses what its replica had not got, a crash what was not on the disk.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from budgets import redis_layout
from budgets.errors import JournalUnavailable, LedgerUnavailable
from budgets.journal import Journal
from budgets.ledger import LedgerCounters, Resolution
from budgets.marks import Marks
from budgets.money import MAX_NANO
from budgets.news import News
from budgets.redis_connection import RedisConnection, load_script
from budgets.windows import MOST_APART

SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds between two rounds of sending again, doubled as long as a round fails."""
BATCH = 200
FOR_EVER = MAX_NANO
"""A time that never comes, as the largest number that the scripts take."""

REMEMBERED_LONGER = 2 * MOST_APART
"""Seconds for which Redis remembers a closed attempt beyond its tombstone: the clock of who sends it may be ahead."""

logger = logging.getLogger(__name__)


class Outbox:
    """Sends resolutions without anyone waiting for it. `answered` is told each one's outcome, as the script names it,
    and which step of its account's era it was, where it changed anything.

    `tombstone` is for how many seconds what Redis may have booked is sent again; Redis remembers it for longer. `marks`
    say what is a step of its account's era, and their clock is the one that tells each entry's `at`.
    """

    def __init__(
        self,
        connection: RedisConnection,
        journal: Journal,
        marks: Marks,
        *,
        tombstone: float,
        counters: LedgerCounters,
        answered: Callable[[Resolution, bytes, int | None], None],
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._marks = marks
        self._tombstone_ms = round(tombstone * 1000)
        self._remembered_ms = self._tombstone_ms + REMEMBERED_LONGER * 1000
        self._counters = counters
        self._tell = answered
        self._scripts = {kind: load_script(kind) for kind in ("settle", "void", "suspend")}
        self._in_flight: dict[str, Resolution] = {}
        self._replayed: dict[str, Resolution] = {}
        """What Redis has acknowledged, but may have lost since."""
        self._unsure: set[str] = set()
        """Attempts whose entry was sent, by us or by the dead, and of which no answer tells whether Redis has it."""
        self._noted: set[str] = set()
        """Attempts that still run; their entries are for an heir."""
        self._news = News()
        self._failed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, entry: Resolution) -> None:
        """Write `entry` to the journal and send it. A full disk is no reason not to send: then memory must do."""
        self._empty.clear()
        self._noted.discard(entry.attempt_id)
        self._store(entry)
        self._send(entry)

    def note(self, entry: Resolution) -> None:
        """Write to the journal what an heir shall send if we die before the attempt ends: Redis knows nothing of it."""
        self._noted.add(entry.attempt_id)
        self._in_flight.pop(entry.attempt_id, None)  # the answer to a void acknowledges this one not
        self._store(entry)

    async def run(self) -> None:
        """Send again what failed, in rounds with growing pauses, and as soon as Redis is back; until cancelled."""
        pause = SHORTEST_PAUSE
        while True:
            await self._failed.wait()
            await _rest(pause)
            while not self._connection.connected:  # a round would send nothing, so that no pause grows by it
                await _rest(SHORTEST_PAUSE)
            self._failed.clear()
            await self._send_again()
            pause = min(2 * pause, LONGEST_PAUSE) if self._failed.is_set() else SHORTEST_PAUSE

    async def adopt(self) -> None:
        """Take over what dead workers did not get acknowledged, and tidy up. Raises JournalUnavailable.

        What lies here and is on its way to nobody, after an error of ours, is sent too.
        """
        self._journal.flush(away=not self._connection.connected)
        if self._waiting():
            self._failed.set()
        before = self._journal.adoptions
        if adopted := self._journal.adopt():
            self._unsure.update(entry.attempt_id for entry in adopted)
            self._empty.clear()
            self._failed.set()
        if self._journal.adoptions != before:
            await self.replay()  # Redis may have lost since what it acknowledged to the dead

    async def replay(self) -> None:
        """Send again what was sent lately: another server is there, or this one has lost what it acknowledged.

        Raises JournalUnavailable.
        """
        recent = await asyncio.to_thread(self._journal.recent)
        pending = {entry.attempt_id for entry in self._journal.pending()}
        self._replayed.update((entry.attempt_id, entry) for entry in recent if entry.attempt_id not in pending)
        if self._replayed or pending:
            self._empty.clear()
            self._failed.set()

    async def drained(self) -> None:
        """Wait until Redis has acknowledged everything."""
        await self._empty.wait()

    def _store(self, entry: Resolution) -> None:
        try:
            self._journal.append(entry)
        except JournalUnavailable as exc:
            logger.error("the journal cannot be written, resolutions are in memory only: %s", exc.reason)

    def _send(self, entry: Resolution) -> "asyncio.Future[Any]":
        if not (entry.booked or entry.tried) and self._connection.connected:
            self._store(replace(entry, tried=True))  # for whoever sends it once more, here or after we are dead
        self._in_flight[entry.attempt_id] = entry
        is_new = entry.attempt_id not in self._replayed and entry.attempt_id not in self._unsure
        leases = redis_layout.leases(entry.account)
        answer = self._connection.script(self._scripts[entry.kind], (leases,), self._arguments(entry, is_new))
        if entry.kind != "void" and not answer.done():  # it is on its way
            self._unsure.add(entry.attempt_id)
        answer.add_done_callback(partial(self._answered, entry, is_new))
        return answer

    def _arguments(self, entry: Resolution, is_new: bool) -> tuple[str | int, ...]:
        if entry.kind == "void":
            return entry.attempt_id, self._remembered_ms
        was_known = entry.booked or entry.tried or entry.attempt_id in self._replayed
        latest = int(entry.at * 1000) + self._tombstone_ms if was_known else FOR_EVER
        steps = int(self._marks.counts(entry.account, entry.at, is_new=is_new))
        if entry.kind == "settle":
            return entry.attempt_id, entry.spent, entry.holds, self._remembered_ms, latest, steps
        facts = (entry.key_id, entry.price_version, entry.model, max(0, int((self._marks.clock() - entry.at) * 1000)))
        return entry.attempt_id, entry.amount, entry.estimate, entry.holds, latest, steps, *facts

    def _answered(self, entry: Resolution, is_new: bool, answer: "asyncio.Future[Any]") -> None:
        if self._in_flight.get(entry.attempt_id) is not entry:
            return  # a later resolution of the attempt has taken its place, in the journal too
        del self._in_flight[entry.attempt_id]
        error = answer.exception()
        if error is not None:
            self._not_sent(entry, is_new, error)
            return
        match answer.result():
            case [bytes(outcome), int() | None as count]:
                pass
            case _:  # somebody else's: bytes were lost or changed on the way
                self._not_sent(entry, is_new, LedgerUnavailable("Redis answered what cannot be read"))
                return
        self._journal.acknowledge(entry.attempt_id)
        self._replayed.pop(entry.attempt_id, None)
        self._unsure.discard(entry.attempt_id)
        self._tell(entry, outcome, count)
        if not (self._journal.depth or self._replayed):
            self._empty.set()

    def _not_sent(self, entry: Resolution, is_new: bool, error: BaseException) -> None:
        self._failed.set()
        if is_new and isinstance(error, LedgerUnavailable) and error.answered:  # Redis knows nothing of it yet
            self._unsure.discard(entry.attempt_id)
            if not (entry.booked or entry.tried):
                self._store(entry)
        if not isinstance(error, LedgerUnavailable) and self._news.is_new(entry.kind):
            told = "Redis refuses to %s the attempt %s, and maybe others; what it refuses stays in the journal: %s"
            logger.error(told, entry.kind, entry.attempt_id, error)

    async def _send_again(self) -> None:
        """One round over all that is not acknowledged; what fails sets the flag for the next round."""
        waiting = self._waiting()
        for start in range(0, len(waiting), BATCH):
            if not self._connection.connected:
                self._failed.set()
                return
            found = map(self._to_send, waiting[start : start + BATCH])  # others may have taken their place meanwhile
            if batch := [entry for entry in found if entry]:
                self._counters.replays += len(batch)
                await asyncio.wait([self._send(entry) for entry in batch])

    def _waiting(self) -> list[str]:
        """The attempts of which something is to be sent."""
        known = self._replayed | {entry.attempt_id: entry for entry in self._journal.pending()}
        return [attempt_id for attempt_id in known if self._to_send(attempt_id)]

    def _to_send(self, attempt_id: str) -> Resolution | None:
        """What is to be sent of an attempt; nothing where it is on its way, or where the attempt still runs."""
        if attempt_id in self._in_flight or attempt_id in self._noted:
            return None
        return self._journal.pending_of(attempt_id) or self._replayed.get(attempt_id)


async def _rest(pause: float) -> None:
    await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  no secret: it keeps workers apart
