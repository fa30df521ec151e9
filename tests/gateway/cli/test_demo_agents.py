"""The sample agents, at a sandbox and at a gateway that refuses to spend."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from typer.testing import Result

from gateway.cli.demo_agents import (
    CAST,
    QUESTIONS,
    TOOL_RESULTS,
    Actor,
    Agent,
    Stage,
    asks,
    uses_tools,
)

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sandbox by itself: it answers chats, and knows no keys and no admin API."""
    bill = tmp_path_factory.mktemp("sandbox") / "bill.jsonl"
    command = [sys.executable, "-m", "gateway.sandbox", "--port", "0", "--bill", str(bill)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
        assert process.stderr is not None
        yield process.stderr.readline().removeprefix("sandbox: ").removesuffix("/v1\n")
        process.terminate()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


@pytest.fixture
def agent() -> Agent:
    return Agent("tester", "sk-pm-x", "key_1")


def stage(client: httpx.AsyncClient, url: str, requests: int | None) -> Stage:
    client.base_url = httpx.URL(url)
    return Stage(client, {}, "sandbox-small", pace=0, requests_left=requests)


def recorded(client: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    """The bodies of the requests sent there from now on."""
    bodies: list[dict[str, Any]] = []

    async def record(request: httpx.Request) -> None:
        if request.url.path == path:
            bodies.append(json.loads(request.content))

    client.event_hooks["request"].append(record)
    return bodies


async def test_the_requests_allowed_are_sent_and_no_more(
    client: httpx.AsyncClient, sandbox_url: str, agent: Agent
) -> None:
    scene = stage(client, sandbox_url, 3)

    await Actor(agent, scene).run(asks(QUESTIONS))
    assert (agent.requests, agent.state) == (3, "stopped")
    assert scene.stopped.is_set()


async def test_a_tool_is_called_its_result_read_and_the_task_answered(
    client: httpx.AsyncClient, sandbox_url: str, agent: Agent
) -> None:
    sent = recorded(client, "/v1/chat/completions")

    await Actor(agent, stage(client, sandbox_url, 3)).run(uses_tools)
    roles = [[message["role"] for message in body["messages"]] for body in sent]
    assert roles == [["user"], ["user", "assistant", "tool"], ["user"]]
    assert sent[1]["messages"][2]["content"] in TOOL_RESULTS.values()


async def test_a_stream_is_read_to_its_end(client: httpx.AsyncClient, sandbox_url: str, agent: Agent) -> None:
    actor = Actor(agent, stage(client, sandbox_url, None))

    await actor.listen([{"role": "user", "content": "Tell me a story."}])
    assert agent.state.startswith("listening, ")
    assert int(agent.state.split()[1]) > 1


async def test_the_router_is_asked_for_its_reason_with_what_the_request_will_say(
    client: httpx.AsyncClient, admin: Command, gateway_url: str, agent: Agent
) -> None:
    agent.key, agent.remaining_usd = admin("keys", "create", "--name", "asker").stdout.splitlines()[0], "0.5"
    scene = stage(client, gateway_url, 1)
    scene.model, scene.admin_headers = "auto", {"authorization": "Bearer admin-of-the-tests"}
    explained, sent = recorded(client, "/admin/route/explain"), recorded(client, "/v1/chat/completions")

    await Actor(agent, scene).run(uses_tools)
    assert explained == [body | {"remaining_usd": "0.5"} for body in sent]
    assert len(sent) == 1
    assert {"max_tokens", "tools"} <= sent[0].keys()


async def test_a_failure_ends_the_agent_with_its_reason(
    client: httpx.AsyncClient, sandbox_url: str, agent: Agent
) -> None:
    await Actor(agent, stage(client, sandbox_url, None)).run(asks(["[[fail 503]]"]))

    assert agent.requests == 1
    assert agent.state.startswith("failed (503): ")


async def test_an_empty_budget_ends_the_agent(
    client: httpx.AsyncClient, admin: Command, gateway_url: str, agent: Agent
) -> None:
    agent.key = admin("keys", "create", "--name", "poor", "--limit", "0.000001/lifetime").stdout.splitlines()[0]

    await Actor(agent, stage(client, gateway_url, None)).run(asks(QUESTIONS))
    assert agent.requests == 1
    assert agent.state.startswith("refused (402): ")


async def test_a_gateway_that_is_gone_ends_the_agent(client: httpx.AsyncClient, agent: Agent) -> None:
    await Actor(agent, stage(client, "http://127.0.0.1:1", None)).run(asks(QUESTIONS))

    assert agent.state == "lost the gateway: ConnectError"


def test_every_agent_has_a_limit() -> None:
    assert all("/" in limit for _, limit in CAST.values())
