"""What a request asks for: `profile(TaskText) → TaskProfile`."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log1p
from typing import Literal

from routing.classifier import Classifier, reasons, usual
from routing.features import FeatureReader

Complexity = Literal["simple", "standard", "reasoning", "unknown"]


@dataclass(frozen=True, slots=True)
class TaskText:
    """The parts of a request that tell its difficulty. Filled by `gateway/wire` for aliases only."""

    user: str
    """The last user message, text parts joined."""
    system: str = ""
    turns: int = 1
    """User turns so far."""
    context_bytes: int = 0
    """Size of the whole request."""
    tools: tuple[str, ...] = ()
    """Names of the tools offered."""
    images: int = 0
    response_format: str = "text"
    """`text`, `json_object` or `json_schema`."""
    output_cap: int | None = None
    """The caller's own limit of output tokens."""
    in_tool_loop: bool = False
    """Whether the last message is a tool's result, so that this is a later step of an agent."""


@dataclass(frozen=True, slots=True)
class TaskProfile:
    """The verdict. `score` is the probability that a strong model is needed, 0 to 1."""

    complexity: Complexity
    requires_reasoning: bool
    score: float
    reasons: tuple[str, ...]
    """The evidence in words, strongest first."""


SIMPLE_BELOW = 0.28
"""A score below this is simple: a small model will do."""
REASONING_FROM = 0.55
"""A score from here on requires reasoning."""


def complexity_of(score: float) -> Complexity:
    """The class of a score."""
    if score < SIMPLE_BELOW:
        return "simple"
    return "reasoning" if score >= REASONING_FROM else "standard"


_READER = FeatureReader()
_CLASSIFIER = Classifier()
_SMALL_CAP = 64
"""Output tokens that leave no room for reasoning."""

_CUES = ("has:", "payload", "numbers", "maths_signs", "inline_code", "yes_no_question", "wh_question")


def profile(task: TaskText) -> TaskProfile:
    """Judge how difficult a request is, from its text and the facts around it, in well under a millisecond.

    `unknown` where there is no evidence to judge by; the reason then says what is missing.
    """
    features = {**_READER.read(task.user), **_circumstances(task)}
    verdict = _CLASSIFIER.judge(features)
    if missing := _missing(task, features):
        return TaskProfile("unknown", False, verdict.score, (missing,))
    complexity = complexity_of(verdict.score)
    difficult = () if complexity == "simple" else reasons(features, verdict, difficult=True)
    easy = () if complexity == "reasoning" else reasons(features, verdict, difficult=False)
    if complexity == "standard":
        said = (*usual(features), *difficult[:2], *easy[:1])
    else:
        said = difficult or easy or usual(features)
    return TaskProfile(complexity, complexity == "reasoning", verdict.score, said)


def _circumstances(task: TaskText) -> dict[str, float]:
    return {
        "tools": log1p(len(task.tools)),
        "images": float(task.images > 0),
        "small_cap": float(task.output_cap is not None and task.output_cap <= _SMALL_CAP),
    }


def _missing(task: TaskText, features: Mapping[str, float]) -> str | None:
    """What keeps a text from being judged, in words; None where it can be."""
    if "words" not in features and "payload" not in features:
        return "only an image" if task.images else "no text"
    if "no_request" in features:
        return "a pasted text without a request"
    if "only_go_on" in features:
        return "it only says to go on"
    if "statement" in features and not any(name.startswith(_CUES) for name in features):
        return "nothing in it is understood"
    return None
