"""JSON log lines that never hold up a request: a bounded queue, a thread that writes, a count of what was dropped."""

import logging
import re
import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Any

import orjson

from gateway.telemetry import semconv

PIPE_BUF = 4096
"""Writes up to this size are not mixed with those of other processes on the same pipe (POSIX)."""
MAX_TEXT = 256
MAX_TRACEBACK = 2_000
_KEY = re.compile(r"(sk-pm-|(?<![A-Za-z0-9])sk-)[\w-]{8,}")


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """`text` fit for a log: about `limit` characters, nothing unprintable, nothing that looks like a key."""
    if "sk-" in text:
        text = _KEY.sub("sk-***", text[: 4 * limit])  # before the cut, which would leave a part of one
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if not text.isprintable():
        text = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return text


def line(fields: dict[str, Any], now: float) -> bytes:
    """One log line; fields that are None are left out. `now` is Unix seconds."""
    told = {semconv.TIME: datetime.fromtimestamp(now, UTC), **fields}
    if None in told.values():
        told = {name: value for name, value in told.items() if value is not None}
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


class LineWriter:
    """Writes lines to a stream from a thread of its own.

    The thread is woken for the first line after a pause, waits `linger` seconds for more, and writes them together.
    With `capacity` lines waiting, further ones are dropped and counted in `dropped`.
    """

    def __init__(self, stream: IO[bytes], *, capacity: int = 10_000, linger: float = 0.02) -> None:
        self.dropped = 0
        self._stream = stream
        self._capacity = capacity
        self._linger = linger
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, text: bytes) -> None:
        """Queue one line, its newline included. Never waits, never raises."""
        if len(self._lines) >= self._capacity:
            self.dropped += 1
            return
        self._lines.append(text)
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(self._linger)
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        for lines in self._batches():
            try:
                self._stream.write(b"".join(lines))
                self._stream.flush()
            except (OSError, ValueError):  # the reader is gone, or the stream was closed
                self.dropped += len(lines)

    def _batches(self) -> Iterator[list[bytes]]:
        """The queued lines, taken off the queue, in batches that a pipe takes as a whole."""
        batch: list[bytes] = []
        size = 0
        while self._lines:
            text = self._lines.popleft()
            if batch and size + len(text) > PIPE_BUF:
                yield batch
                batch, size = [], 0
            batch.append(text)
            size += len(text)
        if batch:
            yield batch


class JsonHandler(logging.Handler):
    """Makes the records of the standard library's loggers lines of the same form."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            semconv.LEVEL: record.levelname.lower(),
            semconv.LOGGER: record.name,
            semconv.MESSAGE: clean(record.getMessage(), MAX_TRACEBACK),
            semconv.EXCEPTION: self._traceback(record),
        }
        self._writer.write(line(fields, record.created))

    def _traceback(self, record: logging.LogRecord) -> list[str] | None:
        """The traceback's last lines, which name the error."""
        if record.exc_info is None or record.exc_info[0] is None:
            return None
        text = self._formatter.formatException(record.exc_info)[-MAX_TRACEBACK:]
        return [clean(part) for part in text.splitlines()]


def configure(writer: LineWriter, level: str = "INFO") -> None:
    """Send everything that the process logs to `writer` as JSON, uvicorn's own messages too (its `log_config` None)."""
    logging.basicConfig(level=level, handlers=[JsonHandler(writer)], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
