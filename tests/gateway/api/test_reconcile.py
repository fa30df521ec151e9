import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import redis
from bank import until
from fakes import COST, completion
from running import ADMIN_KEY, Key, Money, Running, ledger_server, running

from budgets import redis_layout
from budgets.money import MAX_NANO, to_usd

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTEMPT = "att_default_0123456789ab000001"
NOT_BILLED: dict[str, Any] = {"provider": "acme", "until": 1, "attempts": [ATTEMPT]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """On an empty server, where nothing else is in suspense."""
    redis.Redis(unix_socket_path=valkey_socket).flushall()
    async with running(f"unix://{valkey_socket}", tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def told(answer: httpx.Response) -> Any:
    return answer.json()["error"]


async def unknown_cost(gateway: Running, key: Key) -> tuple[str, int]:
    """A request whose answer says nothing of its usage: its attempt's id, and what is in suspense for it."""
    before = (await gateway.money(key)).suspense
    gateway.upstream.will(completion(usage=None))
    assert (await gateway.chat(key)).status_code == 200
    return gateway.upstream.asked[-1].headers["x-client-request-id"], (await gateway.money(key)).suspense - before


async def reconcile(gateway: Running, *rows: Any, **fields: Any) -> Any:
    answer = await gateway.admin("POST", "/reconcile", {"rows": rows, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


# What is in suspense


async def test_an_attempt_in_suspense_is_listed_with_all_that_is_known_of_it(gateway: Running) -> None:
    before = time.time()
    key = await gateway.create_key("1/day", account="listed")
    attempt_id, held = await unknown_cost(gateway, key)

    answer = (await gateway.admin("GET", "/suspense?account=listed")).json()

    (shown,) = answer["data"]
    assert before - 1 <= shown.pop("ended_at") <= time.time() + 1
    assert 0 < float(shown.pop("estimate_usd")) < float(shown["held_usd"])
    assert shown == {
        "attempt_id": attempt_id,
        "account": "listed",
        "key_id": key.id,
        "model": "small",
        "provider": "acme",
        "held_usd": to_usd(held),
    }
    assert answer["has_more"] is False


async def test_suspense_is_listed_in_pages_of_any_account(gateway: Running) -> None:
    key = await gateway.create_key(account="paged")
    ids = [(await unknown_cost(gateway, key))[0] for _ in range(3)]

    async def page(query: str) -> tuple[list[str], bool]:
        answer = (await gateway.admin("GET", f"/suspense?{query}")).json()
        return [held["attempt_id"] for held in answer["data"]], answer["has_more"]

    assert await page("account=paged&limit=2") == (ids[:2], True)
    assert await page("account=paged&limit=2&start=2") == (ids[2:], False)
    assert await page("account=paged&provider=acme") == (ids, False)
    assert await page("account=paged&until=1") == ([], False)
    assert await page("account=paged&start=3") == ([], False)
    assert set(ids) <= set((await page("limit=1000"))[0])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("account=No!", "`account`"),
        ("provider=amce", "There is no provider 'amce'. Known: acme."),
        ("until=4000000000", "`until` is in the future"),
        ("until=soon", "`until`"),
        ("limit=0", "`limit`"),
        ("limit=1001", "`limit`"),
        ("start=-1", "`start`"),
    ],
)
async def test_a_wrong_question_is_refused_by_field(gateway: Running, query: str, words: str) -> None:
    answer = await gateway.admin("GET", f"/suspense?{query}")

    assert (answer.status_code, told(answer)["code"]) == (400, "invalid_request")
    assert words in told(answer)["message"]


# Bills


@pytest.mark.parametrize(
    "bill",
    [
        {"nano_usd": COST},
        {"usd": to_usd(COST)},
        {"usage": {"input_tokens": 11, "output_tokens": 5}},
        {"usage": {"input_tokens": 11, "output_tokens": 5, "cache_read_input_tokens": 3, "service_tier": "default"}},
    ],
)
async def test_a_bill_in_any_of_its_forms_resolves_an_attempt(gateway: Running, bill: Any) -> None:
    key = await gateway.create_key("1/lifetime")
    attempt_id, held = await unknown_cost(gateway, key)

    report = await reconcile(gateway, {"attempt_id": attempt_id, **bill})

    assert await gateway.money(key) == Money(COST, 0, 0)
    assert {outcome: count for outcome, count in report.pop("counts").items() if count} == {"resolved": 1}
    assert report == {
        "dry_run": False,
        "spent_usd": to_usd(COST),
        "freed_usd": to_usd(held - COST),
        "differs": [],
        "voided": [],
        "unpriced": [],
    }


async def test_what_was_booked_otherwise_is_listed(gateway: Running) -> None:
    key = await gateway.create_key("1/lifetime")
    await gateway.chat(key)
    attempt_id = gateway.upstream.asked[-1].headers["x-client-request-id"]
    await gateway.drained()

    report = await reconcile(gateway, {"attempt_id": attempt_id, "nano_usd": COST + 1})

    assert report["differs"] == [{"attempt_id": attempt_id, "booked_usd": to_usd(COST), "billed_usd": to_usd(COST + 1)}]
    assert await gateway.spent(key) == COST


async def test_a_bill_without_a_cost_and_a_look_beforehand_change_nothing(gateway: Running) -> None:
    key = await gateway.create_key("1/lifetime")
    attempt_id, held = await unknown_cost(gateway, key)

    unpriced = await reconcile(gateway, {"attempt_id": attempt_id})
    looked = await reconcile(gateway, {"attempt_id": attempt_id, "nano_usd": 1}, dry_run=True)

    assert (unpriced["unpriced"], unpriced["counts"]["unpriced"]) == ([attempt_id], 1)
    assert (looked["dry_run"], looked["counts"]["resolved"], looked["freed_usd"]) == (True, 1, to_usd(held - 1))
    assert await gateway.money(key) == Money(0, 0, held)


def row(**fields: Any) -> dict[str, Any]:
    return {"rows": [{"attempt_id": ATTEMPT, "nano_usd": 1}, {"attempt_id": ATTEMPT[:-1] + "2", **fields}]}


def usage(**fields: Any) -> dict[str, Any]:
    return row(usage={"input_tokens": 1, "output_tokens": 1} | fields)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "`rows`: Field required"),
        ({"rows": []}, "`rows`: List should have at least 1 item"),
        ({"rows": [{"attempt_id": ATTEMPT}] * 1001}, "`rows`: List should have at most 1000 items"),
        ({"rows": [{"attempt_id": ATTEMPT}] * 2}, f"`rows`: {ATTEMPT} stands there 2 times"),
        ({"rows": [{"nano_usd": 1}]}, "`rows.0.attempt_id`: Field required"),
        ({"rows": [{"attempt_id": "req_1", "nano_usd": 1}]}, "`rows.0.attempt_id`: String should match pattern"),
        ({"rows": [{"attempt_id": "att_{x}_1", "nano_usd": 1}]}, "`rows.0.attempt_id`: String should match pattern"),
        (row(nano=1), "`rows.1.nano`: Extra inputs are not permitted"),
        (row(nano_usd=1, usd="1"), "`rows.1`: say what was billed once, not as nano_usd and as usd."),
        (row(nano_usd=-1), "`rows.1.nano_usd`: Input should be greater than or equal to 0"),
        (row(nano_usd=True), "`rows.1.nano_usd`: Input should be a valid integer"),
        (row(nano_usd=1.0), "`rows.1.nano_usd`: Input should be a valid integer"),
        (row(nano_usd=MAX_NANO + 1), "`rows.1.nano_usd`: Input should be less than or equal to"),
        (row(usd=1), "`rows.1.usd`: Input should be a valid string"),
        (row(usd="-1"), "`rows.1.usd`: '-1' is not an amount of dollars"),
        (row(usd="NaN"), "`rows.1.usd`: 'NaN' is not an amount of dollars"),
        (row(usd="1e30"), "`rows.1.usd`: 1e30 USD is too much"),
        (usage(input_tokens=-1), "`rows.1.usage.input_tokens`: Input should be greater than or equal to 0"),
        (usage(output_tokens=10**10), "`rows.1.usage.output_tokens`: Input should be less than or equal to"),
        (usage(tokens=1), "`rows.1.usage.tokens`: Extra inputs are not permitted"),
        (usage(cache_read_input_tokens=2), "`rows.1.usage.cache_read_input_tokens`: 2 is more than the total."),
        (row(nano_usd=1) | {"dry_run": "yes"}, "`dry_run`: Input should be a valid boolean"),
    ],
)
async def test_a_wrong_bill_is_refused_by_row_and_field_and_none_is_booked(
    gateway: Running, body: Any, words: str
) -> None:
    answer = await gateway.admin("POST", "/reconcile", body)

    assert (answer.status_code, told(answer)["code"]) == (400, "invalid_request")
    assert words in told(answer)["message"]


