"""A provider's usage export: what it says that it billed for our attempts.

Providers name their columns as they like: names are compared without case and signs, and the tables below say which
are understood. Amounts are taken as they are written and added up exactly. One that cannot be condemns the whole
file, for half an export read is money wrongly set free.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal
from functools import lru_cache

from budgets.errors import AbsurdUsage
from budgets.export_rows import Row, Rows
from budgets.money import MAX_NANO, NanoUSD
from budgets.usage import Usage

ATTEMPT_ID = re.compile(r"att_([a-z0-9]{1,32})_[0-9A-Za-z_-]{1,64}", re.ASCII)
"""The id of an attempt, which the provider was told, with its account."""

IDS = ("attempt", "attemptid", "clientrequestid", "xclientrequestid", "customid", "requestid", "xrequestid")
NANO = ("nanousd", "costnanousd")
NAMED_DOLLARS = ("costusd", "usd", "amountusd", "costinusd", "totalcostusd", "totalusd", "spendusd", "billedusd")
DOLLARS = ("cost", "amount", "totalcost", "spend", "billed", "charge", "amountvalue", "costvalue")
CURRENCY = ("currency", "amountcurrency", "costcurrency")
TOKENS: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("inputtokens", "prompttokens"),
    "output_tokens": ("outputtokens", "completiontokens"),
    "cache_read_input_tokens": (
        *("cachedinputtokens", "inputcachedtokens", "cachedtokens", "promptcachedtokens"),
        *("inputtokensdetailscachedtokens", "prompttokensdetailscachedtokens"),
    ),
    "reasoning_output_tokens": (
        *("reasoningtokens", "reasoningoutputtokens"),
        *("outputtokensdetailsreasoningtokens", "completiontokensdetailsreasoningtokens"),
    ),
    "audio_input_tokens": ("inputaudiotokens", "audioinputtokens", "prompttokensdetailsaudiotokens"),
    "audio_output_tokens": ("outputaudiotokens", "audiooutputtokens", "completiontokensdetailsaudiotokens"),
}
"""By the field of `Usage`; all totals include their parts."""
AMBIGUOUS = ("cacheread", "cachecreation", "cachewrite")
"""How such columns begin. Whether their tokens are a part of the input or come on top differs between providers."""
TIER = ("servicetier",)
WRAPPERS = ("usage.", "metadata.", "request.")
"""Objects of a JSON row that say nothing of what is in them."""

DOUBLE_DIGITS = Context(prec=15)
"""As many as a binary fraction keeps. A number with more is such a fraction printed in full, its noise included."""
EXACT = Context(prec=250)
"""More than any sum of numbers that `_NUMBER` lets pass."""
_NUMBER = re.compile(r"[0-9]{1,60}(\.[0-9]{1,60})?(E[+-]?[0-9]{1,2})?", re.ASCII | re.IGNORECASE)
_NANO = Decimal("1e-9")
_SIGNS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a number is, and the most that it can be."""

    words: str
    most: Decimal
    whole: bool = False

    def read(self, value: object) -> Decimal:
        """Raises ValueError for what is no such number: text, NaN, a boolean, a negative or an enormous one."""
        text = str(value).strip()
        number = Decimal(text) if _NUMBER.fullmatch(text) else self.most + 1
        if number > self.most or (self.whole and number != number.to_integral_value(context=EXACT)):
            raise ValueError(f"{text[:40]!r} is not {self.words} from 0 to {self.most}")
        return number


_NANO_DOLLARS = _Kind("a whole number of nano-dollars", Decimal(MAX_NANO), whole=True)
_USD = _Kind("an amount of dollars", Decimal(MAX_NANO).scaleb(-9))
_TOKENS = _Kind("a number of tokens", Decimal(10**9), whole=True)


@dataclass(slots=True)
class Billed:
    """What an export says of one attempt, all of its rows taken together."""

    attempt_id: str
    usd: Decimal | None
    """None where a row does not tell it."""
    usage: Usage | None
    """The tokens, where there is one row and it tells no dollars. Several rows were priced each by itself."""
    rows: int = 1

    @property
    def account(self) -> str:
        """The one that the attempt's id names."""
        return self.attempt_id.split("_")[1]

    @property
    def nano_usd(self) -> NanoUSD | None:
        """What was billed, rounded up once for the whole attempt."""
        if self.usd is None:
            return None
        return int(self.usd.scaleb(9, EXACT).to_integral_value(ROUND_CEILING, EXACT))

    def add(self, row: "Billed") -> None:
        """Take another row of the attempt into account."""
        self.usd = None if self.usd is None or row.usd is None else EXACT.add(self.usd, row.usd)
        self.usage = None
        self.rows += 1


@dataclass(slots=True)
class Export:
    """A whole export, checked."""

    attempts: dict[str, Billed] = field(default_factory=dict)
    rows: int = 0
    foreign_rows: int = 0
    """Rows of what was not sent by us."""
    is_blank: bool = False
    """Whether there is nothing in the file, not even a word that there is nothing."""
    has_more: bool = False
    """Whether it says that it is but one page."""


