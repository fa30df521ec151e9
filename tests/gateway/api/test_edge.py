"""The door: who is let in, what is refused in which words, and what every answer carries."""

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fakes import error
from running import ADMIN_KEY, Key, Running, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hi!"}]}


async def post(gateway: Running, content: Any, **headers: str) -> httpx.Response:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.http.post(CHAT, content=raw, headers=named)


def told(answer: httpx.Response) -> Any:
    return answer.json()["error"]


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
async def test_a_key_opens_the_door_in_each_of_three_headers(gateway: Running, header: str) -> None:
    key = await gateway.create_key()
    text = f"Bearer {key.text}" if header == "authorization" else key.text

    answer = await gateway.http.post(CHAT, json=HELLO, headers={header: text})

    assert answer.status_code == 200


@pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
async def test_the_endpoint_is_there_with_and_without_its_version(gateway: Running, path: str) -> None:
    key = await gateway.create_key()

    assert (await gateway.http.post(path, json=HELLO, headers=key.headers)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_api_key"),
        ({"x_api_key": "sk-pm-default-" + "x" * 43}, 401, "invalid_api_key"),
        ({"x_api_key": ADMIN_KEY}, 401, "invalid_api_key"),
        ({"x_api_key": "one", "api_key": "another"}, 400, "several_api_keys"),
        ({"authorization": "Bearer one", "api_key": "another"}, 400, "several_api_keys"),
    ],
)
async def test_without_one_good_key_the_door_stays_shut(
    gateway: Running, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await post(gateway, HELLO, **headers)

    assert (answer.status_code, told(answer)["code"]) == (status, code)
    assert answer.headers["x-should-retry"] == "false"
    assert gateway.upstream.asked == []


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_request", None),
        (b"{", 400, "invalid_request", None),
        (b"[]", 400, "invalid_request", None),
        (b'{"model": "small", "model": "large"}', 400, "invalid_request", "model"),
        (b'{"model": "small", "temperature": NaN}', 400, "invalid_request", None),
        (b"\xff\xfe", 400, "invalid_request", None),
        (b"[" * 100_000, 400, "invalid_request", None),
        ({**HELLO, "model": 5}, 400, "invalid_request", "model"),
        ({**HELLO, "messages": "hi"}, 400, "invalid_request", "messages"),
        ({**HELLO, "n": -1}, 400, "invalid_request", "n"),
        ({**HELLO, "n": True}, 400, "invalid_request", "n"),
        ({**HELLO, "max_tokens": 10**12}, 400, "invalid_request", "max_tokens"),
        ({**HELLO, "stream": "true"}, 400, "invalid_request", "stream"),
        ({**HELLO, "model": "no-such-model"}, 404, "model_not_found", "model"),
        (b'{"a": "' + b"x" * 11 * 2**20 + b'"}', 413, "request_too_large", None),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_bad_input_is_refused_in_openais_shape_and_costs_nothing(
    gateway: Running, body: Any, status: int, code: str, param: str | None
) -> None:
    key = await gateway.create_key("1/lifetime")

    answer = await post(gateway, body, **key.headers)

    assert (answer.status_code, told(answer)["code"], told(answer)["param"]) == (status, code, param)
    assert told(answer)["type"] == "invalid_request_error"
    assert (answer.headers["x-should-retry"], answer.headers["content-type"]) == ("false", "application/json")
    assert gateway.upstream.asked == []
    assert await gateway.spent(key) == 0


async def test_a_body_that_is_too_large_is_refused_though_it_does_not_say_so(gateway: Running) -> None:
    key = await gateway.create_key()

    async def pieces() -> Any:
        for _ in range(11):
            yield b"x" * 2**20

    answer = await gateway.http.post(CHAT, content=pieces(), headers=key.headers)

    assert (answer.status_code, told(answer)["code"]) == (413, "request_too_large")


async def test_a_model_that_the_key_may_not_use_is_forbidden(gateway: Running) -> None:
    key = await gateway.create_key(models=["small", "au*"])

    refused, allowed = await gateway.chat(key, "large"), await gateway.chat(key, "auto")

    assert (refused.status_code, told(refused)["code"], told(refused)["param"]) == (403, "model_not_allowed", "model")
    assert "It may use: small, au*." in told(refused)["message"]
    assert allowed.status_code == 200


async def test_a_wrong_name_is_answered_with_those_that_the_key_may_use(gateway: Running) -> None:
    key = await gateway.create_key(models=["sm*", "gpt-*"])

    answer = await gateway.chat(key, "gpt-99")

    assert answer.status_code == 404
    assert "Known: small." in told(answer)["message"]


async def test_a_refusal_by_budget_is_a_429_for_codex_and_a_402_for_others(gateway: Running) -> None:
    key = await gateway.create_key("0/lifetime")

    others, codex = await gateway.chat(key), await gateway.chat(key, headers={"user-agent": "codex_cli_rs/0.50.0"})

    assert (others.status_code, codex.status_code) == (402, 429)
    assert told(codex) == told(others)
    assert codex.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("status", [402, 422, 429])
async def test_a_refusal_by_budget_has_the_configured_status(valkey_socket: str, tmp_path: Path, status: int) -> None:
    async with running(f"unix://{valkey_socket}", tmp_path, refusals={"budget_status": status}) as gateway:
        key = await gateway.create_key("0/lifetime")

        answer = await gateway.chat(key, headers={"user-agent": "codex_cli_rs/0.50.0"})

    assert answer.status_code == status


# What every answer carries


@pytest.mark.parametrize("given", ["my-request-0001", "a.b:c_d-" + "x" * 120])
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/healthz"), ("GET", "/nowhere")])
async def test_a_harmless_request_id_is_kept(gateway: Running, given: str, method: str, path: str) -> None:
    answer = await gateway.http.request(method, path, headers={"x-request-id": given})

    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize(
    "given", [None, "short", "x" * 129, "with space", "semi;colon", '"quoted"', "<script>", "é" * 9]
)
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/healthz")])
async def test_any_other_request_id_is_replaced(gateway: Running, given: str | None, method: str, path: str) -> None:
    headers = {} if given is None else {b"x-request-id": given.encode()}

    (request_id,) = (await gateway.http.request(method, path, headers=headers)).headers.get_list("x-request-id")

    assert request_id.startswith("req_")


async def test_no_answer_invites_other_sites(gateway: Running) -> None:
    key = await gateway.create_key()
    origin = {"origin": "https://evil.example", "access-control-request-method": "POST"}

    answers = [
        await gateway.http.options(CHAT, headers=origin),
        await gateway.http.options("/admin/keys", headers=origin),
        await gateway.chat(key, headers=origin),
        await gateway.http.get("/v1/models", headers=key.headers | origin),
    ]

    assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)


