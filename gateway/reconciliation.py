"""Bills against suspense: what a provider billed settles what nobody knew, and what it did not bill is free again."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from budgets.ledger import Reconciled, Suspended
from budgets.money import MAX_NANO, NanoUSD
from budgets.pricing import cost
from budgets.redis_ledger import RedisLedger
from budgets.usage import Usage
from gateway.planner import Planner
from gateway.wire.errors import InvalidRequest

PAGE = 1000
"""Attempts in suspense that are read at once."""
AT_ONCE = 100
"""Bills that are sent to Redis together."""
OUTCOMES = ("resolved", "same", "differs", "open", "voided", "unknown", "unpriced", "not_in_suspense")
"""Those of `Reconciled`; in suspense, but billed without a cost; without one, or not looked up, and not in suspense."""

Bill: TypeAlias = NanoUSD | Usage | None
"""What was billed for an attempt; None where that it was billed is all that is told."""


@dataclass(frozen=True, slots=True)
class Which:
    """Which attempts in suspense: of an account, sent to a provider, ended before an instant (Unix seconds)."""

    account: str | None = None
    provider: str | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """An attempt that was booked otherwise than it was billed; nano-USD."""

    attempt_id: str
    booked: NanoUSD
    billed: NanoUSD


@dataclass(slots=True)
class Report:
    """What became of some bills, or would become of them."""

    counts: Counter[str] = field(default_factory=Counter)
    """By outcome."""
    spent: NanoUSD = 0
    """What was billed for those that were resolved."""
    freed: NanoUSD = 0
    """What was held for them beyond that."""
    differs: list[Difference] = field(default_factory=list)
    voided: list[Difference] = field(default_factory=list)
    """Billed, although they were never sent as far as we know."""
    unpriced: list[str] = field(default_factory=list)
    """Attempts in suspense of which no cost is told, nor tokens that can be priced."""

    def resolved(self, billed: NanoUSD, held: Suspended | None) -> None:
        """`held` is None where the bill takes the place of an estimate that was accepted, or of nothing."""
        self.counts["resolved"] += 1
        self.spent += billed
        self.freed += max(0, held.amount - billed) if held else 0

    def answered(self, difference: Difference, answer: Reconciled, held: Suspended | None) -> None:
        """The ledger has answered to a bill."""
        if answer.outcome == "resolved":
            return self.resolved(difference.billed, held)
        self.counts[answer.outcome] += 1
        if answer.outcome == "differs":
            self.differs.append(difference)
        elif answer.outcome == "voided":
            self.voided.append(difference)
        return None


class Reconciliation:
    """Looks through suspense and books bills."""

    def __init__(self, ledger: RedisLedger, planner: Planner, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._planner = planner
        self._clock = clock

    def check(self, which: Which) -> None:
        """Raises InvalidRequest for a provider that is not configured and for an instant that has not come."""
        known = {target.deployment.provider_name for target in self._planner.catalog.targets.values()}
        if which.provider is not None and which.provider not in known:
            words = f"There is no provider {which.provider[:80]!r}. Known: {', '.join(sorted(known))}."
            raise InvalidRequest(words, "provider")
        if which.until is not None and which.until > self._clock():
            raise InvalidRequest("`until` is in the future: nobody knows what is billed until then.", "until")

    async def suspended(self, which: Which) -> AsyncIterator[Suspended]:
        """What is in suspense, oldest first in each account. Raises LedgerUnavailable."""
        for account in [which.account] if which.account else await self._ledger.accounts():
            start = 0
            while page := await self._ledger.suspended(account, start, PAGE):
                for each in page:
                    if self._is_one(each, which):
                        yield each
                start += PAGE

    def provider(self, held: Suspended) -> str | None:
        """To whom an attempt was sent; None where its model is not configured any more."""
        target = self._planner.catalog.targets.get(held.model)
        return target.deployment.provider_name if target else None

    async def book(self, bills: Mapping[str, Bill], *, dry_run: bool) -> Report:
        """Settle what is in suspense at what was billed, by attempt id; compare what is booked already.

        Raises LedgerUnavailable; then some of it may be booked, and is the same when it is sent again.
        """
        held = await self._find(bills, Which())
        report, known = Report(), dict[str, NanoUSD]()
        for attempt_id, bill in bills.items():
            suspended = held.get(attempt_id)
            billed = self._priced(bill, suspended) if isinstance(bill, Usage) else bill
            if billed is not None and (suspended or not dry_run):
                known[attempt_id] = billed
            elif suspended is None:
                report.counts["not_in_suspense"] += 1
            else:
                report.counts["unpriced"] += 1
                report.unpriced.append(attempt_id)
        await self._book(known, held, report, dry_run=dry_run)
        return report

    async def free(self, attempt_ids: Iterable[str], which: Which, *, dry_run: bool) -> Report:
        """Free those of the attempts that are in suspense and are of `which`, as no bill names them.

        What one of them costs after all is booked when its worker or a later bill tells.
        """
        held = await self._find(attempt_ids, which)
        report = Report()
        await self._book(dict.fromkeys(held), held, report, dry_run=dry_run)
        return report

    async def _find(self, attempt_ids: Iterable[str], which: Which) -> dict[str, Suspended]:
        """Those of the attempts that are in suspense."""
        found: dict[str, Suspended] = {}
        by_account = defaultdict(list)
        for attempt_id in attempt_ids:
            by_account[_account(attempt_id)].append(attempt_id)
        for account, ids in by_account.items():
            for start in range(0, len(ids), PAGE):
                page = await self._ledger.in_suspense(account, ids[start : start + PAGE])
                found |= {each.attempt_id: each for each in page if self._is_one(each, which)}
        return found

    async def _book(
        self, bills: Mapping[str, NanoUSD | None], held: Mapping[str, Suspended], report: Report, *, dry_run: bool
    ) -> None:
        """None stands for what no bill names."""
        if dry_run:
            for attempt_id, billed in bills.items():
                report.resolved(billed or 0, held[attempt_id])
            return
        pairs = list(bills.items())
        for start in range(0, len(pairs), AT_ONCE):
            batch = pairs[start : start + AT_ONCE]
            sent = [self._ledger.reconcile(_account(name), name, billed) for name, billed in batch]
            answers = await asyncio.gather(*sent)
            for (name, billed), answer in zip(batch, answers, strict=True):
                report.answered(Difference(name, answer.booked or 0, billed or 0), answer, held.get(name))

    def _is_one(self, held: Suspended, which: Which) -> bool:
        """Redis tells whole seconds: the attempt has ended within the one that began at `ended_at`."""
        is_before = which.until is None or held.ended_at + 1 <= which.until
        return is_before and which.provider in (None, self.provider(held))

    def _priced(self, usage: Usage, held: Suspended | None) -> NanoUSD | None:
        """What the tokens cost; None unless the price is still the one that the attempt was held for at."""
        catalog = self._planner.catalog
        target = catalog.targets.get(held.model) if held else None
        if held is None or target is None or target.price is None:
            return None
        is_known = target.own_price or held.price_version == catalog.price_version
        return min(cost(usage, target.price), MAX_NANO) if is_known else None


def _account(attempt_id: str) -> str:
    return attempt_id.split("_")[1]
