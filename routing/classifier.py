"""A linear judge of difficulty: weights times features, and the sum as a probability. Its evidence can be named.

The weights are a table made offline from labelled prompts (`routing/training/fit.py`). Another judge may take its place
behind `routing.task.profile`, as long as its score means the same: the probability that a strong model is needed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import exp

from routing.features import Features, counted
from routing.weights import INTERCEPT, WEIGHTS

_NOTICEABLE = 0.2
"""Log-odds below which a piece of evidence is not worth a word."""

_RAISES: Mapping[str, str] = {
    "prove": "asks for a proof",
    "solve": "asks for a solution to be worked out",
    "debug": "a fault is to be found",
    "design": "asks for a design",
    "analyse": "asks for an analysis",
    "compare": "asks to weigh alternatives",
    "decide": "asks for a decision",
    "plan": "asks for a plan",
    "why": "asks why",
    "implement": "something is to be built or rebuilt",
    "explains_itself": "asks for the reasons",
    "preserving": "something must stay intact",
    "limit": "{count} constraint{s}",
    "condition": "{count} condition{s}",
    "quantified": "relations between things",
    "hypothetical": "asks what would be",
    "extended": "a long, thorough answer",
    "formal": "mathematics",
    "systems": "systems engineering",
    "professional": "expert knowledge",
    "abstract": "abstract ideas",
    "linked": "linked steps",
    "numbers": "several numbers",
    "related_numbers": "numbers that depend on each other",
    "maths_signs": "formulas",
    "parts": "several parts",
    "clauses": "several parts",
    "several_hard": "several demands at once",
    "hard_and_terse": "a hard thing in few words",
    "long_words": "abstract wording",
    "code_question": "a question about pasted code",
    "payload_hard": "a hard question about a pasted text",
    "technical_product": "a technical thing is to be made",
    "context": "details to be kept in mind",
    "diagnosis": "asks why something behaves as it should not",
    "symptom": "something behaves as it should not",
    "paradox": "a contradiction is to be explained",
    "machinery": "an algorithm or a machine of its own",
}
_LOWERS: Mapping[str, str] = {
    "transform": "a text is to be changed, not thought about",
    "extract": "something is to be found in a text",
    "summarise": "asks for a summary",
    "recall": "asks for a fact",
    "chat": "small talk",
    "small_write": "a short text is to be written",
    "howto": "asks how to do something usual",
    "agent_small": "a small errand",
    "write_code": "a usual piece of code",
    "explain": "asks for an explanation",
    "brief": "a short answer is wanted",
    "layman": "for a lay person",
    "everyday": "everyday matters",
    "told_then_small": "a small thing asked after a long story",
    "curious_why": "a question of general interest",
    "software": "everyday software",
    "fact_question": "a short question of fact",
    "bare_question": "a short question of fact",
    "fact_about_field": "a short question of fact",
    "plain_and_short": "short and plain",
    "terse": "very short",
    "no_ask": "nothing is asked",
    "payload_easy": "a small job on a pasted text",
    "small_cap": "the caller allows a short answer only",
}
_USUAL: Mapping[str, str] = {
    "plain_explanation": "a usual explanation",
    "ordinary_code": "a usual piece of code",
    "ordinary_writing": "a usual piece of writing",
    "ordinary_plan": "a usual plan",
    "ordinary_choice": "a usual comparison",
    "school_maths": "a sum as at school",
    "stock_error": "a well-known error message",
}
_BY_HAND: Mapping[str, float] = {"tools": 0.15, "images": 0.3, "small_cap": -1.0}
"""Facts of a request that no labelled prompt has; small, set by judgement."""

_COUNTS = ("no", "one", "two", "three", "four or more")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score, and what it rests on."""

    score: float
    """The probability that a strong model is needed."""
    evidence: Mapping[str, float]
    """Log-odds by feature: positive speaks for a strong model."""


class Classifier:
    """Weights by feature; a feature without one does not count."""

    def __init__(self, weights: Mapping[str, float] = WEIGHTS, intercept: float = INTERCEPT) -> None:
        self._weights = {**_BY_HAND, **weights}
        self._intercept = intercept

    def judge(self, features: Features) -> Verdict:
        """Score the features of one request."""
        evidence = {name: value * self._weights.get(name, 0.0) for name, value in counted(features).items()}
        return Verdict(sigmoid(self._intercept + sum(evidence.values())), evidence)


def sigmoid(log_odds: float) -> float:
    """The probability at these log-odds."""
    return 1.0 / (1.0 + exp(-max(-30.0, min(30.0, log_odds))))


def reasons(features: Features, verdict: Verdict, difficult: bool) -> tuple[str, ...]:
    """The evidence for a difficult (or else for an easy) task in words, strongest first."""
    total: dict[str, float] = {}
    for phrase, weight in _spoken(features, verdict, difficult):
        total[phrase] = total.get(phrase, 0.0) + weight
    ranked = sorted(total, key=lambda phrase: -total[phrase])
    return tuple(phrase for phrase in ranked if total[phrase] >= _NOTICEABLE)


def usual(features: Features) -> tuple[str, ...]:
    """The usual kind of work that was recognised, in words: at most one."""
    return tuple(phrase for name, phrase in _USUAL.items() if name in features)[:1]


def _spoken(features: Features, verdict: Verdict, difficult: bool) -> Iterator[tuple[str, float]]:
    phrases = _RAISES if difficult else _LOWERS
    for name, weight in verdict.evidence.items():
        phrase = phrases.get(name.rpartition(":")[2])
        if phrase is None:
            continue
        count = min(round(features[name] ** 2), 4)
        yield (
            phrase.format(count=_COUNTS[count], s="" if count == 1 else "s"),
            weight if difficult else -weight,
        )
