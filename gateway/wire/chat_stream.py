"""A chat stream on its way through: what the caller gets, what was used, how it ended."""

import re

import orjson

from budgets.usage import Usage
from gateway.wire import sse
from gateway.wire.chat import read_usage

# In JSON text a quote inside a string is escaped, so these match keys only; whether the key is at the top level is
# seen when the event is parsed.
_USAGE = re.compile(rb'"usage"\s*:\s*\{').search
_ERROR = re.compile(rb'^data:\s*\{\s*"error"\s*:\s*[{"]', re.MULTILINE).search
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"').search


class StreamError(Exception):
    """The upstream reported an error inside its stream, after status 200."""


class ChatStream:
    """Follows one stream. Events are passed on as they came; only those with usage or an error are parsed."""

    def __init__(self, *, wants_usage: bool) -> None:
        self.usage: Usage | None = None
        """The last usage that was sent: some providers send a running sum with every chunk."""
        self.complete = False
        """Whether `usage` is that of the whole answer."""
        self.response_model: str | None = None
        self.events = 0
        """Events passed on; about one token of output each."""
        self._wants_usage = wants_usage
        self._splitter = sse.EventSplitter()
        self._done = False
        self._finished = False

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
        tail = rest + b"\n\n" if rest.strip() and not self._done and self._passes(rest) else b""
        if not self._done and not self._finished:
            raise StreamError("the stream ended early, without a finish reason and without [DONE]")
        return tail if self._done else tail + sse.DONE

    def _passes(self, event: bytes) -> bool:
        if self._done:
            return False
        if _USAGE(event) and self._is_bare_usage(event) and not self._wants_usage:
            return False  # asked for by us, not by the caller
        if _ERROR(event):
            raise StreamError(f"the upstream reported: {_message(event)}")
        if sse.data_of(event).startswith(b"[DONE]"):
            self._done = True
        elif _FINISHED(event):
            self._finished = True
        self.events += 1
        return True

    def _is_bare_usage(self, event: bytes) -> bool:
        """Reads the event's usage; true if it carries nothing else, as the extra event that ends a stream does."""
        try:
            chunk = orjson.loads(sse.data_of(event))
        except orjson.JSONDecodeError:
            return False
        if not isinstance(chunk, dict) or not isinstance(chunk.get("usage"), dict):
            return False
        self.usage = read_usage(chunk)
        bare = not chunk.get("choices")
        self.complete = bare or self._finished or _FINISHED(event) is not None
        model = chunk.get("model")
        self.response_model = model if isinstance(model, str) else None
        return bare


def _message(event: bytes) -> str:
    try:
        error = orjson.loads(sse.data_of(event))["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "an error it did not explain"
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]
