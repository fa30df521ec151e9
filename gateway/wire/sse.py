"""Server-sent events: bytes in, whole events out.

Lines end in LF, CR or CRLF and nothing else (https://html.spec.whatwg.org/multipage/server-sent-events.html); an
event ends at an empty line. Python's `splitlines` also cuts at U+2028 and others, which are legal inside JSON.
"""

import re

from gateway.wire.errors import InvalidAnswer

MAX_EVENT_BYTES = 16 * 2**20
"""An event beyond this is an attack or a fault: an image in base64 stays below."""

DONE = b"data: [DONE]\n\n"

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventSplitter:
    """Cuts a byte stream into whole events, whatever the chunks are; each event keeps its bytes, ending included."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes. Raises InvalidAnswer for an event larger than `MAX_EVENT_BYTES`."""
        buffer = self._rest + chunk if self._rest else chunk
        if b"\r" not in buffer:  # what nearly every provider sends
            *whole, self._rest = buffer.split(b"\n\n")
            events = [event + b"\n\n" for event in whole]
        else:
            events, self._rest = _split_any(buffer)
        if len(self._rest) > MAX_EVENT_BYTES:
            raise InvalidAnswer(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    @property
    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._rest


def _split_any(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The events of a buffer with CR in it. A CR at the very end waits: its LF may still come."""
    events = []
    start = 0
    for blank in _BLANK_LINE.finditer(buffer):
        if blank.end() == len(buffer) and buffer.endswith(b"\r"):
            break
        events.append(buffer[start : blank.end()])
        start = blank.end()
    return events, buffer[start:]


def data_of(event: bytes) -> bytes:
    """The event's data: its `data:` lines joined with LF, one space after the colon dropped."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = _LINE_END.split(event.removeprefix(b"\xef\xbb\xbf"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def event_of(data: bytes) -> bytes:
    """An event with one data line."""
    return b"data: " + data + b"\n\n"
