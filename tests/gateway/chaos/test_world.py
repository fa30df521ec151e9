"""The world of a proof: everything real, its books compared with a bill that knows nothing of them."""

import json
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from budgets.windows import start_of
from gateway.chaos.books import SCOPES, Money
from gateway.chaos.load import Ending, chat
from gateway.chaos.world import NeverCame, World, until
from gateway.errors import CannotStart
from tests.gateway.chaos.forger import Forger

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_five_scopes_spend_is_what_the_provider_bills(world: World) -> None:
    key = await world.create_key("1/day")
    caller = world.caller(key)
    for stream in (True, False):
        assert await caller.ending(**chat("auto", "Hello! [[long 20]]", stream=stream)) is Ending.ANSWERED

    money = await world.quiet(key)
    assert money == Money(world.billed(key.account), 0, 0)
    assert world.scopes(key) == [*SCOPES, f"key:{key.id}"]
    assert {scope: await world.money(key.account, scope) for scope in world.scopes(key)} == dict.fromkeys(
        world.scopes(key), money
    )


async def test_a_key_that_has_spent_its_limit_is_refused(world: World) -> None:
    caller = world.caller(await world.create_key("0.001/lifetime"))

    assert await caller.ending(**chat("exact", "Hello!")) is Ending.ANSWERED
    assert await caller.ending(**chat("exact", "Hello!")) is Ending.REFUSED


async def test_books_that_lack_what_was_billed_are_noticed(world: World) -> None:
    key = await world.create_key()
    assert await world.look(key.account) == []
    with world.provider.bill.path.open("a") as bill:
        bill.write(json.dumps({"attempt": f"att_{key.account}_forged", "nano_usd": 5}) + "\n")

    assert await world.look(key.account) == [f"{key.account}: billed 5, but only {Money(0, 0, 0)} counts"]


async def test_sums_below_zero_are_noticed(world: World, forger: Forger) -> None:
    account = forger.key.account
    for text, money in {"0 -5 5": Money(0, -5, 5), "0 5 -5": Money(0, 5, -5)}.items():
        await forger.periods("account", lifetime=text)
        assert await world.look(account) == [f"{account}: {money} is below zero"]


async def test_who_may_lack_something_may_not_have_too_much(world: World, forger: Forger) -> None:
    account = forger.key.account
    with world.provider.bill.path.open("a") as bill:
        bill.write(json.dumps({"attempt": f"att_{account}_forged", "nano_usd": 5}) + "\n")
    assert await world.look(account, may_lack=True) == []
    await forger.periods("account", lifetime="6 0 0")

    assert await world.look(account, may_lack=True) == [f"{account}: {Money(6, 0, 0)} spent, but only 5 billed"]


async def test_what_nobody_knows_is_known_after_a_reconciliation(world: World) -> None:
    key = await world.create_key()
    caller = world.caller(key)
    asked = {
        "Hello!": Ending.ANSWERED,
        "[[no-usage]]": Ending.ANSWERED,
        "[[cut 2]]": Ending.BROKEN,
        "[[cut 2]] [[bill nothing]]": Ending.BROKEN,
    }
    for prompt, ending in asked.items():
        assert await caller.ending(**chat("sandbox-small", prompt, stream=True)) is ending
    before = await world.quiet(key)
    outcomes = await world.reconcile(key.account)

    assert before.spent < world.billed(key.account) < before.counted
    assert {name: number for name, number in outcomes.items() if number} == {"same": 1, "resolved": 2, "freed": 1}
    assert await world.money(key.account) == Money(world.billed(key.account), 0, 0)


async def test_what_was_served_while_redis_was_away_is_waited_for(world: World) -> None:
    key = await world.create_key(limit=None)
    with world.caller(key) as caller:
        await caller.ask(**chat("exact", "Hello!"))  # so that the worker knows the key
        await world.redis_proxy.refuse()
        assert await caller.ending(**chat("exact", "Hello!")) is Ending.ANSWERED
    await world.redis_proxy.pass_on()
    await world.all_told()

    assert await world.money(key.account) == Money(world.billed(key.account), 0, 0)


