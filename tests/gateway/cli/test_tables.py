"""Tables for people."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from gateway.cli.tables import console, date, facts, listing


def printed(table: Table) -> str:
    screen = console()
    screen.file = io.StringIO()
    screen.print(table)
    return screen.file.getvalue()


def test_facts_are_one_on_a_line() -> None:
    assert [line.split() for line in printed(facts({"id": "k1", "name": "bot"})).splitlines()] == [
        ["id", "k1"],
        ["name", "bot"],
    ]


def test_a_listing_has_its_headers_first() -> None:
    assert printed(listing(("id", "name"), [("k1", "bot")])).split() == ["id", "name", "k1", "bot"]


def test_markup_in_a_name_is_text() -> None:
    assert "[red]x[/red]" in printed(listing(("name",), [("[red]x[/red]",)]))


def test_the_console_is_standard_output() -> None:
    assert isinstance(console(), Console)
    assert not console().stderr


def test_an_instant_is_a_date_in_utc() -> None:
    assert date(4_073_500_800.0) == "2099-01-31 00:00 UTC"


@pytest.mark.parametrize("instant", [1e20, -1e20, 1e300, 253_402_300_800, float("inf")])
def test_an_instant_beyond_the_calendar_is_a_number(instant: float) -> None:
    assert date(instant) == f"{instant:g} s after 1970"
