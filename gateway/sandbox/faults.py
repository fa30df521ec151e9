"""Faults on demand: what the sandbox shall do wrong, told in the prompt or through `POST /faults`.

In the text of the last user message, as many as wanted:

    [[fail 503]]  [[fail 429 retry-after=2]]   an error instead of an answer; not billed
    [[cut 3]]         after 3 events the connection is closed, the body's framing left open
    [[half 3]]        the same, in the middle of the fourth event
    [[reset 3]]       the same by a TCP reset
    [[truncate 3]]    after 3 events a clean end: no finish reason, no usage, no [DONE]
    [[stall]]  [[stall 5]]  [[stall 5 after=3]]   silence (an hour, or 5 s) before the first byte, or after 3 events
    [[slow 50ms]]     the pause between events (3 ms where nothing is said)
    [[no-usage]]      an answer without usage
    [[double-usage]]  a stream whose usage comes twice
    [[absurd-usage]]  [[absurd-usage negative]]   a usage that cannot be; kinds: usage_shapes.py
    [[long 400]]      an answer of 400 tokens; the request's own cap still holds
    [[bill delivered]]  [[bill nothing]]   what a broken-off answer costs (else: everything, `all`)
    [[first 2 fail 500]]   any of them, but only for the first 2 attempts of this prompt; then the count starts anew

Where an answer is not streamed, `cut`, `half` and `reset` break it off in the middle, or before its first byte if the
number is 0, and `truncate` sends half of it as if that were all. Times are seconds, or `50ms`. Other words in double
brackets are taken for text.

`POST /faults {"model": "sandbox-small", "fail": 503, "times": 3}` does the same from outside: `model` may be left out
(any), `times` is 1 if left out, the rest are directives with their words as value (`true` for none), such as
`{"fail": "429 retry-after=2"}`. `DELETE /faults` forgets them all. The prompt's directives go before these.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from gateway.sandbox.bill import Policy
from gateway.sandbox.errors import invalid
from gateway.sandbox.models import MODELS
from gateway.sandbox.usage_shapes import ABSURDITIES, HONEST, NONE

Break = Literal["cut", "half", "reset", "truncate"]

_DIRECTIVE = re.compile(r"\[\[\s*([a-z-]+)([^\[\]]*)\]\]")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s)?")
_MOST_PROMPTS = 10_000
_FOREVER = "3600"


@dataclass(frozen=True, slots=True)
class Fault:
    """What one attempt does wrong; by default nothing. Times in seconds, `…_after` in events already sent."""

    status: int | None = None
    retry_after: str | None = None
    stall: float = 0.0
    stall_after: int = 0
    pace: float = 0.003
    breaks: Break | None = None
    breaks_after: int = 0
    usage: str = HONEST
    usage_twice: bool = False
    length: int | None = None
    policy: Policy = "all"


NO_FAULT = Fault()


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a time, such as 2 or 50ms")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def _only(words: list[str]) -> str:
    """The one word that there must be."""
    if len(words) != 1:
        raise ValueError(f"one word is expected here, not {len(words)}")
    return words[0]


def _option(words: list[str], name: str) -> str | None:
    """Take `name=value` out of `words`; None where it is not there."""
    for word in words:
        if word.startswith(f"{name}="):
            words.remove(word)
            return word.partition("=")[2]
    return None


def _fail(words: list[str]) -> dict[str, Any]:
    retry_after = _option(words, "retry-after")
    if retry_after is not None:
        _seconds(retry_after)
    status = _number(_only(words))
    if not 400 <= status <= 599:
        raise ValueError(f"{status} is not an error's status")
    return {"status": status, "retry_after": retry_after}


def _breaking(kind: Break) -> Callable[[list[str]], dict[str, Any]]:
    def breaks(words: list[str]) -> dict[str, Any]:
        return {"breaks": kind, "breaks_after": _number(_only(words))}

    return breaks


def _stall(words: list[str]) -> dict[str, Any]:
    after = _option(words, "after")
    seconds = _seconds(_only(words or [_FOREVER]))
    return {"stall": seconds, "stall_after": _number(after or "0")}


def _slow(words: list[str]) -> dict[str, Any]:
    return {"pace": _seconds(_only(words))}


def _no_usage(words: list[str]) -> dict[str, Any]:
    if words:
        raise ValueError("nothing is expected after it")
    return {"usage": NONE}


def _double_usage(words: list[str]) -> dict[str, Any]:
    if words:
        raise ValueError("nothing is expected after it")
    return {"usage_twice": True}


def _absurd_usage(words: list[str]) -> dict[str, Any]:
    kind = _only(words or ["huge"])
    if kind not in ABSURDITIES:
        raise ValueError(f"{kind!r} is none of {', '.join(ABSURDITIES)}")
    return {"usage": kind}


def _long(words: list[str]) -> dict[str, Any]:
    return {"length": _number(_only(words))}


def _bill(words: list[str]) -> dict[str, Any]:
    policy = _only(words)
    if policy not in ("all", "delivered", "nothing"):
        raise ValueError(f"{policy!r} is none of all, delivered, nothing")
    return {"policy": policy}


_DIRECTIVES: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "fail": _fail,
    "cut": _breaking("cut"),
    "half": _breaking("half"),
    "reset": _breaking("reset"),
    "truncate": _breaking("truncate"),
    "stall": _stall,
    "slow": _slow,
    "no-usage": _no_usage,
    "double-usage": _double_usage,
    "absurd-usage": _absurd_usage,
    "long": _long,
    "bill": _bill,
}
"""Each takes the words after its name and returns the fields of Fault that it sets; ValueError where they are wrong."""


def _changes(name: str, words: list[str]) -> dict[str, Any]:
    """The fields that one directive sets. Raises Refused (400) naming it where its words make no sense."""
    written = " ".join([name, *words])
    try:
        return _DIRECTIVES[name](words)
    except KeyError as exc:
        raise invalid(name, f"{name!r} is no fault; there are {', '.join(_DIRECTIVES)}.") from exc
    except ValueError as exc:
        raise invalid(name, f"The sandbox cannot make sense of the fault {written!r}: {exc}.") from exc


@dataclass(slots=True)
class _Script:
    """A fault told through `POST /faults`, with the number of attempts that it is still good for."""

    model: str | None
    times: int
    changes: dict[str, Any]


class Faults:
    """The faults to come: scripts told from outside, and how often each failing prompt was tried."""

    def __init__(self) -> None:
        self._scripts: list[_Script] = []
        self._tries: dict[str, int] = {}

    def add(self, script: dict[str, Any]) -> None:
        """Take a script, the body of `POST /faults`. Raises Refused (400) where it makes no sense."""
        directives = dict(script)
        model, times = directives.pop("model", None), directives.pop("times", 1)
        if model not in (None, *MODELS):
            raise invalid("model", f"{model!r} is no model of the sandbox; there are {', '.join(MODELS)}.")
        if type(times) is not int or times < 1:
            raise invalid("times", "'times' must be a whole number of attempts, 1 or more.")
        changes: dict[str, Any] = {}
        for name, value in directives.items():
            changes |= _changes(name, [] if value is True else str(value).split())
        self._scripts.append(_Script(model, times, changes))

    def clear(self) -> None:
        """Forget all scripts and counts."""
        self._scripts.clear()
        self._tries.clear()

    def take(self, model: str, prompt: str) -> Fault:
        """The fault of the next attempt of `prompt` on `model`; this counts as one try of both.

        Raises Refused (400) for a directive in the prompt that makes no sense.
        """
        changes = self._scripted(model)
        if "[[" in prompt:
            changes = changes | self._directed(prompt)
        return replace(NO_FAULT, **changes) if changes else NO_FAULT

    def _scripted(self, model: str) -> dict[str, Any]:
        for script in self._scripts:
            if script.model in (None, model):
                script.times -= 1
                if not script.times:
                    self._scripts.remove(script)
                return script.changes
        return {}

    def _directed(self, prompt: str) -> dict[str, Any]:
        tries = self._tries.pop(prompt, 0)
        changes: dict[str, Any] = {}
        for name, rest in _DIRECTIVE.findall(prompt):
            words = rest.split()
            if name == "first":
                changes |= self._first(prompt, words, tries)
            elif name in _DIRECTIVES:
                changes |= _changes(name, words)
        return changes

    def _first(self, prompt: str, words: list[str], tries: int) -> dict[str, Any]:
        """What `[[first K …]]` sets at the try number `tries` (from 0): nothing once K have been made."""
        if len(words) < 2 or not re.fullmatch(r"[0-9]{1,6}", words[0]):
            raise invalid("first", "The sandbox expects [[first 2 fail 500]]: a number of attempts and a fault.")
        changes = _changes(words[1], words[2:])
        if tries >= int(words[0]):
            return {}
        self._tries[prompt] = tries + 1
        if len(self._tries) > _MOST_PROMPTS:
            self._tries.pop(next(iter(self._tries)))
        return changes


def directives_removed(text: str) -> str:
    """`text` without its directives, for answers that quote it."""
    return _DIRECTIVE.sub(_unless_text, text).strip() if "[[" in text else text.strip()


def _unless_text(match: re.Match[str]) -> str:
    return "" if match[1] in _DIRECTIVES or match[1] == "first" else match[0]
