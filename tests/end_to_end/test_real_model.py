"""A real model behind the gateway: what it says arrives, and what it counted is paid, by arithmetic of this file."""

import math
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

import model_server
import pytest
from gateway_process import GatewayProcess, Key
from model_server import ModelServer
from openai import OpenAI
from openai.types import CompletionUsage

INPUT, CACHED, OUTPUT = "0.1237", "0.0311", "0.4189"
"""Dollars per million tokens, such that hardly any answer comes to a whole number of nano-dollars."""
MAX_OUTPUT_TOKENS = 48
"""The gateway's cap: so small a model rambles on until its context is full."""
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

pytestmark = pytest.mark.skipif(
    not model_server.is_installed(), reason=f"the model is not installed: {model_server.INSTALL}"
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    server = ModelServer()
    price = {"input": INPUT, "cache_read": CACHED, "output": OUTPUT}
    model = {"provider": "llama", "model": "smollm2", "price": price, "max_output_tokens": MAX_OUTPUT_TOKENS}
    configuration = {
        "providers": {"llama": {"kind": "openai", "base_url": f"{server.url}/v1", "api_key": "none"}},
        "models": {"smollm2": model},
    }
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), configuration=configuration) as gateway:
        yield gateway
    server.stop()


@pytest.fixture
def key(gateway: GatewayProcess) -> Key:
    return gateway.create_key("0.01/day")


@pytest.fixture
def client(gateway: GatewayProcess, key: Key) -> Iterator[OpenAI]:
    with gateway.openai(key) as client:
        yield client


def test_a_plain_answer_of_a_real_model_is_paid_by_its_own_count(
    client: OpenAI, gateway: GatewayProcess, key: Key
) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0)

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= MAX_OUTPUT_TOKENS
    assert gateway.settled(key).spent == price(answer.usage)


def test_a_streamed_answer_of_a_real_model_is_paid_by_its_own_count_cached_tokens_at_their_own_price(
    client: OpenAI, gateway: GatewayProcess, key: Key
) -> None:
    first = client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=8)
    options = {"include_usage": True}
    *chunks, last = client.chat.completions.create(
        model="smollm2", messages=QUESTION, stream=True, stream_options=options, max_tokens=24
    )

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert cached(last.usage) > 0
    assert gateway.settled(key).spent == price(first.usage) + price(last.usage)


def test_a_stream_without_usage_costs_what_the_same_stream_with_usage_costs(
    client: OpenAI, gateway: GatewayProcess, key: Key
) -> None:
    request = {"model": "smollm2", "messages": QUESTION, "stream": True, "temperature": 0, "seed": 7, "max_tokens": 16}
    list(client.chat.completions.create(**request))  # now the prompt is cached, here and in the next two
    before = gateway.settled(key).spent
    silent = list(client.chat.completions.create(**request))
    cost = gateway.settled(key).spent - before
    *told, last = client.chat.completions.create(**request, stream_options={"include_usage": True})

    assert all(chunk.choices and chunk.usage is None for chunk in silent)
    assert [chunk.choices[0].delta.content for chunk in silent] == [chunk.choices[0].delta.content for chunk in told]
    assert cost == price(last.usage)


def price(usage: CompletionUsage | None) -> Decimal:
    """What an attempt with this usage costs: exact to the last fraction, then rounded up to a nano-dollar, once."""
    assert usage is not None
    fresh = usage.prompt_tokens - cached(usage)
    dollars = fresh * Fraction(INPUT) + cached(usage) * Fraction(CACHED) + usage.completion_tokens * Fraction(OUTPUT)
    return Decimal(math.ceil(dollars / 10**6 * 10**9)) / 10**9


def cached(usage: CompletionUsage | None) -> int:
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    return usage.prompt_tokens_details.cached_tokens or 0
