"""The admin API: virtual keys, an account's limits, and the decisions of routing, for whoever holds the admin key."""

import hmac
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from budgets.budget import Limit
from budgets.keys import ACCOUNT, DEFAULT_ACCOUNT, KeyChanges, KeyRecord, KeyStore
from budgets.ledger import ScopeStatus
from budgets.money import from_usd, to_usd
from budgets.redis_ledger import RedisLedger
from gateway.api.headers import headers_of
from gateway.api.service import StrictRoute
from gateway.auth import key_in
from gateway.errors import NotAdmin
from gateway.planner import Planner, Route, expected_cost
from gateway.wire import chat
from gateway.wire.errors import InvalidRequest
from gateway.wire.request import ModelRequest
from gateway.wire.strict_json import dump
from routing.deployment import Candidate

MAX_PAGE = 1000
END_OF_CALENDARS = 253_402_300_800
"""The year 10,000 in Unix seconds."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LimitBody(_Body):
    """Dollars as a decimal string, and the window they are for."""

    usd: str
    window: str

    def limit(self) -> Limit:
        """Raises ValueError."""
        return Limit(from_usd(self.usd), self.window)


Name = Annotated[str, Field(min_length=1, max_length=200)]
AccountName = Annotated[str, Path(pattern=f"^{ACCOUNT.pattern}$")]
Models = Annotated[list[str], Field(min_length=1)]
Instant = Annotated[float, Field(ge=0, lt=END_OF_CALENDARS)]
"""Unix seconds."""


class NewKey(_Body):
    """A key to be made; left out: no limit, all models, no end."""

    name: Name
    account: str = DEFAULT_ACCOUNT
    limits: list[LimitBody] = []
    models: Models = ["*"]
    expires_at: Instant | None = None


class ChangedKey(_Body):
    """What is to change; `limits` and `models` replace what was there."""

    name: Name | None = None
    limits: list[LimitBody] | None = None
    models: Models | None = None
    expires_at: Instant | None = None

    def changes(self) -> KeyChanges:
        """The fields that were given. Raises ValueError."""
        changes: KeyChanges = {}
        if self.name is not None:
            changes["name"] = self.name
        if self.limits is not None:
            changes["limits"] = tuple(limit.limit() for limit in self.limits)
        if self.models is not None:
            changes["models"] = tuple(self.models)
        if "expires_at" in self.model_fields_set:
            changes["expires_at"] = self.expires_at
        return changes


class Limits(_Body):
    """What an account's keys may spend together; replaces what was there."""

    limits: list[LimitBody]


def admin_router(admin_key: str) -> APIRouter:
    """A router under /admin, for whoever sends the admin key. A virtual key is none, nor the reverse."""

    def check(request: Request) -> None:
        if not hmac.compare_digest(key_in(headers_of(request)).encode(), admin_key.encode()):
            raise NotAdmin

    return APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(check)], route_class=StrictRoute)


