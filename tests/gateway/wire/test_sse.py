import re
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire import sse
from gateway.wire.errors import InvalidAnswer
from gateway.wire.sse import EventSplitter, data_of, event_of

TRICKY = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""Where Python's `splitlines` cuts and server-sent events do not."""
LINE_ENDS = ("\n", "\r", "\r\n")
LINE = st.text(
    st.sampled_from(f"ab:é漢😀{TRICKY}") | st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])
)
FIELDS = st.sampled_from(("data: ", "data:", ": ", "event: ", "id: ", ""))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream of events and of what is none, each line with an ending of its own."""
    lines = draw(st.lists(st.tuples(FIELDS, LINE, st.sampled_from(LINE_ENDS)) | blank_lines(), max_size=12))
    return "".join(field + text + end for field, text, end in lines).encode()


def blank_lines() -> st.SearchStrategy[tuple[str, str, str]]:
    return st.tuples(st.just(""), st.just(""), st.sampled_from(LINE_ENDS))


def events_of(chunks: Iterable[bytes]) -> tuple[list[bytes], bytes]:
    """The events that come out of a splitter, and what it still has at the end."""
    splitter = EventSplitter()
    return [event for chunk in chunks for event in splitter.feed(chunk)], splitter.rest


def data_by_the_book(event: bytes) -> bytes:
    """The event's data as https://html.spec.whatwg.org/multipage/server-sent-events.html reads it."""
    data = []
    for line in re.split(r"\r\n|\n|\r", event.decode("utf-8-sig")):
        name, _, value = line.partition(":")
        if name == "data" and ":" in line:
            data.append(value.removeprefix(" "))
    return "\n".join(data).encode()


@given(streams())
@example('data: {"a": "x\u2028y\x85z\x0b\x0c"}\r\n\r\ndata: 😀\n\ndata: b\r\rdata: c\n\n'.encode())
@example(b"data: a\r\n\ndata: b\n\r\n\n\n\r\r\r\n\r")
def test_cut_at_any_byte_the_events_are_the_same(stream: bytes) -> None:
    whole = events_of([stream])

    for cut in range(len(stream) + 1):
        events, rest = events_of([stream[:cut], stream[cut:]])
        assert b"".join(events) + rest == stream
        assert (events, rest) == whole


@given(streams())
@example(b"data: a\r\n\ndata: b\n\r\n\n\n\r\r\r\n\r")
def test_byte_by_byte_the_events_are_the_same(stream: bytes) -> None:
    assert events_of(stream[at : at + 1] for at in range(len(stream))) == events_of([stream])


@given(streams())
def test_an_event_ends_with_its_first_blank_line(stream: bytes) -> None:
    events, rest = events_of([stream])

    for event in events:
        *lines, last, after = re.split(rb"\r\n|\n|\r", event)
        assert (last, after) == (b"", b"")
        assert b"" not in lines[1:]
    assert not re.search(rb"(?:\r\n|\n|\r(?!\n|$)){2}", rest)


@given(streams())
@example(b"data: a\rdata: b\n\n")
@example(b"\xef\xbb\xbfdata: a\n\n")
def test_data_is_read_as_the_standard_says(stream: bytes) -> None:
    events, _ = events_of([stream])

    assert [data_of(event) for event in events] == [data_by_the_book(event) for event in events]


@given(LINE)
def test_an_event_we_make_has_our_data(text: str) -> None:
    events, rest = events_of([event_of(text.encode())])

    assert (list(map(data_of, events)), rest) == ([text.encode()], b"")


def test_an_event_waits_until_its_end_has_come() -> None:
    splitter = EventSplitter()

    assert splitter.feed(b"data: a") == []
    assert splitter.feed(b"\n") == []
    assert splitter.feed(b"\n") == [b"data: a\n\n"]


@pytest.mark.parametrize("filler", [b"x", b"\n: x", b"\r: x"])
def test_an_event_without_end_is_refused_before_it_fills_the_memory(
    filler: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1_000)

    with pytest.raises(InvalidAnswer, match="1000"):
        events_of(filler for _ in range(2_000))


def test_a_large_event_in_small_pieces_costs_no_more_than_its_size() -> None:
    splitter = EventSplitter()
    piece = b"x" * 1_024

    for _ in range(12 * 1_024):  # a quadratic splitter would copy 72 GB
        assert splitter.feed(piece) == []
    (event,) = splitter.feed(b"\n\n")

    assert len(event) == 12 * 2**20 + 2
