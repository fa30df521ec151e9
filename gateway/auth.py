"""Virtual key → Caller. A key's record is held for a few seconds; a change is noticed at once by the reserve script."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from budgets.errors import LedgerUnavailable, StaleKey
from budgets.keys import KeyRecord, KeyStore, ResolvedKey, account_of, resolve
from budgets.ledger import Ledger
from budgets.redis_connection import RedisConnection
from gateway.errors import KeyNotUsable, NoKey, SeveralKeys, UnknownKey

MAX_CACHED_KEYS = 10_000
MAX_KEY_BYTES = 512
OUTAGE = 3600.0
"""Seconds that a record may be used beyond its time while the ledger is away: nobody can change keys then either."""

Headers = Mapping[bytes, bytes]
"""Lower-case names; where a header came twice, the last one."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what they may."""

    record: KeyRecord
    version: int
    capped: bool
    """Whether anything limits what they spend."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """Everything that pays for the caller's attempts, outermost first."""
        return ("account", f"key:{self.record.id}")

    def may_use(self, model: str) -> bool:
        """Whether the key's globs include this model or alias."""
        return any(glob == "*" or fnmatchcase(model, glob) for glob in self.record.models)


class Callers:
    """Finds the caller of a request by the key it carries."""

    def __init__(
        self,
        keys: KeyStore,
        connection: RedisConnection,
        ledger: Ledger,
        hold_for: float,
        clock: Callable[[], float],
    ) -> None:
        """`hold_for`: seconds that a record is kept. `ledger` hears what each key has left, as often as it is read."""
        self._keys = keys
        self._connection = connection
        self._ledger = ledger
        self._hold_for = hold_for
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, Caller | None]] = OrderedDict()
        self._reads: dict[str, asyncio.Task[Caller | None]] = {}

    async def identify(self, headers: Headers) -> Caller:
        """The caller whose key is in `headers`.

        Raises NoKey, SeveralKeys, UnknownKey, KeyNotUsable, or LedgerUnavailable for a key not read before.
        """
        text = key_in(headers)
        now = self._clock()
        caller = await self._find(account_of(text), self._keys.digest(text), now)
        if caller is None:
            raise UnknownKey
        return _usable(caller, now)

    def refreshed(self, caller: Caller, stale: StaleKey) -> Caller:
        """The caller as the record that a reserve brought back says. Raises UnknownKey or KeyNotUsable."""
        self._forget(caller.record.id)
        if stale.record is None:
            raise UnknownKey
        record = KeyRecord.from_json(stale.record)
        self._ledger.heard(record.id, None)  # its limits may be others now
        return _usable(Caller(record, stale.version, caller.capped or bool(record.limits)), self._clock())

    async def _find(self, account: str, digest: str, now: float) -> Caller | None:
        """The caller as held, or as read now; while the ledger is away as last read, so that those without a limit
        are served. Whoever has one is refused when nothing can be reserved."""
        until, held = self._held.get(digest, (-math.inf, None))
        if now <= until and not (held and _refusal(held, now)):  # a refusal is never an old one
            return held
        try:
            return await self._read(account, digest)
        except LedgerUnavailable:
            if held is None or now > until + OUTAGE:
                raise
            return held

    async def _read(self, account: str, digest: str) -> Caller | None:
        """One read at a time for a key, however many requests wait for it."""
        reading = self._reads.get(digest)
        if reading is None:
            reading = self._reads[digest] = asyncio.ensure_future(self._resolve(account, digest))
            reading.add_done_callback(lambda _: self._reads.pop(digest))
        return await asyncio.shield(reading)

    async def _resolve(self, account: str, digest: str) -> Caller | None:
        now = self._clock()
        key = await resolve(self._connection, account, digest, now, self._ledger.known(account))
        caller = self._known(key) if key else None
        self._held[digest] = (now + self._hold_for, caller)
        if len(self._held) > MAX_CACHED_KEYS:
            self._held.popitem(last=False)
        return caller

    def _known(self, key: ResolvedKey) -> Caller:
        """A key whose record lists a limit has one, although Redis may have lost where it counts."""
        self._ledger.heard(key.record.id, key.remaining)
        return Caller(key.record, key.version, key.capped or bool(key.record.limits))

    def _forget(self, key_id: str) -> None:
        for digest, (_, caller) in list(self._held.items()):
            if caller is not None and caller.record.id == key_id:
                del self._held[digest]


def key_in(headers: Headers) -> str:
    """The key text, from whichever header carries it. Raises NoKey or SeveralKeys."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = token if scheme.lower() == b"bearer" else b""
    found = [value.strip() for value in (bearer, headers.get(b"x-api-key"), headers.get(b"api-key")) if value]
    key = max(found, default=b"")
    if not key:
        raise NoKey
    if any(other and other != key for other in found):
        raise SeveralKeys
    if len(key) > MAX_KEY_BYTES or not key.isascii():
        raise UnknownKey
    return key.decode()


def _usable(caller: Caller, now: float) -> Caller:
    refusal = _refusal(caller, now)
    if refusal is not None:
        raise refusal
    return caller


def _refusal(caller: Caller, now: float) -> KeyNotUsable | None:
    if caller.record.blocked:
        return KeyNotUsable("blocked")
    return KeyNotUsable("expired") if caller.record.expired(now) else None
