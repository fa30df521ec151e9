"""The sample agents of a demonstration: each is a small loop over plain HTTP, with a key and a habit of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import httpx

Message = dict[str, Any]

MAX_STEPS = 6
"""Of the agent that calls tools, in one task."""
OUTPUT_CAP = 400
"""Tokens; a request's hold, and so the smallest budget that lets it pass, depends on it."""

QUESTIONS = (
    "What is the capital of Portugal?",
    "Translate 'good morning' into French.",
    "Write a friendly reply to a customer whose parcel is two days late.",
    "Summarise in one sentence why the sky is blue.",
    "Prove that the square root of two is irrational, step by step.",
    "Suggest a name for a bakery.",
)
HARD_QUESTIONS = (
    "Prove that there are infinitely many primes, and then find the flaw in the proof if there is one.",
    "Design a lock-free queue for several producers and reason about its memory ordering step by step.",
    "Derive the closed form of the Fibonacci numbers and analyse the numerical error of using it.",
)
TASKS = (
    "Search the catalogue for a bicycle lamp and tell me what is in stock.",
    "Use the weather tool: will it rain in Lisbon tomorrow?",
)


def _tool(name: str, description: str, parameter: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = (
    _tool("search_catalogue", "Search the shop's catalogue and the stock of each thing in it.", "query"),
    _tool("weather", "The weather of tomorrow in a city.", "city"),
)
TOOL_RESULTS = {"search_catalogue": "Lamp L2: 14 in stock, 19.90 EUR", "weather": "Rain in the morning, 14 degrees"}


@dataclass
class Agent:
    """One agent as the board shows it. Its money is read from the admin API, not counted here."""

    name: str
    key: str = field(repr=False)
    key_id: str
    requests: int = 0
    model: str = ""
    reason: str = ""
    state: str = "starting"
    spent_usd: str = "0"
    remaining_usd: str = ""


@dataclass
class Stage:
    """Where agents act: a gateway, the model they ask for, and how much and how fast they may."""

    client: httpx.AsyncClient
    admin_headers: dict[str, str] = field(repr=False)
    model: str
    pace: float
    """Seconds between two requests of one agent."""
    requests_left: int | None
    """None: until somebody stops them."""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def admits(self) -> bool:
        """Whether one more request may be sent; it counts."""
        if self.requests_left is not None:
            if self.requests_left == 0:
                self.stopped.set()
            self.requests_left -= 1
        return not self.stopped.is_set()

    async def pause(self) -> None:
        """Wait for the pace, or until all is stopped."""
        try:
            async with asyncio.timeout(self.pace):
                await self.stopped.wait()
        except TimeoutError:
            return


class StoppedError(Exception):
    """The agent ends: its words are its last state."""


class Actor:
    """An agent at work: sends requests as `agent` and notes on it what came back."""

    def __init__(self, agent: Agent, stage: Stage) -> None:
        self.agent = agent
        self.stage = stage

    async def run(self, habit: "Habit") -> None:
        """Live by `habit` until stopped, or until the gateway refuses to spend more."""
        try:
            await habit(self)
        except StoppedError as exc:
            self.agent.state = str(exc)
        except httpx.TransportError as exc:
            self.agent.state = f"lost the gateway: {type(exc).__name__}"

    async def ask(self, messages: list[Message], **more: Any) -> Message:
        """One request; the answer's message. Raises StoppedError."""
        async with self._sent(messages, more) as response:
            await response.aread()
            self._note(response)
            message: Message = response.json()["choices"][0]["message"]
        await self.stage.pause()
        return message

    async def listen(self, messages: list[Message]) -> None:
        """One streamed request, read to its end. Raises StoppedError."""
        async with self._sent(messages, {"stream": True}) as response:
            if not response.is_success:
                await response.aread()
            self._note(response)
            pieces = 0
            async for line in response.aiter_lines():
                pieces += line.startswith("data: {")
                self.agent.state = f"listening, {pieces} pieces"
        await self.stage.pause()

    @asynccontextmanager
    async def _sent(self, messages: list[Message], more: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        if not self.stage.admits():
            raise StoppedError("stopped")
        self.agent.state = "asking"
        body = {"model": self.stage.model, "messages": messages, "max_tokens": OUTPUT_CAP, **more}
        headers = {"authorization": f"Bearer {self.agent.key}"}
        reason = await self._reason(body)  # before the request: it changes what is left, and so the reason
        async with self.stage.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
            self.agent.requests += 1
            if response.is_success:
                self.agent.model, self.agent.reason = response.headers.get("x-paymaster-model", ""), reason
            yield response

    def _note(self, response: httpx.Response) -> None:
        """What an answer tells. Raises StoppedError for a refusal that another try would not change."""
        if response.is_success:
            self.agent.state = "thinking"
            return
        error = response.json()["error"]
        if response.headers.get("x-should-retry") == "false":
            raise StoppedError(f"refused ({response.status_code}): {error['message']}")
        raise StoppedError(f"failed ({response.status_code}): {error['message']}")

    async def _reason(self, body: dict[str, Any]) -> str:
        """Why the router sends a request of this body where it does."""
        left = {"remaining_usd": self.agent.remaining_usd} if self.agent.remaining_usd else {}
        headers = self.stage.admin_headers
        response = await self.stage.client.post("/admin/route/explain", json=body | left, headers=headers)
        return str(response.json()["reason"]) if response.is_success else ""


Habit = Callable[[Actor], Awaitable[None]]
"""Sends requests through the actor without an end, until one raises StoppedError."""


def asks(questions: Sequence[str]) -> Habit:
    """A person with questions, one after the other."""

    async def habit(actor: Actor) -> None:
        for question in cycle(questions):
            await actor.ask([{"role": "user", "content": question}])

    return habit


async def reads_streams(actor: Actor) -> None:
    """A person who watches the answer being written."""
    for question in cycle(QUESTIONS):
        await actor.listen([{"role": "user", "content": f"{question} Take your time."}])


async def uses_tools(actor: Actor) -> None:
    """An agent that works on tasks in several steps: calls tools, reads their results, answers."""
    for task in cycle(TASKS):
        messages: list[Message] = [{"role": "user", "content": task}]
        for _ in range(MAX_STEPS):
            message = await actor.ask(messages, tools=TOOLS)
            if not message.get("tool_calls"):
                break
            messages.append(message)
            messages += [_tool_result(call) for call in message["tool_calls"]]


def _tool_result(call: dict[str, Any]) -> Message:
    content = TOOL_RESULTS.get(call["function"]["name"], json.dumps({"error": "no such tool"}))
    return {"role": "tool", "tool_call_id": call["id"], "content": content}


CAST: Mapping[str, tuple[Habit, str]] = {
    "chat-user": (asks(QUESTIONS), "1/day"),
    "tool-agent": (uses_tools, "1/day"),
    "stream-reader": (reads_streams, "1/day"),
    "small-budget": (asks(HARD_QUESTIONS), "0.01/lifetime"),
}
"""Who acts, by name: the habit, and the limit of the key. The last one is soon given cheaper models, then runs out."""
