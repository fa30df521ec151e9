"""A chat stream on its way through: what the caller gets, what was used, how it ended."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from budgets.usage import Usage
from gateway.wire import sse
from gateway.wire.chat import read_usage

# In JSON a quote inside a string is escaped, so these are keys or whole strings; what they mean is seen when the event
# is parsed.
_NOTABLE = re.compile(rb'"(?:usage"\s*:\s*\{|error"|finish_reason"\s*:\s*")').search


class StreamError(Exception):
    """The upstream reported an error inside its stream, after status 200, or ended it too early."""


class ChatStream:
    """Follows one stream. Events are passed on as they came; only those that tell of usage or an end are parsed."""

    def __init__(self, *, wants_usage: bool, n: int = 1, counts: bool = False) -> None:
        """`n`: how many answers come in the one stream. `counts`: whether `most_tokens` is to be known."""
        self.usage: Usage | None = None
        """The last usage that was sent: some providers send a running sum with every chunk."""
        self.complete = False
        """Whether `usage` is that of the whole answer."""
        self.response_model: str | None = None
        self.done = False
        """Whether `[DONE]` has come: nothing after it counts."""
        self.events = 0
        """Events passed on; about one token of output each."""
        self.most_tokens = 0
        """The most output tokens that what has come can be."""
        self._counts = counts
        self._wants_usage = wants_usage
        self._unfinished = set(range(n))
        self._splitter = sse.EventSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """What of `chunk`, and of what was waiting, goes to the caller: whole events only.

        Raises StreamError for an error event and InvalidAnswer for one that is too large.
        """
        return b"".join([event for event in self._splitter.feed(chunk) if self._passes(event)])

    def finish(self) -> bytes:
        """What the caller still gets at the upstream's clean end: the last event and `[DONE]` where they lacked.

        Raises StreamError if the stream ended before its answer did: an early end must not look like a clean one.
        """
        rest = self._splitter.rest
        if not self.done and _is_torn(rest):
            raise StreamError("the stream ended in the middle of an event")
        tail = rest + b"\n\n" if rest.strip() and self._passes(rest) else b""
        if self.done:
            return tail
        if self._unfinished:
            raise StreamError("the stream ended early, without a finish reason and without [DONE]")
        self.complete = True
        return tail + sse.DONE

    def _passes(self, event: bytes) -> bool:
        """Whether the caller gets `event`; what it tells is noted."""
        if self.done:
            return False
        if self._counts:
            self.most_tokens += _most_tokens(event)
        if _NOTABLE(event):
            chunk = _json(event)
            bare_usage = self._note(chunk)
            _refuse_error(chunk)
            if bare_usage and not self._wants_usage:
                return False  # asked for by us, not by the caller
        elif b"[DONE]" in event and sse.data_of(event).startswith(b"[DONE]"):
            self.done = self.complete = True
        self.events += 1
        return True

    def _note(self, chunk: Mapping[str, Any]) -> bool:
        """Reads who is finished and what was used; true if that is all, as in the extra event that ends a stream."""
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                self._unfinished -= {_index(choice)}
        model = chunk.get("model")
        self.response_model = model if isinstance(model, str) else self.response_model
        if not isinstance(chunk.get("usage"), dict):
            return False
        self.usage = read_usage(chunk)
        self.complete = not choices or not self._unfinished
        return not choices


def _json(event: bytes) -> Mapping[str, Any]:
    try:
        chunk = orjson.loads(sse.data_of(event))
    except orjson.JSONDecodeError:
        return {}
    return chunk if isinstance(chunk, dict) else {}


def _most_tokens(event: bytes) -> int:
    """No tokenizer makes more tokens than bytes of text; a choice without any may still be one, such as its end."""
    chunk = _json(event)
    if not chunk:
        data = sse.data_of(event)
        return 0 if data.startswith(b"[DONE]") else len(data)
    choices = chunk.get("choices")
    found = choices if isinstance(choices, list) else []
    return sum(max(1, _text_bytes(choice)) for choice in found)


def _text_bytes(choice: Any) -> int:
    """The bytes of every text in a choice, whatever it is called: new fields bring new kinds of output."""
    size_bytes, unseen = 0, [choice]
    while unseen:
        value = unseen.pop()
        if isinstance(value, str):
            size_bytes += len(value.encode())
        elif isinstance(value, dict):
            unseen.extend(part for name, part in value.items() if name != "logprobs")  # they repeat the tokens
        elif isinstance(value, list):
            unseen.extend(value)
    return size_bytes


def _is_torn(event: bytes) -> bool:
    data = sse.data_of(event)
    return bool(data) and not data.startswith(b"[DONE]") and not _json(event)


def _index(choice: Mapping[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _refuse_error(chunk: Mapping[str, Any]) -> None:
    """Raises StreamError where the chunk is an error, under a key of its own or as a whole."""
    error = chunk.get("error") or (chunk if "error" in (chunk.get("object"), chunk.get("type")) else None)
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        raise StreamError(f"the upstream reported: {str(message or 'an error it did not explain')[:500]}")
