from collections.abc import AsyncIterator

import pytest
from running import ADMIN_KEY, Running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("GET", "/v1/chat/completions"),
        ("PUT", "/admin/keys"),
        ("GET", "/admin/keys/"),
        ("POST", "/v1/completions"),
        ("DELETE", "/healthz"),
    ],
)
async def test_what_is_not_served_is_a_404_that_says_what_is(gateway: Running, method: str, path: str) -> None:
    answer = await gateway.http.request(method, path, headers={"host": "evil.example/#", "x-api-key": ADMIN_KEY})

    told = answer.json()["error"]
    assert (answer.status_code, told["code"], told["type"]) == (404, "unknown_url", "invalid_request_error")
    assert f"Nothing is served at {method} {path}." in told["message"]
    assert "evil.example" not in str(answer.headers)


async def test_every_error_has_the_same_envelope(gateway: Running) -> None:
    answers = [
        await gateway.http.get("/nowhere"),
        await gateway.http.get("/v1/models"),
        await gateway.http.get("/admin/keys"),
        await gateway.admin("GET", "/keys?limit=0"),
        await gateway.admin("POST", "/keys", {}),
        await gateway.http.post("/admin/keys", content=b"{", headers={"x-api-key": ADMIN_KEY}),
    ]

    for answer in answers:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert (answer.headers["content-type"], answer.headers["x-should-retry"]) == ("application/json", "false")


async def test_a_body_needs_no_content_type(gateway: Running) -> None:
    answer = await gateway.http.post("/admin/keys", content=b'{"name": "k"}', headers={"x-api-key": ADMIN_KEY})

    assert answer.status_code == 201


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_refused_before_anybody_is_known(gateway: Running, declared: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 2**20

    content = b"x" * 11 * 2**20 if declared else pieces()

    answer = await gateway.http.post("/admin/keys", content=content)

    assert answer.status_code == 413


async def test_what_nobody_foresaw_is_a_500_without_details(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise LookupError("an inner detail")

    monkeypatch.setattr("budgets.keys.KeyStore.get", fail)

    answer = await gateway.admin("GET", "/keys/key_default_0000000000000000")

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "inner detail" not in answer.text


async def test_a_body_is_json_whatever_its_content_type_says(gateway: Running) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/x-www-form-urlencoded"}

    answer = await gateway.http.post("/admin/keys", content=b'{"name": "k"}', headers=headers)

    assert answer.status_code == 201
