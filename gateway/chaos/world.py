"""The world that a promise is shown on: a Redis server, the sandbox as provider, proxies before both, the gateway.

callers → gateway (2 workers) → proxy → provider → its bill
                ↓
              proxy → Redis
"""

import asyncio
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import yaml

from budgets.errors import LedgerUnavailable
from gateway.chaos import points
from gateway.chaos.books import SCOPES, Books, Money
from gateway.chaos.load import Caller
from gateway.chaos.points import Fault, Point
from gateway.chaos.points import Kind as PointFault
from gateway.chaos.provider import Provider
from gateway.chaos.proxy import FaultProxy, Target
from gateway.chaos.redis_server import RedisServer, borrowed
from gateway.detection import SANDBOX_PRICES
from gateway.process import GatewayProcess
from gateway.telemetry.semconv import JOURNAL

PATIENCE = 45.0
"""Seconds after which something that must come counts as not coming."""
SERVE = (sys.executable, "-P", "-m", "gateway.chaos.serve")
PROVIDER = "sandbox"
PAGE = 1000
"""Attempts that are reconciled with one request."""
_NOTICED = 4 / 3
"""Leases until one that ran out is noticed: that is looked for three times in a lease."""
_SLACK = 10.0
"""Seconds that a busy machine may take besides."""
_POLL = 0.02
_ASK_AGAIN = 0.1
_STALE = 1.5
"""Seconds: workers say every second how much is in their journals."""
_JOURNALS = re.compile(rf"^{JOURNAL.name}(?:{{.*}})? (\S+)$", re.MULTILINE)


class NeverCame(Exception):
    """What was waited for did not come about."""


@dataclass(frozen=True, slots=True)
class Key:
    """A virtual key in an account, by default one of its own: then the account's bill is the key's."""

    id: str
    text: str
    account: str


