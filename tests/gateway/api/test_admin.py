import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import ADMIN_KEY, Key, Running, ledger_server, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

HARD = "Prove rigorously, by strong induction, that every integer above one is a product of primes; discuss uniqueness."


def told(answer: httpx.Response) -> Any:
    return answer.json()["error"]


async def made(gateway: Running, **fields: Any) -> Any:
    return (await gateway.admin("POST", "/keys", {"name": "k", **fields})).json()


# Keys


async def test_a_key_is_made_and_its_text_shown_once(gateway: Running) -> None:
    before = time.time()

    answer = await gateway.admin("POST", "/keys", {"name": "team"})

    key = answer.json()
    assert answer.status_code == 201
    assert key["id"].startswith("key_default_")
    assert key["key"].startswith("sk-pm-default-")
    assert before <= key.pop("created_at") <= time.time()
    text = key.pop("key")
    assert key == {
        "id": key["id"],
        "name": "team",
        "account": "default",
        "models": ["*"],
        "blocked": False,
        "expires_at": None,
        "spent_usd": "0",
        "held_usd": "0",
        "suspense_usd": "0",
        "limits": [],
    }
    again = await gateway.admin("GET", f"/keys/{key['id']}")
    assert text not in again.text
    assert again.json().items() >= key.items()


async def test_a_keys_limits_are_shown_with_what_is_left(gateway: Running) -> None:
    key = await gateway.create_key("0.01/lifetime", "5/day")
    await gateway.chat(key)
    await gateway.drained()

    shown = (await gateway.admin("GET", f"/keys/{key.id}")).json()

    lifetime, day = sorted(shown["limits"], key=lambda limit: str(limit["window"]), reverse=True)
    assert shown["spent_usd"] == "0.0000031"
    assert lifetime == {
        "usd": "0.01",
        "window": "lifetime",
        "spent_usd": "0.0000031",
        "held_usd": "0",
        "suspense_usd": "0",
        "remaining_usd": "0.0099969",
        "resets_at": None,
    }
    assert (day["usd"], day["window"], day["remaining_usd"]) == ("5", "day", "4.9999969")
    assert day["resets_at"] % 86_400 == 0


async def test_a_key_may_belong_to_another_account(gateway: Running) -> None:
    key = await made(gateway, account="team7", models=["small"], expires_at=4_000_000_000)

    assert key["id"].startswith("key_team7_")
    assert key["key"].startswith("sk-pm-team7-")
    assert (key["account"], key["models"], key["expires_at"]) == ("team7", ["small"], 4_000_000_000)


async def test_keys_are_listed_in_pages_oldest_first(gateway: Running) -> None:
    ids = [(await made(gateway, account="pages", name=str(number)))["id"] for number in range(5)]

    found, after, pages = [], "", 0
    while True:
        page = (await gateway.admin("GET", f"/keys?account=pages&limit=2{after}")).json()
        found += [key["id"] for key in page["data"]]
        pages += 1
        if not page["has_more"]:
            break
        after = f"&after={found[-1]}"

    assert (found, pages) == (ids, 3)
    exact = (await gateway.admin("GET", "/keys?account=pages&limit=5")).json()
    assert (len(exact["data"]), exact["has_more"]) == (5, False)


async def test_an_account_without_keys_has_an_empty_page(gateway: Running) -> None:
    assert (await gateway.admin("GET", "/keys?account=nobody")).json() == {"data": [], "has_more": False}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"name": "new"}, {"name": "new"}),
        ({"models": ["large"]}, {"models": ["large"]}),
        ({"expires_at": 4_000_000_000}, {"expires_at": 4_000_000_000}),
        ({"limits": []}, {"limits": []}),
        ({}, {"name": "k", "models": ["small"]}),
        ({"name": None, "models": None}, {"name": "k", "models": ["small"]}),
    ],
)
async def test_a_change_changes_what_it_names(gateway: Running, change: Any, shown: Any) -> None:
    key = await made(gateway, models=["small"], limits=[{"usd": "1", "window": "day"}])

    answer = await gateway.admin("PATCH", f"/keys/{key['id']}", change)

    assert answer.status_code == 200
    assert answer.json().items() >= shown.items()
    kept = {name: key[name] for name in ("name", "models", "expires_at") if name not in shown}
    assert answer.json().items() >= kept.items()


async def test_an_end_can_be_taken_back(gateway: Running) -> None:
    key = await made(gateway, expires_at=4_000_000_000)

    answer = await gateway.admin("PATCH", f"/keys/{key['id']}", {"expires_at": None})

    assert answer.json()["expires_at"] is None


