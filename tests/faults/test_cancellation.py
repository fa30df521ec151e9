"""A request that is cut short at any place where it waits leaves its books in order, and nothing else behind.

Cancellation is a fault of its own: it passes by whatever catches `Exception`, and a task can be cancelled although what
it waited for has just happened. Both ways are tried at every wait of the whole path.
"""

import asyncio
import itertools
import json
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import pytest
import pytest_asyncio
from fakes import COST, STREAM_HEAD, USAGE, Answer, Ending, chunked, completion, delta, error, stream, whole
from running import Key, Running, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 20.0
HASTY = {"first_byte_timeout": 0.1, "idle_timeout": 0.1, "drain": 0.05, "max_attempts": 2}
"""Seconds; a provider that hangs is not waited for long."""


@dataclass(frozen=True)
class Scenario:
    """What a provider does to one request, and what it bills for each attempt that reaches it."""

    answers: Sequence[Answer]
    bills: Sequence[int]
    status: int | None = 200
    """None where the answer is broken off."""
    streamed: bool = False
    keeps: bool = False
    """Whether the request finds a connection to the provider that was used before."""
    instalment: int | None = None
    """Tokens that are held at a time; then the provider bills only what it has delivered."""

    def bill(self, attempts: int) -> int:
        return sum(self.bills[min(number, len(self.bills) - 1)] for number in range(attempts))


class Pause(asyncio.Event):
    """A provider that lets the gateway read what it has said so far, so that there is something to wait for."""

    async def wait(self) -> Literal[True]:
        for _ in range(10):
            await asyncio.sleep(0)
        return True


def slowly(answer: Answer) -> Answer:
    return [step for said in answer for step in (said, Pause())]


STREAM = slowly(stream("a", "b"))
BREAKS: Answer = [STREAM_HEAD, chunked(delta("a")), Pause(), Ending.RESET]
LONG = slowly([STREAM_HEAD, *map(chunked, [delta("x" * 100)] * 3), *stream("b")[1:]])
FALLS_SILENT: Answer = [STREAM_HEAD, chunked(delta("a")), Ending.SILENCE]
SCENARIOS = {
    "a whole answer": Scenario([slowly(completion())], [COST]),
    "a stream": Scenario([STREAM], [COST], streamed=True),
    "over a kept connection": Scenario([STREAM], [COST], streamed=True, keeps=True),
    "held in instalments": Scenario([LONG], [COST], streamed=True, instalment=64),
    "a refusal, then an answer": Scenario([error(503)], [0, COST]),
    "a reset, then a stream": Scenario([[Ending.RESET], STREAM], [COST], streamed=True),
    "a stream that breaks": Scenario([BREAKS], [COST], streamed=True, status=None),
    "no answer at all": Scenario([[Ending.SILENCE]] * 2, [COST], status=504),
    "a stream that falls silent": Scenario([FALLS_SILENT], [COST], streamed=True, status=None),
}


# Ways to be cut short


class Cut:
    """Ends a coroutine at its n-th wait, by hand. `done` tells whether it came so far."""

    def __init__(self, at: int, how: Callable[[Any, Coroutine[Any, Any, None]], None]) -> None:
        self._at = at
        self._how = how
        self.done = False

    @types.coroutine
    def __call__(self, path: Coroutine[Any, Any, None]) -> Generator[Any, None, None]:
        failure: BaseException | None = None
        for number in itertools.count(1):
            try:
                waits_for = path.send(None) if failure is None else path.throw(failure)
            except StopIteration:
                return
            if number == self._at:
                self.done = True
                self._how(waits_for, path)
            try:
                failure = None
                yield waits_for
            except BaseException as exc:  # noqa: BLE001 - it belongs to the path, whatever it is
                failure = exc


def _task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task


def cancelled(_: Any, __: Coroutine[Any, Any, None]) -> None:
    """What it is about to wait for is cancelled with it."""
    _task().cancel()


def cancelled_too_late(waits_for: Any, _: Coroutine[Any, Any, None]) -> None:
    """It is cancelled as what it waited for has happened, and has not heard of that."""
    if waits_for is None:
        _task().cancel()
    else:
        cancel = _task().cancel
        waits_for.add_done_callback(lambda _: cancel())  # before the task is told


def abandoned(_: Any, path: Coroutine[Any, Any, None]) -> None:
    """Nobody goes on with it, as where the event loop ends."""
    path.close()
    raise asyncio.CancelledError


