"""`llmock`, a fake provider made by others: it breaks what it is told to, and grades how the gateway copes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from gateway_process import PATIENCE, GatewayProcess, Key, until
from openai import OpenAI
from openai.types import CompletionUsage

from gateway.process import free_port

INPUT_PRICE, OUTPUT_PRICE = Fraction("0.15") / 10**6, Fraction("0.60") / 10**6
"""Dollars per token."""
TOOL = {
    "type": "function",
    "function": {
        "name": "find_flight",
        "parameters": {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]},
    },
}
BROKEN_OFF = ({"kind": "disconnect"}, {"kind": "truncate"}, {"kind": "stall", "stall_seconds": 60})
"""The gateway waits for 1 s of the last one."""


class LlmockServer:
    """The process, and what it is told and tells."""

    def __init__(self) -> None:
        self.port = free_port()
        command = [str(Path(sys.executable).with_name("llmock")), "serve", "--port", str(self.port)]
        self._process = subprocess.Popen([*command, "--log-level", "error"], stdout=subprocess.DEVNULL)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/_llmock", timeout=PATIENCE, trust_env=False)
        until(self._answers, lambda: "llmock does not answer")

    def plays(self, *behaviors: dict[str, Any]) -> None:
        """What it is to do wrong with its next requests."""
        self._http.post("/scenario", json={"behaviors": behaviors}).raise_for_status()

    def attempts(self) -> int:
        """How many requests it has seen."""
        return int(self._http.get("/requests").json()["count"])

    def verdict(self) -> dict[str, Any]:
        """How well its client did."""
        return dict(self._http.get("/verdict").json())

    def stop(self) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return self._http.get("/scenario").is_success
        return False


@pytest.fixture(scope="module")
def llmock() -> Iterator[LlmockServer]:
    """All tests of this module make up one verdict, which must be without a fault of ours."""
    server = LlmockServer()
    yield server
    verdict = server.verdict()
    server.stop()
    assert verdict["errors"] == 0, verdict["findings"]


@pytest.fixture(scope="module")
def gateway(llmock: LlmockServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    configuration = {
        "providers": {"mock": {"kind": "openai", "base_url": f"http://127.0.0.1:{llmock.port}/v1", "api_key": "any"}},
        "models": {"small": {"provider": "mock", "model": "gpt-4o-mini", "price": {"input": "0.15", "output": "0.60"}}},
        "upstream": {"idle_timeout": 1},
    }
    folder = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(folder, configuration=configuration) as gateway:
        yield gateway


@pytest.fixture
def key(gateway: GatewayProcess) -> Key:
    return gateway.create_key("1/day")


@pytest.fixture
def client(gateway: GatewayProcess, key: Key) -> Iterator[OpenAI]:
    """An SDK that does not repeat anything, so that all the repeating is the gateway's."""
    with gateway.openai(key, max_retries=0) as client:
        yield client


def test_plain_answers_and_tool_calls_are_paid_for_to_the_token(
    client: OpenAI, gateway: GatewayProcess, key: Key
) -> None:
    plain = client.chat.completions.create(**question("Where is Lima?"))
    called = client.chat.completions.create(**question("Book me a flight to Lima"), tools=[TOOL])

    assert plain.choices[0].message.content
    assert called.choices[0].message.tool_calls is not None
    (call,) = called.choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"to"}
    assert spent(gateway, key) == price(plain.usage) + price(called.usage)


def test_streams_and_streamed_tool_calls_are_paid_for_to_the_token(
    client: OpenAI, gateway: GatewayProcess, key: Key
) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    plain = list(client.chat.completions.create(**question("Where is Cusco?"), **options))
    called = list(client.chat.completions.create(**question("Book me a flight to Cusco"), tools=[TOOL], **options))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in plain[:-1])
    pieces = [call for chunk in called[:-1] for call in chunk.choices[0].delta.tool_calls or ()]
    assert set(json.loads("".join(piece.function.arguments or "" for piece in pieces if piece.function))) == {"to"}
    assert spent(gateway, key) == price(plain[-1].usage) + price(called[-1].usage)


@pytest.mark.parametrize("fault", [{"status": 429, "retry_after": 1}, {"status": 500}], ids=["429", "500"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_an_error_that_passes_is_hidden_from_the_caller(
    client: OpenAI, llmock: LlmockServer, fault: dict[str, Any], stream: bool
) -> None:
    llmock.plays({"type": "fail", **fault})
    before = llmock.attempts()
    answer = client.chat.completions.create(**question(f"Is {fault} over, {stream}?"), stream=stream)

    assert not stream or list(answer)
    assert llmock.attempts() == before + 2


@pytest.mark.parametrize("fault", BROKEN_OFF, ids=lambda fault: str(fault["kind"]))
def test_a_stream_that_breaks_off_before_its_first_event_is_tried_again(
    client: OpenAI, llmock: LlmockServer, fault: dict[str, Any]
) -> None:
    llmock.plays({"type": "stream_fault", "after_chunks": 0, **fault})
    before = llmock.attempts()
    chunks = list(client.chat.completions.create(**question(f"Silent {fault['kind']}?"), stream=True))

    assert chunks[-1].choices[0].finish_reason == "stop"
    assert llmock.attempts() == before + 2


@pytest.mark.parametrize("fault", BROKEN_OFF, ids=lambda fault: str(fault["kind"]))
def test_a_stream_that_breaks_off_in_its_middle_never_looks_whole(
    client: OpenAI, llmock: LlmockServer, gateway: GatewayProcess, key: Key, fault: dict[str, Any]
) -> None:
    llmock.plays({"type": "stream_fault", "after_chunks": 3, **fault})
    asked = question(f"A sudden {fault['kind']}?")
    chunks = client.chat.completions.create(**asked, stream=True)
    with pytest.raises(openai.APIError, match="provider 'mock'"):
        list(chunks)

    assert gateway.settled(key).suspense > 0  # nobody said what it cost
    assert list(client.chat.completions.create(**asked, stream=True))


def test_a_chunk_that_is_no_json_reaches_the_caller_as_it_would_without_a_gateway(
    client: OpenAI, llmock: LlmockServer, gateway: GatewayProcess, key: Key
) -> None:
    llmock.plays({"type": "stream_fault", "after_chunks": 2, "kind": "malformed"})
    chunks = client.chat.completions.create(**question("A hiccup?"), stream=True)
    with pytest.raises(json.JSONDecodeError):
        list(chunks)

    assert gateway.settled(key).spent > 0  # the usage at its end was read nevertheless


def question(text: str) -> dict[str, Any]:
    """A request that differs from all others, so that llmock takes none for the repetition of another."""
    return {"model": "small", "messages": [{"role": "user", "content": text}]}


def price(usage: CompletionUsage | None) -> Fraction:
    """What llmock's own usage costs, in dollars."""
    assert usage is not None
    return usage.prompt_tokens * INPUT_PRICE + usage.completion_tokens * OUTPUT_PRICE


def spent(gateway: GatewayProcess, key: Key) -> Fraction:
    money = gateway.settled(key)
    assert money.suspense == 0
    return Fraction(money.spent)