# What was not billed


async def test_what_the_provider_did_not_bill_is_free_again(gateway: Running) -> None:
    key = await gateway.create_key("1/lifetime")
    absent, held = await unknown_cost(gateway, key)
    another, rest = await unknown_cost(gateway, key)
    body: dict[str, Any] = {"provider": "acme", "attempts": [absent, ATTEMPT]}

    async def long_ago_enough() -> bool:
        body["until"] = time.time()
        looked = await gateway.admin("POST", "/reconcile/absent", body | {"dry_run": True})
        return bool(looked.json()["freed"])

    await until(long_ago_enough)
    answer = await gateway.admin("POST", "/reconcile/absent", body)

    assert answer.json() == {"dry_run": False, "freed": 1, "freed_usd": to_usd(held)}
    assert await gateway.money(key) == Money(0, 0, rest)
    assert another != absent


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"provider": "amce"}, "There is no provider 'amce'. Known: acme."),
        ({"until": 4e9}, "`until` is in the future"),
        ({"until": 1e300}, "`until`: Input should be less than"),
        ({"attempts": ["x"]}, "`attempts.0`: String should match pattern"),
        ({"attempts": [ATTEMPT] * 2}, f"`attempts`: {ATTEMPT} stands there 2 times"),
        ({"attempts": None}, "`attempts`: Input should be a valid list"),
    ],
)
async def test_freeing_by_mistake_is_refused_by_field(gateway: Running, changed: Any, words: str) -> None:
    answer = await gateway.admin("POST", "/reconcile/absent", NOT_BILLED | changed)

    assert answer.status_code == 400
    assert words in told(answer)["message"]