class World:
    """Everything started, and stopped again at the end. Use it as an asynchronous context manager."""

    belongings: AsyncExitStack
    """What a proof adds, such as a Redis server that takes another's place; closed when all of the world has ended."""
    redis: RedisServer
    """Its own server. Not there in a world on somebody else's."""
    provider: Provider
    redis_proxy: FaultProxy
    upstream_proxy: FaultProxy
    redis_url: str
    """By way of the proxy."""
    gateway: GatewayProcess
    books: Books

    def __init__(
        self,
        *,
        seed: int,
        redis_url: str | None = None,
        scopes: bool = False,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        at_end: "Callable[[World], Awaitable[None]] | None" = None,
    ) -> None:
        """`redis_url`: somebody's own server, whose database must be empty, and is emptied again at the end.

        `scopes`: five of them pay, not two. `settings`: sections that win over the world's own, field by field.
        `at_end` is awaited before a world ends in which nothing went wrong.
        """
        self.seed = seed
        self.admin_key = secrets.token_urlsafe(24)
        self.folder = Path()
        self._redis_url = redis_url
        self._scopes = scopes
        self._settings = settings or {}
        self._faults = 0
        self._at_end = at_end
        self._undo = AsyncExitStack()
        self.keys: list[Key] = []
        self.began_at = time.time()
        """Unix seconds."""
        self.longest_quiet = 0.0
        """Seconds that `quiet` has waited at most."""

    async def __aenter__(self) -> "World":
        async with AsyncExitStack() as undo:
            self.folder = Path(undo.enter_context(TemporaryDirectory(prefix="paymaster-chaos-")))
            self.belongings = await undo.enter_async_context(AsyncExitStack())
            if self._redis_url is None:
                self.redis = await undo.enter_async_context(RedisServer(self.folder / "redis"))
                url = self.redis.url
            else:
                url = self._redis_url
                await undo.enter_async_context(borrowed(url))
            self.provider = await undo.enter_async_context(Provider(self.folder))
            self.redis_proxy = await undo.enter_async_context(
                FaultProxy(_address(url), name="redis", seed=self.seed, listen=_beside(url, self.folder))
            )
            self.upstream_proxy = await undo.enter_async_context(
                FaultProxy(self.provider.address, name="upstream", seed=self.seed)
            )
            self._http = await undo.enter_async_context(
                httpx.AsyncClient(trust_env=False, timeout=10.0, limits=httpx.Limits(max_keepalive_connections=0))
            )
            self.redis_url = _through(url, self.redis_proxy, self.folder)
            self.gateway = self._gateway()
            undo.push_async_callback(self.gateway.stop)
            await self.gateway.start()
            self.books = Books(url)
            await self.books.__aenter__()
            undo.push_async_callback(self._close_books)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for pid in self.workers().values():
                points.go_on(pid)
            await self.redis_proxy.pass_on()  # so that the gateway can stop in order
            await self.upstream_proxy.pass_on()
            if kind is None and self._at_end is not None:
                await self._at_end(self)
        finally:
            await self._undo.aclose()

    def _gateway(self) -> GatewayProcess:
        (self.folder / "data").mkdir()
        configuration = self.folder / "paymaster.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration()), encoding="utf-8")
        variables = {
            "REDIS_URL": self.redis_url,
            "PAYMASTER_ADMIN_KEY": self.admin_key,
            "PAYMASTER_PEPPER": secrets.token_urlsafe(24),
            "PAYMASTER_CHAOS": str(self.folder),
            **({"PAYMASTER_CHAOS_SCOPES": ",".join(SCOPES)} if self._scopes else {}),
        }
        return GatewayProcess(self.folder / "data", 0, configuration, command=SERVE, variables=variables)

    def _configuration(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.upstream_proxy.port}/v1"
        sections: dict[str, dict[str, Any]] = {
            "server": {"workers": 2},
            "ledger": {"lease": 2, "output_cap": 1024},
            "upstream": {"connect_timeout": 2, "first_byte_timeout": 10, "idle_timeout": 10, "drain": 5},
        }
        for name, section in self._settings.items():
            sections[name] = {**sections.get(name, {}), **section}
        return {
            **sections,
            "providers": {PROVIDER: {"kind": "openai", "base_url": url, "api_key": self.provider.token}},
            "models": {
                name: {"provider": PROVIDER, "model": name, "price": price} for name, price in SANDBOX_PRICES.items()
            },
            "routes": {
                "auto": {
                    "tiers": {
                        "simple": ["sandbox-small"],
                        "standard": ["sandbox-medium"],
                        "reasoning": ["sandbox-large"],
                    }
                }
            },
        }

    @property
    def owns_redis(self) -> bool:
        return self._redis_url is None

    # What its operator does

    async def admin(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """A call of the admin API, asked again while the gateway or its ledger is away. Raises NeverCame."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        answer = "no answer"
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            try:
                response = await self._http.request(
                    method, f"{self.gateway.url}/admin{path}", json=body, headers=headers
                )
            except httpx.TransportError as exc:
                answer = repr(exc)
            else:
                if response.is_success:
                    return dict(response.json())
                answer = response.text
                if response.status_code < 500:
                    break
            await asyncio.sleep(_ASK_AGAIN)
        raise NeverCame(f"{method} /admin{path}: {answer}")

    async def create_key(self, limit: str | None = "1000/day", account: str | None = None) -> Key:
        """A key with a limit such as `0.01/day`, or with none (None), in an account of its own unless one is named."""
        account = account or f"chaos{secrets.token_hex(6)}"
        usd, _, window = (limit or "").partition("/")
        limits = [{"usd": usd, "window": window}] if limit else []
        made = await self.admin("POST", "/keys", {"name": "chaos", "account": account, "limits": limits})
        key = Key(made["id"], made["key"], account)
        self.keys.append(key)
        return key

    def caller(self, key: Key) -> Caller:
        """Somebody who asks with this key."""
        return Caller(self.gateway.port, key.text)

    def scopes(self, *keys: Key) -> list[str]:
        """Everything that pays for these keys of one account."""
        common = SCOPES if self._scopes else ("account",)
        return [*common, *(f"key:{key.id}" for key in keys)]

    def workers(self) -> dict[int, int]:
        """The process ids of the workers that were started last, by index."""
        files = self.folder.glob("worker-*.pid")
        return {int(file.stem.partition("-")[2]): int(file.read_text()) for file in files}

    # Its books

    def billed(self, account: str) -> int:
        """What the provider has billed for an account so far; nano-dollars."""
        return self.provider.bill.total(account)

    async def money(self, account: str, scope: str = "account") -> Money:
        """What a scope has spent, holds and has in suspense. Raises LedgerUnavailable."""
        return await self.books.money(account, scope)

    async def look(self, account: str, *, may_lack: bool = False) -> list[str]:
        """What is wrong with an account's books at this moment, while both they and the bill may grow; best nothing.

        spent ≤ bill ≤ spent + held + suspense. What was served without a limit while Redis was away waits in journals:
        of who `may_lack` that, spent ≤ bill alone. Raises LedgerUnavailable.
        """
        before = self.billed(account)
        money = await self.money(account)
        after = self.billed(account)
        wrong = []
        if before > money.counted and not may_lack:
            wrong.append(f"{account}: billed {before}, but only {money} counts")
        if money.spent > after:
            wrong.append(f"{account}: {money} spent, but only {after} billed")
        if money.is_below_zero:
            wrong.append(f"{account}: {money} is below zero")
        return wrong

    async def quiet(self, *keys: Key, patience: float | None = None) -> Money:
        """Wait until nothing is held in any period of any scope of the keys' account; its money then.

        To be called once nobody asks any more. Raises NeverCame after `patience` seconds, by default `one_lease`.
        """
        account, began_at = keys[0].account, time.monotonic()
        held: dict[str, int] = {}

        async def nothing_held() -> bool:
            try:
                still = await self.books.held(account, self.scopes(*keys))
            except LedgerUnavailable:
                return False
            held.clear()
            held.update(still)
            return not held

        try:
            await until(nothing_held, "quiet", self.one_lease if patience is None else patience)
        except NeverCame as exc:
            raise NeverCame(f"{account} still holds {held}") from exc
        finally:
            self.longest_quiet = max(self.longest_quiet, time.monotonic() - began_at)
        return await self.money(account)

    @property
    def one_lease(self) -> float:
        """Seconds in which every hold that nobody looks after is gone: a lease, until that is noticed, some slack."""
        return _NOTICED * float(self._configuration()["ledger"]["lease"]) + _SLACK

    async def booked(self, key: Key, patience: float = 15.0, *, or_waiting: bool = False) -> Money:
        """Wait until nothing is held and what was billed is booked or, with `or_waiting`, may be in suspense.

        To be called once nobody asks any more: journals may still have to bring something to Redis. Returns the
        account's money, which after `patience` seconds is what it is.
        """

        async def as_billed() -> bool:
            try:
                money = await self.money(key.account)
            except LedgerUnavailable:
                return False
            missing = self.billed(key.account) - money.spent
            return missing == 0 or (or_waiting and 0 < missing <= money.suspense)

        with suppress(NeverCame):
            await until(as_billed, "the books as the bill", patience)
        return await self.quiet(key)

    async def all_told(self) -> None:
        """End what still runs by itself, and wait until Redis has acknowledged all that is in journals.

        To be called once nobody asks any more. What was served while Redis was away is only there: nothing else shows
        that it is still to come. Raises NeverCame.
        """
        await self._end_attempts()
        ended_at = time.monotonic()

        async def none_waits() -> bool:
            try:
                metrics = (await self._http.get(f"{self.gateway.url}/metrics")).text
            except httpx.TransportError:
                return False
            waiting = sum(float(number) for number in _JOURNALS.findall(metrics))
            return not waiting and time.monotonic() - ended_at > _STALE

        await until(none_waits, "what is in journals")

    async def _end_attempts(self) -> None:
        """End what the provider still works on by itself, and have it billed."""
        self.upstream_proxy.drop()
        await self.provider.idle()

    async def reconcile(self, account: str) -> Counter[str]:
        """Reconcile an account with its whole bill, as an operator would: how many attempts of each outcome.

        The outcomes are those of the admin API, and `freed`: attempts in suspense that were not billed. To be called
        once nothing runs any more; what the provider still works on by itself is ended and billed first.
        """
        await self._end_attempts()
        outcomes = await self.compare(account)
        give_up_at = time.monotonic() + _SLACK
        while (left := await self._suspended(account)) and time.monotonic() < give_up_at:
            body = {"provider": PROVIDER, "until": time.time(), "attempts": left}
            outcomes["freed"] += (await self.admin("POST", "/reconcile/absent", body))["freed"]
            await asyncio.sleep(_ASK_AGAIN)  # what has ended within this very second may still be billed
        return outcomes

    async def compare(self, account: str) -> Counter[str]:
        """Send an account's whole bill to the admin API: how many attempts of each outcome.

        All are `same` where the books are right; what is in suspense is booked.
        """
        billed: Counter[str] = Counter()
        for row in self.provider.bill.rows(account):
            billed[row["attempt"]] += row["nano_usd"]
        rows = [{"attempt_id": attempt, "nano_usd": nano} for attempt, nano in billed.items()]
        outcomes: Counter[str] = Counter()
        for start in range(0, len(rows), PAGE):
            report = await self.admin("POST", "/reconcile", {"rows": rows[start : start + PAGE]})
            outcomes.update(report["counts"])
        return outcomes

    async def _suspended(self, account: str) -> list[str]:
        """A page of the account's attempts in suspense."""
        page = await self.admin("GET", f"/suspense?account={account}&limit={PAGE}")
        return [each["attempt_id"] for each in page["data"]]

    async def move_redis(self, server: RedisServer) -> None:
        """From now on the gateway's Redis, and that of the books, is another server."""
        await self._close_books()
        self.redis_proxy.switch(server.address)
        self.books = Books(server.url)
        await self.books.__aenter__()

    async def _close_books(self) -> None:
        await self.books.__aexit__()

    # What breaks its workers, see points.py

    def arm(self, point: Point, kind: PointFault, seconds: float = 0.0) -> Fault:
        """Let a worker break at its next turn at this point."""
        self._faults += 1
        fault = Fault(self._faults, point, kind, seconds)
        points.arm(self.folder, fault)
        return fault

    async def strikes(self, fault: Fault, patience: float = PATIENCE) -> int | None:
        """Wait until an armed fault has happened, and for the end of a stop; the worker's process id.

        None where nobody came to the point within `patience` seconds: it is disarmed then.
        """

        async def has_struck() -> bool:
            return points.fired(self.folder, fault) is not None

        try:
            await until(has_struck, f"a worker {fault.point}", patience)
        except NeverCame:
            if points.disarm(self.folder, fault.point):
                return None
            await until(has_struck, f"a worker {fault.point}", patience)
        pid = points.fired(self.folder, fault)
        if fault.kind == "stop" and pid is not None:
            await asyncio.sleep(fault.seconds)
            await self._wake(fault, pid)
        return pid

    async def _wake(self, fault: Fault, pid: int) -> None:
        """Have a worker that was stopped go on; told again until it does, for it may be about to stop only now."""

        async def is_awake() -> bool:
            points.go_on(pid)
            return points.awake(self.folder, fault).exists()

        await until(is_awake, f"the worker {pid}, awake")


WorldFactory = Callable[..., World]
"""Makes a world of the run's seed: `world_factory(settings={"ledger": {"lease": 2}}, scopes=True)`."""


async def until(condition: Callable[[], Awaitable[bool]], what: str, patience: float = PATIENCE) -> None:
    """Wait until `condition` is true. Raises NeverCame."""
    give_up_at = time.monotonic() + patience
    while not await condition():
        if time.monotonic() > give_up_at:
            raise NeverCame(what)
        await asyncio.sleep(_POLL)


def _address(url: str) -> Target:
    parts = urlsplit(url)
    return Path(parts.path) if parts.scheme == "unix" else (parts.hostname or "127.0.0.1", parts.port or 6379)


def _beside(url: str, folder: Path) -> Target:
    """Where the proxy before a Redis server listens: on a socket or a port, as the server does."""
    return folder / "redis-proxy.sock" if urlsplit(url).scheme == "unix" else ("127.0.0.1", 0)


def _through(url: str, proxy: FaultProxy, folder: Path) -> str:
    """The server's URL by way of its proxy."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        query = f"?{parts.query}" if parts.query else ""
        return f"unix://{folder / 'redis-proxy.sock'}{query}"
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{proxy.port}"))
