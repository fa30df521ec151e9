"""For whoever runs the gateway: is it alive, is it ready, what has it counted; and the sandbox's bill.

/healthz, /readyz, /metrics and /sandbox/bill need no key, and names of keys, models and accounts are in them: keep
them off public networks.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from budgets.errors import BudgetError, LedgerUnavailable
from gateway.telemetry.exposition import CONTENT_TYPE
from gateway.upstream.sandbox import SandboxBill

SERVED = {"with_budget": "served", "without_budget": "served"}
CAPPED_REFUSED = {"with_budget": "refused", "without_budget": "served"}
REFUSED = {"with_budget": "refused", "without_budget": "refused"}
AWAY = (
    "The ledger is away, so callers with a budget are refused. Callers without one whose key was used here before are "
    "served; what they spend is booked once it is back."
)
BEHIND = (
    "Redis has less than this gateway has seen of these accounts, so their callers with a budget are refused. What a "
    "failover lost comes back from the journals within a minute; if it does not, look at `paymaster budgets confirm`."
)

DAMAGED = (
    "What Redis has of these accounts cannot be used, or does not add up. Where it cannot be used their callers are "
    "refused (500); all others are served. The log says what is wrong."
)


class LedgerHealth(Protocol):
    """What the ledger's background work has found out about accounts."""

    @property
    def behind(self) -> Mapping[str, float]:
        """Those of which Redis has lost something, each with since when, in Unix seconds."""
        ...

    @property
    def damaged(self) -> Mapping[str, str]:
        """Those whose ledger cannot be used, or contradicts itself, each with what is wrong."""
        ...


def operations_router(
    probe: Callable[[], Awaitable[object]],
    metrics: Callable[[], Awaitable[bytes]],
    bill: SandboxBill,
    health: LedgerHealth,
) -> APIRouter:
    """The endpoints that need no key.

    `probe` has the ledger run a script; it raises BudgetError.
    """
    router = APIRouter(tags=["operations"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz")
    async def readyz(callers: Literal["with_budget", "without_budget"] | None = None) -> JSONResponse:
        """All callers can be served, or those who are asked for: callers without a budget do not need the ledger."""
        told = await _readiness(probe, health)
        is_served = all(told["callers"][each] == "served" for each in ([callers] if callers else SERVED))
        return JSONResponse(told, status_code=200 if is_served else 503)

    @router.get("/metrics")
    async def prometheus() -> Response:
        """What all workers counted, in Prometheus' text format."""
        return Response(await metrics(), media_type=CONTENT_TYPE)

    @router.get("/sandbox/bill")
    async def sandbox_bill() -> Response:
        """What the sandbox billed, by its own price table."""
        return Response(await bill.read(), media_type="application/json")

    return router


async def _readiness(probe: Callable[[], Awaitable[object]], health: LedgerHealth) -> dict[str, Any]:
    """Who is served, and who is not and why: known within the ledger's own deadline."""
    try:
        await probe()
    except LedgerUnavailable as exc:
        return {"status": "unavailable", "ledger": str(exc), "callers": CAPPED_REFUSED, "reason": AWAY}
    except BudgetError as exc:
        return {"status": "unavailable", "ledger": str(exc), "callers": REFUSED, "reason": DAMAGED}
    told: dict[str, Any] = {"status": "ok", "ledger": "ok", "callers": SERVED}
    if health.damaged:
        told |= {"status": "degraded", "ledger": "damaged", "reason": DAMAGED, "accounts": dict(health.damaged)}
    if health.behind:
        told |= {"status": "degraded", "ledger": "behind", "reason": BEHIND, "accounts": dict(health.behind)}
        told["callers"] = CAPPED_REFUSED
    return told