async def test_no_answer_and_no_log_line_repeats_a_key(gateway: Running) -> None:
    key = await gateway.create_key("0/lifetime")
    gateway.upstream.will(error(400, f"you sent {key.text}"))

    answers = [
        await gateway.chat(key),
        await gateway.chat(key, "nope"),
        await post(gateway, HELLO, x_api_key=key.text, api_key=ADMIN_KEY),
        await gateway.http.get("/admin/keys", headers=key.headers),
        await gateway.http.get("/metrics"),
    ]

    assert not any(secret in answer.text for answer in answers for secret in (key.text, ADMIN_KEY))
    await gateway.logged(answers[0])
    assert key.text.encode() not in gateway.log.getvalue()
    assert ADMIN_KEY.encode() not in gateway.log.getvalue()


async def test_what_fails_unforeseen_is_a_500_without_details_and_logged(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise LookupError("an inner detail")

    key = await gateway.create_key()
    monkeypatch.setattr("gateway.api.exchange.Exchange.body", fail)

    answer = await gateway.chat(key)

    assert (answer.status_code, told(answer)["code"]) == (500, "internal_error")
    assert "inner detail" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text


# A listener of its own for the admin API


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apart(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Running, str]]:
    """A gateway whose admin API has an address of its own, and that address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("apart")
    async with running(f"unix://{valkey_socket}", folder, admin={"listen": listen}) as gateway:
        yield gateway, f"http://{listen}"


async def test_the_admin_api_is_only_where_it_listens(apart: tuple[Running, str]) -> None:
    gateway, address = apart
    public = await gateway.http.get("/admin/keys", headers={"x-api-key": ADMIN_KEY})
    made = await gateway.http.post(f"{address}/admin/keys", json={"name": "k"}, headers={"x-api-key": ADMIN_KEY})

    assert (public.status_code, told(public)["code"]) == (404, "unknown_url")
    assert made.status_code == 201
    key = Key(made.json()["id"], made.json()["key"])
    assert (await gateway.chat(key)).status_code == 200
    assert (await gateway.http.get("/v1/models", headers=key.headers)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/admin/keys", "//admin/keys", "/%61dmin/keys", "/admin", "/x/../admin/keys", "/./admin/keys"]
)
@pytest.mark.parametrize("host", ["test", "admin/keys?", "{}/#", "{}"])
async def test_no_spelling_of_a_path_and_no_host_leads_around_it(
    apart: tuple[Running, str], path: str, host: str
) -> None:
    gateway, address = apart
    host = host.format(address.removeprefix("http://"))
    request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {ADMIN_KEY}\r\nconnection: close\r\n\r\n"

    answer = await gateway.raw(request.encode())

    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert b"has_more" not in answer
