"""For whoever runs the gateway: is it alive, is it ready, what has it counted; and the sandbox's bill.

/healthz, /readyz, /metrics and /sandbox/bill need no key, and names of keys and models are in them: keep them off
public networks.
"""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from budgets.errors import BudgetError
from budgets.redis_connection import RedisConnection
from gateway.telemetry.exposition import CONTENT_TYPE
from gateway.upstream.sandbox import SandboxBill


def operations_router(
    connection: RedisConnection, metrics: Callable[[], Awaitable[bytes]], bill: SandboxBill
) -> APIRouter:
    """The endpoints that need no key."""
    router = APIRouter(tags=["operations"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        """The ledger answers too, so that callers with a budget can be served."""
        try:
            await connection.call("PING")
        except BudgetError as exc:
            return JSONResponse({"status": "unavailable", "ledger": str(exc)}, status_code=503)
        return JSONResponse({"status": "ok", "ledger": "ok"})

    @router.get("/metrics")
    async def prometheus() -> Response:
        """What all workers counted, in Prometheus' text format."""
        return Response(await metrics(), media_type=CONTENT_TYPE)

    @router.get("/sandbox/bill")
    async def sandbox_bill() -> Response:
        """What the sandbox billed, by its own price table."""
        return Response(await bill.read(), media_type="application/json")

    return router
