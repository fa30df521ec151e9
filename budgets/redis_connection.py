"""The hot path to Redis: one connection, pipelined by itself, with a short deadline of its own and no retries.

All commands of one turn of the event loop leave in one write, and the answers come back in the same order. A command
whose caller gave up has nevertheless run, or may still: whoever cancels or times out a `reserve` must void it.
A lost connection is made anew in the background, for ever; meanwhile every call fails at once.
"""

import asyncio
import hashlib
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from budgets.errors import BudgetError, LedgerUnavailable, ScriptFailed
from budgets.news import News

Command: TypeAlias = tuple[bytes | str | int, ...]
Answer: TypeAlias = "asyncio.Future[Any]"

TICKS_PER_DEADLINE = 5
DEADLINES_TO_GIVE_UP = 4
"""A connection whose oldest command is unanswered for so many deadlines is dropped."""
OPENING_TIMEOUT = 2.0
SHORTEST_BACKOFF = 0.01
LONGEST_BACKOFF = 1.0

INCOMPLETE = object()

CANNOT_SERVE = {
    "ASK": "Redis is moving the account's slot to another node",
    "BUSY": "Redis is busy with a long script",
    "CLOCK": "the clocks of Redis and of this gateway are too far apart",
    "CLUSTERDOWN": "the Redis Cluster is down",
    "LOADING": "Redis is still loading its data",
    "MASTERDOWN": "this Redis is a replica that lost its primary",
    "MISCONF": "Redis cannot write to its disk",
    "MOVED": "the account's slot is on another node of the Redis Cluster",
    "NOAUTH": "Redis asks for a password, and REDIS_URL has none",
    "NOPERM": "the Redis user in REDIS_URL may not run this command",
    "NOREPLICAS": "Redis has fewer replicas than it was told to have",
    "OOM": "Redis is out of memory",
    "READONLY": "this Redis is a read-only replica, and REDIS_URL must name the primary",
    "TRYAGAIN": "Redis is moving the account's slot to another node",
    "UNKILLABLE": "Redis is busy with a long script",
    "WRONGPASS": "Redis refuses the user or the password in REDIS_URL",
}
"""Answers that say "not now" or "not here": the ledger is away, although Redis answered."""

logger = logging.getLogger(__name__)


class Script:
    """The source of a Lua script and the SHA-1 by which Redis knows it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


@cache
def load_script(name: str) -> Script:
    """The script `budgets/lua/<name>.lua`, behind what all of them share, `_common.lua`."""
    folder = Path(__file__).parent / "lua"
    return Script("\n".join((folder / f"{part}.lua").read_text("utf-8") for part in ("_common", name)))


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is, and what must be said to it before the first command."""

    host: str
    port: int
    path: str | None
    """The unix socket; then host and port mean nothing."""
    tls: ssl.SSLContext | None
    greeting: tuple[Command, ...]

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `unix:///path?db=0`, `redis://user:password@host:port/db` or `rediss://…` as redis-py reads them.

        Raises ValueError for any other form.
        """
        parts: Mapping[str, Any] = parse_url(url)
        greeting: list[Command] = []
        if parts.get("password"):
            greeting.append(("AUTH", parts.get("username") or "default", parts["password"]))
        if parts.get("db"):
            greeting.append(("SELECT", parts["db"]))
        return cls(
            host=parts.get("host", "localhost"),
            port=parts.get("port", 6379),
            path=parts.get("path"),
            tls=_tls(parts) if parts.get("connection_class") is SSLConnection else None,
            greeting=(*greeting, ("PING",)),  # the last answer tells that Redis is alive and has loaded its data
        )


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    """TLS as the URL's options ask, by redis-py's names: `ssl_ca_certs`, `ssl_certfile`, `ssl_cert_reqs=none`, …"""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _ReplyError(Exception):
    """An error reply, as Redis worded it."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]

    def translated(self) -> BudgetError:
        words, _, _ = str(self).partition(" script: ")  # behind it is only where in the script
        if self.code in CANNOT_SERVE:
            return LedgerUnavailable(f"{CANNOT_SERVE[self.code]} ({words})", answered=True)
        return ScriptFailed(self.code, str(self))


