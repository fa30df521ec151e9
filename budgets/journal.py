"""Resolutions on disk before Redis is told, and for a while after: what no SIGKILL, outage or failover may lose.

A worker appends to a file that it keeps locked. A line is a resolution; or `-`, the id of an attempt and when Redis
acknowledged it. Now and then another generation begins, a file that starts with what is pending; its first line, `*`
and when, says that all else before it is acknowledged. The generation before stays until all of it is older than what a
failover can lose. Nothing is synced: the kernel has the lines, so they outlive the process, though not the machine.
Files whose locks are all free belonged to a dead worker, and any living one may adopt them.
"""

import errno
import fcntl
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from budgets.errors import JournalUnavailable
from budgets.ledger import Resolution

SUFFIX = ".journal"
MOST_ACKNOWLEDGED = 500
"""Acknowledgements that wait for a next entry."""
MOST_GENERATIONS = 8
"""Files of one worker; more than two only where the disk fails again and again, or the clock was put back."""
PENDING_PER_WRITE = 10
"""While the disk fails, a write tries all that is pending only after a tenth as many others: in all, linear work."""

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(.+)\.(\d+)" + re.escape(SUFFIX))
_ATTEMPT = re.compile(rb'"attempt_id":"([^"\\]+)"')
_ACKNOWLEDGED = re.compile(rb"-(\S+) (-?\d+\.\d+)\n")
_BEGUN = re.compile(rb"\*(-?\d+\.\d+)\n")


@dataclass(slots=True)
class _Generation:
    path: Path
    file: FileIO
    """Holds the lock."""
    begun: float


