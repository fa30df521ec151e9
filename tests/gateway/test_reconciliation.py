from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bank import Bank, open_bank

from budgets.keys import KeyRecord
from budgets.ledger import Attempt
from budgets.money import MAX_NANO
from budgets.price_book import PriceBook
from budgets.tokens import TokenCounter
from budgets.usage import Usage
from gateway import reconciliation
from gateway.catalog import Catalog
from gateway.planner import Planner
from gateway.quotes import Quotes
from gateway.reconciliation import Difference, Reconciliation, Report, Which
from gateway.settings import LedgerSettings, Settings
from gateway.wire.errors import InvalidRequest
from routing.health import Health

NOW = 4_000_000_000.0
PROVIDERS = {name: {"kind": "openai", "base_url": "https://api.openai.com/v1"} for name in ("openai", "acme")}
MODELS: dict[str, Any] = {
    "small": {"provider": "acme", "model": "m", "price": {"input": "0.10", "output": "0.40"}},
    "book": {"provider": "openai", "model": "gpt-4o-mini"},
    "mystery": {"provider": "openai", "model": "never-heard-of"},
}
PRICES = PriceBook.load()


@pytest.fixture
async def bank(redis_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(redis_url, tmp_path, running=False) as bank:
        yield bank


@pytest.fixture
def books(bank: Bank) -> Reconciliation:
    settings = Settings.model_validate({"data_dir": "unused", "providers": PROVIDERS, "models": MODELS})
    planner = Planner(Catalog(settings, PRICES), Health(), Quotes(LedgerSettings(), TokenCounter(None)), lambda: 0.0)
    return Reconciliation(bank.ledger, planner, lambda: NOW)


async def ended(
    bank: Bank, key: KeyRecord, held: int = 1000, *, spent: int | None = None, sent: bool = True, **facts: str
) -> str:
    """The id of an attempt that held so much; without `spent` it is in suspense, or never sent."""
    attempt: Attempt = bank.attempt(key, held)
    for name, value in facts.items():
        setattr(attempt, name, value)
    reservation = await bank.ledger.reserve(attempt)
    reservation.sent, reservation.spent = sent, spent
    bank.ledger.resolve(reservation)
    await bank.ledger.drained()
    return attempt.id


def counted(report: Report) -> dict[str, int]:
    return {outcome: count for outcome, count in report.counts.items() if count}


# Bills


async def test_a_bill_books_what_was_billed_and_frees_the_rest(bank: Bank, books: Reconciliation) -> None:
    key = await bank.key("1/lifetime")
    attempt_id = await ended(bank, key, 1000)

    report = await books.book({attempt_id: 300}, dry_run=False)

    assert await bank.used(key) == (300, 0, 0)
    assert (counted(report), report.spent, report.freed) == ({"resolved": 1}, 300, 700)


async def test_a_bill_that_comes_again_changes_nothing(bank: Bank, books: Reconciliation) -> None:
    key = await bank.key()
    attempt_id = await ended(bank, key)
    await books.book({attempt_id: 300}, dry_run=False)

    report = await books.book({attempt_id: 300}, dry_run=False)

    assert await bank.used(key) == (300, 0, 0)
    assert (counted(report), report.spent, report.freed) == ({"same": 1}, 0, 0)


async def test_a_bill_above_the_hold_is_booked_whole(bank: Bank, books: Reconciliation) -> None:
    key = await bank.key("1/lifetime")
    attempt_id = await ended(bank, key, 1000)

    report = await books.book({attempt_id: 1500}, dry_run=False)

    assert await bank.used(key) == (1500, 0, 0)
    assert (report.spent, report.freed) == (1500, 0)


async def test_what_is_booked_already_is_compared_and_stands(bank: Bank, books: Reconciliation) -> None:
    key = await bank.key()
    settled, other = await ended(bank, key, spent=400), await ended(bank, key, spent=400)
    never_sent, neither = await ended(bank, key, sent=False), await ended(bank, key, sent=False)
    running = bank.attempt(key, 50)
    await bank.ledger.reserve(running)
    bills = {settled: 400, other: 401, never_sent: 0, neither: 7, running.id: 9, "att_default_gone": 5}

    report = await books.book(bills, dry_run=False)

    assert counted(report) == {"same": 2, "differs": 1, "voided": 1, "open": 1, "unknown": 1}
    assert report.differs == [Difference(other, 400, 401)]
    assert report.voided == [Difference(neither, 0, 7)]
    assert await bank.used(key) == (800, 50, 0)


async def test_a_look_beforehand_tells_the_same_and_books_nothing(bank: Bank, books: Reconciliation) -> None:
    key = await bank.key()
    attempt_id, settled = await ended(bank, key, 1000), await ended(bank, key, spent=5)

    report = await books.book({attempt_id: 300, settled: 5}, dry_run=True)

    assert await bank.used(key) == (5, 0, 1000)
    assert (counted(report), report.spent, report.freed) == ({"resolved": 1, "not_in_suspense": 1}, 300, 700)


async def test_any_number_of_bills_is_booked(bank: Bank, books: Reconciliation) -> None:
    key = await bank.key()
    ids = [await ended(bank, key, 10) for _ in range(2 * reconciliation.AT_ONCE + 1)]

    report = await books.book(dict.fromkeys(ids, 3), dry_run=False)

    assert (report.counts["resolved"], report.spent) == (len(ids), 3 * len(ids))
    assert await bank.used(key) == (3 * len(ids), 0, 0)


async def test_bills_of_several_accounts_go_to_each(bank: Bank, books: Reconciliation) -> None:
    mine = await bank.key()
    theirs, _ = await bank.keys.create("theirs", account="team7")
    bills = {await ended(bank, mine): 1, await ended(bank, theirs): 2}

    await books.book(bills, dry_run=False)

    assert (await bank.used(mine), await bank.used(theirs)) == ((1, 0, 0), (2, 0, 0))


# Tokens


async def test_tokens_are_priced_by_a_price_of_our_own_whenever_they_were_held_for(
    bank: Bank, books: Reconciliation
) -> None:
    key = await bank.key()
    attempt_id = await ended(bank, key, 5000, model="small", price_version="years ago")

    report = await books.book({attempt_id: Usage(11, 5)}, dry_run=False)

    assert await bank.used(key) == (11 * 100 + 5 * 400, 0, 0)
    assert report.spent == 3100


async def test_tokens_are_priced_by_the_book_only_while_it_is_the_one_they_were_held_by(
    bank: Bank, books: Reconciliation
) -> None:
    key = await bank.key()
    today = await ended(bank, key, 10_000, model="book", price_version=PRICES.version)
    before = await ended(bank, key, 10_000, model="book", price_version="years ago")

    report = await books.book({today: Usage(10, 10), before: Usage(10, 10)}, dry_run=False)

    spent, _, suspense = await bank.used(key)
    assert (counted(report), report.unpriced) == ({"resolved": 1, "unpriced": 1}, [before])
    assert 0 < spent == report.spent
    assert suspense == 10_000


@pytest.mark.parametrize("bill", [Usage(1, 1), None])
@pytest.mark.parametrize("model", ["mystery", "taken out of the configuration"])
async def test_what_has_no_cost_stays_in_suspense_and_is_told(
    bank: Bank, books: Reconciliation, bill: Usage | None, model: str
) -> None:
    key = await bank.key()
    attempt_id = await ended(bank, key, model=model)

    report = await books.book({attempt_id: bill}, dry_run=False)

    assert (counted(report), report.unpriced) == ({"unpriced": 1}, [attempt_id])
    assert await bank.used(key) == (0, 0, 1000)


@pytest.mark.parametrize("bill", [Usage(1, 1), None])
async def test_what_has_no_cost_and_is_not_in_suspense_is_nobody_s_trouble(
    bank: Bank, books: Reconciliation, bill: Usage | None
) -> None:
    settled = await ended(bank, await bank.key(), spent=5)

    assert counted(await books.book({settled: bill}, dry_run=False)) == {"not_in_suspense": 1}


async def test_tokens_beyond_all_money_are_booked_as_the_most_that_can_be(bank: Bank, books: Reconciliation) -> None:
    attempt_id = await ended(bank, await bank.key(), model="small")

    report = await books.book({attempt_id: Usage(10**9, 10**9)}, dry_run=True)

    assert 0 < report.spent <= MAX_NANO


# What was not billed


async def test_only_what_was_sent_to_the_provider_and_ended_by_then_is_freed(bank: Bank, books: Reconciliation) -> None:
    key = await bank.key()
    acme = await ended(bank, key, 10, model="small")
    other = await ended(bank, key, 20, model="book")
    unconfigured = await ended(bank, key, 40, model="gone")
    settled = await ended(bank, key, spent=5, model="small")
    everything = [acme, other, unconfigured, settled, "att_default_unknown"]

    too_early = await books.free(everything, Which(provider="acme", until=1.0), dry_run=False)
    looked = await books.free(everything, Which(provider="acme", until=NOW), dry_run=True)
    assert await bank.used(key) == (5, 0, 70)
    freed = await books.free(everything, Which(provider="acme", until=NOW), dry_run=False)

    assert await bank.used(key) == (5, 0, 60)
    assert [(report.counts["resolved"], report.freed) for report in (too_early, looked, freed)] == [
        (0, 0),
        (1, 10),
        (1, 10),
    ]


async def test_what_was_freed_while_it_ran_is_booked_when_it_ends(bank: Bank, books: Reconciliation) -> None:
    key = await bank.key("1/lifetime")
    running = await bank.ledger.reserve(bank.attempt(key, 1000))
    await bank.let_leases_run_out()  # its worker is cut off
    await bank.ledger.look()
    report = await books.free([running.attempt.id], Which(until=NOW), dry_run=False)
    assert (counted(report), report.freed, await bank.used(key)) == ({"resolved": 1}, 1000, (0, 0, 0))

    running.spent = 400
    bank.ledger.resolve(running)

    await bank.ledger.drained()
    assert await bank.used(key) == (400, 0, 0)
    assert counted(await books.book({running.attempt.id: 400}, dry_run=False)) == {"same": 1}


# What is in suspense


async def test_suspense_is_listed_over_accounts_and_pages(
    bank: Bank, books: Reconciliation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "PAGE", 2)
    mine = await bank.key()
    theirs, _ = await bank.keys.create("theirs", account="team7")
    ids = [await ended(bank, key, model=model) for key in (mine, theirs) for model in ("small", "book", "small")]

    async def listed(**which: Any) -> list[str]:
        return [held.attempt_id async for held in books.suspended(Which(**which))]

    assert sorted(await listed()) == sorted(ids)
    assert sorted(await listed(account="team7")) == sorted(ids[3:])
    assert sorted(await listed(provider="openai")) == sorted([ids[1], ids[4]])
    assert await listed(until=1.0) == []
    assert await listed(account="nobody") == []


def test_a_provider_that_is_not_configured_and_an_instant_to_come_are_refused(books: Reconciliation) -> None:
    books.check(Which("a", "acme", NOW))

    with pytest.raises(InvalidRequest, match=r"no provider 'amce'. Known: acme, openai\."):
        books.check(Which(provider="amce"))
    with pytest.raises(InvalidRequest, match="is in the future"):
        books.check(Which(until=NOW + 1))