@dataclass(slots=True)
class _Waiting:
    """A command that Redis has not answered."""

    future: Answer
    since: int
    """The tick in which it was sent."""
    if_unknown: Command | None
    """What to send instead where Redis does not know the script."""


class _Link(asyncio.Protocol):
    """One connection from its opening to its end. An answer belongs to the oldest command without one.

    Time is counted in ticks that really ran, not by the clock: after a pause of our own process the answers that lie
    ready are read before anyone is told that Redis was slow.
    """

    def __init__(self, tick: float, news: News) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = news
        self._reader = hiredis.Reader(replyError=_ReplyError, notEnoughData=INCOMPLETE)
        self._waiting: deque[_Waiting] = deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._tick_length = tick
        self._tick = 0
        self._timer: asyncio.TimerHandle | None = None
        self.down: str | None = None
        """Why nothing should be sent: a deadline was missed and nothing came since, or the connection has ended."""
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def send(self, command: Command, if_unknown: Command | None = None) -> Answer:
        future: Answer = self._loop.create_future()
        self._enqueue(future, command, if_unknown)
        return future

    def end(self, reason: str) -> None:
        """Drop the connection; every command without an answer fails with `reason`."""
        if self.ended.done():
            return
        self.down = reason
        self.ended.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(LedgerUnavailable(reason))
        self._waiting.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"the connection to Redis was lost{f' ({exc})' if exc else ''}")

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        self.down = None
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not INCOMPLETE:
                self._answer(reply)
        except hiredis.ProtocolError as exc:
            self.end(f"what answers in place of Redis does not speak its protocol: {exc}")

    def _enqueue(self, future: Answer, command: Command, if_unknown: Command | None) -> None:
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one part
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)
        self._waiting.append(_Waiting(future, self._tick, if_unknown))
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_length, self._sweep)

    def _flush(self) -> None:
        if self._transport is not None and not self.ended.done():
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _answer(self, reply: Any) -> None:
        if not self._waiting:
            self.end(f"Redis answered what was not asked: {reply!r:.80}")
            return
        if isinstance(reply, _ReplyError) and not str(reply).isascii():
            # a line whose end was lost on the way has swallowed the next answer: from here on none is whose it seems
            self.end("an answer of Redis was garbled on the way")
            return
        waiting = self._waiting.popleft()
        if isinstance(reply, _ReplyError):
            self._refuse(waiting, reply)
        elif not waiting.future.done():
            waiting.future.set_result(reply)

    def _refuse(self, waiting: _Waiting, error: _ReplyError) -> None:
        if waiting.future.done():
            return
        if error.code == "NOSCRIPT" and waiting.if_unknown is not None:
            self._enqueue(waiting.future, waiting.if_unknown, None)
            return
        refusal = error.translated()
        waiting.future.set_exception(refusal)
        if error.code == "READONLY":  # after a failover the same name may lead to the new primary
            self.end(CANNOT_SERVE["READONLY"])
        elif self._news.is_new(error.code):  # whoever asks next will hear the same
            logger.error("Redis refuses what the ledger asks of it: %s", refusal)

    def _sweep(self) -> None:
        """Fail what is past its deadline. It stays in the queue, for its answer may still come."""
        self._tick += 1
        for waiting in self._waiting:
            if self._tick - waiting.since < TICKS_PER_DEADLINE:
                break
            self.down = "Redis did not answer in time"
            if not waiting.future.done():
                waiting.future.set_exception(LedgerUnavailable(self.down))
        if self._waiting and self._tick - self._waiting[0].since >= DEADLINES_TO_GIVE_UP * TICKS_PER_DEADLINE:
            self.end("Redis has stopped answering")
        self._timer = self._loop.call_later(self._tick_length, self._sweep) if self._waiting else None


async def _identity(link: _Link) -> str | None:
    """This life of this server, and the history of writes that it continues; None where it does not tell.

    Raises LedgerUnavailable for a replica.
    """
    try:
        facts = b"".join(await asyncio.gather(*(link.send(("INFO", section)) for section in ("server", "replication"))))
    except ScriptFailed:
        return None
    except LedgerUnavailable as exc:
        if exc.answered:
            return None
        raise
    lines = facts.splitlines()
    if b"role:slave" in lines:  # it would take no write: better found out here than by every request
        raise LedgerUnavailable(CANNOT_SERVE["READONLY"], answered=True)
    found = [line for line in lines if line.startswith((b"run_id:", b"master_replid:"))]
    return b" ".join(found).decode(errors="replace") or None


