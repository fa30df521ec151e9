"""Resolutions on disk before Redis is told: what a SIGKILL of a worker, or an outage of Redis, must not lose.

A worker has one file, which it alone appends to and keeps locked. A line is a resolution, or `-` and the id of an
attempt that Redis has acknowledged. Nothing is synced: the kernel has the lines, so they outlive the process, though
not the machine. A file whose lock is free belonged to a dead worker, and any living one may adopt it.
"""

import errno
import fcntl
import logging
import os
import secrets
from contextlib import suppress
from io import FileIO
from pathlib import Path

from budgets.errors import JournalUnavailable
from budgets.ledger import Resolution

SUFFIX = ".journal"
MOST_ACKNOWLEDGED = 500
"""Acknowledgements that wait for a next entry."""
SMALL_BYTES = 1 << 20
"""A file is not rewritten before it has grown to this."""

logger = logging.getLogger(__name__)


class Journal:
    """The resolutions of one worker that Redis has not acknowledged, in memory and in a file under `folder`.

    The file's name begins with `name`, and no two journals share one, even of the same name. An attempt has one open
    entry; a later one replaces it. Raises JournalUnavailable where the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.{secrets.token_hex(4)}{SUFFIX}"
        self._open: dict[str, Resolution] = {}
        self._acknowledged: list[bytes] = []
        """Lines that forget entries, to be written with the next entry."""
        self._behind = False
        """Whether the disk refused something, so that the file lacks entries or ends in half a line."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = _create(self._path, b"")
        except OSError as exc:
            raise _unavailable(folder, exc) from exc
        self._size = 0
        self._rewrite_at = SMALL_BYTES

    @property
    def depth(self) -> int:
        """How many entries Redis has not acknowledged."""
        return len(self._open)

    def pending(self) -> list[Resolution]:
        """The entries that Redis has not acknowledged, oldest first."""
        return list(self._open.values())

    def append(self, entry: Resolution) -> None:
        """Store `entry` until it is acknowledged; one write, before Redis is told.

        Raises JournalUnavailable where the disk does not take it. The entry is pending all the same, and the next
        write that succeeds brings it to the disk.
        """
        self._open[entry.attempt_id] = entry
        self._write(_line(entry))

    def acknowledge(self, attempt_id: str) -> None:
        """Forget the entry of an attempt; Redis has it. Unknown ids are ignored.

        The disk forgets it a little later: found there by another worker it is sent once more, and Redis, which knows
        how old it is, does not book it twice. It does not know that of an attempt it never held, so that one is
        forgotten at once.
        """
        entry = self._open.pop(attempt_id, None)
        if entry is None:
            return
        self._acknowledged.append(b"-%b\n" % attempt_id.encode())
        if not entry.booked or len(self._acknowledged) >= MOST_ACKNOWLEDGED:
            self.flush()

    def flush(self) -> None:
        """Bring to the disk what was acknowledged; to be called now and then, for when nothing is appended."""
        if self._acknowledged:
            with suppress(JournalUnavailable):  # the next write that succeeds does it
                self._write(b"")

    def adopt(self) -> list[Resolution]:
        """Take over what dead workers left open, and remove their files; returns the entries, now pending here.

        Of several journals only one gets a file. Raises JournalUnavailable, and then leaves the file for another time.
        """
        adopted: list[Resolution] = []
        for path in sorted(self._path.parent.glob(f"*{SUFFIX}")):
            if path != self._path:
                adopted += self._adopt(path)
        return adopted

    def close(self) -> None:
        """Release the file, or remove it if nothing is pending; what is pending waits for another worker."""
        if self._open:
            self.flush()
        else:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def _adopt(self, path: Path) -> list[Resolution]:
        """The open entries of one file; none while its worker lives, or where another was faster."""
        try:
            with FileIO(path, "r+") as orphan:
                fcntl.flock(orphan, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(orphan.fileno()), path.stat()):
                    return []  # its worker lives and has just replaced it
                entries = _open_entries(path, orphan.readall())
                self._open.update((entry.attempt_id, entry) for entry in entries)
                self._write(b"".join(map(_line, entries)))
                _draft(path).unlink(missing_ok=True)
                path.unlink()
        except (BlockingIOError, FileNotFoundError):
            return []
        except OSError as exc:
            raise _unavailable(path, exc) from exc
        return entries

    def _write(self, lines: bytes) -> None:
        """Add whole lines, of which `_open` knows already, to the file; or rewrite it where that is due."""
        if self._behind or self._size > (self._rewrite_at if self._open else SMALL_BYTES):
            self._rewrite()
            return
        lines = b"".join((*self._acknowledged, lines))
        try:
            _append(self._file, lines)
        except OSError as exc:
            self._behind = True
            raise _unavailable(self._path, exc) from exc
        self._acknowledged.clear()
        self._size += len(lines)

    def _rewrite(self) -> None:
        """Replace the file by one with the pending entries alone; the old one stands until the new one is complete."""
        content = b"".join(map(_line, self._open.values()))
        try:
            file = _create(self._path, content)
        except OSError as exc:
            self._behind = True
            raise _unavailable(self._path, exc) from exc
        self._file.close()
        self._file = file
        self._acknowledged.clear()
        self._behind = False
        self._size = len(content)
        self._rewrite_at = max(SMALL_BYTES, 2 * self._size)


def _create(path: Path, content: bytes) -> FileIO:
    """A new file at `path`, complete and locked before it has the name, in the place of any older one."""
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


def _draft(path: Path) -> Path:
    return path.with_suffix(".draft")


def _line(entry: Resolution) -> bytes:
    return entry.to_json() + b"\n"


def _open_entries(path: Path, content: bytes) -> list[Resolution]:
    """What a journal's content leaves open. A line cut short is passed over: its hold ends in suspense, not nowhere."""
    entries: dict[str, Resolution] = {}
    for line in content.splitlines():
        if line.startswith(b"-"):
            entries.pop(line[1:].decode(errors="replace"), None)
            continue
        try:
            entry = Resolution.from_json(line)
        except ValueError:
            logger.warning("a line of %s cannot be read and is passed over", path)
        else:
            entries[entry.attempt_id] = entry
    return list(entries.values())


def _unavailable(path: Path, exc: OSError) -> JournalUnavailable:
    return JournalUnavailable(f"the journal cannot be written: {exc.strerror} ({path})")
