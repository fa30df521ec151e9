"""GET /v1/models: what the caller may ask for. GET /v1/budget: what the caller has left."""

from typing import Any

from fastapi import APIRouter, Request

from budgets.money import to_usd
from budgets.redis_ledger import RedisLedger
from gateway.api.admin import shown
from gateway.api.headers import headers_of
from gateway.auth import Callers
from gateway.planner import Planner
from routing.deployment import Alias

STARTED = 1_767_225_600
"""`created` of every model: OpenAI's shape asks for an instant, and ours have none worth telling."""


def models_router(callers: Callers, planner: Planner, ledger: RedisLedger) -> APIRouter:
    """The endpoints that a virtual key may read."""
    router = APIRouter(tags=["caller"])

    @router.get("/models", include_in_schema=False)
    @router.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        caller = await callers.identify(headers_of(request))
        names = [name for name in planner.catalog.names if caller.may_use(name)]
        return {"object": "list", "data": [_model(planner, name) for name in names]}

    @router.get("/v1/budget")
    async def show_budget(request: Request) -> dict[str, Any]:
        """What is left of the tightest limit that the key or its account has."""
        caller = await callers.identify(headers_of(request))
        key = await ledger.status(caller.record.account, f"key:{caller.record.id}")
        account = await ledger.status(caller.record.account, "account")
        left = [limit.remaining for limit in (*key.limits, *account.limits)]
        remaining = min(left) if left else None
        return {
            "ok": remaining is None or remaining > 0,
            "remaining_usd": None if remaining is None else to_usd(remaining),
            **shown(key),
        }

    return router


def _model(planner: Planner, name: str) -> dict[str, Any]:
    found = planner.catalog.find(name)
    owner = "paymaster" if isinstance(found, Alias) else found.deployment.provider_name
    return {"id": name, "object": "model", "created": STARTED, "owned_by": owner}