class Cutter:
    """Stands before the application and cuts the requests it is told to."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.next: Cut | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.next is None or scope.get("path") != "/v1/chat/completions":
            return await self._app(scope, receive, send)
        cut, self.next = self.next, None
        return await cut(self._app(scope, receive, send))


# The world they are cut in


@dataclass
class World:
    """A gateway whose requests can be cut, and that has nothing else to do."""

    gateway: Running
    cutter: Cutter
    usual: Counter[str]
    """What goes on when nothing is asked."""

    async def ask(self, key: Key, scenario: Scenario) -> int | None:
        """The status of one request; None where not all of an answer came."""
        with suppress(httpx.TransportError):
            return (await self.gateway.chat(key, stream=scenario.streamed)).status_code
        return None

    async def books_are_in_order(self, key: Key, scenario: Scenario) -> None:
        money = await self.gateway.money(key)
        bill = scenario.bill(len(self.gateway.upstream.asked))
        assert money.held == 0
        assert money.spent <= bill
        assert bill <= money.spent + money.suspense or scenario.instalment

    async def hold(self, instalment: int | None) -> None:
        """From now on, so much at a time; None: all of it at once."""
        policy = {"on_disconnect": "abort", "instalment": instalment} if instalment else {}
        configuration = json.loads(self.gateway.config.read_text())
        provider = configuration["providers"]["acme"]
        configuration["providers"]["acme"] = {name: provider[name] for name in ("kind", "base_url", "api_key")} | policy
        self.gateway.config.write_text(json.dumps(configuration))
        (await self.gateway.admin("POST", "/config/reload")).raise_for_status()

    async def serves(self, *, keeping_its_connection: bool) -> None:
        """The next request gets the answer that is meant for it."""
        said = "kept" if keeping_its_connection else "closed"
        upstream = self.gateway.fresh().upstream
        upstream.will(completion(said) if keeping_its_connection else last_answer(said))
        answer = await self.gateway.chat(await self.gateway.create_key("1/lifetime"))
        assert answer.json()["choices"][0]["message"]["content"] == said

    async def is_at_rest(self, *, connections: int) -> None:
        """No task is left over, and no connection to the provider but those that are kept for the next request."""
        expected = self.usual + Counter({CONNECTION: connections})
        async with asyncio.timeout(PATIENCE):
            while tasks() != expected:  # noqa: ASYNC110 there is no event
                await asyncio.sleep(0)


CONNECTION = "fake_upstream.<locals>.accept"
"""What the provider does for each connection that it has."""


def tasks() -> Counter[str]:
    """What else goes on in this loop, by the names of coroutines."""
    others = asyncio.all_tasks() - {_task()}
    return Counter(other.get_coro().__qualname__ for other in others)  # type: ignore[union-attr]


def last_answer(text: str) -> Answer:
    """A completion after which the provider's connection ends."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return whole({"choices": [choice], "usage": USAGE}, connection="close")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(valkey_socket: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    url, folder = f"unix://{valkey_socket}", tmp_path_factory.mktemp("gateway")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("random.random", lambda: 0.01)  # between two attempts there is a wait, but a short one
        async with running(url, folder, upstream=HASTY) as gateway:
            app: Any = gateway.app
            cutter = app._edge = Cutter(app._edge)
            await gateway.chat(await gateway.create_key())
            await gateway.drained()
            yield World(gateway, cutter, tasks() - Counter([CONNECTION]))


@pytest.mark.parametrize(
    ("how", "name"),
    [
        *itertools.product([cancelled, cancelled_too_late], SCENARIOS),
        (abandoned, "over a kept connection"),  # uvloop cannot bear it while it connects
    ],
)
async def test_a_request_cut_short_at_any_wait_leaves_its_books_in_order(
    world: World, how: Callable[[Any, Any], None], name: str
) -> None:
    scenario = SCENARIOS[name]
    await world.hold(scenario.instalment)
    for at in itertools.count(1):
        await world.serves(keeping_its_connection=scenario.keeps)
        await world.is_at_rest(connections=scenario.keeps)
        world.gateway.fresh().upstream.will(*scenario.answers)
        key = await world.gateway.create_key("1/lifetime")
        cut = world.cutter.next = Cut(at, how)

        status = await world.ask(key, scenario)

        await world.books_are_in_order(key, scenario)
        if not cut.done:
            break
    assert status == scenario.status
    assert at > 3
