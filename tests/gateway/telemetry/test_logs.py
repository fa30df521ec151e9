"""Logs: one JSON line each, no secrets, and no request ever waits for their reader."""

import io
import json
import logging
import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.logs import MAX_TEXT, PIPE_BUF, JsonHandler, LineWriter, clean, configure, line


class Blocked(io.BytesIO):
    """A stream whose reader does not read until told to; notes the size of every write."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = threading.Event()
        self.reading = threading.Event()
        self.sizes: list[int] = []

    def write(self, text: bytes) -> int:  # type: ignore[override]
        self.writing.set()
        self.reading.wait()
        self.sizes.append(len(text))
        return super().write(text)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, given back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


def logged(record: logging.LogRecord) -> dict[str, object]:
    stream = io.BytesIO()
    writer = LineWriter(stream)
    JsonHandler(writer).handle(record)
    writer.close()
    return dict(json.loads(stream.getvalue()))


def record_of(message: str, **more: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "gateway.app", "levelname": "WARNING", "msg": message, **more})


def test_lines_come_out_whole_and_in_order() -> None:
    stream = io.BytesIO()
    writer = LineWriter(stream)
    lines = [b"%d\n" % number for number in range(5000)]
    for text in lines:
        writer.write(text)
    writer.close()

    assert stream.getvalue() == b"".join(lines)
    assert writer.dropped == 0


def test_with_a_reader_that_does_not_read_lines_are_dropped_and_counted() -> None:
    stream = Blocked()
    writer = LineWriter(stream, capacity=10)
    writer.write(b"first\n")
    stream.writing.wait()
    for number in range(15):
        writer.write(b"%d\n" % number)
    stream.reading.set()
    writer.close()

    assert writer.dropped == 5
    assert stream.getvalue() == b"first\n" + b"".join(b"%d\n" % number for number in range(10))


def test_no_write_is_larger_than_a_pipe_takes_at_once() -> None:
    stream = Blocked()
    writer = LineWriter(stream)
    writer.write(b"first\n")
    stream.writing.wait()
    for _ in range(100):
        writer.write(b"x" * 999 + b"\n")
    stream.reading.set()
    writer.close()

    assert max(stream.sizes) <= PIPE_BUF
    assert len(stream.sizes) < 50  # and yet they are written together


def test_a_reader_that_went_away_costs_lines_not_the_process() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(os.fdopen(writing, "wb", buffering=0))
    writer.write(b"nobody hears this\n")
    writer.close()

    assert writer.dropped == 1


def test_a_line_says_when_and_leaves_out_what_is_unknown() -> None:
    assert json.loads(line({"level": "info", "tier": None}, 0.5)) == {
        "time": "1970-01-01T00:00:00.500000Z",
        "level": "info",
    }


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("plain text", "plain text"),
        ("two\nlines", "two\\u000alines"),
        ("\x1b[31mred", "\\u001b[31mred"),
        ("\x9b31m", "\\u009b31m"),
        ("right\u202eleft", "right\\u202eleft"),
        ("my key is sk-pm-default-abcdefghijklmnop.", "my key is sk-***."),
        ("sk-ant-api03-abcdefgh", "sk-***"),
        ("a task-oriented ask", "a task-oriented ask"),
    ],
)
def test_text_of_others_is_made_harmless(given_text: str, expected: str) -> None:
    assert clean(given_text) == expected


@given(st.text())
def test_no_text_breaks_a_line_or_grows_without_bound(text: str) -> None:
    cleaned = clean(text)

    assert cleaned.isprintable()
    assert len(cleaned) <= 10 * MAX_TEXT


def test_a_key_is_not_shown_where_it_is_cut_off() -> None:
    cut = clean("x" * (MAX_TEXT - 12) + " sk-pm-default-" + "s" * 43)

    assert "sk-pm" not in cut


def test_the_standard_librarys_records_are_lines_of_the_same_form() -> None:
    found = logged(record_of("worker %d is gone, key %s", args=(3, "sk-pm-default-abcdefgh")))

    assert found["level"] == "warning"
    assert found["logger"] == "gateway.app"
    assert found["message"] == "worker 3 is gone, key sk-***"


def test_an_exception_is_told_with_its_last_lines() -> None:
    try:
        raise ValueError("x" * 10_000)
    except ValueError as error:
        found = logged(record_of("failed", exc_info=(type(error), error, error.__traceback__)))

    assert len(json.dumps(found)) < PIPE_BUF
    assert str(found["exception"]).startswith("['xxx")


@pytest.mark.usefixtures("root_logger")
def test_uvicorn_logs_through_the_same_writer() -> None:
    stream = io.BytesIO()
    writer = LineWriter(stream)
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
    configure(writer)
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("gateway.server").debug("not worth a line")
    writer.close()

    assert [json.loads(text)["message"] for text in stream.getvalue().splitlines()] == ["started"]