# A ledger that has lost data


async def test_where_nothing_is_lost_there_is_nothing_to_confirm(gateway: Running) -> None:
    some, named = await gateway.admin("POST", "/ledger/confirm"), await confirm(gateway, "default")

    assert (await gateway.admin("GET", "/ledger")).json() == {"behind": []}
    assert (some.status_code, named.status_code) == (400, 400)
    assert told(some)["message"] == "Redis lacks nothing that was seen here: there is nothing to confirm."
    assert told(named)["message"] == "Redis lacks nothing that was seen here of the account 'default'."


async def confirm(gateway: Running, account: str) -> httpx.Response:
    return await gateway.admin("POST", "/ledger/confirm", {"account": account})


async def test_case_07_a_loss_is_shown_and_confirmed(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path, ledger={"failover_window": 0.01}) as gateway:
            key = await gateway.create_key("1/lifetime")
            assert (await gateway.chat(key)).status_code == 200
            await gateway.drained()
            redis.Redis.from_url(ledger.url).delete(redis_layout.mark("default"))
            assert (await gateway.chat(key)).status_code == 503

            shown = (await gateway.admin("GET", "/ledger")).json()["behind"]
            wrong = await confirm(gateway, "other")
            confirmed = await gateway.admin("POST", "/ledger/confirm")

            assert [(each["account"], each["spent_usd"]) for each in shown] == [("default", to_usd(COST))]
            assert told(wrong)["message"].endswith(" of the account 'other'. It does of: default.")
            assert (confirmed.status_code, confirmed.json()) == (200, {"confirmed": ["default"]})
            assert (await gateway.chat(key)).status_code == 200
            assert (await gateway.http.get("/readyz")).json()["status"] == "ok"
            assert await gateway.spent(key) == 2 * COST


# Without the ledger, without the key


async def test_without_the_ledger_it_says_so_soon(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path) as gateway:
            ledger.kill()

            answers = [
                await gateway.admin("GET", "/suspense"),
                await gateway.admin("GET", "/suspense?account=default"),
                await gateway.admin("POST", "/reconcile", row(nano_usd=1)),
                await gateway.admin(
                    "POST", "/reconcile/absent", {"provider": "acme", "until": 1, "attempts": [ATTEMPT]}
                ),
            ]

    assert [(answer.status_code, told(answer)["code"]) for answer in answers] == [(503, "ledger_unavailable")] * 4


async def test_bodies_are_read_as_strictly_as_a_model_s(gateway: Running) -> None:
    twice = b'{"rows": [{"attempt_id": "%s", "nano_usd": 1, "nano_usd": 2}]}' % ATTEMPT.encode()

    answer = await gateway.http.post("/admin/reconcile", content=twice, headers={"x-api-key": ADMIN_KEY})

    assert (answer.status_code, told(answer)["code"]) == (400, "invalid_request")
