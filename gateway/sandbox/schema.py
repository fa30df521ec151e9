"""Values that satisfy a JSON schema, made from the words of a prompt: a tool's arguments, a structured answer.

Types, enumerations, constants, bounds, formats, references and alternatives are understood (of `anyOf`, `oneOf` and
`allOf` the first entry is taken); `pattern`, `not` and conditions are not.
"""

import re
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from math import ceil, floor
from typing import Any

from gateway.sandbox.chat_request import Json
from gateway.sandbox.errors import invalid

_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|`([^`]+)`|(?<!\w)'([^']+)'(?!\w)")
_NAME = re.compile(r"(?<=[a-z,;:] )[A-Z][a-z][\w-]*(?: [A-Z][a-z][\w-]*)*")
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,9})?(?![\w.]*\d)")

_FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

_CODE = "invalid_function_parameters"
_DEEP = 8
_TOO_DEEP = 40


def instance(schema: Json, text: str) -> Any:
    """A value that satisfies `schema`, with what `text` quotes, names and counts where the schema leaves the choice.

    Raises Refused (400) for a schema that only an endless value satisfies, or that refers to what is not there.
    """
    try:
        return _Maker(schema, text).value(schema, 0)
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as exc:
        raise invalid("schema", f"That is no JSON schema: {exc}.", _CODE) from exc


class _Maker:
    """Fills one schema; the numbers of the text are used up in their order."""

    def __init__(self, root: Json, text: str) -> None:
        self._root = root
        self._phrases = _phrases(text)
        self._numbers: Iterator[float] = chain(map(float, _NUMBER.findall(text)), repeat(1.0))
        self._makers: dict[str, Callable[[Json, int], Any]] = {
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda schema, depth: True,
            "null": lambda schema, depth: None,
            "array": self._array,
            "object": self._object,
        }

    def value(self, schema: Any, depth: int) -> Any:
        """A value for `schema`, which stands `depth` levels deep; deep down the shortest one."""
        if depth > _TOO_DEEP:
            raise invalid("schema", "The schema asks for a value without an end.", _CODE)
        if not isinstance(schema, dict):
            return "anything"  # `true` allows everything
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._one_of(schema["enum"])
        if "$ref" in schema:
            return self.value(self._referred(schema["$ref"]), depth + 1)
        for name in ("anyOf", "oneOf", "allOf"):
            if schema.get(name):
                return self.value(schema[name][-1 if depth > _DEEP and name != "allOf" else 0], depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: Json, depth: int) -> Any:
        kind = schema.get("type") or ("object" if "properties" in schema else "string")
        first = kind[0] if isinstance(kind, list) else kind
        if first not in self._makers:
            raise invalid("schema", f"{first!r} is no type of JSON schema.", _CODE)
        return self._makers[first](schema, depth)

    def _referred(self, reference: str) -> Any:
        found: Any = self._root
        try:
            for step in reference.removeprefix("#").strip("/").split("/"):
                found = found[step] if step else found
        except (KeyError, TypeError) as exc:
            raise invalid("schema", f"{reference!r} is not in the schema.", _CODE) from exc
        return found

    def _one_of(self, values: list[Any]) -> Any:
        """The value that the text speaks of, else the first."""
        spoken = self._phrases[-1].lower()
        return next((value for value in values if isinstance(value, str) and value.lower() in spoken), values[0])

    def _string(self, schema: Json, depth: int) -> str:
        text = _FORMATS.get(schema.get("format", ""), self._phrases[0])
        least, most = schema.get("minLength", 0), schema.get("maxLength", 200)
        return text.ljust(least, ".")[: max(least, most)] if least <= most else text

    def _integer(self, schema: Json, depth: int) -> int:
        return int(self._bounded(floor(next(self._numbers)), schema, 1))

    def _number(self, schema: Json, depth: int) -> float:
        value = self._bounded(next(self._numbers), schema, 0.5)
        return int(value) if value == int(value) else value

    def _bounded(self, value: float, schema: Json, step: float) -> float:
        """`value`, moved inside the schema's bounds; an exclusive bound is kept away from by `step`."""
        least = schema.get("minimum")
        most = schema.get("maximum")
        if "exclusiveMinimum" in schema:
            least = floor(schema["exclusiveMinimum"] / step) * step + step
        if "exclusiveMaximum" in schema:
            most = ceil(schema["exclusiveMaximum"] / step) * step - step
        whole = step == 1
        if least is not None:
            value = max(value, ceil(least) if whole else least)
        if most is not None:
            value = min(value, floor(most) if whole else most)
        return value

    def _array(self, schema: Json, depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        length = least if depth > _DEEP else max(1, least)
        return [
            self.value(schema.get("items", {}), depth + 1) for _ in range(min(length, schema.get("maxItems", length)))
        ]

    def _object(self, schema: Json, depth: int) -> Json:
        """The required properties; all of them where none is, unless that goes too deep."""
        properties = schema.get("properties") or {}
        names = schema.get("required") or (list(properties) if depth <= _DEEP else [])
        return {name: self.value(properties.get(name, {}), depth + 1) for name in names}


def _phrases(text: str) -> list[str]:
    """What a string is made of, the best first: what is quoted, what is named, and at the end the text itself."""
    quoted = ["".join(groups) for groups in _QUOTED.findall(text)]
    named = _NAME.findall(text)[::-1]
    return [*quoted, *named, text.strip() or "nothing"]
