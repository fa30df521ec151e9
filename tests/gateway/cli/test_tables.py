"""Tables for people."""

import io

from rich.console import Console
from rich.table import Table

from gateway.cli.tables import console, facts, listing


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
