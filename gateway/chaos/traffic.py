"""What callers ask, at random from a seed: models, streams, tools, faults of the provider, hanging up."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from gateway.chaos.load import Answer, Caller, Ending, chat
from gateway.chaos.world import PATIENCE, NeverCame

Request = Mapping[str, Any]

MODELS = ("sandbox-small", "sandbox-small", "sandbox-medium", "sandbox-large", "exact", "auto")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

RETRIED = ("[[first 1 fail 503]]", "[[first 1 fail 500]]", "[[first 2 fail 503]]", "[[fail 400]]")
"""Faults of the provider after which the cost is still known to the last token."""
UNREADABLE = (
    "[[cut 3]]",
    "[[half 2]]",
    "[[reset 3]]",
    "[[truncate 3]]",
    "[[no-usage]]",
    "[[double-usage]]",
    "[[absurd-usage huge]]",
    "[[absurd-usage negative]]",
    "[[absurd-usage bool]]",
    "[[absurd-usage text]]",
    "[[absurd-usage nan]]",
    "[[absurd-usage cached]]",
    "[[absurd-usage total]]",
    "[[absurd-usage reasoning]]",
    "[[stall 30]]",
    "[[stall 30 after=2]]",
    "[[cut 0]]",
    "[[reset 0]]",
    "[[cut 2]] [[bill delivered]]",
    "[[half 4]] [[bill delivered]]",
    "[[cut 3]] [[bill nothing]]",
    "[[fail 502]]",
)
"""Those after which it may not be: the attempt's hold waits in suspense."""
PAUSES = {Ending.BROKEN: 0.05, Ending.UNAVAILABLE: 0.02}
"""The most seconds that a caller waits who was told so, before the next request."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How requests are made; shares from 0 to 1."""

    streamed: float = 0.5
    tools: float = 0.1
    faults: Sequence[str] = ()
    """Directives to the provider, one of them in `faulty` of all requests."""
    faulty: float = 0.0
    leaving: float = 0.0
    """The share of callers who hang up before the end."""
    longest: int = 24
    """The tokens of an answer."""


@dataclass(slots=True)
class Tally:
    """What became of the requests, and which faults they met."""

    endings: Counter[Ending] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        return self.endings[Ending.ANSWERED]

    @property
    def requests(self) -> int:
        return self.endings.total()


class Traffic:
    """Makes and sends requests until it is told to stop. Every caller has a seed of its own."""

    def __init__(self, seed: int, name: str, mix: Mix, tally: Tally) -> None:
        self.mix = mix
        self.tally = tally
        self.enough = asyncio.Event()
        self._seed = f"{seed}:{name}"
        self._callers = count()

    async def act(self, caller: Caller) -> None:
        """Ask and listen, one request after the other, until there is enough or nobody listens any more."""
        number = next(self._callers)
        chance = random.Random(f"{self._seed}:{number}")  # noqa: S311 - replayable, not secret
        for turn in count():
            if self.enough.is_set():
                return
            request = self.request(chance, f"{number}-{turn}")
            ending = await self._send(caller, request, chance)
            self._count(request, ending)
            if ending in PAUSES:
                await asyncio.sleep(chance.uniform(0, PAUSES[ending]))

    def request(self, chance: random.Random, name: str) -> Request:
        """A request that nobody else makes: directives are counted by their prompts."""
        mix = self.mix
        words = [f"Tell me about {name}.", f"[[long {chance.randint(4, mix.longest)}]]", "[[slow 1ms]]"]
        more: dict[str, Any] = {}
        if mix.faults and chance.random() < mix.faulty:
            words.append(chance.choice(mix.faults))
        if chance.random() < mix.tools:
            words.append('What is the weather in "Lima"?')
            more["tools"] = [TOOL]
        elif chance.random() < 0.05:
            more["n"] = 2
        if chance.random() < mix.streamed:
            more["stream"] = True
            if chance.random() < 0.5:
                more["stream_options"] = {"include_usage": True}
        return chat(chance.choice(MODELS), " ".join(words), **more)

    def _count(self, request: Request, ending: Ending) -> None:
        """A provider that was never asked has done nothing wrong: what the gateway refuses has met no fault."""
        self.tally.endings[ending] += 1
        if ending is Ending.LEFT:
            self.tally.faults["caller: hangs up"] += 1
        if ending not in (Ending.UNAVAILABLE, Ending.REFUSED):
            prompt = request["messages"][0]["content"]
            found = {fault.split()[0].strip("[]") for fault in self.mix.faults if fault in prompt}
            self.tally.faults.update(f"provider: {name}" for name in found)

    async def _send(self, caller: Caller, request: Request, chance: random.Random) -> Ending:
        """Raises NeverCame where the caller is left waiting: whatever breaks, everybody is told."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._speak(caller, request, chance)
        except TimeoutError as exc:
            raise NeverCame(f"an answer to {request}") from exc

    async def _speak(self, caller: Caller, request: Request, chance: random.Random) -> Ending:
        if chance.random() >= self.mix.leaving:
            return await caller.ending(**request)
        if request.get("stream") and chance.random() < 0.5:
            return await _walk_out(caller, chance.randint(1, 8), request)
        return await caller.hang_up_after(chance.uniform(0.0, 0.1), **request)


async def _walk_out(caller: Caller, events: int, request: Request) -> Ending:
    try:
        status = await caller.walk_out(events, **request)
    except (OSError, EOFError):
        return Ending.BROKEN
    return Ending.LEFT if status == 200 else Answer(status, {}, b"").ending