class Journal:
    """The resolutions of one worker, in files under `folder`; those that Redis has not acknowledged in memory too.

    What is acknowledged is kept for `keep` seconds, then forgotten. Time is `clock`, in seconds, but it stands still
    while Redis is away and for the dead: what was recent when either went is recent when it is back.

    The files' names begin with `name`, and no two journals share one, even of the same name. An attempt has one open
    entry; a later one replaces it. Raises JournalUnavailable where the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, *, keep: float = 120.0, clock: Callable[[], float] = time.time) -> None:
        self.adoptions = 0
        """How many dead workers' files were taken over; each may have brought something recent."""
        self._folder = folder
        self._stem = f"{name}.{secrets.token_hex(4)}"
        self._keep = keep
        self._clock = clock
        self._away = 0.0
        """For how long Redis was away, in all."""
        self._away_since: float | None = None
        self._open: dict[str, Resolution] = {}
        self._acknowledged: list[bytes] = []
        """Lines that close entries, to be written with the next entry."""
        self._last_acknowledged = -math.inf
        self._number = 0
        self._generations: tuple[_Generation, ...] = ()
        """The last is written to. Another thread may read this, so it is only ever replaced as a whole."""
        self._changed = False
        """Whether anything was written since the current generation began."""
        self._failure: OSError | None = None
        """What the disk refused last; then the file lacks entries, or ends in half a line, until another begins."""
        self._patience = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._begin()
        except OSError as exc:
            raise _unavailable(folder, exc) from exc

    @property
    def depth(self) -> int:
        """How many entries Redis has not acknowledged."""
        return len(self._open)

    def pending(self) -> list[Resolution]:
        """The entries that Redis has not acknowledged, oldest first."""
        return list(self._open.values())

    def pending_of(self, attempt_id: str) -> Resolution | None:
        """The entry of an attempt that Redis has not acknowledged, if there is one."""
        return self._open.get(attempt_id)

    def recent(self) -> list[Resolution]:
        """The entries that Redis has not acknowledged for `keep` seconds yet, or not at all, by when they ended.

        One for each attempt, the last. What was acknowledged while the disk refused to take it is not among them.
        Reads the files, so it is for a thread of its own, beside whatever else is called meanwhile. Raises
        JournalUnavailable where they cannot be read.
        """
        horizon = self._now() - self._keep
        generations = self._generations
        try:
            with ExitStack() as stack:
                contents = _read(_readers(generations, stack))
        except OSError as exc:
            raise _unavailable(self._folder, exc, "read") from exc
        acknowledged = contents.acknowledged
        lines = (line for id_, line in contents.lines.items() if acknowledged.get(id_, math.inf) >= horizon)
        entries = {entry.attempt_id: entry for entry in map(_entry, lines) if entry}
        return sorted((entries | self._open.copy()).values(), key=lambda entry: entry.at)

    def append(self, entry: Resolution) -> None:
        """Store `entry` until it has been acknowledged for `keep` seconds; one write, before Redis is told.

        Raises JournalUnavailable where the disk does not take it. The entry is pending all the same, and a next write
        that succeeds brings it to the disk.
        """
        try:
            self._write(_line(entry))
        finally:
            self._open[entry.attempt_id] = entry

    def acknowledge(self, attempt_id: str) -> None:
        """Redis has the entry of an attempt, which is pending no more. Unknown ids are ignored.

        The disk is told a little later: found open there by another worker it is sent once more, and Redis, which knows
        how old it is, does not book it twice. It does not know that of an attempt it never held, so of that one the
        disk is told at once.
        """
        entry = self._open.pop(attempt_id, None)
        if entry is None:
            return
        self._last_acknowledged = self._now()
        self._acknowledged.append(_acknowledgement(attempt_id, self._last_acknowledged))
        if not entry.booked or len(self._acknowledged) >= MOST_ACKNOWLEDGED:
            self._catch_up()

    def flush(self, *, away: bool = False) -> None:
        """Tell the disk what was acknowledged, and begin another generation where it is time; for every heartbeat.

        While Redis is `away`, nothing grows old.
        """
        self._stand_still(away)
        now = self._now()
        self._current.begun = min(self._current.begun, now)  # the clock may have been put back
        self._forget(now)
        self._patience = 0
        self._catch_up()
        if self._changed and now - self._current.begun > self._keep:
            with suppress(OSError):  # then the file just goes on, and the next heartbeat tries again
                self._begin()

    def adopt(self) -> list[Resolution]:
        """Take over what dead workers left, and remove their files; returns what is open, now pending here.

        What was recent when its worker died is recent here. Of several journals only one gets a worker's files. Raises
        JournalUnavailable where that was all that came of it, and leaves the files for another time.
        """
        adopted: list[Resolution] = []
        failure: JournalUnavailable | None = None
        try:
            stems = _stems(self._folder) - {self._stem}
        except OSError as exc:
            raise _unavailable(self._folder, exc) from exc
        for stem in sorted(stems):
            try:
                adopted += self._adopt(stem)
            except JournalUnavailable as exc:
                failure = exc
        if failure and not adopted:
            raise failure
        return adopted

    def close(self) -> None:
        """Release the files, or remove them if nothing in them is pending or recent; else they wait for a worker."""
        if self._open or self._now() - self._last_acknowledged <= self._keep:
            self._catch_up()
            for generation in self._generations:
                generation.file.close()
        else:
            for generation in self._generations:
                _remove(generation)

    @property
    def _current(self) -> _Generation:
        return self._generations[-1]

    def _now(self) -> float:
        """The time by which things grow old."""
        return (self._clock() if self._away_since is None else self._away_since) - self._away

    def _stand_still(self, away: bool) -> None:
        if away and self._away_since is None:
            self._away_since = self._clock()
        elif not away and self._away_since is not None:
            self._away += max(0.0, self._clock() - self._away_since)
            self._away_since = None

    def _write(self, lines: bytes) -> None:
        """Add whole lines to the file, or to another one where that one is damaged."""
        try:
            if self._failure:
                self._mend(self._failure)
            content = b"".join((*self._acknowledged, lines))
            _append(self._current.file, content)
        except OSError as exc:
            self._failure = exc
            raise _unavailable(self._folder, exc) from exc
        finally:
            self._acknowledged.clear()  # where it failed, the next generation's first line says it
        self._changed = self._changed or bool(content)

    def _catch_up(self) -> None:
        """Write what waits for a next entry. What cannot be written waits on."""
        if self._acknowledged or self._failure:
            with suppress(JournalUnavailable):
                self._write(b"")

    def _mend(self, failure: OSError) -> None:
        """Begin another generation with all that is pending, after a failure. Raises OSError."""
        if self._patience:
            self._patience -= 1
            raise OSError(*failure.args)
        try:
            self._begin()
        except OSError:
            self._patience = len(self._open) // PENDING_PER_WRITE
            raise

    def _begin(self) -> None:
        """Begin another generation, with what is pending; the file has its name only when it is complete."""
        now = self._now()
        first_line = b"*%.6f\n" % now if self._generations else b""
        path = _path(self._folder, self._stem, self._number + 1)
        file = _create(path, b"".join((first_line, *map(_line, self._open.values()))))
        self._number += 1
        self._generations = (*self._generations, _Generation(path, file, now))
        self._acknowledged.clear()
        self._changed = False
        self._failure = None
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Remove the generations in which nothing is recent; all that is pending is in the last one."""
        while len(self._generations) > 1:
            oldest, after = self._generations[:2]
            if after.begun >= now - self._keep and len(self._generations) <= MOST_GENERATIONS:
                return
            self._generations = self._generations[1:]
            _remove(oldest)

    def _adopt(self, stem: str) -> list[Resolution]:
        """The open entries of one dead worker; none while it lives, or where another was faster."""
        generations = _listed(self._folder, stem)
        try:
            with ExitStack() as stack:
                files = [stack.enter_context(path.open("r+b")) for path in generations.values()]
                for file in files:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not generations or _listed(self._folder, stem) != generations:
                    return []  # another has taken them, or the worker has begun one more and died since
                entries = self._take(stem, _read(files))
                for path in generations.values():  # the oldest first: acknowledgements are in later ones
                    path.unlink(missing_ok=True)
                _draft(_path(self._folder, stem, max(generations) + 1)).unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            return []
        except OSError as exc:
            raise _unavailable(self._folder, exc) from exc
        return entries

    def _take(self, stem: str, contents: "_Contents") -> list[Resolution]:
        """Write here what a dead worker's files say that is open or recent; returns the open entries, oldest first."""
        found = {id_: _entry(line) for id_, line in contents.lines.items() if id_ not in contents.acknowledged}
        opened = {id_: entry for id_, entry in found.items() if entry}
        unreadable = contents.unreadable + len(found) - len(opened)
        if unreadable:
            logger.warning("%d lines in the journal of %s cannot be read and are passed over", unreadable, stem)
        self._write(b"".join((*self._recent_lines(contents), *map(_line, opened.values()))))
        self._open.update(opened)
        self.adoptions += 1
        return list(opened.values())

    def _recent_lines(self, contents: "_Contents") -> list[bytes]:
        """The entries that were recent when their worker died, each with an acknowledgement as old as it was then."""
        lines: list[bytes] = []
        since = self._now() - contents.last
        for attempt_id, at in contents.acknowledged.items():
            if contents.last - at <= self._keep:
                lines += contents.lines[attempt_id], _acknowledgement(attempt_id, at + since)
                self._last_acknowledged = max(self._last_acknowledged, at + since)
        return lines


