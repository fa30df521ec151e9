import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from budgets import redis_layout
from budgets.budget import Limit, parse_limit
from budgets.errors import NoSuchKey
from budgets.keys import KeyRecord, KeyStore, ResolvedKey, account_of, resolve
from budgets.redis_connection import RedisConnection

NOW = 1_795_340_000.5


@dataclass
class Admin:
    """The store, and the gateway's read of what it stored."""

    redis: Redis
    store: KeyStore
    connection: RedisConnection

    async def resolve(self, text: str) -> ResolvedKey | None:
        time, _ = await self.redis.time()
        return await resolve(self.connection, account_of(text), self.store.digest(text), time, ("", 0))

    async def everything_stored(self) -> str:
        """All names and values in Redis, as text."""
        contents = []
        for name in await self.redis.keys():
            contents += [name, await self.redis.dump(name)]
        return repr(contents)


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[Admin]:
    client, connection = Redis.from_url(redis_url), RedisConnection(redis_url)
    await connection.connect()
    yield Admin(client, KeyStore(client, b"pepper", clock=lambda: NOW), connection)
    await connection.close()
    await client.aclose()


async def test_a_new_key_is_of_the_documented_shape_and_resolves_to_its_record(admin: Admin) -> None:
    record, text = await admin.store.create("mine", account="acme", models=["small*"], limits=[parse_limit("5/day")])

    assert re.fullmatch(r"sk-pm-acme-[A-Za-z0-9_-]{43}", text)
    assert re.fullmatch(r"key_acme_[0-9a-f]{16}", record.id)
    assert record == KeyRecord(
        record.id,
        "mine",
        "acme",
        ("small*",),
        (Limit(5_000_000_000, "day"),),
        blocked=False,
        created_at=NOW,
        expires_at=None,
    )
    assert await admin.resolve(text) == ResolvedKey(record, version=1, capped=True, remaining=5_000_000_000)
    assert await admin.store.get(record.id) == record


async def test_a_text_that_is_no_key_resolves_to_nothing(admin: Admin) -> None:
    _, text = await admin.store.create("mine")

    assert await admin.resolve(text[:-1] + ("a" if text[-1] != "a" else "b")) is None
    assert await admin.resolve("") is None


async def test_the_text_of_a_key_is_nowhere_in_redis_nor_in_any_repr(admin: Admin) -> None:
    record, text = await admin.store.create("mine", limits=[parse_limit("5/day")])
    secret = text.removeprefix("sk-pm-default-")

    assert secret not in await admin.everything_stored()
    assert secret not in repr((record, await admin.resolve(text), admin.store))


async def test_a_digest_depends_on_the_whole_text_and_on_the_pepper(admin: Admin) -> None:
    other = KeyStore(admin.redis, b"another pepper")
    text = "sk-pm-default-" + "a" * 43

    digests = {admin.store.digest(text), admin.store.digest(text.replace("default", "acme")), other.digest(text)}

    assert len(digests) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


@pytest.mark.parametrize(
    ("text", "account"),
    [
        ("sk-pm-acme-" + "a" * 43, "acme"),
        ("sk-pm-" + "a" * 32 + "-" + "_-" * 21 + "x", "a" * 32),
        ("sk-pm-acme-" + "a" * 42, "default"),
        ("sk-pm-" + "a" * 33 + "-" + "a" * 43, "default"),
        ("sk-pm-}:x{-" + "a" * 43, "default"),
        ("sk-pm-acme-" + "a" * 43 + "\n", "default"),
        ("sk-proj-something", "default"),
        ("", "default"),
    ],
)
def test_the_account_is_in_the_text_and_other_shapes_are_the_default_accounts(text: str, account: str) -> None:
    assert account_of(text) == account


async def test_a_key_brought_along_with_a_lone_surrogate_resolves_to_nothing(admin: Admin) -> None:
    assert await admin.resolve("sk-\ud800") is None


async def test_limits_of_the_account_cap_its_keys_too(admin: Admin) -> None:
    _, text = await admin.store.create("mine")
    free = await admin.resolve(text)
    await admin.store.set_account_limits("default", [parse_limit("3/month")])

    capped = await admin.resolve(text)

    assert free is not None
    assert (free.capped, free.remaining) == (False, None)
    assert capped is not None
    assert (capped.capped, capped.remaining) == (True, 3_000_000_000)