async def test_a_key_is_deleted_and_gone(gateway: Running) -> None:
    key = await gateway.create_key()

    answer = await gateway.admin("DELETE", f"/keys/{key.id}")

    assert (answer.status_code, answer.json()) == (200, {"id": key.id, "deleted": True})
    assert (await gateway.admin("GET", f"/keys/{key.id}")).status_code == 404
    assert (await gateway.chat(key)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/block"), ("POST", "/unblock")],
)
@pytest.mark.parametrize("key_id", ["key_default_0000000000000000", "bogus", "key_{x}_0000000000000000", "*"])
async def test_a_key_that_is_not_there_is_a_404(gateway: Running, method: str, path: str, key_id: str) -> None:
    answer = await gateway.admin(method, f"/keys/{key_id}{path}", {} if method == "PATCH" else None)

    assert (answer.status_code, told(answer)["code"]) == (404, "no_such_key")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "`name`: Field required."),
        ({"name": ""}, "`name`: String should have at least 1 character."),
        ({"name": "x" * 201}, "`name`: String should have at most 200 characters."),
        ({"name": "k", "limit": []}, "`limit`: Extra inputs are not permitted."),
        ({"name": "k", "models": []}, "`models`: List should have at least 1 item"),
        ({"name": "k", "limits": [{"usd": 5, "window": "day"}]}, "`limits.0.usd`: Input should be a valid string."),
        ({"name": "k", "limits": [{"usd": "5"}]}, "`limits.0.window`: Field required."),
        ({"name": "k", "limits": [{"usd": "-5", "window": "day"}]}, "'-5' is not an amount of dollars"),
        ({"name": "k", "limits": [{"usd": "NaN", "window": "day"}]}, "'NaN' is not an amount of dollars"),
        ({"name": "k", "limits": [{"usd": "1e12", "window": "day"}]}, "1e12"),
        ({"name": "k", "limits": [{"usd": "5", "window": "dya"}]}, "did you mean 'day'?"),
        ({"name": "k", "limits": [{"usd": "5", "window": "day"}] * 2}, "2 limits for the window 'day'"),
        ({"name": "k", "account": "Team A"}, "account 'Team A'"),
        ({"name": "k", "account": "{x}"}, "account '{x}'"),
        ({"name": "k", "expires_at": "soon"}, "`expires_at`: Input should be a valid number"),
    ],
)
async def test_a_wrong_key_is_refused_with_the_field_and_what_to_do(gateway: Running, body: Any, words: str) -> None:
    answer = await gateway.admin("POST", "/keys", body)

    assert (answer.status_code, told(answer)["code"]) == (400, "invalid_request")
    assert words in told(answer)["message"]


@pytest.mark.parametrize("change", [{"blocked": True}, {"id": "x"}, {"limits": [{"usd": "x", "window": "day"}]}])
async def test_a_wrong_change_is_refused(gateway: Running, change: Any) -> None:
    key = await gateway.create_key()

    assert (await gateway.admin("PATCH", f"/keys/{key.id}", change)).status_code == 400


@pytest.mark.parametrize("page", ["limit=0", "limit=1001", "limit=x"])
async def test_a_wrong_page_is_refused(gateway: Running, page: str) -> None:
    assert "`limit`" in told(await gateway.admin("GET", f"/keys?{page}"))["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b'{"name": "a", "name": "b"}',
        b'{"name": "\\ud800"}',
        b'{"name": "a", "expires_at": NaN}',
        b'{"name": "a", "expires_at": 1e999}',
        b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
        b"\xff",
    ],
)
@pytest.mark.parametrize("path", ["/admin/keys", "/admin/route/explain"])
async def test_bodies_are_read_as_strictly_as_a_models(gateway: Running, raw: bytes, path: str) -> None:
    answer = await gateway.http.post(path, content=raw, headers={"x-api-key": ADMIN_KEY})

    assert (answer.status_code, told(answer)["code"]) == (400, "invalid_request")


# Routes


async def test_a_route_is_explained_and_nothing_is_spent(gateway: Running) -> None:
    hard = {"model": "auto", "messages": [{"role": "user", "content": HARD}]}

    answer = await gateway.admin("POST", "/route/explain", hard)

    told_route = answer.json()
    assert (told_route["model"], told_route["tier"]) == ("large", "reasoning")
    assert told_route["candidates"] == ["large", "small"]
    assert "requires reasoning" in told_route["reason"]
    assert float(told_route["expected_usd"]) > float(told_route["alternative"]["expected_usd"]) > 0
    assert gateway.upstream.asked == []


async def test_a_route_is_explained_as_if_little_were_left(gateway: Running) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": HARD}], "remaining_usd": "0.0005"}

    told_route = (await gateway.admin("POST", "/route/explain", body)).json()

    assert told_route["model"] == "small"
    assert "$0.0005" in told_route["reason"]


