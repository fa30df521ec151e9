"""JSON in which every reader sees the same value.

A gateway that prices one value while the provider reads another can be robbed: so duplicate keys, NaN, infinities,
numbers that do not fit, bad UTF-8, lone surrogates and bottomless nesting are refused, and only what was parsed here
is sent on, re-serialised. Two parsers share the work: orjson rules on the grammar, the standard one on duplicates.
"""

import json
from typing import Any

import orjson

from gateway.wire.errors import InvalidRequest

MAX_CONTAINERS = 50_000
"""Arrays and objects in one body: looking for duplicate keys takes half a microsecond each, and all others wait."""
MAX_DEPTH = 128
"""Nesting of arrays and objects; JSON Schemas of real tools stay under 30."""


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises InvalidRequest saying what is wrong and where."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {_kind(value)}.")
    brackets = raw.count(b"[") + raw.count(b"{")
    if brackets > MAX_CONTAINERS and _more_than(MAX_CONTAINERS, value):
        raise InvalidRequest(f"The body has more than {MAX_CONTAINERS:,} arrays and objects.")
    if brackets > MAX_DEPTH and _deeper_than(MAX_DEPTH, value):
        raise InvalidRequest(f"The body is nested more than {MAX_DEPTH} levels deep.")
    _DUPLICATES.decode(raw.decode())
    return value


def dump(value: object) -> bytes:
    """`value` as compact UTF-8 JSON."""
    return orjson.dumps(value)


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    if len(pairs) != len(dict(pairs)):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidRequest(f"The key {twice[:100]!r} stands twice in one object; keep one of them.", twice[:100])


def _refuse_long_integers(digits: str) -> None:
    if len(digits) > 18 and not -(2**63) <= int(digits[:40]) < 2**64:  # orjson would turn it into a rounded float
        raise InvalidRequest(f"The number {digits[:24]}… does not fit into 64 bits.")


def _deeper_than(limit: int, value: object) -> bool:
    level = [value]
    for _ in range(limit):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _more_than(limit: int, value: object) -> bool:
    found = [value]
    for node in found:  # grows on the way
        found += _children(node)
        if len(found) > limit:
            return True
    return False


def _children(node: object) -> list[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [child for child in children if isinstance(child, dict | list)]


_DUPLICATES = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_int=_refuse_long_integers)


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
