"""What can be seen in a request's text without understanding it: numbers with a meaning each.

Only the instruction is read word by word; of what was pasted along with it, only size and kind count. So a long text
under a small request stays a small request. Counts enter as square roots: the first of a kind says most.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import log1p, sqrt

from routing.lexicon import CLASSES, OPERATIONS, Lexicon, words_of
from routing.views import Splitter, Views

Features = Mapping[str, float]

_EASY = frozenset({"transform", "extract", "summarise", "recall", "chat", "small_write", "howto", "agent_small"})
_HARD = frozenset({"implement", "prove", "solve", "debug", "design", "analyse", "compare", "decide", "plan", "why"})
_COMMANDED = frozenset({"transform", "extract", "agent_small"})
_SHAPE = (
    "words", "context", "terse", "no_ask", "parts", "clauses", "questions", "numbers", "maths_signs", "inline_code",
    "yes_no_question", "wh_question", "statement", "long_words",
)  # fmt: skip
_PASTED = ("payload", "payload_code", "payload_easy", "payload_hard")
_COMBINED = (
    "fact_question", "bare_question", "fact_about_field", "related_numbers", "hard_and_terse", "several_hard",
    "code_question", "plain_and_short", "technical_product", "diagnosis", "paradox", "curious_why",
    "told_then_small", "formula_task",
)  # fmt: skip
_USUAL = (
    "plain_explanation", "ordinary_code", "ordinary_writing", "ordinary_plan", "ordinary_choice",
    "school_maths", "stock_error",
)  # fmt: skip
_COUNTS_FOR = 0.35
NAMES = (
    *(f"has:{name}" for name in CLASSES),
    *(f"lead:{name}" for name in OPERATIONS),
    *_SHAPE,
    *_PASTED,
    *_COMBINED,
    *_USUAL,
)
"""Every feature that may carry a weight. Besides these, `no_request` and `only_go_on` say what is missing."""

_MATHS = re.compile(
    r"[=≤≥≠∫∑√^∞∀∃∈→⇒]|[<>!]=|->|(?<!\+)[+*](?=\s*[\da-z]\b)|/(?<=[a-z)]/)\s*\d|\d[a-z]\b|\\[a-z]+|\|[^|\n]{1,20}\|"
    r"|\((?<=\b[A-Za-z]\()[A-Za-z\d][^()\n]{0,16}\)|'(?<=\b[a-z]')'?(?=\s*[-+=(])|\[(?:\[|(?<=\b[EP]\[))|!(?<=\b[a-z]!)"
)
"""Formulas as typed: signs, `2x`, TeX, `|x|`, `f(x)`, `y''`, `E[..]`, `n!`. None begins with a letter, for speed."""
_MATHS_WORDS = frozenset({"sin", "cos", "tan", "ln", "log", "exp", "sqrt", "lim", "mod", "dx", "dy", "dt"})
_INLINE_CODE = re.compile(r"`[^`\n]+`|\w\(\)|\w\.\w+\(|[a-z]_[a-z]|\wError\b")
_WH_QUESTION = re.compile(
    r"^(?:(?:and|so|hey|please|in|at|on) )*(?:what(?:'?s| is| are| was| does| do)?|who|when|where|which"
    r"|how (?:many|much|tall|old|far|high|big|often)|wer|wann|wo|welche[rs]?|wie (?:hoch|alt|viele|weit|groß)"
    r"|quel(?:le)?s?|qui|quand|où|combien|quién|cuándo|cuántos?|cuál|dónde|qual|quando|dove|quanti)\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"^(?:is|are|was|were|does|do|did|can|could|should|will|would|has|have|must|ist|sind|kann|soll|est-ce|es|è)\b",
    re.IGNORECASE,
)
_ERROR_NAME = re.compile(
    r"(?:Error|Exception)\b|(?:error|ERR!?|code|exit)\b.{0,12}\d{2,}|E[A-Z]{4,}\b|#(?:N/A|REF|VALUE)|[45]\d\d\b(?<=\b...)"
    r"|(?:says|message|error:?) *\"|(?:cors|CORS)\b"
)
_SUBORDINATE = re.compile(
    r"\b(?:when|whenever|if|because|since|after|before|while|although|unless|that|which|who|whose|where|as soon as"
    r"|wenn|weil|dass|quand|parce|cuando|porque)\s[^,;:.?!\n]*",
    re.IGNORECASE,
)
_SCHOOL = re.compile(
    r"\b(?:solve|factori[sz]e|simplify|expand|differentiate|derivative of|l[öo]se|resuelve|résous)\s+(?:for \w+:?\s*)?"
    r"[-+*/^=().\d\sa-z]{2,40}(?:[.?!,]|$|and\b|by\b|show\b)"
    r"|\b(?:the mean|median|average|percent|discount|interest|speed)\b",
    re.IGNORECASE,
)
"""What school asks: an equation in one unknown, a mean, a percentage."""
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
_CLAUSE_END = re.compile(r"[.!?;:\n]|,\s*(?:and\s|then\s|und\s|y\s|et\s)?|\b(?:and|then|und|et|y)\b")


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    words: list[str]
    classes: list[str]
    lead: frozenset[str]

    @property
    def asks(self) -> bool:
        """Whether it asks for something, rather than telling what the matter is."""
        return bool(self.lead) or self.text.endswith("?")


def counted(features: Features) -> Features:
    """The features as they enter the sum: in a usual kind of work, all others for a part only.

    So an ordinary task stays in the middle, whether it is put in five words or in fifty.
    """
    if _USUAL_SET.isdisjoint(features):
        return features
    part = dict.fromkeys(_USUAL, 1.0) | {"plain_and_short": 0.0}
    return {name: value * part.get(name, _COUNTS_FOR) for name, value in features.items()}


class FeatureReader:
    """Reads the features of a text. Holds the lexicon's tables, so make one and keep it."""

    def __init__(self) -> None:
        self._lexicon = Lexicon()
        self._splitter = Splitter(self._lexicon)

    def read(self, text: str) -> dict[str, float]:
        """The features by name; those that are zero are left out."""
        views = self._splitter.views(text)
        sentences = [self._sentence(part) for part in _SENTENCE_END.split(views.instruction) if part.strip()]
        asks = [sentence for sentence in sentences if sentence.asks] or sentences
        counts = Counter(name for sentence in sentences for name in sentence.classes)
        lead = asks[0].lead if asks else frozenset()
        features = {f"has:{name}": sqrt(min(count, 4)) for name, count in counts.items()}
        features |= {f"lead:{name}": 1.0 for name in lead}
        features |= _shape(views.instruction, sentences, asks)
        features |= _beside(views, lead, counts)
        features |= _combined(features, counts, asks)
        features |= _puzzling(views.instruction, counts, sum(len(sentence.words) for sentence in sentences))
        features |= _ordinary(views.instruction, features, counts, asks)
        return {name: value for name, value in features.items() if value}

    def _sentence(self, text: str) -> _Sentence:
        """Small operations count in the main clause only, and never in a question for a reason."""
        words = words_of(text)
        found = self._lexicon.classes(words)
        if any(not _COMMANDED.isdisjoint(here) for here in found):
            main = "" if "why" in self._lexicon.first(found) else _SUBORDINATE.sub(" ", text)
            commanded = {name for here in self._lexicon.classes(words_of(main)) for name in here}
            found = [[name for name in here if name not in _COMMANDED or name in commanded] for here in found]
        return _Sentence(text.strip(), words, [name for here in found for name in here], self._lexicon.first(found))


