"""A request's text in two views: what is asked, and what was pasted along with it.

What agents add around a user's words goes first; then quotes, fences, blocks and tails after a colon are set aside when
the rest is a request that can stand alone. Every step is linear in the text, whatever it holds.
"""

import re
from dataclasses import dataclass
from itertools import islice

from routing.lexicon import Lexicon, words_of

CLIP = 3000
"""Characters kept at each end of a long text: what is asked stands at its beginning or at its end."""

ON_PASTED = frozenset({"transform", "extract", "summarise"})
"""Operations that are done on a given text."""

_ANY_TEXT = frozenset({"transform", "summarise"})
"""Operations that are done on any text, even on one that asks something itself."""
_THOUGHT = frozenset({"debug", "prove", "solve", "analyse", "design", "implement", "decide", "why"})
"""Operations that a request goes beyond a small one with."""
_QUOTES = "\"'“„«"

_MOST_BLOCKS = 100
_OPENING = re.compile(r"<([a-z]+(?:[-_][a-z]+)+|env)(?:\s[^<>]*)?>", re.IGNORECASE)
"""A compound tag, as agents put around what they add: `<system-reminder>`, `<environment_details>`."""
_WANTED_TAG = re.compile(r"query|question|request|task|prompt|message", re.IGNORECASE)
_TOOL_LIST = re.compile(
    r"^.{0,100}\b(?:available|following) (?:tools|functions|commands)\b.{0,100}:[ \t]*\n(?:[ \t]*[-*\d].*(?:\n|\Z))+",
    re.MULTILINE | re.IGNORECASE,
)
_PLAIN = str.maketrans({"\u2019": "'", "\uff1f": "? ", "\uff01": "! ", "\u3002": ". ", "\uff1a": ": ", "\r": "\n"})
_FENCE = re.compile(r"```.*?(?:```|\Z)|\"\"\".*?\"\"\"", re.DOTALL)
_QUOTED = re.compile(r"[\"“„«]([^\"“”„«»]{60,})[\"”“»]")
_SHORT_QUOTE = re.compile(
    r"[\"“„«](?=(?:[^\s\"“”„«»]+\s+){2})([^\"“”„«»]{8,59})[\"”“»]"
    r"|(?<!\w)'(?=(?:[^\s']+\s+){2})([^'\n]{8,400})'(?!\w)"
)
"""Three words at least: material where an operation on a text is asked for, else a part of the request."""
_BLOCKS = re.compile(r"\n\s*\n")
_LIST_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s")
_CODE_LINE = re.compile(
    r"^\s*(?:def |class |import |from \w+ import|return\b|for .*[:{]$|if .*[:{]$|else\b|const |let |var |func |public "
    r"|#include|[\w.\[\]\"']+\s*=[^=]|\d{4}-\d\d-\d\dT|[}\])]+[;,)]*$)|[;{}]\s*$"
)
_POINTS_AT = re.compile(
    r"\b(?:this|it|its|these|those|above|below|following|attached|text|article|e-?mail|paragraph|code|log|here"
    r"|diese[rnms]?|folgende[nrs]?|ce|cette|suivante?|este|esta|siguiente|questo)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Views:
    """A text in two parts."""

    instruction: str
    payload: str
    code: bool
    """Whether the payload is, or holds, program text or a log."""


class Splitter:
    """Tells an instruction from what was pasted."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def views(self, text: str) -> Views:
        """Instruction and payload of a text, without what agents add to it."""
        text = _TOOL_LIST.sub(" ", clipped(without_boilerplate(text))).translate(_PLAIN)
        aside: list[str] = []

        def take(match: re.Match[str]) -> str:
            aside.append(match[0])
            return " \n"

        text = _QUOTED.sub(take, _FENCE.sub(take, text))
        outside = _SHORT_QUOTE.sub(" ", text)
        if outside != text and outside.strip(" \n.:") and self._points(outside):
            text = _SHORT_QUOTE.sub(take, text)
        instruction, pasted = self._blocks(text.strip())
        if not (aside or pasted):
            instruction, pasted = self._colon(instruction)
        payload = "\n".join([*aside, pasted]).strip()
        return Views(instruction.strip(), payload, "```" in payload or _is_code(payload))

    def _blocks(self, text: str) -> tuple[str, str]:
        """The first or the last block as the instruction, if it asks and the others can be pasted; else all of it."""
        first, *rest = [block for block in _BLOCKS.split(text) if block.strip()] or [text]
        if not rest:
            return _head(first)
        if self._asks(first) and (pasted := _pasted(rest, pointed=self._points(first))):
            return first, pasted
        head, tail = _head(first)
        if tail and self._asks(head):
            return head, "\n".join([tail, *rest])
        above, last = [first, *rest[:-1]], rest[-1]
        pointed = self._points(last) or _is_code("\n".join(above))
        if pointed and self._asks(last) and (pasted := _pasted(above, pointed=True)):
            return last, pasted
        return text, ""

    def _colon(self, text: str) -> tuple[str, str]:
        """`Translate to French: …`: what follows the colon is material, if the head is an operation on a text."""
        head, _, tail = text.partition(":")
        if not tail.strip() or len(head.split()) > 25:
            return text, ""
        lead = self._lexicon.lead(head)
        complete = bool(lead & _ANY_TEXT) or (bool(lead & ON_PASTED) and not self._asks_on(tail))
        on_text = len(tail.split()) >= 80 or (complete and not self._thought_about(head))
        return (head, tail) if on_text else (text, "")

    def _asks_on(self, tail: str) -> bool:
        """Whether what follows a colon asks something itself, unless it is all a quotation."""
        quoted = tail.strip()[0] in _QUOTES
        return not quoted and ("?" in tail or self._thought_about(tail))

    def _thought_about(self, text: str) -> bool:
        """Whether a fault, a proof, a reason is asked for: more than an operation on a text."""
        return any(not _THOUGHT.isdisjoint(found) for found in self._lexicon.classes(words_of(text)))

    def _asks(self, block: str) -> bool:
        if len(block.split()) > 60 or _is_code(block):
            return False
        return "?" in block or bool(self._lexicon.lead(block)) or bool(_POINTS_AT.search(block))

    def _points(self, block: str) -> bool:
        """Whether it speaks of a text beside it."""
        return bool(_POINTS_AT.search(block)) or bool(self._lexicon.lead(block) & ON_PASTED)


def without_boilerplate(text: str) -> str:
    """Without the tagged blocks that agents add to a user's words: reminders, environment, instructions.

    A name that is never closed is looked for once, and only the first hundred tags are looked at.
    """
    kept: list[str] = []
    position = 0
    unclosed: set[str] = set()
    for opening in islice(_OPENING.finditer(text), _MOST_BLOCKS):
        name = opening[1]
        if opening.start() < position or name in unclosed or _WANTED_TAG.search(name):
            continue
        end = text.find(f"</{name}>", opening.end())
        if end < 0:
            unclosed.add(name)
            continue
        kept.append(text[position : opening.start()])
        position = end + len(name) + 3
    return " ".join([*kept, text[position:]]).strip()


def clipped(text: str) -> str:
    """The first and the last `CLIP` characters."""
    return text if len(text) <= 2 * CLIP else f"{text[:CLIP]}\n\n{text[-CLIP:]}"


def _head(block: str) -> tuple[str, str]:
    """A first line that introduces the rest of its block, which is code, data or text; else the whole block."""
    head, newline, rest = block.partition("\n")
    if not newline:
        return block, ""
    words = len(head.split())
    listed = any(_LIST_LINE.match(line) for line in rest.splitlines())
    introduces = head.rstrip().endswith((":", "?")) and not listed and words <= 40
    if introduces or _is_code(rest) or (words <= 20 and len(rest.split()) >= 60):
        return head, rest
    return block, ""


def _pasted(blocks: list[str], *, pointed: bool) -> str:
    """Blocks that can be a pasted text: long enough, and, unless the request points at them, no list of wishes."""
    text = "\n".join(blocks)
    lines = [line for line in text.splitlines() if line.strip()]
    wishes = not pointed and sum(bool(_LIST_LINE.match(line)) for line in lines) > len(lines) / 2
    long_enough = len(text.split()) >= 20 and not wishes
    return text if long_enough or _is_code(text) or len(lines) >= (3 if pointed else 8) else ""


def _is_code(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and sum(bool(_CODE_LINE.search(line)) for line in lines) >= 0.4 * len(lines)
