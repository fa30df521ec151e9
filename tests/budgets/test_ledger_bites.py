"""What the peers' bugs of tests/mutations, or a slip of the pen, would do to the ledger where no other test notices."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import redis
from bank import Bank, open_bank
from scripts import LEASES, SUSPENSE, Scripts

from budgets import redis_layout
from budgets.errors import BudgetExceeded
from budgets.instalments import Instalments
from budgets.ledger import Attempt, LedgerCounters, Reservation, Resolution, reserved
from budgets.money import MAX_NANO
from budgets.redis_ledger import RedisLedger
from budgets.windows import boundaries, start_of

HOLDS = "account lifetime:0"


@pytest.fixture
def scripts(redis_url: str) -> Scripts:
    return Scripts(redis.Redis.from_url(redis_url, decode_responses=True))


@pytest.fixture
async def bank(redis_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_bank(redis_url, tmp_path) as bank:
        yield bank


def test_case_16_the_first_request_of_a_scope_meets_its_limit(scripts: Scripts) -> None:
    scripts.limit_nano("user:new", 4)

    assert scripts.reserve("x", 5, "account", "user:new")[:4] == ["refused", 0, 4, "user:new"]
    assert scripts.reserve("y", 4, "account", "user:new")[0] == "held"


async def test_who_has_much_left_is_held_for_like_everybody(bank: Bank) -> None:
    key = await bank.key("1000/lifetime")
    await bank.book(key, held=5, spent=5)

    await bank.ledger.reserve(bank.attempt(key, 600))

    assert await bank.used(key) == (5, 600, 0)
    with pytest.raises(BudgetExceeded):
        await bank.ledger.reserve(bank.attempt(key, 1000 * 10**9))


@pytest.mark.parametrize("amount", ["0" * 17, "00000000000000001"])
def test_case_22_an_amount_has_no_more_digits_than_there_are(scripts: Scripts, amount: str) -> None:
    with pytest.raises(redis.ResponseError, match="must be a whole number of nano-USD"):
        scripts.reserve("x", amount, "account")


@pytest.mark.parametrize("used", [f"{MAX_NANO} {MAX_NANO} 0", f"{MAX_NANO} 0 {MAX_NANO}"])
def test_what_cannot_be_counted_any_more_is_refused_before_anything_is_written(scripts: Scripts, used: str) -> None:
    scripts.client.hset(redis_layout.scope("a", "account"), "lifetime:0", used)

    assert scripts.settle("x", 0, HOLDS) == "orphan"
    with pytest.raises(redis.ResponseError, match="lifetime:0 of account would be more than can be counted"):
        scripts.settle("y", 5, HOLDS)
    assert scripts.attempt("y") == {}


@pytest.mark.parametrize("name", ["two\nlines", "\nlate"])
@pytest.mark.parametrize("place", [0, 3, 4])
def test_a_name_of_several_lines_is_refused_before_anything_is_written(scripts: Scripts, name: str, place: int) -> None:
    facts: list[Any] = ["k", 1, 5, "prices", "model"]
    facts[place] = name
    key, version, amount, prices, model = facts
    scripts.client.hset(redis_layout.key("a", key), mapping={"record": "{}", "version": 1})
    now = int(scripts.client.time()[0])
    reserve = (key, version, amount, 60_000, prices, model, "", 0, f"{now - 300} {now + 300}", "account")
    suspend = (5, 5, HOLDS, (now + 300) * 1000, 1, key, prices, model, now * 1000)
    restore = (5, 60_000, HOLDS, key, prices, model)
    before = sorted(scripts.client.keys())

    for script, arguments in (("reserve", reserve), ("suspend", suspend), ("restore", restore)):
        with pytest.raises(redis.ResponseError, match="a name may not have more than one line"):
            scripts._run(script, LEASES, "x", *arguments)
        assert sorted(scripts.client.keys()) == before


def test_what_is_asked_again_without_a_limit_has_the_same_answer(scripts: Scripts) -> None:
    first = scripts.reserve("x", 5, "account")

    assert first == scripts.reserve("x", 5, "account") == ["held", 0, None, "account lifetime:0"]


def test_a_refusal_tells_what_is_left_and_what_is_in_suspense(scripts: Scripts) -> None:
    scripts.client.hset(redis_layout.scope("a", "account"), "lifetime:0", f"{MAX_NANO - 40} 20 7")
    assert scripts.reserve("x", 14, "account") == ["refused", 0, 13, "account", "lifetime", MAX_NANO, 13, 0, 7]

    scripts.limit_nano("account", MAX_NANO - 2)
    assert scripts.reserve("x", 12, "account") == ["refused", 0, 11, "account", "lifetime", MAX_NANO - 2, 11, 0, 7]


def test_an_era_goes_on_and_the_latest_period_is_never_an_earlier_one(scripts: Scripts) -> None:
    mark = {"era": "1:5", "count": "7", "day": "99999999999", "month": "99999999999"}
    scripts.client.hset(redis_layout.mark("a"), mapping=mark)

    assert scripts.reserve("x", 5, "account")[0] == "held"
    assert scripts.client.hgetall(redis_layout.mark("a")) == mark


def test_a_lease_is_counted_in_milliseconds_of_redis(scripts: Scripts) -> None:
    def milliseconds() -> int:
        seconds, microseconds = scripts.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    before = milliseconds()
    scripts.reserve("x", 5, "account")

    assert before <= scripts.client.zscore(LEASES, "x") - 60_000 <= milliseconds()


def test_what_is_confirmed_begins_the_era_after_all_that_are_known(scripts: Scripts) -> None:
    def confirmed(ours: str, theirs: str) -> tuple[str, int]:
        scripts.known = (ours, 0)
        scripts.client.hset(redis_layout.mark("a"), mapping={"era": theirs, "count": 7} if theirs else {"count": 7})
        era, count = scripts.confirm()
        return era.partition(":")[0], count

    assert confirmed("", "") == ("1", 7)
    assert confirmed("", "3:1") == ("4", 7)
    assert confirmed("5:1", "3:1") == ("6", 7)


# What a reservation is before anything has happened to it


async def test_a_new_reservation_knows_nothing_and_costs_nothing(bank: Bank) -> None:
    attempt = bank.attempt(await bank.key(), 100)
    fresh = Reservation(attempt)

    assert fresh == Reservation(attempt, "", None, False, None, None, 0, True)
    assert fresh.estimate == 0
    assert [getattr(LedgerCounters(), each.name) for each in fields(LedgerCounters)] == [0] * 10


async def test_the_estimate_goes_by_what_was_delivered_and_is_no_more_than_the_hold(bank: Bank) -> None:
    reservation = Reservation(bank.attempt(await bank.key(), 100), delivered=7, estimator=lambda tokens: 3 * tokens)

    assert reservation.estimate == 21
    reservation.delivered = 70
    assert reservation.estimate == 100


async def test_the_same_amount_is_not_tried_twice(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = bank.attempt(await bank.key("0.000000099/lifetime"), 100)
    tried = []

    async def reserve(attempt: Attempt) -> Reservation:
        tried.append(attempt.amount)
        return await RedisLedger.reserve(bank.ledger, attempt)

    async def just_as_much() -> int:
        return 100

    monkeypatch.setattr(bank.ledger, "reserve", reserve)
    with pytest.raises(BudgetExceeded):
        async with reserved(bank.ledger, attempt, just_as_much):
            pytest.fail("the body of a refused attempt ran")
    assert tried == [100]


def test_what_is_no_resolution_is_said_to_be_none() -> None:
    with pytest.raises(ValueError, match=r"not a resolution: .*missing"):
        Resolution.from_json(b"{}")


# What is only read


def test_a_scope_tells_its_lifetime_and_each_of_its_limits(scripts: Scripts) -> None:
    now = time.time()
    scope, today = redis_layout.scope("a", "account"), start_of("day", now)
    used = {"lifetime:0": "1 2 3", f"day:{today}": "4 5 6"}
    scripts.client.hset(scope, mapping={"limits": "lifetime=100 day=50", **used})

    assert scripts._run("status", scope, boundaries(now)) == [
        *(1, 2, 3),
        ["lifetime", 100, 1, 2, 3, 0],
        ["day", 50, 4, 5, 6, start_of("day", now, 1)],
    ]


def test_a_key_is_told_with_what_its_tightest_limit_has_left(scripts: Scripts) -> None:
    scripts.client.set(redis_layout.secret("a", "digest"), "k")
    scripts.client.hset(redis_layout.key("a", "k"), mapping={"record": '{"name": "k"}', "version": 7})
    record = ['{"name": "k"}', 7]
    assert scripts.resolve("digest") == [*record, 0, None]

    scripts.client.hset(redis_layout.scope("a", "account"), mapping={"limits": "lifetime=100", "lifetime:0": "1 2 3"})
    assert scripts.resolve("digest") == [*record, 1, 94]
    scripts.limit_nano("key:k", 95)
    assert scripts.resolve("digest") == [*record, 1, 94]
    scripts.limit_nano("key:k", 60)
    assert scripts.resolve("digest") == [*record, 1, 60]
    scripts.client.hdel(redis_layout.scope("a", "account"), "limits")
    assert scripts.resolve("digest") == [*record, 1, 60]


@pytest.mark.parametrize(("count", "answer"), [(4, "behind"), (5, None)])
def test_a_key_of_which_only_its_secret_is_there_is_unknown_unless_redis_is_behind(
    scripts: Scripts, count: int, answer: str | None
) -> None:
    scripts.client.set(redis_layout.secret("a", "digest"), "deleted")
    scripts.client.hset(redis_layout.mark("a"), mapping={"era": "1:5", "count": count})
    scripts.known = ("1:5", 5)

    assert scripts.resolve("digest") == answer


# Holding more


def test_what_is_spent_held_and_in_suspense_counts_against_holding_more(scripts: Scripts) -> None:
    scripts.limit_nano("account", 100)
    scripts.limit_nano("key:k", 60)
    scripts.client.hset(redis_layout.scope("a", "account"), "lifetime:0", "10 20 3")
    scripts.reserve("x", 5, "account", "key:k", "user:u")

    assert scripts.extend("x", 68) == ["refused", 55, "account", "lifetime", 0, 100, 62, 3]
    assert scripts.extend("x", 61) == ["refused", 55, "key:k", "lifetime", 0, 60, 55, 0]
    assert scripts.extend("x", 60) == ["held", 0]
    assert scripts.used("account") == (10, 80, 3)


def test_without_a_limit_more_is_held_up_to_what_can_be_counted(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")

    assert scripts.extend("x", 10) == ["held", None]
    assert scripts.extend("x", 10) == ["held", None]
    scripts.reserve("y", 7, "account")
    free = MAX_NANO - 17
    assert scripts.extend("x", MAX_NANO) == ["refused", free, "account", "lifetime", 0, MAX_NANO, free, 0]


def test_what_remains_after_holding_more_is_that_of_the_tightest_limit(scripts: Scripts) -> None:
    scripts.limit_nano("account", 50)
    scripts.limit_nano("user:u", 90)
    scripts.reserve("x", 5, "account", "key:k", "user:u")

    assert scripts.extend("x", 10) == ["held", 40]


async def test_the_smallest_part_of_an_instalment_is_held_for_too(bank: Bank) -> None:
    key = await bank.key()
    reservation = await bank.ledger.reserve(bank.attempt(key, 1))
    instalments = Instalments(bank.ledger, reservation, price=lambda tokens: tokens, step=1, most=10)

    await instalments.cover(2)

    assert await bank.used(key) == (0, 2, 0)


# The steps of an era


def test_only_what_changes_what_was_spent_is_a_step_and_has_its_number(scripts: Scripts) -> None:
    def count(name: str, *arguments: object) -> Any:
        return scripts._run(name, LEASES, *arguments)[1]

    later = (int(scripts.client.time()[0]) + 300) * 1000
    for attempt in ("settled", "in suspense", "void", "late void"):
        scripts.reserve(attempt, 5, "account")
    facts = ("k", "prices", "model", 1)

    assert count("settle", "settled", 3, HOLDS, 1000, later, 1) == 1
    assert count("suspend", "in suspense", 5, 2, HOLDS, later, 1, *facts) == 2
    assert count("settle", "orphan", 3, HOLDS, 1000, later, 1) == 3
    assert count("suspend", "late void", 5, 2, HOLDS, later, 1, *facts) == 4
    assert count("settle", "of an older era", 3, HOLDS, 1000, later, 0) == 4
    assert [
        count("settle", "settled", 3, HOLDS, 1000, later, 1),
        count("settle", "too old", 3, HOLDS, 1000, 1, 1),
        count("suspend", "in suspense", 5, 3, HOLDS, later, 1, *facts),
        count("suspend", "settled", 5, 3, HOLDS, later, 1, *facts),
        count("suspend", "too old", 5, 3, HOLDS, 1, 1, *facts),
        count("void", "void", 1000),
        count("void", "late void", 1000),
        count("void", "never was", 1000),
        count("void", "settled", 1000),
    ] == [None] * 9
    bills = [("in suspense", 3), ("settled", 3), ("settled", 4), ("void", 3), ("stranger", 3), ("running", 3)]
    scripts.reserve("running", 5, "account")
    assert [scripts._run("reconcile", LEASES, *bill, 1000, 1)[2] for bill in bills] == [5, None, None, None, None, None]
    assert scripts.mark()[1] == 5


# Looking after what is left


def test_who_looks_after_an_account_hears_its_mark(scripts: Scripts) -> None:
    def tended(accept_after: str = "") -> Any:
        return scripts._run("reap", LEASES, 10, accept_after, 1000, *scripts.known, boundaries(time.time()))[:4]

    assert tended() == [0, 0, "", 0]
    scripts.reserve("x", 5, "account")
    scripts.settle("x", 5)
    scripts.reserve("y", 5, "account")
    scripts.let_leases_run_out()
    era, count = scripts.known = scripts.mark()

    assert tended() == [1, 0, era, count]
    scripts.suspend("z", 5, 2, HOLDS)
    assert tended("0") == [0, 2, era, count + 1]


@pytest.mark.parametrize(
    ("sums", "is_told"),
    [
        ("0 5 2", False),
        ("0 0 0", False),
        ("9 -1 2", True),
        ("9 5 -1", True),
    ],
)
def test_sums_below_zero_are_told(scripts: Scripts, sums: str, is_told: bool) -> None:
    scripts.reserve("open", 5, "account")
    scripts.suspend("unknown", 2, 2, HOLDS)

    scripts.client.hset(redis_layout.scope("a", "account"), "lifetime:0", sums)

    assert contradicts_itself(scripts) == is_told


@pytest.mark.parametrize(("sums", "is_told"), [("9 0 0", False), ("9 1 0", True), ("9 0 1", True)])
def test_sums_that_no_attempt_explains_are_told(scripts: Scripts, sums: str, is_told: bool) -> None:
    scripts.client.hset(redis_layout.scope("a", "account"), "lifetime:0", sums)

    assert contradicts_itself(scripts) == is_told


def test_what_one_kind_of_attempts_explains_the_other_does_not(scripts: Scripts) -> None:
    scripts.reserve("open", 5, "account")
    scripts.client.hset(redis_layout.scope("a", "account"), "lifetime:0", "0 5 1")
    assert contradicts_itself(scripts)

    scripts.suspend("open", 5, 2, HOLDS)
    scripts.client.hset(redis_layout.scope("a", "account"), "lifetime:0", "0 1 5")
    assert contradicts_itself(scripts)


def contradicts_itself(scripts: Scripts) -> bool:
    arguments = (LEASES, 10, "", 1000, *scripts.known, boundaries(time.time()))
    return bool(scripts._run("reap", *arguments)[4])


def test_what_is_listed_in_suspense_and_is_not_is_cleared_away(scripts: Scripts) -> None:
    scripts.reserve("open", 5, "account")
    scripts.client.zadd(SUSPENSE, {"open": 1, "never was": 1})

    assert scripts.accept(0) == 2
    assert scripts.client.zcard(SUSPENSE) == 0
    assert scripts.used("account") == (0, 5, 0)
    assert scripts.attempt("open")["state"] == "open"


# Periods. The gateway's calendar may be a period ahead of Redis, or one behind; `STARTS` are its four boundaries as
# seconds from the clock of Redis, `current` the one that begins the period of now.

STARTS = [
    ((-30, -20, -10, 100), 2),
    ((-30, -20, 0, 100), 2),
    ((-30, -20, 100, 200), 1),
    ((-30, 0, 100, 200), 1),
    ((-30, 100, 200, 300), 0),
]


@pytest.mark.parametrize(("starts", "current"), STARTS)
def test_case_08_the_period_is_the_one_that_redis_is_in(
    scripts: Scripts, starts: tuple[int, ...], current: int
) -> None:
    scripts.limit_nano("account", 10)
    scripts.client.hset(redis_layout.scope("a", "account"), "limits", "lifetime=20 day=10")

    now, held, refused = in_one_second(
        scripts, lambda now: [reserve_by(scripts, now, starts, f"x{amount}", amount) for amount in (5, 6)]
    )

    assert held[3] == f"account lifetime:0 day:{now + starts[current]}"
    assert refused == ["refused", 0, 5, "account", "day", 10, 5, now + starts[current + 1], 0]


@pytest.mark.parametrize(("starts", "current"), STARTS)
def test_as_a_period_begins_the_one_before_is_kept_and_those_before_that_go(
    scripts: Scripts, starts: tuple[int, ...], current: int
) -> None:
    now = int(scripts.client.time()[0])
    periods = [f"day:{now + start}" for start in (-1000, *starts[:current])]
    scripts.client.hset(
        redis_layout.scope("a", "account"), mapping=dict.fromkeys(periods, "5 0 0") | {"limits": "day=10"}
    )

    reserve_by(scripts, now, starts, "x", 5)

    kept = [period for period in periods if scripts.client.hexists(redis_layout.scope("a", "account"), period)]
    assert kept == (periods[-1:] if current else periods)


@pytest.mark.parametrize("used", [0, 1, 2])
def test_case_08_the_latest_period_that_was_used_stays(scripts: Scripts, used: int) -> None:
    starts = (-30, 100, 200, 300)
    now = int(scripts.client.time()[0])
    scripts.limit("account", "1/day")
    scripts.client.hset(redis_layout.mark("a"), "day", now + starts[used])

    assert reserve_by(scripts, now, starts, "x", 5)[3] == f"account lifetime:0 day:{now + starts[used]}"


@pytest.mark.parametrize("beyond", [0, 500])
def test_case_08_a_period_that_began_far_too_early_goes_on_about_as_long_as_others(
    scripts: Scripts, beyond: int
) -> None:
    account, starts = redis_layout.scope("a", "account"), (-30, -20, 100, 200)
    now = int(scripts.client.time()[0])
    used = now + 200 + beyond
    periods = [f"day:{now + start}" for start in starts[:3]]
    scripts.client.hset(account, mapping=dict.fromkeys(periods, "5 0 0") | {"limits": "lifetime=20 day=10"})
    scripts.client.hset(redis_layout.mark("a"), "day", used)

    assert reserve_by(scripts, now, starts, "x", 5)[3] == f"account lifetime:0 day:{used}"
    assert reserve_by(scripts, now, starts, "y", 6) == ["refused", 0, 5, "account", "day", 10, 5, used + 100, 0]
    assert [period for period in periods if scripts.client.hexists(account, period)] == periods[2:]


@pytest.mark.parametrize(("before", "after"), [(0, 5), (5, 0)])
def test_case_08_the_clocks_may_be_as_far_apart_as_is_allowed(scripts: Scripts, before: int, after: int) -> None:
    def reserve(now: int) -> list[Any]:
        return [reserve_by(scripts, now, (-30, -20, 100, 200), "x", 5, earliest=now - before, latest=now + after)]

    _, held = in_one_second(scripts, reserve)

    assert held[0] == "held"


def reserve_by(scripts: Scripts, now: int, starts: tuple[int, ...], attempt: str, amount: int, **allowed: int) -> Any:
    """A reserve on the account by a gateway with a calendar of its own, with `day` as its only window."""
    clocks = {"earliest": now - 300, "latest": now + 300} | allowed
    windows = " ".join(map(str, [clocks["earliest"], clocks["latest"], "day", *(now + start for start in starts)]))
    facts = ("k", 1, amount, 60_000, "prices", "model", "", 0)
    return scripts._run("reserve", LEASES, attempt, *facts, windows, "account")


def in_one_second(scripts: Scripts, act: Callable[[int], list[Any]]) -> list[Any]:
    """The second, and what `act` gave in it: begun anew where the clock of Redis went on to the next meanwhile."""
    while True:
        now = int(scripts.client.time()[0])
        try:
            given = act(now)
        except redis.ResponseError:
            given = []
        if int(scripts.client.time()[0]) == now:
            return [now, *given]
        for attempt in scripts.client.zrange(LEASES, 0, -1):
            scripts.void(attempt)
            scripts.client.delete(f"pm:{{a}}:attempt:{attempt}")
