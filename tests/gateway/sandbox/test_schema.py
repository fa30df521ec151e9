from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox.errors import Refused
from gateway.sandbox.schema import instance


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
TREE = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "size": WHOLE}, "required": ["size"]}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (of(city=TEXT), "What is the weather in New York today?", {"city": "New York"}),
        (of(path=TEXT), "Read the file `src/main.py`, please", {"path": "src/main.py"}),
        (of(query=TEXT), "search for cheap flights", {"query": "search for cheap flights"}),
        (of(a=WHOLE, b=NUMBER), "add 12 and -3.5", {"a": 12, "b": -3.5}),
        (of(unit={"enum": ["celsius", "fahrenheit"]}), "in Fahrenheit", {"unit": "fahrenheit"}),
        (of(unit={"enum": ["celsius", "fahrenheit"]}), "warm?", {"unit": "celsius"}),
        (of(on={"type": "boolean"}, kind={"const": 3}, no={"type": "null"}), "x", {"on": True, "kind": 3, "no": None}),
        (of(words={"type": "array", "items": TEXT, "minItems": 2}), "hi", {"words": ["hi", "hi"]}),
        (of(day={"type": "string", "format": "date"}), "tomorrow", {"day": "2026-01-31"}),
        (of(code={"type": "string", "minLength": 3, "maxLength": 4}), "a", {"code": "a.."}),
        (of(code={"type": "string", "maxLength": 4}), "abcdef", {"code": "abcd"}),
        (of(n={"type": "integer", "minimum": 5, "maximum": 9}), "take 30", {"n": 9}),
        (of(n={"type": "integer", "exclusiveMinimum": 5}), "take 2", {"n": 6}),
        (of(p={"type": "number", "exclusiveMaximum": 1}), "take 2", {"p": 0.5}),
        (of(x={"anyOf": [WHOLE, TEXT]}), "7 of them", {"x": 7}),
        (of(x={"type": ["string", "null"]}), "hi", {"x": "hi"}),
        ({"type": "object", "properties": {"a": TEXT}}, "hi", {"a": "hi"}),
        ({"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["b"]}, "hi", {"b": "hi"}),
        ({"$ref": "#/$defs/tree", "$defs": {"tree": TREE}}, "3", {"size": 3}),
        ({"type": "object"}, "hi", {}),
        (True, "hi", "anything"),
    ],
)
def test_a_value_satisfies_its_schema_with_the_words_of_the_prompt(schema: Any, text: str, value: Any) -> None:
    assert instance(schema, text) == value


def test_a_schema_without_end_is_refused() -> None:
    endless = of(inner={"$ref": "#"})

    with pytest.raises(Refused, match="without an end"):
        instance(endless, "hi")


def test_an_optional_recursion_ends() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }

    value = instance(node, "hi")
    while value is not None:
        value = value["next"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
WORDS = ["type", "enum", "properties", "required", "items", "anyOf", "$ref", "minimum", "exclusiveMaximum", "minLength"]
TYPES = st.sampled_from(["string", "integer", "number", "array", "object", "boolean"])


@given(st.dictionaries(st.sampled_from(WORDS), JSON | TYPES), st.text())
def test_what_is_no_schema_is_refused_and_never_a_crash(schema: dict[str, Any], text: str) -> None:
    with suppress(Refused):
        instance(schema, text)
