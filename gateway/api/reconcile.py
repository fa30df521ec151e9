"""The admin API for what nobody knows: attempts in suspense, bills for them, and a ledger that has lost data."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from budgets.errors import AbsurdUsage
from budgets.keys import ACCOUNT
from budgets.ledger import Suspended
from budgets.money import MAX_NANO, from_usd, to_usd
from budgets.redis_ledger import RedisLedger
from budgets.usage import Usage
from budgets.usage_export import ATTEMPT_ID
from gateway.api.admin import MAX_PAGE, Instant, admin_router
from gateway.reconciliation import OUTCOMES, Bill, Difference, Reconciliation, Which
from gateway.wire.errors import InvalidRequest

MAX_ROWS = 1000
"""Of one request."""
MAX_TOKENS = 10**9

logger = logging.getLogger(__name__)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


AttemptId = Annotated[str, Field(pattern=f"^{ATTEMPT_ID.pattern}$")]
Account = Annotated[str, Field(pattern=f"^{ACCOUNT.pattern}$")]
Tokens = Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS)]


class UsageBody(_Body):
    """Tokens as the gateway counts them: totals include their parts."""

    input_tokens: Tokens
    output_tokens: Tokens
    cache_read_input_tokens: Tokens = 0
    cache_creation_input_tokens: Tokens = 0
    cache_creation_1h_input_tokens: Tokens = 0
    audio_input_tokens: Tokens = 0
    reasoning_output_tokens: Tokens = 0
    audio_output_tokens: Tokens = 0
    service_tier: Annotated[str, Field(max_length=50)] | None = None


class Row(_Body):
    """What a provider billed for one attempt, told in one of three ways, or not told at all."""

    attempt_id: AttemptId
    nano_usd: Annotated[StrictInt, Field(ge=0, le=MAX_NANO)] | None = None
    usd: str | None = None
    usage: UsageBody | None = None

    def bill(self, where: str) -> Bill:
        """`where` it stands. Raises InvalidRequest."""
        told = [name for name in ("nano_usd", "usd", "usage") if getattr(self, name) is not None]
        if len(told) > 1:
            raise InvalidRequest(f"`{where}`: say what was billed once, not as {' and as '.join(told)}.", where)
        where = ".".join([where, *told])
        try:
            if self.usage:
                return Usage(**self.usage.model_dump()).within(MAX_TOKENS, MAX_TOKENS)
            return self.nano_usd if self.usd is None else from_usd(self.usd)
        except AbsurdUsage as exc:
            where = f"{where}.{exc.field}"
            raise InvalidRequest(f"`{where}`: {exc.value} is more than the total.", where) from exc
        except ValueError as exc:
            raise InvalidRequest(f"`{where}`: {exc}.", where) from exc


class Bills(_Body):
    """Bills for different attempts; with `dry_run` nothing is booked."""

    rows: Annotated[list[Row], Field(min_length=1, max_length=MAX_ROWS)]
    dry_run: StrictBool = False


class Absent(_Body):
    """Attempts that do not stand in an export which has everything that `provider` billed `until` then.

    They are named, for what comes into suspense while somebody reads the export may well stand in it.
    """

    provider: str
    until: Instant
    attempts: Annotated[list[AttemptId], Field(max_length=MAX_ROWS)]
    dry_run: StrictBool = False


class Confirmation(_Body):
    """Whose data; without an account those of all that are behind."""

    account: Account | None = None


class ReconcileApi:
    """The endpoints, as methods."""

    def __init__(self, reconciliation: Reconciliation, ledger: RedisLedger) -> None:
        self._reconciliation = reconciliation
        self._ledger = ledger

    def router(self, admin_key: str) -> APIRouter:
        """All of them."""
        router = admin_router(admin_key)
        router.add_api_route("/suspense", self.list_suspense, methods=["GET"])
        router.add_api_route("/reconcile", self.reconcile, methods=["POST"])
        router.add_api_route("/reconcile/absent", self.reconcile_absent, methods=["POST"])
        router.add_api_route("/ledger", self.show_ledger, methods=["GET"])
        router.add_api_route("/ledger/confirm", self.confirm_ledger, methods=["POST"])
        return router

    async def list_suspense(
        self,
        account: Annotated[str | None, Query(pattern=f"^{ACCOUNT.pattern}$")] = None,
        provider: str | None = None,
        until: Instant | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        start: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        """Attempts whose cost nobody knows, from the `start`-th on, oldest first in each account.

        `provider` and `until` leave out what was sent to others, and what had not ended then.
        """
        which = Which(account, provider, until)
        self._reconciliation.check(which)
        found: list[Suspended] = []
        async for each in self._reconciliation.suspended(which):
            found.append(each)
            if len(found) > start + limit:
                break
        page = [self._shown(each) for each in found[start : start + limit]]
        return {"data": page, "has_more": len(found) > start + limit}

    async def reconcile(self, bills: Bills) -> dict[str, Any]:
        """Book what a provider billed: what is in suspense is spent, and the rest of its hold is free again.

        What is booked already is compared and stands. Sent again, nothing changes.
        """
        _refuse_twice([row.attempt_id for row in bills.rows], "rows")
        by_id = {row.attempt_id: row.bill(f"rows.{place}") for place, row in enumerate(bills.rows)}
        report = await self._reconciliation.book(by_id, dry_run=bills.dry_run)
        return {
            "dry_run": bills.dry_run,
            "counts": {outcome: report.counts[outcome] for outcome in OUTCOMES},
            "spent_usd": to_usd(report.spent),
            "freed_usd": to_usd(report.freed),
            "differs": [_told(difference) for difference in report.differs],
            "voided": [_told(difference) for difference in report.voided],
            "unpriced": report.unpriced,
        }

    async def reconcile_absent(self, absent: Absent) -> dict[str, Any]:
        """Free what is held for those of the attempts that were sent to the provider and had ended by then."""
        which = Which(None, absent.provider, absent.until)
        self._reconciliation.check(which)
        _refuse_twice(absent.attempts, "attempts")
        report = await self._reconciliation.free(absent.attempts, which, dry_run=absent.dry_run)
        return {"dry_run": absent.dry_run, "freed": report.counts["resolved"], "freed_usd": to_usd(report.freed)}

    async def show_ledger(self) -> dict[str, Any]:
        """The accounts of which Redis lacks what this gateway has seen: since when (Unix seconds), and what it has."""
        await self._ledger.look()
        behind = []
        for account, since in sorted(self._ledger.behind.items()):
            status = await self._ledger.status(account, "account")
            behind.append({"account": account, "since": since, "spent_usd": to_usd(status.spent)})
        return {"behind": behind}

    async def confirm_ledger(self, confirmation: Confirmation | None = None) -> dict[str, Any]:
        """Take what Redis has for the truth, so that callers with a budget are served again."""
        await self._ledger.look()  # another worker may have noticed what this one has not yet
        behind = sorted(self._ledger.behind)
        account = confirmation.account if confirmation else None
        if account is not None and account not in behind:
            others = f" It does of: {', '.join(behind)}." if behind else ""
            words = f"Redis lacks nothing that was seen here of the account {account!r}.{others}"
            raise InvalidRequest(words, "account")
        if not behind:
            raise InvalidRequest("Redis lacks nothing that was seen here: there is nothing to confirm.")
        accounts = behind if account is None else [account]
        for name in accounts:
            await self._ledger.confirm(name)
            logger.warning("an operator has confirmed what Redis has of the account %s", name)
        return {"confirmed": accounts}

    def _shown(self, held: Suspended) -> dict[str, Any]:
        return {
            "attempt_id": held.attempt_id,
            "account": held.account,
            "key_id": held.key_id,
            "model": held.model,
            "provider": self._reconciliation.provider(held),
            "held_usd": to_usd(held.amount),
            "estimate_usd": to_usd(held.estimate),
            "ended_at": held.ended_at,
        }


def _told(difference: Difference) -> dict[str, str]:
    booked, billed = to_usd(difference.booked), to_usd(difference.billed)
    return {"attempt_id": difference.attempt_id, "booked_usd": booked, "billed_usd": billed}


def _refuse_twice(attempt_ids: Sequence[str], param: str) -> None:
    for attempt_id, times in Counter(attempt_ids).most_common(1):
        if times > 1:
            words = f"`{param}`: {attempt_id} stands there {times} times; add up what was billed for it."
            raise InvalidRequest(words, param)
