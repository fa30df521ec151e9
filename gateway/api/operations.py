"""For whoever runs the gateway: is it alive, is it ready, what has it counted; and the sandbox's bill.

/healthz, /readyz, /metrics and /sandbox/bill need no key, and names of keys, models and accounts are in them: keep
them off public networks.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from budgets.errors import BudgetError
from gateway.telemetry.exposition import CONTENT_TYPE
from gateway.upstream.sandbox import SandboxBill

SERVED = {"with_budget": "served", "without_budget": "served"}
CAPPED_REFUSED = {"with_budget": "refused", "without_budget": "served"}
AWAY = (
    "The ledger is away, so callers with a budget are refused. Callers without one whose key was used here before are "
    "served; what they spend is booked once it is back."
)
BEHIND = (
    "Redis has less than this gateway has seen of these accounts, so their callers with a budget are refused. What a "
    "failover lost comes back from the journals within a minute; if it does not, look at `paymaster budgets confirm`."
)


def operations_router(
    probe: Callable[[], Awaitable[object]],
    metrics: Callable[[], Awaitable[bytes]],
    bill: SandboxBill,
    behind: Callable[[], Mapping[str, float]],
) -> APIRouter:
    """The endpoints that need no key.

    `probe` has the ledger run a script. `behind`: the accounts of which Redis has lost data, and since when.
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
        """All callers can be served; with `callers=without_budget`, those without one, who do not need the ledger."""
        if callers == "without_budget":
            return JSONResponse({"status": "ok", "callers": {"without_budget": "served"}})
        return await _ledger_readiness(probe, behind())

    @router.get("/metrics")
    async def prometheus() -> Response:
        """What all workers counted, in Prometheus' text format."""
        return Response(await metrics(), media_type=CONTENT_TYPE)

    @router.get("/sandbox/bill")
    async def sandbox_bill() -> Response:
        """What the sandbox billed, by its own price table."""
        return Response(await bill.read(), media_type="application/json")

    return router


async def _ledger_readiness(probe: Callable[[], Awaitable[object]], behind: Mapping[str, float]) -> JSONResponse:
    """Whether callers with a budget are served, and why not: known within the ledger's own deadline."""
    try:
        await probe()
    except BudgetError as exc:
        body: dict[str, Any] = {"status": "unavailable", "ledger": str(exc), "callers": CAPPED_REFUSED, "reason": AWAY}
        return JSONResponse(body, status_code=503)
    if behind:
        body = {"status": "degraded", "ledger": "behind", "callers": CAPPED_REFUSED, "reason": BEHIND}
        return JSONResponse(body | {"accounts": dict(sorted(behind.items()))}, status_code=503)
    return JSONResponse({"status": "ok", "ledger": "ok", "callers": SERVED})
