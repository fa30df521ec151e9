from pathlib import Path

import httpx
import pytest
import redis
from bank import until
from running import Running, ledger_server, running

from budgets import redis_layout

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVED = {"with_budget": "served", "without_budget": "served"}
REFUSED = {"with_budget": "refused", "without_budget": "served"}


async def test_a_gateway_that_serves_is_alive_and_ready(gateway: Running) -> None:
    alive, ready = await gateway.http.get("/healthz"), await gateway.http.get("/readyz")

    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "ledger": "ok", "callers": SERVED})


async def test_without_the_ledger_a_gateway_is_alive_and_ready_for_callers_without_a_budget(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path) as gateway:
            ledger.kill()

            alive, ready = await gateway.http.get("/healthz"), await gateway.http.get("/readyz")
            with_budget = await gateway.http.get("/readyz?callers=with_budget")
            without = await gateway.http.get("/readyz?callers=without_budget")
            assert await gateway.metric("paymaster_ledger_up") == 0

    assert (alive.status_code, ready.status_code, with_budget.status_code) == (200, 503, 503)
    assert (ready.json()["status"], ready.json()["callers"]) == ("unavailable", REFUSED)
    assert "callers with a budget are refused" in ready.json()["reason"]
    assert (without.status_code, without.json()["callers"]) == (200, REFUSED)


async def test_a_ledger_that_says_nothing_keeps_nobody_waiting_for_the_answer(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path, redis={"deadline": 0.05}) as gateway:
            gateway.http.timeout = httpx.Timeout(5)  # Redis hangs for longer
            ledger.pause()
            try:
                ready = await gateway.http.get("/readyz")
                without = await gateway.http.get("/readyz?callers=without_budget")
            finally:
                ledger.resume()

    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert without.status_code == 200


async def test_readiness_is_asked_for_callers_that_there_are(gateway: Running) -> None:
    answer = await gateway.http.get("/readyz?callers=rich")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "callers")


async def test_case_07_accounts_of_which_redis_has_lost_data_are_named(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path, ledger={"failover_window": 0.01}) as gateway:
            key = await gateway.create_key("1/lifetime")
            assert (await gateway.chat(key)).status_code == 200
            await gateway.drained()
            redis.Redis.from_url(ledger.url).delete(redis_layout.mark("default"))
            assert (await gateway.chat(key)).status_code == 503

            ready = await gateway.http.get("/readyz")
            without = await gateway.http.get("/readyz?callers=without_budget")

    told = ready.json()
    assert (ready.status_code, told["status"], told["ledger"]) == (503, "degraded", "behind")
    assert (list(told["accounts"]), told["callers"]) == (["default"], REFUSED)
    assert "`paymaster budgets confirm`" in told["reason"]
    assert without.status_code == 200


async def test_case_30_where_redis_has_something_else_for_the_ledger_everybody_is_told_to_be_refused(
    tmp_path: Path,
) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path) as gateway:
            redis.Redis.from_url(ledger.url).set(redis_layout.scope("default", "account"), "text")

            ready = await gateway.http.get("/readyz")
            without = await gateway.http.get("/readyz?callers=without_budget")

    assert (ready.status_code, without.status_code) == (503, 503)
    assert set(ready.json()["callers"].values()) == {"refused"}
    assert "WRONGTYPE" in ready.json()["ledger"]


async def test_case_30_an_account_that_is_damaged_is_named_while_others_are_served(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path, ledger={"lease": 2}) as gateway:
            client = redis.Redis.from_url(ledger.url)
            client.sadd(redis_layout.ACCOUNTS, "acme")
            client.hset(redis_layout.scope("acme", "account"), "lifetime:0", "0 7 0")

            async def named() -> bool:
                return "acme" in (await gateway.http.get("/readyz")).json().get("accounts", {})

            await until(named)
            ready = await gateway.http.get("/readyz")
            assert await gateway.metric("paymaster_ledger_accounts_damaged") == 1

    assert (ready.status_code, ready.json()["ledger"], ready.json()["callers"]) == (200, "damaged", SERVED)


async def test_case_30_what_is_damaged_of_one_key_hides_no_other_key(gateway: Running, valkey_socket: str) -> None:
    damaged = await gateway.create_key("5/day", name="damaged")
    await gateway.create_key("5/day", name="whole")
    client = redis.Redis(unix_socket_path=valkey_socket)
    client.delete(redis_layout.scope("default", f"key:{damaged.id}"))
    client.set(redis_layout.scope("default", f"key:{damaged.id}"), "text")

    shown = {name: await gateway.metric("paymaster_budget_limit_usd", key=name) for name in ("damaged", "whole")}
    client.delete(redis_layout.scope("default", f"key:{damaged.id}"))

    assert shown == {"damaged": 0, "whole": 5}
    assert await gateway.metric("paymaster_ledger_up") == 1


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
