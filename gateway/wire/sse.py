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
_SEAM_BYTES = len(b"\r\n\r")
"""The most of a blank line that can stand before a chunk that ends it."""


class EventSplitter:
    """Cuts a byte stream into whole events, whatever the chunks are; each event keeps its bytes, ending included."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._seam = b""
        """The last bytes of the pieces, where a blank line may have begun."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes. Raises InvalidAnswer for an event larger than `MAX_EVENT_BYTES`."""
        if self._pieces and not _BLANK_LINE.search(self._seam + chunk):  # joined only once, however small the chunks
            self._keep(chunk)
            return []
        buffer = b"".join((*self._pieces, chunk))
        self._pieces, self._size_bytes, self._seam = [], 0, b""
        if b"\r" not in buffer:  # what nearly every provider sends
            *whole, rest = buffer.split(b"\n\n")
            events = [event + b"\n\n" for event in whole]
        else:
            events, rest = _split_any(buffer)
        if rest:
            self._keep(rest)
        return events

    @property
    def rest(self) -> bytes:
        """What came after the last whole event."""
        return b"".join(self._pieces)

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size_bytes += len(piece)
        self._seam = (self._seam + piece[-_SEAM_BYTES:])[-_SEAM_BYTES:]
        if self._size_bytes > MAX_EVENT_BYTES:
            raise InvalidAnswer(f"an event of more than {MAX_EVENT_BYTES} bytes")


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
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = _LINE_END.split(event.removeprefix(b"\xef\xbb\xbf"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def event_of(data: bytes) -> bytes:
    """An event with one data line."""
    return b"data: " + data + b"\n\n"