class Admin:
    """The endpoints, as methods."""

    def __init__(
        self, keys: KeyStore, ledger: RedisLedger, planner: Planner, reload: Callable[[], Sequence[str]]
    ) -> None:
        """`reload` has the configuration served as it is now, and names the sections that need a restart."""
        self._keys = keys
        self._ledger = ledger
        self._planner = planner
        self._reload = reload

    def router(self, admin_key: str) -> APIRouter:
        """All of them."""
        router = admin_router(admin_key)
        router.add_api_route("/keys", self.create_key, methods=["POST"], status_code=201)
        router.add_api_route("/keys", self.list_keys, methods=["GET"])
        router.add_api_route("/keys/{key_id}", self.show_key, methods=["GET"])
        router.add_api_route("/keys/{key_id}", self.update_key, methods=["PATCH"])
        router.add_api_route("/keys/{key_id}", self.delete_key, methods=["DELETE"])
        router.add_api_route("/keys/{key_id}/block", self.block_key, methods=["POST"])
        router.add_api_route("/keys/{key_id}/unblock", self.unblock_key, methods=["POST"])
        router.add_api_route("/accounts/{account}", self.show_account, methods=["GET"])
        router.add_api_route("/accounts/{account}", self.update_account, methods=["PATCH"])
        router.add_api_route("/route/explain", self.explain_route, methods=["POST"])
        router.add_api_route("/config/reload", self.reload_configuration, methods=["POST"])
        return router

    async def create_key(self, new: NewKey) -> dict[str, Any]:
        """A new key. This is the only answer that ever has its text in it."""
        try:
            limits = [limit.limit() for limit in new.limits]
            record, text = await self._keys.create(
                new.name, account=new.account, models=new.models, limits=limits, expires_at=new.expires_at
            )
        except ValueError as exc:
            raise InvalidRequest(f"{exc}.") from exc
        return {"id": record.id, "key": text} | await self._shown(record)

    async def list_keys(
        self,
        account: str = DEFAULT_ACCOUNT,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        after: str | None = None,
    ) -> dict[str, Any]:
        """A page of an account's keys, oldest first."""
        records = await self._keys.list(account, after, limit + 1)
        shown_now = [await self._shown(record) for record in records[:limit]]
        return {"data": shown_now, "has_more": len(records) > limit}

    async def show_key(self, key_id: str) -> dict[str, Any]:
        """A key and its money."""
        return await self._shown(await self._keys.get(key_id))

    async def update_key(self, key_id: str, changed: ChangedKey) -> dict[str, Any]:
        """Change a key, at once for all that uses it."""
        try:
            return await self._shown(await self._keys.update(key_id, changed.changes()))
        except ValueError as exc:
            raise InvalidRequest(f"{exc}.") from exc

    async def delete_key(self, key_id: str) -> dict[str, Any]:
        """Delete a key for good."""
        await self._keys.delete(key_id)
        return {"id": key_id, "deleted": True}

    async def block_key(self, key_id: str) -> dict[str, Any]:
        """Refuse the key from now on."""
        return await self._shown(await self._keys.update(key_id, {"blocked": True}))

    async def unblock_key(self, key_id: str) -> dict[str, Any]:
        """Let a blocked key work again."""
        return await self._shown(await self._keys.update(key_id, {"blocked": False}))

    async def show_account(self, account: AccountName) -> dict[str, Any]:
        """What all keys of an account spent together, and the limits they share."""
        return {"account": account} | shown(await self._ledger.status(account, "account"))

    async def update_account(self, account: AccountName, changed: Limits) -> dict[str, Any]:
        """Replace the limits that an account's keys share; they hold from the next request on."""
        try:
            await self._keys.set_account_limits(account, [limit.limit() for limit in changed.limits])
        except ValueError as exc:
            raise InvalidRequest(f"{exc}.", "limits") from exc
        return await self.show_account(account)

    async def explain_route(self, body: dict[str, Any]) -> dict[str, Any]:
        """Where a chat request would go, and why; nothing is spent. `remaining_usd`: as if so much were left."""
        remaining = body.pop("remaining_usd", None)
        request = chat.parse_request(dump(body))
        try:
            left = None if remaining is None else from_usd(str(remaining))
        except ValueError as exc:
            raise InvalidRequest(f"{exc}.", "remaining_usd") from exc
        return explained(self._planner.plan(request, left), request)

    async def reload_configuration(self) -> dict[str, Any]:
        """Serve what the configuration file says now; where it is wrong nothing changes, and the answer says why."""
        return {"ok": True, "needs_restart": list(self._reload())}

    async def _shown(self, record: KeyRecord) -> dict[str, Any]:
        status = await self._ledger.status(record.account, f"key:{record.id}")
        return {
            "id": record.id,
            "name": record.name,
            "account": record.account,
            "models": list(record.models),
            "blocked": record.blocked,
            "created_at": record.created_at,
            "expires_at": record.expires_at,
        } | shown(status)


def shown(status: ScopeStatus) -> dict[str, Any]:
    """A scope's money, in decimal strings of dollars; instants in Unix seconds."""
    return {
        "spent_usd": to_usd(status.spent),
        "held_usd": to_usd(status.held),
        "suspense_usd": to_usd(status.suspense),
        "limits": [
            {
                "usd": to_usd(limit.limit),
                "window": limit.window,
                "spent_usd": to_usd(limit.spent),
                "held_usd": to_usd(limit.held),
                "suspense_usd": to_usd(limit.suspense),
                "remaining_usd": to_usd(limit.remaining),
                "resets_at": limit.resets_at,
            }
            for limit in status.limits
        ],
    }


def explained(route: Route, request: ModelRequest) -> dict[str, Any]:
    """A plan in JSON."""
    plan = route.plan

    def expected(candidate: Candidate) -> str | None:
        cost = expected_cost(request, route.targets[candidate.deployment.id])
        return None if cost is None else to_usd(cost)

    chosen, other = plan.candidates[0], plan.alternative
    return {
        "model": chosen.deployment.id,
        "tier": plan.tier,
        "reason": plan.reason,
        "candidates": [candidate.deployment.id for candidate in plan.candidates],
        "expected_usd": expected(chosen),
        "alternative": other and {"model": other.deployment.id, "expected_usd": expected(other)},
        "complexity": plan.profile and plan.profile.complexity,
        "score": plan.profile and round(plan.profile.score, 3),
    }