def read_export(lines: Iterable[bytes]) -> Export:
    """The export that a file's lines make up: CSV with a header, JSON lines, or JSON with an array of objects.

    Raises ValueError naming the line (in a JSON array: the row) and the column where it is wrong.
    """
    export = Export()
    rows = Rows(lines)
    names: tuple[str, ...] = ()
    names_attempts = False
    for place, row in rows:
        export.rows += 1
        names = tuple(row)
        names_attempts = names_attempts or bool(_columns(names).ids)
        attempt_id = _attempt_id(row)
        if attempt_id is None:
            export.foreign_rows += 1
        else:
            _count(export, place, _billed(place, row, attempt_id))
    names = names or rows.header
    if names and not names_attempts and not _columns(names).ids:
        has = ", ".join(repr(name)[:40] for name in names[:12])
        raise ValueError(f"no column names attempts, such as `client_request_id` or `attempt_id`; there are {has}")
    export.is_blank, export.has_more = rows.is_blank, rows.has_more
    return export


def _count(export: Export, place: str, billed: Billed) -> None:
    known = export.attempts.setdefault(billed.attempt_id, billed)
    if known is not billed:
        known.add(billed)
    if known.usd is not None and known.usd > _USD.most:
        raise ValueError(f"{place}: the rows of {billed.attempt_id} come to more than {_USD.most} dollars")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which of a row's columns tell what, the most telling ones first."""

    ids: tuple[str, ...]
    nano: tuple[str, ...]
    named_dollars: tuple[str, ...]
    dollars: tuple[str, ...]
    currency: tuple[str, ...]
    tokens: Mapping[str, tuple[str, ...]]
    ambiguous: tuple[str, ...]
    tier: tuple[str, ...]


@lru_cache(maxsize=64)
def _columns(names: tuple[str, ...]) -> _Columns:
    plain = {name: _plain(name) for name in names}

    def called(*wanted: str) -> tuple[str, ...]:
        return tuple(name for each in wanted for name in names if plain[name] == each)

    return _Columns(
        ids=called(*IDS),
        nano=called(*NANO),
        named_dollars=called(*NAMED_DOLLARS),
        dollars=called(*DOLLARS),
        currency=called(*CURRENCY),
        tokens={count: called(*wanted) for count, wanted in TOKENS.items()},
        ambiguous=tuple(name for name in names if plain[name].startswith(AMBIGUOUS)),
        tier=called(*TIER),
    )


def _plain(name: str) -> str:
    name = name.lower()
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return _SIGNS.sub("", name)


def _attempt_id(row: Row) -> str | None:
    texts = (str(row[name]).strip() for name in _columns(tuple(row)).ids)
    return next((text for text in texts if ATTEMPT_ID.fullmatch(text)), None)


def _billed(place: str, row: Row, attempt_id: str) -> Billed:
    usd = _usd(place, row)
    return Billed(attempt_id, usd, _usage(place, row) if usd is None else None)


def _usd(place: str, row: Row) -> Decimal | None:
    """The dollars, None where the row tells none."""
    columns = _columns(tuple(row))
    nano = _number(place, row, columns.nano, _NANO_DOLLARS)
    if nano is not None:
        return nano.scaleb(-9)
    for name in columns.currency:
        if not _is_empty(row[name]) and str(row[name]).strip().lower() != "usd":
            raise ValueError(f"{place}, column {name!r}: {str(row[name])[:40]!r} are no US dollars")
    usd = _number(place, row, columns.named_dollars, _USD)
    if usd is None:
        usd = _number(place, row, columns.dollars, _USD)
    return None if usd is None else _without_noise(usd)


def _without_noise(usd: Decimal) -> Decimal:
    """What was meant by a binary fraction: 0.0000031000000000000004 is 0.0000031. Whole nano-dollars stay."""
    digits = len(usd.as_tuple().digits)
    is_double = digits > DOUBLE_DIGITS.prec and usd != usd.quantize(_NANO, context=EXACT)
    return DOUBLE_DIGITS.plus(usd) if is_double else usd


def _usage(place: str, row: Row) -> Usage | None:
    """The tokens, None where they are not told, or not so that anyone could price them."""
    columns = _columns(tuple(row))
    if any(not _is_empty(row[name]) and str(row[name]) != "0" for name in columns.ambiguous):
        return None
    counts = {count: _number(place, row, names, _TOKENS) for count, names in columns.tokens.items()}
    if counts["input_tokens"] is None or counts["output_tokens"] is None:
        return None
    tier = next((str(row[name]) for name in columns.tier if not _is_empty(row[name])), None)
    usage = Usage(**{count: int(tokens or 0) for count, tokens in counts.items()}, service_tier=tier)
    try:
        return usage.within(int(_TOKENS.most), int(_TOKENS.most))
    except AbsurdUsage as exc:
        raise ValueError(f"{place}: {exc.field} cannot be {exc.value}, which is more than the total") from exc


def _number(place: str, row: Row, names: tuple[str, ...], kind: _Kind) -> Decimal | None:
    """What the columns `names` tell, None where all are empty. Raises ValueError where they disagree."""
    told: dict[str, Decimal] = {}
    for name in names:
        if not _is_empty(row[name]):
            try:
                told[name] = kind.read(row[name])
            except ValueError as exc:
                raise ValueError(f"{place}, column {name!r}: {exc}") from exc
    if len(set(told.values())) > 1:
        raise ValueError(f"{place}: the columns {' and '.join(map(repr, told))} say different things")
    return next(iter(told.values()), None)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