def _nothing() -> None:
    pass


class RedisConnection:
    """The connection that the ledger works on. `deadline`, in seconds, is what any one answer may take.

    A deadline that is missed also fails every later call at once, until Redis is heard of again.
    `when_changed` is called when the server behind the address has become another one, or was started anew: it may
    lack what was acknowledged last.
    """

    def __init__(self, url: str, *, deadline: float = 0.25) -> None:
        self.when_changed: Callable[[], None] = _nothing
        self._server: str | None = None
        self._address = Address.parse(url)
        self._news = News()
        self._tick = deadline / TICKS_PER_DEADLINE
        self._link: _Link | None = None
        self._why_not = "Redis is not connected yet"
        self._keeper: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether a command sent now has a chance of being answered."""
        return self._link is not None and self._link.down is None

    async def connect(self) -> None:
        """Open the connection and keep it open until `close`.

        Raises LedgerUnavailable where the first try fails; further ones are made in the background all the same.
        """
        try:
            await self._open()
        finally:
            self._keeper = asyncio.create_task(self._keep_open(), name="redis connection")

    async def close(self) -> None:
        """End the connection; commands without an answer fail."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._link is not None:
            self._link.end("the connection to Redis was closed")

    def send(self, *command: bytes | str | int) -> Answer:
        """Send a command in this turn's write. The future has Redis's answer, as bytes, int, list or None.

        It fails with LedgerUnavailable where Redis is away, late or unable to serve, else with ScriptFailed. Cancelling
        it does not take the command back.
        """
        return self._send(command)

    def script(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Answer:
        """Run `script`, sending its source only where Redis does not know it yet; else as `send`."""
        call = (len(keys), *keys, *args)
        return self._send(("EVALSHA", script.sha1, *call), ("EVAL", script.source, *call))

    async def call(self, *command: bytes | str | int) -> Any:
        """Send a command and wait for Redis's answer; raises what the future of `send` fails with."""
        return await self._send(command)

    def _send(self, command: Command, if_unknown: Command | None = None) -> Answer:
        link = self._link
        if link is not None and link.down is None:
            return link.send(command, if_unknown)
        refused: Answer = asyncio.get_running_loop().create_future()
        refused.set_exception(LedgerUnavailable((link and link.down) or self._why_not))
        return refused

    async def _open(self) -> None:
        """Connect and greet Redis once. Raises LedgerUnavailable."""
        self._link = None
        link = _Link(self._tick, self._news)
        try:
            async with asyncio.timeout(OPENING_TIMEOUT):
                await self._dial(link)
                await asyncio.gather(*map(link.send, self._address.greeting))
                server = await _identity(link)
        except (OSError, BudgetError) as exc:
            self._why_not = f"Redis at {self._address} cannot be used: {exc or 'no answer'}"
            raise LedgerUnavailable(self._why_not) from exc
        else:
            self._link = link
            self._recognise(server)
        finally:
            if self._link is not link:
                link.end(self._why_not)

    def _recognise(self, server: str | None) -> None:
        before, self._server = self._server, server or ""
        if before is not None and (not server or server != before):
            self.when_changed()

    async def _dial(self, link: _Link) -> None:
        loop, address = asyncio.get_running_loop(), self._address
        if address.path is not None:
            await loop.create_unix_connection(lambda: link, address.path)
        else:
            await loop.create_connection(lambda: link, address.host, address.port, ssl=address.tls)

    async def _keep_open(self) -> None:
        """Open the connection again whenever it is lost, after a pause that grows while it does not last."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            opened_at = loop.time()
            if self._link is not None:
                await asyncio.shield(self._link.ended)  # who cancels us must not pass for its end
                logger.warning("Redis at %s is away: %s", self._address, self._link.down)
            failures = 0 if loop.time() - opened_at > LONGEST_BACKOFF else min(failures + 1, 10)
            await asyncio.sleep(random.uniform(0, min(LONGEST_BACKOFF, SHORTEST_BACKOFF * 2**failures)))  # noqa: S311
            with suppress(LedgerUnavailable):
                await self._open()
                logger.warning("Redis at %s is back", self._address)
