"""Rows of a file that somebody else has written, CSV, JSON or JSON lines, each with the place where it stands.

Nothing is guessed: what is cut off, nested without end or says something twice condemns the file. Numbers of JSON
come as they were written, never as floats.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""By column; objects inside of a JSON row are spread out: `usage.prompt_tokens`."""

DEPTH = 4
"""How deep objects inside of a row are spread out."""


class Rows:
    """The rows of the file that has these lines; what it is is told by its first one that is not blank.

    Iterating, which can be done once, raises ValueError naming the line (in a JSON array: the row) where it is wrong.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = _decoded(lines)
        self.is_blank = False
        """Whether there is nothing at all in the file."""
        self.has_more = False
        """Whether a JSON document says that it is but one page."""
        self.header: tuple[str, ...] = ()
        """The columns of a CSV file, which it has without rows too."""

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        """Each row behind its place, such as `line 3`."""
        number, first = next(((number, line) for number, line in self._lines if line.strip()), (0, ""))
        start = first.lstrip()[:1]
        lines = chain([(number, first)], self._lines)
        self.is_blank = not start
        if self.is_blank:
            return iter(())
        if start == "[" or (start == "{" and not _is_row(first)):
            return self._document("\n" * (number - 1) + "".join(line for _, line in lines))
        return _json_lines(lines) if start == "{" else self._csv(number, first)

    def _document(self, text: str) -> Iterator[tuple[str, Row]]:
        value = _parsed(text, None)
        if isinstance(value, dict):
            self.has_more = bool(value.get("has_more"))
            value = value.get("data")
        if not isinstance(value, list):
            raise ValueError("this is JSON without rows: write an array of objects, or one under the name `data`")
        for number, row in enumerate(value, 1):
            yield f"row {number}", _columns(f"row {number}", row)

    def _csv(self, number: int, first: str) -> Iterator[tuple[str, Row]]:
        """Rows below a header, in line `number`; columns are separated by what the header has most of."""
        lines = chain([first], (line for _, line in self._lines))
        reader = csv.reader(lines, delimiter=max(",;\t", key=first.count), strict=True)
        try:
            self.header = header = tuple(next(reader))
            _refuse_twice(f"line {number}", header)
            for cells in reader:
                place = f"line {number - 1 + reader.line_num}"
                if len(cells) not in (0, len(header)):
                    raise ValueError(f"{place}: there are {len(cells)} columns, and the header has {len(header)}")
                if cells:
                    yield place, dict(zip(header, cells, strict=True))
        except csv.Error as exc:
            raise ValueError(f"line {number - 1 + reader.line_num}: this is not valid CSV: {exc}") from exc


def _decoded(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as exc:
            raise ValueError(f"line {number}: this is not UTF-8 text") from exc


def _json_lines(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, Row]]:
    for number, line in lines:
        if line.strip():
            place = f"line {number}"
            yield place, _columns(place, _parsed(line, place))


def _is_row(line: str) -> bool:
    """Whether a line is one whole object, and not the document with all rows in it."""
    try:
        value = json.loads(line, parse_int=Decimal)
    except (ValueError, RecursionError):
        return False
    return not isinstance(value.get("data"), list)


def _parsed(text: str, place: str | None) -> Any:
    """JSON; a document without a `place` names the line itself."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice(place or "the document", [name for name, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=Decimal, object_pairs_hook=once)
    except json.JSONDecodeError as exc:
        raise ValueError(f"{place or f'line {exc.lineno}'}: this is not valid JSON: {exc.msg}") from exc
    except RecursionError as exc:
        raise ValueError(f"{place or 'the document'}: this is nested too deeply") from exc


def _refuse_twice(place: str, names: Sequence[str]) -> None:
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{place}: the column {twice[:40]!r} stands there twice")


def _columns(place: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: this is not an object with columns")
    return dict(_spread(row, "", DEPTH))


def _spread(row: Row, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict) and depth:
            yield from _spread(value, f"{prefix}{name}.", depth - 1)
        else:
            yield f"{prefix}{name}", value
