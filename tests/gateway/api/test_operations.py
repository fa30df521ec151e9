from pathlib import Path

import pytest
from running import Running, ledger_server, running

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_gateway_that_serves_is_alive_and_ready(gateway: Running) -> None:
    alive, ready = await gateway.http.get("/healthz"), await gateway.http.get("/readyz")

    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "ledger": "ok"})


async def test_without_the_ledger_a_gateway_is_alive_but_not_ready(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path) as gateway:
            ledger.kill()

            alive, ready = await gateway.http.get("/healthz"), await gateway.http.get("/readyz")
            assert await gateway.metric("paymaster_ledger_up") == 0

    assert (alive.status_code, ready.status_code) == (200, 503)
    assert ready.json()["status"] == "unavailable"


async def test_what_was_counted_is_shown_to_prometheus(gateway: Running) -> None:
    key = await gateway.create_key("5/day", name="a team")
    await gateway.chat(key)
    await gateway.drained()

    answer = await gateway.http.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert await gateway.metric("paymaster_requests_total", key="a team", http_response_status_code="200") == 1
    assert await gateway.metric("paymaster_spend_usd_total", key="a team") == pytest.approx(0.0000031)
    assert await gateway.metric("paymaster_budget_spent_usd", key="a team", window="day") == pytest.approx(0.0000031)
    assert await gateway.metric("paymaster_ledger_duration_seconds_count", operation="reserve") > 0


async def test_where_no_sandbox_runs_there_is_no_bill(gateway: Running) -> None:
    answer = await gateway.http.get("/sandbox/bill")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_sandbox")
