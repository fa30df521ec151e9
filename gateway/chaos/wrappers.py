"""Wrappers around the production methods, put there by the chaos worker alone, at the points of `points.py`."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any
from weakref import WeakSet

from budgets.errors import JournalUnavailable, LedgerUnavailable
from budgets.journal import Journal
from budgets.redis_connection import RedisConnection, load_script
from budgets.redis_ledger import RedisLedger
from gateway.chaos.points import POINTS, Fault, Point, awake, claim, file_of
from gateway.quotes import Quote
from gateway.upstream.http import Answer, Upstream
from gateway.upstream.http1 import HttpClient

Method = Callable[..., Any]

SENT: dict[str, Point] = {"reserve": "reserve sent", "settle": "settle sent", "reap": "during reap"}
"""By the script's name."""
BACKGROUND = "ledger: "
"""How the names of the ledger's own tasks begin (`RedisLedger.run`): nobody cancels them but the end of the process."""


class Injected(Exception):
    """Not an error of the gateway's: raised on purpose."""


class Breaker:
    """Breaks this process where it is told to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {point: file_of(folder, point) for point in POINTS}
        self._texts = {point: str(file) for point, file in self._files.items()}

    def due(self, point: Point) -> Fault | None:
        """The fault that is to happen now, if any; it will not be given out again."""
        return claim(self._files[point]) if os.access(self._texts[point], os.F_OK) else None

    async def here(self, point: Point) -> None:
        """A point between two awaits. Raises Injected or CancelledError."""
        fault = self.due(point)
        if fault is None:
            return
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            return
        self.strike(fault, Injected(point))
        await asyncio.sleep(0)  # where a cancellation takes effect

    def now(self, point: Point, error: Exception) -> None:
        """A point inside what does not wait: `slow` keeps all of the process waiting. Raises `error`."""
        fault = self.due(point)
        if fault is not None:
            self.strike(fault, error)

    def strike(self, fault: Fault, error: Exception) -> None:
        """Do what `fault` says, here and now."""
        match fault.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
                awake(self._folder, fault).touch()
            case "slow":
                time.sleep(fault.seconds)
            case "cancel":
                task = asyncio.current_task()
                if task is not None and not task.get_name().startswith(BACKGROUND):
                    task.cancel()
            case "exception":
                raise error


def install(breaker: Breaker) -> None:
    """Wrap the methods; once for a process."""
    _around(RedisLedger, "reserve", breaker, before="before reserve", after="reserve acked")
    _around(Upstream, "send", breaker, before="before dispatch")
    _around(HttpClient, "post", breaker, after="after headers")
    _wrap(Answer, "read", lambda read: _reading(read, breaker))
    _wrap(RedisConnection, "script", lambda script: _sending(script, breaker))
    _wrap(Quote, "cost", lambda cost: _seeing(cost, breaker))
    _wrap(Journal, "append", lambda append: _writing(append, breaker))
    _wrap(Journal, "acknowledge", lambda acknowledge: _forgetting(acknowledge, breaker))


def _wrap(owner: type, name: str, wrapper: Callable[[Method], Method]) -> None:
    method = getattr(owner, name)
    setattr(owner, name, wraps(method)(wrapper(method)))


def _around(
    owner: type, name: str, breaker: Breaker, *, before: Point | None = None, after: Point | None = None
) -> None:
    """Points before and after a method that waits."""

    def wrapper(method: Callable[..., Awaitable[Any]]) -> Method:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                await breaker.here(before)
            result = await method(*args, **kwargs)
            if after is not None:
                breaker.now(after, Injected(after))  # without a turn of the loop, of which there is none in production
            return result

        return wrapped

    _wrap(owner, name, wrapper)


def _reading(read: Method, breaker: Breaker) -> Method:
    """After the first piece of an answer, and before a later one."""
    begun: WeakSet[Answer] = WeakSet()

    async def wrapped(answer: Answer) -> Any:
        if answer in begun:
            await breaker.here("mid-stream")
            return await read(answer)
        piece = await read(answer)
        begun.add(answer)
        await breaker.here("after first byte")
        return piece

    return wrapped


def _sending(script: Method, breaker: Breaker) -> Method:
    """After a script has left: it will be carried out, whatever becomes of this process."""
    points = {load_script(name): point for name, point in SENT.items()}

    def wrapped(connection: RedisConnection, script_: Any, *args: Any) -> Any:
        answer = script(connection, script_, *args)
        point = points.get(script_)
        fault = breaker.due(point) if point else None
        if fault is None:
            return answer
        if fault.kind == "exception":
            return _failed()
        if fault.kind == "cancel":
            breaker.strike(fault, Injected())
            return answer
        loop = asyncio.get_running_loop()
        loop.call_soon(
            loop.call_soon, breaker.strike, fault, Injected()
        )  # behind the write, which happens at the end of this turn
        return answer

    return wrapped


def _failed() -> "asyncio.Future[Any]":
    """As if the answer had not come in time."""
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    failed.set_exception(LedgerUnavailable("the answer is withheld on purpose"))
    return failed


def _seeing(cost: Method, breaker: Breaker) -> Method:
    def wrapped(quote: Quote, usage: Any) -> Any:
        spent = cost(quote, usage)
        breaker.now("usage seen", Injected("usage seen"))
        return spent

    return wrapped


def _writing(append: Method, breaker: Breaker) -> Method:
    """Before and after a settle is on the disk. The exception is a full disk's, after which memory has the settle."""

    def wrapped(journal: Journal, entry: Any) -> Any:
        if entry.kind != "settle":
            return append(journal, entry)
        try:
            breaker.now("before journal", JournalUnavailable("the disk is full on purpose"))
        except JournalUnavailable:
            append(journal, entry)
            raise
        append(journal, entry)
        breaker.now("after journal", Injected("after journal"))
        return None

    return wrapped


def _forgetting(acknowledge: Method, breaker: Breaker) -> Method:
    """After Redis has acknowledged a settle, before the journal knows."""

    def wrapped(journal: Journal, attempt_id: str) -> Any:
        breaker.now("settle acked", Injected("settle acked"))
        return acknowledge(journal, attempt_id)

    return wrapped
