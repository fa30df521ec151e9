from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from budgets.export_rows import Rows

BUILT = [("line 2", {"a": "1", "b": "x"}), ("line 3", {"a": "2", "b": "y"})]


def rows(text: str | bytes) -> list[tuple[str, Any]]:
    raw = text.encode() if isinstance(text, str) else text
    return list(Rows(raw.splitlines(keepends=True)))


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,x\n2,y\n",
        "a;b\r\n1;x\r\n2;y",
        "a\tb\n1\tx\n2\ty\n",
        '"a","b"\n"1","x"\n"2","y"\n',
        "\ufeffa,b\n1,x\n2,y\n",
    ],
)
def test_csv_is_read_below_its_header_whatever_separates_its_columns(text: str) -> None:
    assert rows(text) == BUILT


def test_a_cell_of_csv_may_hold_what_separates_cells_and_lines() -> None:
    assert rows('a,b\n"1,5","x\ny"\n2,"say ""z"""\n') == [
        ("line 3", {"a": "1,5", "b": "x\ny"}),
        ("line 4", {"a": "2", "b": 'say "z"'}),
    ]


def test_blank_lines_count_and_say_nothing() -> None:
    assert rows("\n\na,b\n1,x\n\n2,y\n") == [("line 4", {"a": "1", "b": "x"}), ("line 6", {"a": "2", "b": "y"})]
    assert rows('\n{"a": 1}\n\n{"a": 2}\n') == [("line 2", {"a": 1}), ("line 4", {"a": 2})]


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, {"a": 2}]',
        '[\n  {"a": 1},\n  {"a": 2}\n]\n',
        '{"data": [{"a": 1}, {"a": 2}]}',
        '{\n  "object": "list",\n  "data": [{"a": 1}, {"a": 2}]\n}\n',
    ],
)
def test_a_json_document_has_its_rows_in_an_array(text: str) -> None:
    assert rows(text) == [("row 1", {"a": 1}), ("row 2", {"a": 2})]


@pytest.mark.parametrize(("text", "blank"), [("", True), (" \n", True), ("a,b", False), ("[]", False)])
def test_a_file_with_nothing_in_it_is_told_from_one_that_says_that_there_is_nothing(text: str, blank: bool) -> None:
    found = Rows([text.encode()])

    assert list(found) == []
    assert found.is_blank is blank


def test_a_header_without_rows_is_known() -> None:
    found = Rows([b"a,b\n"])

    assert list(found) == []
    assert found.header == ("a", "b")


@pytest.mark.parametrize(("text", "more"), [('{"data": [], "has_more": true}', True), ('{"data": []}', False)])
def test_a_page_of_several_says_so(text: str, more: bool) -> None:
    found = Rows([text.encode()])

    assert list(found) == []
    assert found.has_more is more


def test_json_lines_are_a_row_each() -> None:
    assert rows('{"a": 1}\n{"a": 2}') == [("line 1", {"a": 1}), ("line 2", {"a": 2})]
    assert rows('{"a": 1}\n') == [("line 1", {"a": 1})]


def test_objects_inside_of_a_row_are_spread_out() -> None:
    row = '{"id": "x", "usage": {"in": 1, "details": {"cached": 0}}, "tags": ["a"], "none": {}}\n'

    assert rows(row) == [("line 1", {"id": "x", "usage.in": 1, "usage.details.cached": 0, "tags": ["a"]})]


def test_numbers_of_json_come_as_they_were_written() -> None:
    (_, row), *_ = rows('{"a": 0.1000, "b": 3, "c": NaN, "d": 1e400, "e": true}\n')

    assert [str(row[name]) for name in "abcde"] == ["0.1000", "3", "NaN", "1E+400", "True"]
    assert isinstance(row["b"], Decimal)


@pytest.mark.parametrize("text", ["", "\n\n", "  \r\n", "a,b\n", "[]", '{"data": []}'])
def test_a_file_may_have_no_rows(text: str) -> None:
    assert rows(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a,b\n1,\xff\n", "line 2: this is not UTF-8 text"),
        (b"PK\x03\x04\xff\xfe", "line 1: this is not UTF-8 text"),
        ("a,b\n1,x\n2\n", "line 3: there are 1 columns, and the header has 2"),
        ("a,b\n1,x,y\n", "line 2: there are 3 columns, and the header has 2"),
        ("a,a\n1,x\n", "line 1: the column 'a' stands there twice"),
        ('a,b\n1,"x\n', "line 2: this is not valid CSV"),
        ('a,b\n1,"x"y\n', "line 2: this is not valid CSV"),
        ('{"a": 1}\n{"a": \n', "line 2: this is not valid JSON"),
        ('{"a": 1}\n7\n', "line 2: this is not an object with columns"),
        ('{"a": 1, "a": 2}\n', "line 1: the column 'a' stands there twice"),
        ('[{"a": 1},\n{"a": 2}', "line 2: this is not valid JSON"),
        ('\n\n[{"a": 1},\n{"a" 2}]', "line 4: this is not valid JSON"),
        ('[{"a": 1}, 7]', "row 2: this is not an object with columns"),
        ('{\n"rows": []\n}', "this is JSON without rows"),
        ("[" * 100_000, "the document: this is nested too deeply"),
        ('{"a": 1}\n{"a":' + "[" * 100_000, "line 2: this is nested too deeply"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        rows(text)

    assert str(refused.value).startswith(words)


def test_a_number_of_any_length_is_read() -> None:
    digits: Sequence[tuple[str, Any]] = rows('{"a": ' + "9" * 10_000 + "}\n")

    assert str(digits[0][1]["a"]) == "9" * 10_000