async def test_its_workers_are_known_by_their_processes(world: World) -> None:
    assert sorted(world.workers()) == [0, 1]


async def test_a_hold_that_does_not_go_is_told(world: World) -> None:
    key = await world.create_key()
    caller = world.caller(key)
    status = await caller.walk_out(1, **chat("exact", "[[stall 2 after=3]]"))

    assert status == 200
    with pytest.raises(NeverCame, match=rf"{key.account} still holds \{{'account lifetime:0': 1000000"):
        await world.quiet(key, patience=0.0)
    assert (await world.quiet(key)).held == 0


async def test_an_admin_call_that_is_refused_is_not_asked_again(world: World) -> None:
    with pytest.raises(NeverCame, match=r"POST /admin/keys: .*account"):
        await world.create_key(account="No Such Account")


async def test_what_does_not_come_is_told() -> None:
    async def never() -> bool:
        return False

    with pytest.raises(NeverCame, match="the moon"):
        await until(never, "the moon", patience=0.0)


async def test_somebody_elses_redis_is_left_as_it_was(redis_url: str, tmp_path: Path) -> None:
    async with World(seed=1, redis_url=redis_url) as world, Redis.from_url(redis_url) as redis:
        key = await world.create_key()
        assert await world.caller(key).ending(**chat("exact", "Hello!")) is Ending.ANSWERED
        assert (await world.quiet(key)).spent == world.billed(key.account) == 1_000_000
        used = await redis.dbsize()
    async with Redis.from_url(redis_url) as redis:
        assert (used > 0, await redis.dbsize()) == (True, 0)


async def test_a_redis_with_data_in_it_is_not_touched(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        await redis.set("theirs", 1)
        with pytest.raises(CannotStart, match="not empty"):
            await World(seed=1, redis_url=redis_url).__aenter__()
        assert await redis.get("theirs") == b"1"


async def test_every_period_of_a_scope_is_read(world: World) -> None:
    key = await world.create_key("1/day")
    scope, before = f"key:{key.id}", start_of("day", time.time())
    await world.caller(key).ask(**chat("exact", "Hello!"))
    await world.quiet(key)
    periods = await world.books.periods(key.account, scope)

    assert periods.pop("lifetime:0") == Money(1_000_000, 0, 0)
    assert list(periods.values()) == [Money(1_000_000, 0, 0)]
    assert set(periods) <= {f"day:{before}", f"day:{start_of('day', time.time())}"}
    assert await world.books.windows(key.account, scope) == ["day"]
    assert await world.books.windows(key.account, "account") == []


async def test_what_is_held_in_a_period_that_is_over_is_found(world: World, forger: Forger) -> None:
    await forger.periods("account", day86400="0 5 0")

    assert await world.books.held(forger.key.account, world.scopes(forger.key)) == {"account day:86400": 5}


async def test_an_account_with_what_was_asked_and_what_is_in_suspense_has_nothing_left(world: World) -> None:
    key = await world.create_key()
    caller = world.caller(key)
    for prompt in ("Hello!", "[[no-usage]]"):
        await caller.ask(**chat("sandbox-small", prompt))
    money = await world.quiet(key)

    assert money.suspense > 0
    assert await world.books.left(key.account, world.scopes(key)) == []


async def test_what_attempts_leave_is_found(world: World, forger: Forger) -> None:
    await forger.periods("account", lifetime="0 0 -5")
    await forger.lease("att_forged", time.time() + 600)
    await forger.attempt("att_forged", "settled 5")
    left = await world.books.left(forger.key.account, world.scopes(forger.key))

    assert left == [
        f"account lifetime:0 has {Money(0, 0, -5)}",
        "1 leases are left",
        f"pm:{{{forger.key.account}}}:attempt:att_forged is kept for ever",
    ]
