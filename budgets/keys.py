"""Virtual keys: what a key may do, and where it is kept. Of the key's text only an HMAC is stored."""

import builtins
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict, cast

import orjson
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from budgets import redis_layout
from budgets.budget import Limit, check_limits, parse_limit, to_hash
from budgets.errors import LedgerBehind, LedgerUnavailable, NoSuchKey
from budgets.marks import CHANGE
from budgets.money import NanoUSD
from budgets.redis_connection import RedisConnection, load_script
from budgets.windows import boundaries

ACCOUNT = re.compile(r"[a-z0-9]{1,32}")
KEY_ID = re.compile(r"key_([a-z0-9]{1,32})_[0-9a-f]{16}")
KEY_TEXT = re.compile(r"sk-pm-([a-z0-9]{1,32})-[A-Za-z0-9_-]{43}")
DEFAULT_ACCOUNT = "default"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a virtual key is and may do; its secret is not in here."""

    id: str
    """`key_<account>_<random>`."""
    name: str
    account: str
    models: tuple[str, ...]
    """Globs of the model names and aliases that the key may ask for."""
    limits: tuple[Limit, ...]
    """At most one for each window."""
    blocked: bool
    created_at: float
    expires_at: float | None

    def expired(self, now: float) -> bool:
        """Whether the key is past its end at `now`, in Unix seconds."""
        return self.expires_at is not None and now >= self.expires_at

    def to_json(self) -> bytes:
        """The record as Redis keeps it; limits in their text form."""
        return orjson.dumps(asdict(self) | {"limits": [str(limit) for limit in self.limits]})

    @classmethod
    def from_json(cls, text: str | bytes) -> "KeyRecord":
        """The record that `to_json` wrote."""
        fields = orjson.loads(text)
        models, limits = fields.pop("models"), fields.pop("limits")
        return cls(models=tuple(models), limits=tuple(parse_limit(limit) for limit in limits), **fields)


class KeyChanges(TypedDict, total=False):
    """The fields of a key that may change, each with its new value."""

    name: str
    models: tuple[str, ...]
    limits: tuple[Limit, ...]
    blocked: bool
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class ResolvedKey:
    """A key as Redis had it when it was read."""

    record: KeyRecord
    version: int
    capped: bool
    """Whether the key or its account has a limit: such a caller is refused while the ledger is away."""
    remaining: NanoUSD | None
    """What the tightest of these limits has left; None where there is none."""


def account_of(text: str) -> str:
    """The account named in a key's text; keys of another shape, brought along from elsewhere, belong to `default`."""
    ours = KEY_TEXT.fullmatch(text)
    return ours[1] if ours else DEFAULT_ACCOUNT


async def resolve(
    connection: RedisConnection, account: str, digest: str, now: float, known: tuple[str, int]
) -> ResolvedKey | None:
    """The key whose text has this digest (`KeyStore.digest`), in one round trip; None where there is none.

    `now` is Unix seconds, `known` the mark of the account (`Marks.known`). Raises LedgerUnavailable, LedgerBehind.
    """
    arguments = (boundaries(now), *known)
    reply = await connection.script(load_script("resolve"), (redis_layout.secret(account, digest),), arguments)
    if reply is None:
        return None
    if reply == b"behind":
        raise LedgerBehind("Redis has lost keys of this account", answered=True, account=account)
    try:
        record, version, capped, remaining = reply
        return ResolvedKey(KeyRecord.from_json(record), version, bool(capped), remaining)
    except (ValueError, TypeError) as exc:  # bytes were lost or changed on the way
        raise LedgerUnavailable("Redis answered what cannot be read") from exc


