"""What a gateway has seen of each account's ledger, so that it notices where Redis has less: a flush, an old state.

In an account's era Redis counts every step that changes what was spent. A count below one that was seen means that
steps were lost. Those of the last minutes come back from the journals, and then all is well; what does not come back
within `HEALING` is gone until an operator confirms what is left, which begins another era.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from budgets.money import MAX_NANO

HEALING = 60.0
"""Seconds in which the journals of all workers are expected to have brought back what a failover lost."""
CHANGE = 1_000_000
"""Steps that a change of a key counts for: no journal has it, and so many others do not pass for it unnoticed."""
NEVER = MAX_NANO
"""A count that no era reaches."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loss:
    since: float
    """Unix seconds."""
    looked_at: float
    lowest: int
    """The lowest count since."""
    waited: float
    """Seconds in which the lost could have come back: Redis was there, and so were we."""


@dataclass(slots=True)
class _Mark:
    era: str
    """`<number>:<when it began>`."""
    count: int
    is_read: bool
    """Whether it was compared with this server's, which may be another one than before."""
    loss: _Loss | None = None


class Marks:
    """The highest mark seen of each account, in memory and, after `save`, in a file that all workers share.

    `clock` tells Unix seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self.clock = clock
        self._marks = {account: _Mark(era, count, is_read=False) for account, (era, count) in _read(path).items()}
        self._changed = False

    @property
    def accounts(self) -> frozenset[str]:
        """Those that something is known of."""
        return frozenset(self._marks)

    @property
    def lost(self) -> Mapping[str, float]:
        """The accounts of which Redis has less than was seen, each with since when that is known, in Unix seconds."""
        return {name: mark.loss.since for name, mark in self._marks.items() if mark.loss}

    def known(self, account: str) -> tuple[str, int]:
        """The account's era, empty where none is known, and its highest count."""
        mark = self._marks.get(account)
        return (mark.era, mark.count) if mark else ("", 0)

    def doubt(self) -> None:
        """Another server is there: until its marks are heard, it may have less than was seen."""
        for mark in self._marks.values():
            mark.is_read = False

    def counts(self, account: str, at: float, *, is_new: bool) -> bool:
        """Whether what ended at `at` is one of the steps that the account's era counts.

        Where something is lost, or may be, only what was lost is counted, so that new steps do not pass for it:
        `is_new` is what no server was ever sent.
        """
        mark = self._marks.get(account)
        if mark is None:
            return True
        if is_new:
            return mark.is_read and mark.loss is None
        return mark.loss is None or at < mark.loss.since

    def counted(self, account: str, count: int) -> None:
        """A step of ours was the `count`-th of the account's era."""
        mark = self._marks.get(account)
        if mark is not None and count > mark.count:
            mark.count = count
            self._changed = True

    def heard(self, account: str, era: str, count: int) -> bool:
        """Redis has this mark; whether it is found to be behind only now."""
        mark = self._marks.get(account)
        if mark is None or _number(era) > _number(mark.era):
            if era:
                self._marks[account] = _Mark(era, count, is_read=True)
                self._changed = True
            return False
        mark.is_read = True
        if era == mark.era and count >= mark.count and (mark.loss is None or count - mark.loss.lowest < CHANGE):
            if mark.loss:
                logger.warning("what Redis had lost of the account %s is there again", account)
            self._changed = self._changed or count > mark.count
            mark.count, mark.loss = count, None
            return False
        return self._noticed(account, mark, count)

    def save(self) -> None:
        """Bring what has changed to the file, where other workers may have brought more. Raises OSError."""
        self._learn()
        if not self._changed:
            return
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = _read(self._path)
            for account, mark in self._marks.items():
                known[account] = max(known.get(account, ("", 0)), (mark.era, mark.count), key=_order)
            draft = self._path.with_suffix(".draft")
            draft.write_bytes(orjson.dumps(known))
            os.replace(draft, self._path)
        self._changed = False

    def _learn(self) -> None:
        """What another worker has given up is given up here too, so that any of them can be told to confirm it."""
        for account, (era, count) in _read(self._path).items():
            mark = self._marks.get(account)
            if mark is not None and count == NEVER and era == mark.era:
                mark.count = NEVER

    def _noticed(self, account: str, mark: _Mark, count: int) -> bool:
        now, loss = self.clock(), mark.loss
        if loss is None:
            mark.loss = _Loss(since=now, looked_at=now, lowest=count, waited=0)
            logger.error("Redis has lost what was spent last in the account %s; callers with a limit wait", account)
            return True
        loss.waited += min(max(0, now - loss.looked_at), HEALING / 3)
        loss.looked_at, loss.lowest = now, min(loss.lowest, count)
        if loss.waited > HEALING and mark.count != NEVER:
            mark.count = NEVER
            self._changed = True
            logger.error(
                "Redis has lost data of the account %s for good. Callers with a limit are refused until somebody looks "
                "and says `paymaster budgets confirm --account %s`",
                account,
                account,
            )
        return False


def _number(era: str) -> int:
    return int(era.partition(":")[0] or 0)


def _order(mark: tuple[str, int]) -> tuple[int, int]:
    era, count = mark
    return _number(era), count


def _read(path: Path) -> dict[str, tuple[str, int]]:
    """What the file holds; nothing, where there is none or it cannot be read."""
    try:
        return {account: (str(era), int(count)) for account, (era, count) in orjson.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        logger.error("%s cannot be read, a loss in Redis before now goes unnoticed: %s", path, exc)
        return {}
