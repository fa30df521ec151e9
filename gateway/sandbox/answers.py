"""What the models say: made by rule from the prompt, so that the same question has the same answer.

No model thinks here. The dearer ones answer at more length and spend tokens on reasoning; all of them call a tool
that the prompt asks for, read its results, stop where they are told to, and answer in JSON.
"""

import re
from dataclasses import dataclass
from itertools import cycle, islice
from zlib import crc32

import orjson

from gateway.sandbox import tokens
from gateway.sandbox.chat_request import EFFORTS, ChatRequest, Json, Tool, text_of
from gateway.sandbox.faults import directives_removed
from gateway.sandbox.schema import instance

_SENTENCES = (
    "The first thing to settle is what would count as done.",
    "One small case worked through by hand shows more than a general rule.",
    "What can be measured is measured before anything is changed.",
    "Where two readings are possible, the simpler one is tried first.",
    "Whatever cannot be undone is left for the end.",
    "The costs are known beforehand, so nothing comes as a surprise.",
    "Each step is checked on its own before the next one builds on it.",
    "If the result looks too good, the test is at fault more often than the world.",
    "An answer that names its limits can be relied upon within them.",
)
_ENDLESS = tokens.pieces(" " + " ".join(_SENTENCES))

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_STEM = 5
_EMPTY_WORDS = frozenset(
    _WORD.findall(
        "about all and any are call can could data does for from function get give given has have how into its make "
        "not one out please return returns set that the their them then this tool use used using want was what when "
        "where which who why will with would you your"
    )
)
_QUOTED_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of an answer. `pieces` are the tokens of its text or, with `tool`, of that tool's arguments."""

    pieces: list[str]
    tool: str | None
    finish_reason: str
    reasoning_tokens: int

    @property
    def output_tokens(self) -> int:
        """All that is billed as output; calling a tool is one token beside its arguments."""
        return self.reasoning_tokens + len(self.pieces) + (self.tool is not None)

    @property
    def text(self) -> str:
        """The pieces together."""
        return "".join(self.pieces)


def answers(request: ChatRequest, length: int | None = None) -> list[Answer]:
    """The choices asked for, each within the request's cap; `length` is the tokens of a text made to measure."""
    return [_answer(request, index, length) for index in range(request.choices)]


def _answer(request: ChatRequest, index: int, length: int | None) -> Answer:
    reasoning = min(EFFORTS[request.effort], request.max_tokens // 2) if request.model.reasons else 0
    room = request.max_tokens - reasoning
    tool = _tool_asked_for(request)
    if tool:
        arguments = tokens.pieces(_json(tool.parameters, directives_removed(request.prompt)))
        reason = "tool_calls" if len(arguments) < room else "length"
        return Answer(arguments[: room - 1], tool.name, reason, reasoning)
    pieces = _stopped(_to_measure(length) if length is not None else _pieces(request, index), request.stop)
    return Answer(pieces[:room], None, "stop" if len(pieces) <= room else "length", reasoning)


def _json(schema: Json, text: str) -> str:
    return orjson.dumps(instance(schema, text)).decode()


def _to_measure(length: int) -> list[str]:
    pieces = list(islice(cycle(_ENDLESS), length))
    return [piece.lstrip() if number == 0 else piece for number, piece in enumerate(pieces)]


def _stopped(pieces: list[str], stops: tuple[str, ...]) -> list[str]:
    """The pieces before the first of `stops` in their text."""
    if not stops:
        return pieces
    text = "".join(pieces)
    ends = [end for end in map(text.find, stops) if end >= 0]
    return tokens.pieces(text[: min(ends)]) if ends else pieces


def _pieces(request: ChatRequest, index: int) -> list[str]:
    prompt = directives_removed(request.prompt)
    if request.schema is not None:
        return tokens.pieces(_json(request.schema, prompt))
    return tokens.pieces(_prose(request, prompt, index))


def _prose(request: ChatRequest, prompt: str, index: int) -> str:
    """An opening that shows what was understood, then as many sentences as the model is good for."""
    start = crc32(prompt.encode()) + index
    body = [_SENTENCES[(start + number) % len(_SENTENCES)] for number in range(request.model.sentences)]
    opening = _opening(request, prompt)
    if request.model.reasons:
        steps = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(body[:-1], 1))
        return f"{opening} Step by step:\n\n{steps}\n\nIn the end: {body[-1]}"
    return " ".join([opening, *body])


def _opening(request: ChatRequest, prompt: str) -> str:
    results = _results(request.messages)
    if results:
        return f"The tools answered: {'; '.join(results)}."
    return f"The sandbox was asked: “{_shortened(prompt)}”." if prompt else "The sandbox was asked nothing."


def _results(messages: list[Json]) -> list[str]:
    """The results of tools at the end of the conversation, in their order."""
    results: list[str] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        results.insert(0, _shortened(text_of(message)))
    return results


def _shortened(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}…"


def _tool_asked_for(request: ChatRequest) -> Tool | None:
    """The tool to call: the one that the last user message speaks of most, if any, or if one must be called."""
    spoken = request.messages[-1]["role"] == "user"
    if not request.tools or not (spoken or request.must_call):
        return None
    words = _stems(directives_removed(request.prompt))
    best = max(request.tools, key=lambda tool: _fit(tool, words))
    return best if request.must_call or _fit(best, words) > 1 else None


def _fit(tool: Tool, words: set[str]) -> int:
    """How well a tool suits: a word of its name counts twice, one of its description once."""
    return 2 * len(_stems(tool.name) & words) + len(_stems(tool.description) & words)


def _stems(text: str) -> set[str]:
    """The telling words of `text`, also those inside `camelCase` and `snake_case`, cut to their stems."""
    words = {word.lower() for word in _WORD.findall(text)}
    return {word.rstrip("s")[:_STEM] for word in words - _EMPTY_WORDS if len(word) > 2}