class KeyStore:
    """Creates, changes and deletes keys. A change takes effect at once: the reserve script compares versions."""

    def __init__(self, redis: Redis, pepper: bytes, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._peppered = hmac.new(pepper, digestmod="sha256")
        self._clock = clock

    def digest(self, text: str) -> str:
        """The HMAC-SHA256 of a whole key text, in hex: the only form in which a key is kept or looked up."""
        mac = self._peppered.copy()
        mac.update(text.encode(errors="surrogatepass"))
        return mac.hexdigest()

    async def create(
        self,
        name: str,
        *,
        account: str = DEFAULT_ACCOUNT,
        models: Sequence[str] = ("*",),
        limits: Sequence[Limit] = (),
        expires_at: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key: its record, and its text, which is to be had only here.

        Raises ValueError for a bad account name or two limits for one window.
        """
        _check_account(account)
        record = KeyRecord(
            id=f"key_{account}_{secrets.token_hex(8)}",
            name=name,
            account=account,
            models=tuple(models),
            limits=check_limits(limits),
            blocked=False,
            created_at=self._clock(),
            expires_at=expires_at,
        )
        text = f"sk-pm-{account}-{secrets.token_urlsafe(32)}"
        await self._store_new(record, self.digest(text))
        return record, text

    async def _store_new(self, record: KeyRecord, digest: str) -> None:
        account = record.account
        await self._redis.sadd(redis_layout.ACCOUNTS, account)  # in another slot, and first: no lease is overlooked
        async with self._redis.pipeline(transaction=True) as pipe:
            self._write(pipe, record)
            pipe.hset(redis_layout.key(account, record.id), "secrets", digest)
            pipe.set(redis_layout.secret(account, digest), record.id)
            pipe.zadd(redis_layout.keys(account), {record.id: record.created_at})
            await pipe.execute()

    async def get(self, key_id: str) -> KeyRecord:
        """Raises NoSuchKey."""
        stored = await self._redis.hget(_key(key_id), "record")
        if stored is None:
            raise NoSuchKey(key_id)
        return KeyRecord.from_json(stored)

    async def list(self, account: str, after: str | None = None, count: int = 100) -> tuple[KeyRecord, ...]:
        """Up to `count` keys of an account, oldest first, from behind the key `after`.

        Raises NoSuchKey where `after` is not, or no longer, a key of the account.
        """
        order = redis_layout.keys(account)
        start = 0
        if after is not None:
            rank = await self._redis.zrank(order, after)
            if rank is None:
                raise NoSuchKey(after)
            start = cast(int, rank) + 1
        ids = await self._redis.zrange(order, start, start + count - 1)
        async with self._redis.pipeline(transaction=False) as pipe:
            for key_id in ids:
                pipe.hget(redis_layout.key(account, _text(cast(bytes, key_id))), "record")
            stored = await pipe.execute()
        return tuple(KeyRecord.from_json(record) for record in stored if record is not None)

    async def update(self, key_id: str, changes: KeyChanges) -> KeyRecord:
        """The key with `changes` made, all or none. A limit for a window that had none counts from now on.

        Raises NoSuchKey, or ValueError for two limits for one window.
        """
        key = _key(key_id)

        async def change(pipe: Pipeline) -> KeyRecord:
            stored = await cast(Awaitable[Any], pipe.hget(key, "record"))
            if stored is None:
                raise NoSuchKey(key_id)
            record = replace(KeyRecord.from_json(stored), **changes)
            check_limits(record.limits)
            pipe.multi()  # type: ignore[no-untyped-call]
            self._write(pipe, record)
            return record

        return cast(KeyRecord, await self._redis.transaction(change, key, value_from_callable=True))

    async def delete(self, key_id: str) -> None:
        """Remove the key and its secrets. What it spent stays with its scope. Raises NoSuchKey."""
        key, account = _key(key_id), _account_of_id(key_id)

        async def remove(pipe: Pipeline) -> None:
            digests = await cast(Awaitable[Any], pipe.hget(key, "secrets"))
            if digests is None:
                raise NoSuchKey(key_id)
            pipe.multi()  # type: ignore[no-untyped-call]
            pipe.delete(key, *(redis_layout.secret(account, digest) for digest in _text(digests).split()))
            pipe.zrem(redis_layout.keys(account), key_id)
            pipe.hset(redis_layout.scope(account, f"key:{key_id}"), "deleted_at", f"{self._clock():.0f}")
            self._count(pipe, account)

        await self._redis.transaction(remove, key)

    async def accounts(self) -> builtins.list[str]:
        """The names of all accounts."""
        return sorted(_text(account) for account in await self._redis.smembers(redis_layout.ACCOUNTS))

    async def set_account_limits(self, account: str, limits: Sequence[Limit]) -> None:
        """Replace the limits that all keys of the account share. Raises ValueError as `create` does."""
        _check_account(account)
        checked = check_limits(limits)
        await self._redis.sadd(redis_layout.ACCOUNTS, account)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(redis_layout.scope(account, "account"), "limits", to_hash(checked))
            self._count(pipe, account)
            await pipe.execute()

    def _write(self, pipe: Pipeline, record: KeyRecord) -> None:
        """Queue the record, its next version and its limits, so that all three change in the same step."""
        key = redis_layout.key(record.account, record.id)
        pipe.hset(key, "record", record.to_json())
        pipe.hincrby(key, "version", 1)
        pipe.hset(redis_layout.scope(record.account, f"key:{record.id}"), "limits", to_hash(record.limits))
        self._count(pipe, record.account)

    def _count(self, pipe: Pipeline, account: str) -> None:
        """Count the change as steps of the account's era: a Redis that forgets it is noticed (`budgets/marks.py`)."""
        mark = redis_layout.mark(account)
        pipe.hsetnx(mark, "era", f"1:{self._clock() * 1000:.0f}")
        pipe.hincrby(mark, "count", CHANGE)


def _check_account(account: str) -> None:
    if not ACCOUNT.fullmatch(account):
        raise ValueError(f"account {account!r}: 1 to 32 of a-z and 0-9")


def _account_of_id(key_id: str) -> str:
    ours = KEY_ID.fullmatch(key_id)
    if ours is None:
        raise NoSuchKey(key_id)
    return ours[1]


def _key(key_id: str) -> str:
    return redis_layout.key(_account_of_id(key_id), key_id)


def _text(value: str | bytes) -> str:
    """A reply of Redis as text, whether or not the client decodes."""
    return value if isinstance(value, str) else value.decode()