async def test_a_change_takes_the_next_version_and_reaches_the_limits_that_the_scripts_read(admin: Admin) -> None:
    record, text = await admin.store.create("mine", limits=[parse_limit("5/day")])

    changed = await admin.store.update(
        record.id, {"name": "yours", "blocked": True, "limits": (parse_limit("7/month"),)}
    )

    resolved = await admin.resolve(text)
    assert resolved == ResolvedKey(changed, version=2, capped=True, remaining=7_000_000_000)
    assert (changed.name, changed.blocked, changed.models) == ("yours", True, ("*",))


async def test_changes_at_the_same_time_are_all_made(admin: Admin) -> None:
    record, text = await admin.store.create("mine")

    await asyncio.gather(
        admin.store.update(record.id, {"name": "yours"}),
        admin.store.update(record.id, {"blocked": True}),
        admin.store.update(record.id, {"expires_at": NOW}),
    )

    resolved = await admin.resolve(text)
    assert resolved is not None
    assert resolved.version == 4
    assert (resolved.record.name, resolved.record.blocked, resolved.record.expires_at) == ("yours", True, NOW)


async def test_a_change_that_is_refused_changes_nothing(admin: Admin) -> None:
    record, text = await admin.store.create("mine")

    with pytest.raises(ValueError, match="2 limits for the window 'day'"):
        await admin.store.update(record.id, {"name": "yours", "limits": (parse_limit("5/day"), parse_limit("6/day"))})

    assert await admin.resolve(text) == ResolvedKey(record, version=1, capped=False, remaining=None)


async def test_a_deleted_key_is_gone_and_what_it_spent_is_not(admin: Admin) -> None:
    record, text = await admin.store.create("mine")
    scope = redis_layout.scope("default", f"key:{record.id}")
    await admin.redis.hset(scope, "lifetime:0", "5 0 0")

    await admin.store.delete(record.id)

    assert await admin.resolve(text) is None
    assert await admin.store.list("default") == ()
    assert admin.store.digest(text) not in await admin.everything_stored()
    assert await admin.redis.hmget(scope, "lifetime:0", "deleted_at") == [b"5 0 0", b"1795340000"]


@pytest.mark.parametrize("key_id", ["key_default_0123456789abcdef", "key_default_*", "sk-pm-default-x", "", "key_{}_0"])
async def test_a_key_that_is_not_there_is_named(admin: Admin, key_id: str) -> None:
    for refused in (
        admin.store.get(key_id),
        admin.store.update(key_id, {"name": "x"}),
        admin.store.delete(key_id),
        admin.store.list("default", after=key_id),
    ):
        with pytest.raises(NoSuchKey) as error:
            await refused
        assert error.value.key_id == key_id
    assert await admin.redis.keys() == []


async def test_keys_are_listed_in_pages_oldest_first(admin: Admin) -> None:
    made = []
    for number in range(5):
        store = KeyStore(admin.redis, b"pepper", clock=lambda moment=NOW - number: moment)
        made.append((await store.create(f"key {number}", account="acme"))[0])
    await admin.store.create("of another account")

    first = await admin.store.list("acme", count=3)
    rest = await admin.store.list("acme", after=first[-1].id, count=3)

    assert first + rest == tuple(reversed(made))


@pytest.mark.parametrize("account", ["", "Acme", "a b", "a" * 33, "acme}", "acme\n"])
async def test_an_account_is_of_few_letters(admin: Admin, account: str) -> None:
    with pytest.raises(ValueError, match="1 to 32 of a-z and 0-9"):
        await admin.store.create("mine", account=account)
    with pytest.raises(ValueError, match="1 to 32 of a-z and 0-9"):
        await admin.store.set_account_limits(account, [])

    assert await admin.redis.keys() == []


async def test_a_key_ends_at_its_expiry() -> None:
    record = KeyRecord("key_a_1", "mine", "a", ("*",), (), blocked=False, created_at=0, expires_at=NOW)

    assert [record.expired(NOW - 0.1), record.expired(NOW)] == [False, True]


async def test_every_account_with_a_key_is_known_to_the_reaper(admin: Admin) -> None:
    await admin.store.create("mine", account="acme")
    await admin.store.set_account_limits("other", [parse_limit("1/day")])

    assert await admin.redis.smembers(redis_layout.ACCOUNTS) == {b"acme", b"other"}