def _shape(instruction: str, sentences: list[_Sentence], asks: list[_Sentence]) -> dict[str, float]:
    """Sizes, marks and form of the instruction."""
    words = [word for sentence in sentences for word in sentence.words]
    asked = sum(len(sentence.words) for sentence in asks)
    first = asks[0].text if asks else ""
    return {
        "words": log1p(asked) / 2,
        "context": log1p(len(words) - asked) / 2,
        "terse": float(len(words) <= 6),
        "no_ask": float(not any(sentence.asks for sentence in sentences)),
        "parts": _root(instruction.count(",") + instruction.count(";"), 16) / 2,
        "clauses": _root(sum(bool(part.strip()) for part in _CLAUSE_END.split(instruction)), 16) / 2,
        "questions": _root(instruction.count("?") - 1, 4),
        "numbers": _root(sum(word[0].isdigit() for word in words), 9) / 2,
        "maths_signs": _root(len(_MATHS.findall(instruction)) + sum(word in _MATHS_WORDS for word in words), 4),
        "inline_code": float(bool(_INLINE_CODE.search(instruction))),
        "yes_no_question": float(bool(_YES_NO.match(first))),
        "wh_question": float(bool(_WH_QUESTION.match(first))),
        "statement": float("?" not in instruction),
        "long_words": sum(len(word) >= 9 for word in words) / (len(words) + 3) * 2,
    }


def _beside(views: Views, lead: frozenset[str], counts: Mapping[str, int]) -> dict[str, float]:
    """What lies beside the instruction, and whether it is worked on lightly or hard."""
    size = log1p(len(views.payload.split())) / 3
    return {
        "payload": size,
        "payload_code": float(bool(views.payload) and views.code),
        "payload_easy": size * bool(lead & _EASY),
        "payload_hard": size * bool(_HARD & counts.keys()),
        "no_request": float(bool(views.payload) and not views.instruction),
    }


