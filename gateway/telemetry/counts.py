"""Numbers that outlive the process that counts them: doubles in a memory-mapped file, named in a list beside it.

Adding to one costs about 0.1 µs and no system call. The kernel keeps what was written when the process is killed; only
a crash of the machine loses it. The list is locked while its process lives, so no two count into one file.
"""

import fcntl
import logging
import mmap
import os
from array import array
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from itertools import count
from pathlib import Path
from typing import TypeAlias

import orjson

Name: TypeAlias = tuple[str, ...]
"""A series and the values of its labels."""
Cells: TypeAlias = "memoryview[float]"
"""A run of doubles; assigning to one writes through to the file."""

SEGMENT_BYTES = 1 << 16
"""Files grow by this much; a multiple of every platform's page and mapping size."""
SEGMENT_CELLS = SEGMENT_BYTES // 8
NAMES_SUFFIX = ".names"
VALUES_SUFFIX = ".values"

_logger = logging.getLogger(__name__)


class Counts:
    """Named runs of doubles of one process, in memory, or in files that a successor continues when it has ended.

    While another process counts into the files at `path`, `<path>~1` is taken, and so on.
    `<path>.values` holds whole segments of doubles; `<path>.names` one JSON line for each run: `[start, width, name…]`.
    A run is named after its numbers exist, so neither a reader nor a successor finds a name without numbers.
    Adding to a number cannot fail. Where the disk is full, new runs are counted in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.runs: dict[Name, Cells] = {}
        self._segments: list[Cells] = []
        self._end = 0
        self._names: Path | None = None
        self._lock: FileIO | None = None
        if path is not None:
            self._names, self._lock = _locked(path)
        self._values = self._names and self._names.with_suffix(VALUES_SUFFIX)
        if self._names is not None:
            self._continue(self._names)

    def cells(self, name: Name, width: int) -> Cells:
        """The `width` doubles called `name`, as they were left; zeros where the name is new."""
        found = self.runs.get(name)
        if found is not None:
            return found
        try:
            cells = self._kept(name, width)
        except OSError as exc:
            _logger.warning("%s will not outlive this process: %s", name[0], exc.strerror)
            cells = memoryview(array("d", bytes(8 * width)))
        self.runs[name] = cells
        return cells

    def close(self) -> None:
        """Let a successor go on from here; nothing is to be counted any more."""
        if self._lock is not None:
            self._lock.close()

    def _kept(self, name: Name, width: int) -> Cells:
        if self._end % SEGMENT_CELLS + width > SEGMENT_CELLS:  # a run does not cross segments
            self._end += SEGMENT_CELLS - self._end % SEGMENT_CELLS
        start, self._end = self._end, self._end + width
        cells = self._mapped(start, width)
        if self._names is not None:
            with self._names.open("ab") as names:
                names.write(orjson.dumps([start, width, *name], option=orjson.OPT_APPEND_NEWLINE))
        return cells

    def _continue(self, names: Path) -> None:
        whole, newline, _ = names.read_bytes().rpartition(b"\n")
        os.truncate(names, len(whole) + len(newline))  # a name cut short by a kill has no numbers yet
        for start, width, name in _named(names):
            self.runs[name] = self._mapped(start, width)
            self._end = start + width

    def _mapped(self, start: int, width: int) -> Cells:
        segment, offset = divmod(start, SEGMENT_CELLS)
        while len(self._segments) <= segment:
            self._segments.append(self._segment(len(self._segments) * SEGMENT_BYTES))
        return self._segments[segment][offset : offset + width]

    def _segment(self, start: int) -> Cells:
        """The file's segment that begins at byte `start`, made where it is not there yet."""
        if self._values is None:
            return memoryview(mmap.mmap(-1, SEGMENT_BYTES)).cast("d")
        with self._values.open("ab+") as values:
            values.write(bytes(max(0, start + SEGMENT_BYTES - values.tell())))
            values.flush()  # takes the disk's space now: a number written to a hole would kill the process
            return memoryview(mmap.mmap(values.fileno(), SEGMENT_BYTES, offset=start)).cast("d")


def read_folder(folder: Path, of_the_living: Container[str] = ()) -> Iterator[tuple[Name, Sequence[float]]]:
    """Every run of every process that counts, or counted, under `folder`; safe while they go on.

    Series `of_the_living` are left out where the process has ended.
    """
    for names in sorted(folder.glob(f"*{NAMES_SUFFIX}")):
        ended = _has_ended(names)
        runs = list(_named(names))  # before the numbers, which exist earlier than their names
        values = memoryview(names.with_suffix(VALUES_SUFFIX).read_bytes()).cast("d") if runs else ()
        for start, width, name in runs:
            if not (ended and name[0] in of_the_living):
                yield name, values[start : start + width]


def _locked(path: Path) -> tuple[Path, FileIO] | tuple[None, None]:
    """The list of the first of `path`, `<path>~1`, … that nobody counts into, now ours; none where no file can be."""
    for number in count():
        names = path.with_name(f"{path.name}~{number}" if number else path.name).with_suffix(NAMES_SUFFIX)
        try:
            lock = FileIO(names, "a")
        except OSError as exc:
            _logger.warning("what is counted will not outlive this process: %s", exc.strerror)
            return None, None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return names, lock
    raise AssertionError("there is always one more number")


def _has_ended(names: Path) -> bool:
    """Whether nobody counts into the file any more. A process that starts just now may take the next one instead."""
    with FileIO(names) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _named(names: Path) -> Iterator[tuple[int, int, Name]]:
    for text in names.read_bytes().splitlines():
        with suppress(orjson.JSONDecodeError):  # being written just now, or cut short by a kill or a full disk
            start, width, *name = orjson.loads(text)
            yield start, width, tuple(name)
