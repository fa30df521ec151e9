import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.errors import InvalidRequest
from gateway.wire.strict_json import MAX_CONTAINERS, MAX_DEPTH, dump, parse_object

NUMBERS = st.integers(min_value=-(2**63), max_value=2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda children: st.lists(children) | st.dictionaries(TEXT, children),
    max_leaves=8,
)


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object whose deepest array or object stands at `depth`."""
    inner = depth - 1
    return ('{"a":' + opening * inner + closing * inner + "}").encode()


def refusal(raw: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_object(raw)
    return caught.value


@settings(max_examples=50)
@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_what_json_can_say_is_read_as_the_standard_library_reads_it(value: dict[str, Any]) -> None:
    raw = json.dumps(value).encode()

    assert parse_object(raw) == json.loads(raw)


@settings(max_examples=50)
@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_what_was_read_is_written_so_that_it_reads_the_same_again(value: dict[str, Any]) -> None:
    assert parse_object(dump(value)) == value


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model": "a", "model": "b"}',
        b'{"x": {"model": "a", "model": "a"}}',
        b'{"x": [{"y": [{"model": 1, "z": 2, "model": 3}]}]}',
        b'{"model": "a", "mod\\u0065l": "b"}',
        b'{"model": [{"model": 1}], "model": 1}',
    ],
)
def test_a_key_that_stands_twice_is_refused_at_every_depth_and_named(raw: bytes) -> None:
    error = refusal(raw)

    assert error.param == "model"
    assert "stands twice" in error.message


def test_a_duplicate_at_the_deepest_allowed_level_is_seen() -> None:
    raw = nested(MAX_DEPTH - 1).replace(b"[]", b'[{"a":1,"a":2}]')

    assert refusal(raw).param == "a"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b'{"a": 1}}',
        b'{"a": 1} x',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 01}',
        b'{"a": +1}',
        b'{"a": .5}',
        b'{"a": "\x01"}',
        b'{"a": "\xff"}',
        b'{"a": "\xc0\x80"}',  # an overlong NUL
        b'{"a": "\xed\xa0\x80"}',  # a surrogate in UTF-8
        b'{"a": "\\ud800"}',
        b'{"a": "\\udc00\\ud800"}',
        b'{"\\ud800": 1}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        '{"a": 1}'.encode("utf-32"),
        b'{"a": 1} // yes',
        b'{"a": 1e400}',
        b'{"a": -1e400}',
        b'{"a": [[[1e999]]]}',
        b'{"a": 1%s}' % (b"0" * 5_000),
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    error = refusal(raw)

    assert error.param is None
    assert error.message.startswith("The body is not valid JSON")


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"[1]", "an array"),
        (b'"text"', "a string"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"3", "a number"),
        (b"3.5", "a number"),
    ],
)
def test_only_an_object_will_do(raw: bytes, kind: str) -> None:
    assert refusal(raw).message == f"The body must be a JSON object, not {kind}."


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"b":', "}")])
def test_nesting_ends_at_the_limit(opening: str, closing: str) -> None:
    deepest = nested(MAX_DEPTH, opening, closing).replace(b":}", b":1}")
    deeper = nested(MAX_DEPTH + 1, opening, closing).replace(b":}", b":1}")

    assert parse_object(deepest)
    assert f"more than {MAX_DEPTH} levels" in refusal(deeper).message


@pytest.mark.parametrize("levels", [2_000, 200_000])
def test_bottomless_nesting_is_refused_and_not_followed(levels: int) -> None:
    assert refusal(b'{"a":' + b"[" * levels + b"]" * levels + b"}")
    assert refusal(b'{"a":' * levels + b"1" + b"}" * levels)


def test_brackets_in_text_are_no_nesting() -> None:
    text = "[" * 10_000 + "{" * 10_000

    assert parse_object(dump({"a": text})) == {"a": text}


def test_many_siblings_are_no_nesting() -> None:
    assert len(parse_object(dump({"a": [[] for _ in range(10_000)]}))["a"]) == 10_000


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 10**18, 0])
def test_integers_of_64_bits_are_read_exactly(number: int) -> None:
    value = parse_object(b'{"a": %d}' % number)["a"]

    assert (value, type(value)) == (number, int)


@pytest.mark.parametrize(
    "digits",
    [str(2**64), str(-(2**63) - 1), "1" + "0" * 30, "-1" + "0" * 300],
    ids=["2^64", "-2^63-1", "10^30", "-10^300"],
)
def test_integers_that_a_reader_would_round_are_refused(digits: str) -> None:
    assert "does not fit into 64 bits" in refusal(b'{"a": [' + digits.encode() + b"]}").message


def test_more_objects_than_a_worker_has_time_for_are_refused() -> None:
    assert parse_object(b'{"d":[' + b"{}," * (MAX_CONTAINERS - 3) + b"{}]}")
    assert parse_object(b'{"d":"' + b"{" * 2 * MAX_CONTAINERS + b'"}')

    with pytest.raises(InvalidRequest, match="more than 50,000"):
        parse_object(b'{"d":[' + b"{}," * MAX_CONTAINERS + b"{}]}")
