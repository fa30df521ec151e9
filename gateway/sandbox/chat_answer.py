"""A chat answer as bytes, whole or as server-sent events, in the shapes of OpenAI's chat completions."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, NamedTuple

import orjson

from gateway.sandbox.answers import Answer
from gateway.sandbox.models import Model

_FINGERPRINT = "fp_sandbox"
_SERVICE_TIER = "default"
_DONE = b"data: [DONE]\n\n"


class Event(NamedTuple):
    """One server-sent event: its bytes, the output tokens it delivers, whether it belongs to the stream's end."""

    data: bytes
    tokens: int = 0
    closing: bool = False


@dataclass(slots=True)
class ChatAnswer:
    """The choices of one answer and what its usage claims (None: nothing); `created` in whole seconds.

    With `usage_twice` a stream that is asked for its usage tells it two times.
    """

    model: Model
    choices: list[Answer]
    usage: dict[str, Any] | None
    created: int
    usage_twice: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")

    def whole(self) -> bytes:
        """The answer in one piece."""
        choices = [
            {"index": index, "message": _message(answer), "logprobs": None, "finish_reason": answer.finish_reason}
            for index, answer in enumerate(self.choices)
        ]
        usage = {} if self.usage is None else {"usage": self.usage}
        return orjson.dumps(self._head("chat.completion") | {"choices": choices} | usage)

    def events(self, *, include_usage: bool) -> Iterator[Event]:
        """The answer as a stream: for every choice role and pieces, then the ends, the usage if asked for, [DONE]."""
        head = b"data: " + orjson.dumps(self._head("chat.completion.chunk"))[:-1]
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        for index, answer in enumerate(self.choices):
            before = head + b',"choices":[{"index":%d,"delta":' % index
            after = b',"logprobs":null,"finish_reason":null}]' + tail
            for delta, tokens in _deltas(answer):
                yield Event(before + delta + after, tokens)
        for index, answer in enumerate(self.choices):
            choice = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%s"}'
            ended = choice % (index, answer.finish_reason.encode())
            yield Event(head + b',"choices":[' + ended + b"]" + tail, closing=True)
        if include_usage and self.usage is not None:
            for _ in range(2 if self.usage_twice else 1):
                yield Event(head + b',"choices":[],"usage":' + orjson.dumps(self.usage) + b"}\n\n", closing=True)
        yield Event(_DONE, closing=True)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.name,
            "service_tier": _SERVICE_TIER,
            "system_fingerprint": _FINGERPRINT,
        }


def _call_id() -> str:
    return f"call_{token_hex(12)}"


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.tool is not None:
        function = {"name": answer.tool, "arguments": answer.text}
        message["content"] = None
        message["tool_calls"] = [{"id": _call_id(), "type": "function", "function": function}]
    return message


def _deltas(answer: Answer) -> Iterator[tuple[bytes, int]]:
    """The deltas of one choice as JSON, each with the output tokens it delivers; the first carries the reasoning."""
    if answer.tool is None:
        yield b'{"role":"assistant","content":"","refusal":null}', answer.reasoning_tokens
        for piece in answer.pieces:
            yield b'{"content":' + orjson.dumps(piece) + b"}", 1
    else:
        function = {"name": answer.tool, "arguments": ""}
        call = {"index": 0, "id": _call_id(), "type": "function", "function": function}
        opening = {"role": "assistant", "content": None, "tool_calls": [call]}
        yield orjson.dumps(opening), answer.reasoning_tokens + 1
        for piece in answer.pieces:
            yield b'{"tool_calls":[{"index":0,"function":{"arguments":' + orjson.dumps(piece) + b"}}]}", 1
