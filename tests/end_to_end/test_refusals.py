"""What callers do wrong: each time a clear 4xx that the SDK raises as its own type, after one attempt, for nothing."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from gateway_process import GatewayProcess, Key, Money, until
from openai import DefaultHttpxClient, OpenAI

MESSAGES = [{"role": "user", "content": "Hello"}]
NOTHING = Money(spent=Decimal(0), held=Decimal(0), suspense=Decimal(0))
BODIES: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str]] = {
    "an unknown model": ({"model": "gpt-17"}, openai.NotFoundError, "There is no model 'gpt-17' here"),
    "a model without a price": ({"model": "unpriced"}, openai.BadRequestError, "the price of 'unpriced' is not known"),
    "no choices at all": ({"n": 0}, openai.BadRequestError, "`n` must be between 1 and"),
    "fewer choices than none": ({"n": -1}, openai.BadRequestError, "`n` must be between 1 and"),
    "a text for a number": ({"temperature": "hot"}, openai.BadRequestError, "`temperature` must be a number"),
    "a number for a text": ({"model": 5}, openai.BadRequestError, "`model` must be a string"),
    "a text for a list": ({"messages": "Hello"}, openai.BadRequestError, "`messages` must be an array"),
    "a list of texts": ({"messages": ["Hello"]}, openai.BadRequestError, "`messages"),
    "no messages": ({"messages": []}, openai.BadRequestError, "`messages"),
    "more tokens than there are": ({"max_tokens": 10**12}, openai.BadRequestError, "`max_tokens` must be between"),
    "a text for a cap": ({"max_tokens": "ten"}, openai.BadRequestError, "`max_tokens` must be an integer"),
    "more than can be paid": ({"model": "sandbox-large"}, openai.APIStatusError, "budget of this key does not cover"),
    "too large a body": (
        {"messages": [{"role": "user", "content": "x" * (11 * 2**20)}]},
        openai.APIStatusError,
        "larger than 10,485,760 bytes",
    ),
}
CONTENTS = {
    "no JSON": b"Hello!",
    "half of it": b'{"model": "exact", "messages": [',
    "a list": b"[]",
    "nothing": b"",
    "the same name twice": b'{"model": "exact", "model": "auto", "messages": []}',
    "not a number": b'{"model": "exact", "messages": [], "temperature": NaN}',
    "no UTF-8": b'{"model": "\xff", "messages": []}',
    "too deep": b'{"model": "exact", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
}


@pytest.fixture
def key(gateway: GatewayProcess) -> Key:
    """A key with money for small answers of small models."""
    return gateway.create_key("0.01/day", models=("sandbox-*", "exact", "unpriced", "gpt-*"))


@pytest.mark.parametrize("case", BODIES)
def test_a_request_that_cannot_be_served_is_refused_at_its_first_attempt(
    gateway: GatewayProcess, key: Key, case: str
) -> None:
    wrong, error, words = BODIES[case]
    body: Any = {"model": "sandbox-small", "messages": MESSAGES, **wrong}
    refused = refusal(gateway, key.text, lambda client: client.chat.completions.create(**body))

    assert type(refused) is error
    assert words in refused.message
    assert gateway.money(key) == NOTHING
    assert gateway.billed(key) == 0


@pytest.mark.parametrize("case", CONTENTS)
def test_a_body_that_is_no_good_json_is_refused(gateway: GatewayProcess, key: Key, case: str) -> None:
    def send(client: OpenAI) -> None:
        headers = {"content-type": "application/json"}
        client.post("/chat/completions", cast_to=httpx.Response, content=CONTENTS[case], options={"headers": headers})

    refused = refusal(gateway, key.text, send)

    assert type(refused) is openai.BadRequestError
    assert refused.type == "invalid_request_error"
    assert gateway.money(key) == NOTHING


def test_a_budget_that_is_used_up_stops_the_sdk_at_once(gateway: GatewayProcess) -> None:
    key = gateway.create_key("0.0015/lifetime")
    ask(gateway.openai(key))
    refused = refusal(gateway, key.text, ask)

    assert refused.status_code == 402
    assert (refused.type, refused.code) == ("insufficient_quota", "insufficient_quota")
    assert "0.0005 USD left, up to 0.001 USD needed. It does not reset." in refused.message
    facts = refused.body["metadata"]  # type: ignore[index]
    assert (facts["scope"], facts["resets_at"]) == (f"key:{key.id}", None)
    assert gateway.settled(key).spent == gateway.billed(key) == Decimal("0.001")


def test_a_key_that_nobody_made_is_refused(gateway: GatewayProcess) -> None:
    refused = refusal(gateway, f"sk-pm-default-{'x' * 43}", ask)

    assert type(refused) is openai.AuthenticationError
    assert refused.code == "invalid_api_key"


def test_a_blocked_key_is_refused_at_once_by_every_worker_and_serves_again_when_unblocked(
    gateway: GatewayProcess, key: Key
) -> None:
    body = {"model": "exact", "messages": MESSAGES}
    for _ in range(8):  # connections of their own, so that both workers are met
        assert gateway.post(key, body).status_code == 200
    gateway.admin("POST", f"/keys/{key.id}/block")
    for _ in range(8):
        refused = refusal(gateway, key.text, ask)
        assert type(refused) is openai.AuthenticationError
        assert "blocked" in refused.message
    assert gateway.settled(key).spent == gateway.billed(key) == Decimal("0.008")

    gateway.admin("POST", f"/keys/{key.id}/unblock")
    until(lambda: gateway.post(key, body).status_code == 200, lambda: "still blocked")  # once it is read anew


def test_a_model_that_the_key_may_not_use_is_refused_by_name(gateway: GatewayProcess) -> None:
    key = gateway.create_key("1/day", models=("sandbox-small",))
    refused = refusal(gateway, key.text, ask)

    assert type(refused) is openai.PermissionDeniedError
    assert "may not use the model 'exact'. It may use: sandbox-small." in refused.message
    assert gateway.money(key) == NOTHING


def test_the_admin_key_and_a_virtual_key_do_not_open_each_others_doors(gateway: GatewayProcess, key: Key) -> None:
    assert type(refusal(gateway, gateway.admin_key, ask)) is openai.AuthenticationError

    answer = httpx.get(f"{gateway.url}/admin/keys", headers={"authorization": f"Bearer {key.text}"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "not_admin"


def ask(client: OpenAI) -> None:
    client.chat.completions.create(model="exact", messages=MESSAGES)


def refusal(gateway: GatewayProcess, key: str, act: Callable[[OpenAI], Any]) -> openai.APIStatusError:
    """What the SDK with this key, retrying as everybody's does, raised after the one attempt that it made."""
    requests: list[Any] = []
    connections = DefaultHttpxClient(event_hooks={"request": [requests.append]})
    with (
        OpenAI(base_url=f"{gateway.url}/v1", api_key=key, http_client=connections) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        act(client)

    refused = raised.value
    assert 400 <= refused.status_code < 500
    assert len(requests) == 1
    assert refused.response.headers["x-should-retry"] == "false"
    assert refused.request_id
    assert set(json.loads(refused.response.content)["error"]) >= {"message", "type", "param", "code"}
    assert "Traceback" not in refused.response.text
    return refused
