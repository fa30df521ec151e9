from pathlib import Path
from typing import Any

import pytest
from running import Key, Money, Running, running

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def get(gateway: Running, path: str, key: Key) -> Any:
    return (await gateway.http.get(path, headers=key.headers)).raise_for_status().json()


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
@pytest.mark.parametrize(
    ("globs", "names"),
    [(["*"], ["auto", "small", "large"]), (["small", "au*"], ["auto", "small"]), (["nothing"], [])],
)
async def test_a_key_sees_the_models_that_it_may_use(
    gateway: Running, path: str, globs: list[str], names: list[str]
) -> None:
    key = await gateway.create_key(models=globs)

    listed = await get(gateway, path, key)

    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == names


async def test_a_model_is_told_in_openais_shape(gateway: Running) -> None:
    auto, small, _ = (await get(gateway, "/v1/models", await gateway.create_key()))["data"]

    assert small == {"id": "small", "object": "model", "created": small["created"], "owned_by": "acme"}
    assert isinstance(small["created"], int)
    assert auto["owned_by"] == "paymaster"


async def test_a_budget_is_what_the_tightest_limit_has_left(gateway: Running) -> None:
    key = await gateway.create_key("1/lifetime", "0.5/day")
    await gateway.chat(key)
    assert await gateway.money(key) == Money(3_100, 0, 0)

    budget = await get(gateway, "/v1/budget", key)

    assert (budget["ok"], budget["remaining_usd"], budget["spent_usd"]) == (True, "0.4999969", "0.0000031")
    assert {limit["window"] for limit in budget["limits"]} == {"lifetime", "day"}


async def test_a_budget_that_is_used_up_is_not_ok(gateway: Running) -> None:
    budget = await get(gateway, "/v1/budget", await gateway.create_key("0/lifetime"))

    assert (budget["ok"], budget["remaining_usd"]) == (False, "0")


async def test_without_a_limit_there_is_nothing_to_be_left(gateway: Running) -> None:
    budget = await get(gateway, "/v1/budget", await gateway.create_key())

    assert (budget["ok"], budget["remaining_usd"], budget["limits"]) == (True, None, [])


async def test_a_blocked_key_sees_nothing(gateway: Running) -> None:
    key = await gateway.create_key()
    await gateway.admin("POST", f"/keys/{key.id}/block")

    for path in ("/v1/models", "/v1/budget"):
        answer = await gateway.http.get(path, headers=key.headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_not_usable")


async def test_a_model_of_any_name_is_listed(redis_url: str, tmp_path: Path) -> None:
    models = {"vendor/model:1-é": {"provider": "acme", "model": "m", "price": {"input": "1", "output": "1"}}}
    async with running(redis_url, tmp_path, models=models, routes={}) as gateway:
        key = await gateway.create_key()

        assert [model["id"] for model in (await get(gateway, "/v1/models", key))["data"]] == ["vendor/model:1-é"]
        assert (await gateway.chat(key, "vendor/model:1-é")).status_code == 200