async def test_a_model_by_name_is_explained_as_such(gateway: Running) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hi!"}]}

    told_route = (await gateway.admin("POST", "/route/explain", body)).json()

    assert (told_route["model"], told_route["tier"], told_route["alternative"]) == ("small", None, None)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "model"),
        ({"model": "auto"}, 400, "messages"),
        ({"model": "nope", "messages": [{"role": "user", "content": "x"}]}, 404, "model"),
        ({"model": "auto", "messages": [{"role": "user"}], "remaining_usd": "x"}, 400, "remaining_usd"),
        ({"model": "auto", "messages": [{"role": "user"}], "remaining_usd": -1}, 400, "remaining_usd"),
    ],
)
async def test_what_cannot_be_explained_is_refused_by_field(
    gateway: Running, body: Any, status: int, param: str
) -> None:
    answer = await gateway.admin("POST", "/route/explain", body)

    assert (answer.status_code, told(answer)["param"]) == (status, param)


# The configuration


async def test_a_changed_configuration_is_served_after_a_reload(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path) as gateway:
        key = await gateway.create_key("1/lifetime")
        values = json.loads(gateway.config.read_text())
        values["models"]["new"] = {**values["models"]["small"], "price": {"input": "1", "output": "1"}}
        gateway.config.write_text(json.dumps(values))
        assert (await gateway.chat(key, "new")).status_code == 404

        assert (await gateway.admin("POST", "/config/reload")).json() == {"ok": True, "needs_restart": []}

        assert (await gateway.chat(key, "new")).status_code == 200
        assert await gateway.spent(key) == 16 * 1_000
        assert await gateway.metric("paymaster_requests_total", deployment="new") == 1


async def test_a_wrong_configuration_is_told_and_the_old_one_stays(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path) as gateway:
        key = await gateway.create_key()
        gateway.config.write_text(gateway.config.read_text().replace('"weight"', '"w"').replace('"routes"', '"rutes"'))

        answer = await gateway.admin("POST", "/config/reload")

        assert (answer.status_code, told(answer)["code"]) == (400, "invalid_configuration")
        assert "did you mean 'routes'?" in told(answer)["message"]
        assert (await gateway.chat(key, "auto")).status_code == 200


async def test_a_reload_names_what_needs_a_restart(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path) as gateway:
        values = json.loads(gateway.config.read_text())
        changed = {**values, "refusals": {"budget_status": 429}, "metrics": {"max_keys": 9}}
        gateway.config.write_text(json.dumps(changed))

        answer = await gateway.admin("POST", "/config/reload")

        assert answer.json() == {"ok": True, "needs_restart": ["metrics", "refusals"]}


async def test_a_sandbox_does_not_start_with_a_reload(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path) as gateway:
        values = json.loads(gateway.config.read_text())
        values["providers"]["toys"] = {"kind": "sandbox"}
        gateway.config.write_text(json.dumps(values))

        answer = await gateway.admin("POST", "/config/reload")

        assert answer.status_code == 400
        assert "restart" in told(answer)["message"]


# Accounts


async def test_an_account_s_limits_hold_for_all_of_its_keys_together(gateway: Running) -> None:
    limits = [{"usd": "0", "window": "lifetime"}]

    assert (await gateway.admin("PATCH", "/accounts/shared", {"limits": limits})).json()["limits"][0]["usd"] == "0"

    made = (await gateway.admin("POST", "/keys", {"name": "one", "account": "shared"})).json()
    refused = await gateway.chat(Key(made["id"], made["key"]))
    assert (refused.status_code, told(refused)["metadata"]["scope"]) == (402, "account")
    assert (await gateway.admin("GET", "/accounts/shared")).json()["account"] == "shared"


@pytest.mark.parametrize(("account", "limits"), [("Not!", []), ("a", [{"usd": "-1", "window": "day"}])])
async def test_an_account_that_cannot_be_is_refused(gateway: Running, account: str, limits: list[Any]) -> None:
    assert (await gateway.admin("PATCH", f"/accounts/{account}", {"limits": limits})).status_code == 400


@pytest.mark.parametrize("instant", [1e18, -1, "soon"])
async def test_a_key_ends_at_an_instant_that_calendars_know(gateway: Running, instant: Any) -> None:
    answer = await gateway.admin("POST", "/keys", {"name": "k", "expires_at": instant})

    assert (answer.status_code, told(answer)["param"]) == (400, "expires_at")


# Without the ledger


async def test_without_the_ledger_the_admin_api_says_so_soon(tmp_path: Path) -> None:
    with ledger_server() as ledger:
        async with running(ledger.url, tmp_path) as gateway:
            key = await gateway.create_key()
            ledger.kill()

            answers = [
                await gateway.admin("GET", "/keys"),
                await gateway.admin("GET", f"/keys/{key.id}"),
                await gateway.admin("POST", "/keys", {"name": "x"}),
                await gateway.admin("POST", f"/keys/{key.id}/block"),
                await gateway.admin("DELETE", f"/keys/{key.id}"),
            ]

    assert [(answer.status_code, told(answer)["code"]) for answer in answers] == [(503, "ledger_unavailable")] * 5
