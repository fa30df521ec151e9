"""While Redis is away: who waits and for how long, what Redis is asked, what is said of it, and how all comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from bank import until
from fakes import COST, LAST_CHUNK, STREAM_HEAD, chunked, delta, stream
from gateway_process import GatewayProcess
from gateway_process import until as until_true
from running import Key, LedgerServer, Running, ledger_server, running

AWAY = (503, "ledger_unavailable", "1", "true")
"""What a caller with a limit is told: status, code, retry-after, x-should-retry."""


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def server() -> Iterator[LedgerServer]:
    with ledger_server() as server:
        yield server


@pytest.fixture
async def gateway(server: LedgerServer, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(server.url, tmp_path) as gateway:
        yield gateway


async def known(gateway: Running, *limits: str) -> Key:
    """A key that this gateway has seen."""
    key = await gateway.create_key(*limits)
    assert (await gateway.chat(key)).status_code == 200
    await gateway.drained()
    return key


async def told(gateway: Running, key: Key) -> tuple[int, str, str | None, str | None]:
    answer = await gateway.chat(key)
    code = "" if answer.is_success else answer.json()["error"]["code"]
    return answer.status_code, code, answer.headers.get("retry-after"), answer.headers.get("x-should-retry")


async def is_back(gateway: Running, key: Key) -> None:
    async def served() -> bool:
        return (await gateway.chat(key)).status_code == 200

    await until(served)


def asked(server: LedgerServer) -> int:
    """How many scripts Redis was asked to run."""
    with redis.Redis.from_url(server.url) as client:
        stats = client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


# Deadlines and the breaker


async def test_a_redis_that_is_silent_is_waited_for_once_and_then_not_asked_any_more(
    server: LedgerServer, gateway: Running
) -> None:
    key = await known(gateway, "1/lifetime")
    before = asked(server)
    server.pause()
    answers = [await told(gateway, key) for _ in range(100)]
    server.resume()
    await is_back(gateway, key)

    assert answers == [AWAY] * 100
    assert asked(server) - before < 20  # what it found when it woke, and what came after


async def test_callers_who_come_together_wait_together(server: LedgerServer, gateway: Running) -> None:
    key, other = await known(gateway, "1/lifetime"), await known(gateway, "1/lifetime")
    server.pause()
    answers = await asyncio.gather(*(told(gateway, each) for each in [key, other] * 20))
    server.resume()
    await is_back(gateway, key)

    assert answers == [AWAY] * 40
    for each in (key, other):
        money = await gateway.money(each)
        assert (money.held, money.suspense) == (0, 0)


async def test_whoever_has_no_limit_is_served_and_pays_afterwards(server: LedgerServer, gateway: Running) -> None:
    key = await known(gateway)
    server.kill()
    answers = [await gateway.chat(key) for _ in range(50)]
    waiting = await gateway.metric("paymaster_journal_entries")
    server.start()

    assert {answer.status_code for answer in answers} == {200}
    assert waiting == 50
    assert await gateway.spent(key) == 51 * COST
    assert await gateway.metric("paymaster_ledger_events_total", event="unbooked") == 50


async def test_what_waits_in_the_journal_outlives_the_gateway_too(server: LedgerServer, tmp_path: Path) -> None:
    async with running(server.url, tmp_path) as gateway:
        key = await known(gateway)
        server.kill()
        for _ in range(5):
            await gateway.chat(key)
    server.start()
    async with running(server.url, tmp_path) as gateway:

        async def all_is_booked() -> bool:
            return (await gateway.money(key)).spent == 6 * COST

        await until(all_is_booked)


@pytest.mark.parametrize("goes", ["hangs", "dies"])
async def test_it_comes_back_however_often_it_went(server: LedgerServer, gateway: Running, goes: str) -> None:
    key = await known(gateway, "1/lifetime")
    for _ in range(4):
        server.pause() if goes == "hangs" else server.kill()
        assert await told(gateway, key) == AWAY
        server.resume() if goes == "hangs" else server.start()
        await is_back(gateway, key)

    assert await gateway.spent(key) == 5 * COST


async def test_a_redis_that_answers_only_the_greeting_is_asked_again_and_again(
    server: LedgerServer, gateway: Running
) -> None:
    key = await known(gateway, "1/lifetime")
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLIENT PAUSE", 600_000, "WRITE")
        answers = [await told(gateway, key) for _ in range(50)]
        client.execute_command("CLIENT UNPAUSE")
    await is_back(gateway, key)

    assert answers == [AWAY] * 50
    money = await gateway.money(key)
    assert (money.held, money.suspense) == (0, 0)


async def test_a_stream_under_way_does_not_notice(server: LedgerServer, gateway: Running) -> None:
    key = await known(gateway, "1/lifetime")
    go_on = asyncio.Event()
    gateway.upstream.will([STREAM_HEAD, chunked(delta("a")), go_on, *stream()[1:]])
    reader, writer = await gateway.open_chat(key, stream=True)
    await reader.readuntil(delta("a"))
    server.kill()
    go_on.set()
    content = await reader.readuntil(LAST_CHUNK)
    writer.close()
    server.start()

    assert b"data: [DONE]" in content
    assert await gateway.spent(key) == 2 * COST


async def test_the_admin_is_told_too(server: LedgerServer, gateway: Running) -> None:
    key = await known(gateway)
    server.pause()
    answer = await gateway.admin("GET", f"/keys/{key.id}")
    server.resume()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")


# Keys that were not read before


@pytest.mark.parametrize("limits", [["1/lifetime"], []])
async def test_a_key_that_was_never_seen_has_to_wait_whoever_it_is(
    server: LedgerServer, gateway: Running, limits: list[str]
) -> None:
    key = await gateway.create_key(*limits)
    server.kill()
    answers = [await told(gateway, key) for _ in range(5)]
    server.start()
    await is_back(gateway, key)

    assert answers == [AWAY] * 5
    assert await gateway.spent(key) == COST


async def test_a_key_that_does_not_exist_is_not_let_in(server: LedgerServer, gateway: Running) -> None:
    stranger = Key("key_default_0", f"sk-pm-default-{'x' * 43}")
    server.kill()
    status, *_ = await told(gateway, stranger)
    server.start()

    assert status == 503
    assert gateway.upstream.asked == []


# What is said of it


async def test_an_outage_is_logged_once_and_not_by_each_request(
    server: LedgerServer, gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    capped, free = await known(gateway, "1/lifetime"), await known(gateway)
    server.kill()
    for _ in range(30):
        await gateway.chat(capped)
        await gateway.chat(free)
    server.start()
    await is_back(gateway, capped)
    await gateway.drained()

    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("budgets", "gateway"))]
    assert [line.split(" is ")[1].split(":")[0] for line in lines] == ["away", "back"]


async def test_each_refusal_is_in_its_requests_line_and_in_the_metrics(server: LedgerServer, gateway: Running) -> None:
    key = await known(gateway, "1/lifetime")
    server.kill()
    answers = [await gateway.chat(key) for _ in range(3)]
    line = await gateway.logged(answers[0])
    server.start()

    assert (line["http.response.status_code"], line["error.type"]) == (503, "ledger_unavailable")
    assert await gateway.metric("paymaster_refusals_total", reason="ledger_unavailable") == 3


Fault = Callable[["redis.Redis"], Any]
REFUSALS: dict[str, tuple[Fault, Fault, str]] = {
    "full": (lambda it: it.config_set("maxmemory", 1), lambda it: it.config_set("maxmemory", 0), "out of memory"),
    "no longer allowed": (
        lambda it: it.acl_setuser("default", commands=["-evalsha"]),
        lambda it: it.acl_setuser("default", commands=["+evalsha"]),
        "may not run this command",
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_case_30_a_redis_that_refuses_is_told_of_once_and_not_by_each_request(
    server: LedgerServer, gateway: Running, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    make, heal, words = REFUSALS[kind]
    key = await known(gateway, "1/lifetime")
    with redis.Redis.from_url(server.url) as client:
        make(client)
        answers = [await told(gateway, key) for _ in range(30)]
        heal(client)
    await is_back(gateway, key)

    assert answers == [AWAY] * 30
    assert [words in record.getMessage() for record in caplog.records if record.name.startswith("budgets")] == [True]


async def test_case_30_a_redis_that_became_a_replica_is_away_until_it_is_none(
    server: LedgerServer, gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    key, free = await known(gateway, "1/lifetime"), await known(gateway)
    with redis.Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", "1")
        answers = [await told(gateway, key) for _ in range(30)]
        assert (await gateway.chat(free)).status_code == 200
        assert "read-only replica" in (await gateway.http.get("/readyz")).json()["ledger"]
        client.replicaof("NO", "ONE")
    await is_back(gateway, key)

    assert answers == [AWAY] * 30
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("budgets")]
    assert [line.split(" is ")[1].split(":")[0] for line in lines] == ["away", "back"]


@pytest.mark.parametrize("limits", [["1/lifetime"], []])
async def test_case_30_what_somebody_spoilt_in_redis_refuses_everybody_and_raises_an_alarm(
    server: LedgerServer, gateway: Running, caplog: pytest.LogCaptureFixture, limits: list[str]
) -> None:
    key = await known(gateway, *limits)
    with redis.Redis.from_url(server.url) as client:
        client.rename("pm:{default}:scope:account", "kept")
        client.set("pm:{default}:scope:account", "spoilt")
        answers = [await told(gateway, key) for _ in range(30)]
        client.rename("kept", "pm:{default}:scope:account")
    await is_back(gateway, key)

    assert answers == [(500, "ledger_damaged", None, "false")] * 30
    assert ["WRONGTYPE" in record.getMessage() for record in caplog.records] == [True]
    assert await gateway.metric("paymaster_refusals_total", reason="ledger_damaged") == 30
    assert await gateway.spent(key) == 2 * COST


# The embedded server


def test_an_embedded_redis_that_dies_is_brought_back_and_nothing_is_lost(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, configuration={}) as gateway:
        capped, free = gateway.create_key("1/lifetime"), gateway.create_key()
        request = {"model": "sandbox-small", "messages": [{"role": "user", "content": "Say hello."}]}
        for key in (capped, free):
            assert gateway.post(key, request).status_code == 200
        with redis.Redis(unix_socket_path=(gateway.data / "redis" / "server.lock").read_text()) as client:
            client.set("last", "write")
            client.execute_command("WAITAOF", 1, 0, 0)  # the keys: they are in no journal
        for _ in range(2):
            (pid,) = gateway.children("valkey-server")
            gateway.kill_child(pid)
            assert gateway.post(free, request).status_code == 200
            until_true(lambda: gateway.post(capped, request).status_code == 200, gateway.words)

        for key in (capped, free):
            until_true(lambda key=key: books(gateway, key) == (gateway.billed(key), 0, 0), gateway.words)


def books(gateway: GatewayProcess, key: Any) -> tuple[Decimal, Decimal, Decimal]:
    """Spent, held and in suspense: what was lost, or not booked at once, comes from the journals."""
    money = gateway.money(key)
    return money.spent, money.held, money.suspense