@dataclass(slots=True)
class _Contents:
    """What the generations of one worker say, the oldest first, as far as it has been read."""

    lines: dict[str, bytes] = field(default_factory=dict)
    """The last entry of each attempt."""
    acknowledged: dict[str, float] = field(default_factory=dict)
    """When those of them were that are not open."""
    last: float = -math.inf
    """When they were last written to, as far as they tell."""
    unreadable: int = 0

    def add(self, line: bytes) -> None:
        if match := _ATTEMPT.search(line):
            attempt_id = match[1].decode(errors="replace")
            self.lines[attempt_id] = line
            self.acknowledged.pop(attempt_id, None)
        elif match := _ACKNOWLEDGED.fullmatch(line):
            self._acknowledge((match[1].decode(errors="replace"),), float(match[2]))
        elif match := _BEGUN.fullmatch(line):
            self._acknowledge(self.lines, float(match[1]))
        else:
            self.unreadable += 1

    def _acknowledge(self, attempt_ids: Iterable[str], at: float) -> None:
        self.last = at
        for attempt_id in attempt_ids:
            if attempt_id in self.lines:
                self.acknowledged.setdefault(attempt_id, at)


def _read(files: Iterable[BinaryIO]) -> _Contents:
    """What the files say. A line cut short, or not complete yet, ends its file."""
    contents = _Contents()
    for file in files:
        for line in file:
            if not line.endswith(b"\n"):
                contents.unreadable += 1
                break
            contents.add(line)
    return contents


def _readers(generations: Iterable[_Generation], stack: ExitStack) -> list[BinaryIO]:
    """Handles of our own on the files, until the stack ends. In one that is gone by now nothing was recent."""
    readers: list[BinaryIO] = []
    for generation in generations:
        with suppress(FileNotFoundError):
            readers.append(stack.enter_context(generation.path.open("rb")))
    return readers


def _create(path: Path, content: bytes) -> FileIO:
    """A new file at `path`, complete and locked before it has the name."""
    draft = _draft(path)
    file = FileIO(draft, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _append(file, content)
        draft.rename(path)
    except OSError:
        file.close()
        draft.unlink(missing_ok=True)
        raise
    return file


def _append(file: FileIO, lines: bytes) -> None:
    """Write whole lines in one write. Raises OSError, also where the disk took only a part of them."""
    if file.write(lines) != len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _remove(generation: _Generation) -> None:
    with suppress(OSError):  # it stays until it is adopted; there the later ones say what was acknowledged
        generation.path.unlink(missing_ok=True)
    generation.file.close()


def _stems(folder: Path) -> set[str]:
    """How the names of each worker's files begin."""
    return {match[1] for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}


def _listed(folder: Path, stem: str) -> dict[int, Path]:
    """The files of a worker by the number of the generation, the oldest first."""
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    numbers = sorted(int(match[2]) for match in matches if match and match[1] == stem)
    return {number: _path(folder, stem, number) for number in numbers}


def _path(folder: Path, stem: str, number: int) -> Path:
    return folder / f"{stem}.{number}{SUFFIX}"


def _draft(path: Path) -> Path:
    return path.with_suffix(".draft")


def _line(entry: Resolution) -> bytes:
    return entry.to_json() + b"\n"


def _acknowledgement(attempt_id: str, at: float) -> bytes:
    return b"-%b %.6f\n" % (attempt_id.encode(), at)


def _entry(line: bytes) -> Resolution | None:
    """The entry that a line holds. Where it holds none, its hold ends in suspense, not nowhere."""
    try:
        return Resolution.from_json(line)
    except ValueError:
        return None


def _unavailable(path: Path, exc: OSError, what: str = "written") -> JournalUnavailable:
    return JournalUnavailable(f"the journal cannot be {what}: {exc.strerror} ({path})")
