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
    "code_question", "plain_and_short", "technical_product", "diagnosis", "paradox", "stock_error", "curious_why",
    "plain_explanation", "ordinary_code", "ordinary_writing", "ordinary_plan", "school_maths",
    "usual_load", "told_then_small", "formula_task",
)  # fmt: skip
NAMES = (
    *(f"has:{name}" for name in CLASSES),
    *(f"lead:{name}" for name in OPERATIONS),
    *_SHAPE,
    *_PASTED,
    *_COMBINED,
)
"""Every feature that may carry a weight. Besides these, `no_request` and `only_go_on` say what is missing."""

_MATHS = re.compile(
    r"[=≤≥≠∫∑√^∞∀∃∈→⇒]|[<>!]=|->|=>|\b[A-Za-z]\([A-Za-z0-9](?:\s*[,|=<>]\s*[A-Za-z0-9]+)*\)|\b\d*[a-z]\s*[+*/]\s*\d"
    r"|\d[a-z]\b|\b[a-z]'{1,2}(?=\s*[-+=(])|\b[EP]\[|\|[^|\n]{1,20}\||\\[a-z]+|\[\[|\bd[xyt]\b|\b[a-z]!"
    r"|\bO\([^)\n]{1,20}\)|\b(?:sin|cos|tan|ln|log|exp|sqrt|lim|sum|mod)\b\s*[\^(_]?"
)
"""Formulas as they are typed: signs, `f(x)`, `2x`, `y''`, `E[..]`, TeX, `dx`, `n!`, `O(n)`, names of functions."""
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
_WHY = re.compile(
    r"\b(?:why|how come|how (?:is|can|could) (?:that|it|this|both)|how is (?:it|that) possible|what (?:could|might|would|may)"
    r" (?:it be|be|explain|cause)|what(?:'?s| is| went) (?:\w+ )?wrong|what(?:'?s| is) (?:really )?(?:going on|happening)"
    r"|where (?:does it|is it|do i look|to look)|root cause|reason|warum|wieso|pourquoi|por qué|perché|почему)\b|为什么",
    re.IGNORECASE,
)
_ERROR_NAME = re.compile(
    r"\b[A-Z]\w*(?:Error|Exception)\b|\b(?:error|ERR!?|code|exit)\b.{0,12}\d{2,}|#(?:N/A|REF|VALUE)|\b[45]\d\d\b"
    r"|\b(?:says|message|error:?) *\"|\bcors\b",
)
_SUBORDINATE = re.compile(
    r"\b(?:when|whenever|if|because|since|after|before|while|although|unless|that|which|who|whose|where|as soon as"
    r"|wenn|weil|dass|quand|parce|cuando|porque)\s[^,;:.?!\n]*",
    re.IGNORECASE,
)
_SCHOOL = re.compile(
    r"\b(?:solve|factori[sz]e|simplify|expand|differentiate|derivative of|l[öo]se|resuelve|résous)\s+(?:for \w+:?\s*)?"
    r"[-+*/^=().\d\sa-z]{2,40}(?:[.?!,]|$|and\b|by\b|show\b)|\b(?:mean|median|average|percent|discount|interest|speed)\b",
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
        features |= _ordinary(features, counts, asks)
        return {name: value for name, value in features.items() if value}

    def _sentence(self, text: str) -> _Sentence:
        """Small operations count in the main clause only, and never in a question for a reason."""
        words = words_of(text)
        found = self._lexicon.classes(words)
        main = "" if _WHY.match(text.strip()) else _SUBORDINATE.sub(" ", text)
        if main != text:
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
        "maths_signs": _root(len(_MATHS.findall(instruction)), 4),
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
    question = bool(features["wh_question"]) and words <= 14 and not on_code
    loose = not bound and counts.keys().isdisjoint(("why", "hypothetical", "linked"))
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
    why = "why" in counts or bool(_WHY.search(instruction))
    symptom = "symptom" in counts or "debug" in counts
    known = bool(_ERROR_NAME.search(instruction)) and "contrast" not in counts
    plain = not symptom and counts.keys().isdisjoint((*_EXPERT, "software", "first_person", "limit", "contrast"))
    return {
        "diagnosis": float(why and symptom and not known),
        "paradox": float("contrast" in counts and (symptom or why)),
        "stock_error": float(known and not why),
        "curious_why": float(why and plain and words <= 12),
    }


def _ordinary(features: Features, counts: Counter[str], asks: list[_Sentence]) -> dict[str, float]:
    """Usual kinds of work. `usual_load` takes back what their many words and conditions would otherwise add."""
    lead = {name for name in OPERATIONS if f"lead:{name}" in features}
    deep = not counts.keys().isdisjoint(_DEEP)
    strict = counts["limit"] + counts["condition"] + counts["preserving"] > 2 or "symptom" in counts or "why" in counts
    asked = {name for sentence in asks for name in sentence.classes}
    kinds = {
        "plain_explanation": "explain" in counts and asked.isdisjoint(_BEYOND_EXPLAINING),
        "ordinary_code": "write_code" in counts and not deep,
        "ordinary_writing": "genre" in counts and bool(lead & _WRITTEN) and "analyse" not in counts,
        "ordinary_plan": "plan" in counts and not deep,
        "school_maths": bool(features["maths_signs"] or features["numbers"]) and any(_SCHOOL.search(sentence.text) for sentence in asks),
    }
    usual = {name: float(found and not strict) for name, found in kinds.items()}
    load = features["words"] + features["clauses"] + features["parts"] + features["numbers"] / 2 + features["maths_signs"] / 2
    return {
        **usual,
        "usual_load": (load + sum(features.get(f"has:{mark}", 0.0) for mark in _LOADS)) * any(usual.values()),
        "told_then_small": features["context"] * bool(asked & _SMALL_ASKS and not _HARD & counts.keys()),
        "formula_task": features["maths_signs"] * ("formal" in counts or "prove" in counts),
    }


_EXPERT = ("formal", "systems", "professional", "machinery", "abstract")
_DEEP = frozenset({"formal", "systems", "machinery", "prove", "analyse", "explains_itself"})
_BEYOND_EXPLAINING = frozenset({"why", "limit", "symptom", "prove", "debug", "hypothetical", "decide", "analyse", "abstract"})
_SMALL_ASKS = frozenset({"transform", "extract", "summarise", "recall", "small_write", "agent_small", "brief"})
_LOADS = ("limit", "condition", "quantified")
_WRITTEN) and "analyse" not in counts,
        "ordinary_plan": "plan" in counts and not deep,
        "school_maths": bool(features["maths_signs"] or features["numbers"]) and any(_SCHOOL.search(sentence.text) for sentence in asks),
    }
    usual = {name: float(found and not strict) for name, found in kinds.items()}
    load = features["words"] + features["clauses"] + features["parts"] + features["numbers"] / 2 + features["maths_signs"] / 2
    return {
        **usual,
        "usual_load": (load + sum(features.get(f"has:{mark}", 0.0) for mark in _LOADS)) * any(usual.values()),
        "told_then_small": features["context"] * bool(asked & _SMALL_ASKS and not _HARD & counts.keys()),
        "formula_task": features["maths_signs"] * ("formal" in counts or "prove" in counts),
    }


_EXPERT = ("formal", "systems", "professional", "machinery", "abstract")
_DEEP = frozenset(
    {"formal", "systems", "machinery", "prove", "analyse", "hypothetical", "explains_itself", "preserving", "quantified"}
)
_WRITTEN = frozenset({"produce", "small_write", "transform", "design", "plan", "write_code"})
_TECHNICAL = frozenset({"formal", "systems", "machinery"})


def _root(count: int, most: int) -> float:
    return sqrt(max(0, min(count, most)))