def _combined(features: Features, counts: Counter[str], asks: list[_Sentence]) -> dict[str, float]:
    """What only means something together: a hard word in a question of fact, numbers under conditions…"""
    words = sum(len(sentence.words) for sentence in asks)
    hard = len(_HARD & counts.keys())
    field = not counts.keys().isdisjoint(_EXPERT)
    bound = not counts.keys().isdisjoint(("limit", "condition", "quantified"))
    on_code = bool(features["payload_code"])
    riddle = bool(features["context"]) and features["numbers"] > _TWO_NUMBERS
    question = bool(features["wh_question"]) and words <= 14 and not on_code and not riddle
    free = not bound or ("recall" in asks[0].lead and counts.keys().isdisjoint(("limit", "quantified")))
    loose = free and counts.keys().isdisjoint(("why", "hypothetical", "linked"))
    return {
        "fact_question": float(question and not hard),
        "bare_question": float(question and loose and len(asks) == 1 and features["maths_signs"] <= 1),
        "fact_about_field": float(question and not hard and field),
        "related_numbers": features["numbers"] * bound,
        "hard_and_terse": float(hard > 0 and words <= 12 and field),
        "several_hard": _root(hard - 1, 9),
        "code_question": float(on_code and not features["payload_easy"]),
        "plain_and_short": float(not hard and not field and words <= 12),
        "technical_product": float("produce" in counts and not counts.keys().isdisjoint(_TECHNICAL)),
        "only_go_on": float(0 < words <= 6 and not features["context"] and counts["go_on"] >= words),
    }


def _puzzling(instruction: str, counts: Counter[str], words: int) -> dict[str, float]:
    """Whether something behaves as it should not, and its cause is asked for; or only a well-known message is shown."""
    why = "why" in counts or "puzzled" in counts
    symptom = "symptom" in counts or "debug" in counts
    known = bool(_ERROR_NAME.search(instruction)) and "contrast" not in counts
    plain = not symptom and counts.keys().isdisjoint((*_EXPERT, "software", "first_person", "limit", "contrast"))
    return {
        "diagnosis": float(why and symptom and not known),
        "paradox": float("contrast" in counts and (symptom or why)),
        "stock_error": float(known and not why and words <= 25),
        "curious_why": float(why and plain and words <= 12),
    }


def _ordinary(instruction: str, features: Features, counts: Counter[str], asks: list[_Sentence]) -> dict[str, float]:
    """Usual kinds of work. Where one is found, other signs count for less (`counted`)."""
    lead = {name for name in OPERATIONS if f"lead:{name}" in features}
    asked = {name for sentence in asks for name in sentence.classes}
    deep = not counts.keys().isdisjoint(_DEEP)
    few_numbers = features["numbers"] <= _TWO_NUMBERS
    explained = "explain" in counts and ("recall" not in asked or counts["explain"] > 1)
    sum_asked = bool(features["maths_signs"] or features["numbers"]) and bool(_SCHOOL.search(instruction))
    kinds = {
        "plain_explanation": explained and asked.isdisjoint(_BEYOND_EXPLAINING),
        "ordinary_code": "write_code" in counts and not deep and "brief" not in counts,
        "ordinary_writing": "genre" in counts and bool(lead & _WRITTEN) and "analyse" not in counts,
        "ordinary_plan": "plan" in counts and not deep and few_numbers,
        "ordinary_choice": "compare" in counts and not deep and few_numbers and counts.keys().isdisjoint(_WEIGHTY),
        "school_maths": sum_asked and counts.keys().isdisjoint(_BEYOND_SCHOOL) and features["words"] < _LONG_ASK,
    }
    strict = counts["limit"] + counts["condition"] + counts["preserving"] > 2 or "why" in counts
    return {
        **{name: float(found and not strict) for name, found in kinds.items()},
        "told_then_small": features["context"]
        * (bool(asked & _SMALL_ASKS) and few_numbers and not _HARD & counts.keys()),
        "formula_task": features["maths_signs"] * ("formal" in counts or "prove" in counts),
    }


_USUAL_SET = frozenset(_USUAL)
_EXPERT = ("formal", "systems", "professional", "machinery", "abstract")
_DEEP = frozenset({"formal", "systems", "machinery", "prove", "analyse", "explains_itself"})
_BEYOND_EXPLAINING = frozenset(
    ("why", "limit", "symptom", "prove", "debug", "hypothetical", "decide", "analyse", "abstract", "brief", "layman")
)
_BEYOND_SCHOOL = frozenset(
    {"formal", "prove", "analyse", "professional", "machinery", "hypothetical", "decide", "compare", "why"}
)
_WEIGHTY = frozenset({"professional", "decide", "abstract"})
_TWO_NUMBERS = sqrt(2) / 2
_LONG_ASK = log1p(30) / 2
_SMALL_ASKS = frozenset({"transform", "extract", "summarise", "recall", "small_write", "agent_small", "brief"})
_WRITTEN = frozenset({"produce", "small_write", "transform", "design", "plan", "write_code"})
_TECHNICAL = frozenset({"formal", "systems", "machinery"})


def _root(count: int, most: int) -> float:
    return sqrt(max(0, min(count, most)))
