"""How the commands print facts: plain text in, columns out; nothing in a name is taken for markup."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output, for people."""
    return Console(markup=False, highlight=False)


def facts(rows: Mapping[str, str]) -> Table:
    """One fact on a line, its label in bold."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows.items():
        table.add_row(label, text)
    return table


def listing(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """One thing on a line; the first column, by which it is called, is never broken."""
    table = Table(box=None, header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    return table


def date(instant: float) -> str:
    """Unix seconds as a date in UTC; as they are where no calendar reaches."""
    try:
        return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{instant:g} s after 1970"
