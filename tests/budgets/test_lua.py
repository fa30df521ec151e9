import time
from itertools import product

import pytest
import redis
from scripts import HOUR, LEASES, SUSPENSE, Scripts

from budgets import redis_layout
from budgets.money import MAX_NANO
from budgets.windows import DAY, start_of

HOLDS = "account lifetime:0"


@pytest.fixture
def scripts(redis_url: str) -> Scripts:
    return Scripts(redis.Redis.from_url(redis_url, decode_responses=True))


def today() -> int:
    return start_of("day", time.time())


def test_a_hold_counts_in_the_lifetime_and_in_each_limited_window_of_every_scope(scripts: Scripts) -> None:
    scripts.limit("key:k", "1/day")

    answer = scripts.reserve("x", 5, "account", "key:k")

    assert answer == ["held", 0, 999_999_995, f"account lifetime:0\nkey:k lifetime:0 day:{today()}"]
    assert scripts.used("account") == scripts.used("key:k") == scripts.used("key:k", f"day:{today()}") == (0, 5, 0)
    assert scripts.used("account", f"day:{today()}") == (0, 0, 0)


def test_what_remains_is_that_of_the_tightest_limit_of_all_scopes(scripts: Scripts) -> None:
    scripts.limit("account", "3/month")
    scripts.limit("key:k", "9/lifetime", "4/day")

    assert scripts.reserve("x", 1, "account", "key:k")[2] == 2_999_999_999


def test_scopes_without_a_limit_have_no_remaining(scripts: Scripts) -> None:
    assert scripts.reserve("x", 5, "account")[2] is None


def test_the_same_attempt_gets_the_same_answer_and_one_hold(scripts: Scripts) -> None:
    scripts.limit_nano("account", 10)

    assert scripts.reserve("x", 6, "account") == scripts.reserve("x", 6, "account") == ["held", 0, 4, HOLDS]
    assert scripts.used("account") == (0, 6, 0)


@pytest.mark.parametrize("end", ["settled", "voided", "suspense"])
def test_an_attempt_that_has_ended_cannot_be_reserved_again(scripts: Scripts, end: str) -> None:
    scripts.reserve("x", 6, "account")
    {
        "settled": lambda: scripts.settle("x", 6),
        "voided": lambda: scripts.void("x"),
        "suspense": lambda: scripts.suspend("x", 6, 6),
    }[end]()

    assert scripts.reserve("x", 6, "account") == ["closed", 0, end]


def test_a_refusal_names_the_limit_and_when_it_resets(scripts: Scripts) -> None:
    scripts.limit("key:k", "1/lifetime", "0.000000005/day")
    scripts.reserve("x", 4, "account", "key:k")

    answer = scripts.reserve("y", 2, "account", "key:k")

    assert answer == ["refused", 0, 1, "key:k", "day", 5, 1, today() + DAY, 0]


def test_of_several_refusing_windows_the_one_that_resets_last_is_named(scripts: Scripts) -> None:
    scripts.limit("key:k", "0.000000001/day", "0.000000001/lifetime", "0.000000001/month")

    assert scripts.reserve("x", 2, "account", "key:k")[3:5] == ["key:k", "lifetime"]


def test_case_15_a_scope_that_refuses_leaves_nothing_behind_on_any(scripts: Scripts) -> None:
    for refusing in ("account", "team:t", "key:k"):
        scripts.limit_nano(refusing, 4)
        keys = sorted(scripts.client.keys())

        assert scripts.reserve("x", 5, "account", "team:t", "key:k")[:4] == ["refused", 0, 4, refusing]
        assert sorted(scripts.client.keys()) == keys
        assert [scripts.used(scope) for scope in ("account", "team:t", "key:k")] == [(0, 0, 0)] * 3
        scripts.client.delete(redis_layout.scope("a", refusing))


def test_case_17_admitted_is_exactly_what_fits(scripts: Scripts) -> None:
    small = range(3)
    for limit, amount, spent, held, suspense in product(range(5), range(4), small, small, small):
        used = {"limits": f"lifetime={limit}", "lifetime:0": f"{spent} {held} {suspense}"}
        scripts.client.hset(redis_layout.scope("a", "account"), mapping=used)

        answer = scripts.reserve("x", amount, "account")
        scripts.client.delete("pm:{a}:attempt:x")

        assert (answer[0] == "held") == (spent + held + suspense + amount <= limit)


def test_the_whole_of_a_limit_can_be_spent_up_to_the_largest_there_is(scripts: Scripts) -> None:
    scripts.limit_nano("account", MAX_NANO)

    assert scripts.reserve("x", MAX_NANO - 1, "account")[:3] == ["held", 0, 1]
    assert scripts.settle("x", MAX_NANO - 1) == "settled"
    assert scripts.reserve("y", 2, "account")[0] == "refused"
    assert scripts.reserve("z", 1, "account")[:3] == ["held", 0, 0]
    assert scripts.used("account") == (MAX_NANO - 1, 1, 0)


def test_a_scope_without_a_limit_still_refuses_what_cannot_be_counted(scripts: Scripts) -> None:
    scripts.reserve("x", MAX_NANO, "account")

    assert scripts.reserve("y", 1, "account")[:5] == ["refused", 0, 0, "account", "lifetime"]


@pytest.mark.parametrize("amount", ["-1", "1.5", "1e3", "", "nan", "inf", "0x10", str(MAX_NANO + 1), "9" * 30])
def test_case_22_what_is_no_amount_is_refused_before_anything_is_written(scripts: Scripts, amount: str) -> None:
    scripts.reserve("x", 5, "account")

    for call in (lambda: scripts.reserve("y", amount, "account"), lambda: scripts.settle("x", amount)):
        with pytest.raises(redis.ResponseError, match="must be a whole number of nano-USD"):
            call()
    assert scripts.used("account") == (0, 5, 0)
    assert scripts.attempt("y") == {}


def test_case_16_the_first_request_of_an_unknown_scope_is_counted(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account", "user:new")

    assert scripts.used("user:new") == (0, 5, 0)


def test_case_33_a_changed_key_is_stale_and_its_new_record_comes_back(scripts: Scripts) -> None:
    scripts.client.hset(redis_layout.key("a", "k"), mapping={"record": "changed", "version": 2})

    assert scripts.reserve("x", 5, "account") == ["stale", 0, 2, "changed"]
    assert scripts.reserve("x", 5, "account", version=2)[0] == "held"


def test_case_33_a_limit_lowered_below_what_is_held_refuses_what_comes_and_books_what_runs(scripts: Scripts) -> None:
    scripts.limit("key:k", "10/day")
    scripts.reserve("running", 6, "key:k")

    scripts.limit("key:k", "0.000000004/day")

    assert scripts.reserve("next", 1, "key:k")[0] == "refused"
    assert scripts.settle("running", 5) == "settled"
    assert scripts.used("key:k") == (5, 0, 0)
    assert scripts.reserve("next", 1, "key:k")[0] == "refused"


def test_case_33_a_deleted_key_is_stale_and_has_no_record(scripts: Scripts) -> None:
    scripts.client.delete(redis_layout.key("a", "k"))

    assert scripts.reserve("x", 5, "account") == ["stale", 0, 0, None]
    assert scripts.reserve("x", 5, "account", version=0) == ["stale", 0, 0, None]


def test_settling_gives_the_hold_back_and_books_the_cost(scripts: Scripts) -> None:
    scripts.limit("key:k", "1/day")
    scripts.reserve("x", 5, "account", "key:k")

    assert scripts.settle("x", 3) == "settled"
    assert scripts.used("account") == scripts.used("key:k") == scripts.used("key:k", f"day:{today()}") == (3, 0, 0)


def test_case_10_a_second_settle_changes_nothing(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.settle("x", 3)

    assert [scripts.settle("x", 4), scripts.void("x"), scripts.suspend("x", 5, 5)] == ["again"] * 3
    assert scripts.used("account") == (3, 0, 0)


def test_case_10_a_settle_after_the_reaper_takes_the_amount_out_of_suspense(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.let_leases_run_out()
    scripts.reap()
    assert scripts.used("account") == (0, 0, 5)

    assert scripts.settle("x", 3) == "late"
    assert scripts.used("account") == (3, 0, 0)
    assert scripts.client.zcard(SUSPENSE) == 0


def test_case_10_a_void_after_the_reaper_takes_the_amount_out_of_suspense(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.let_leases_run_out()
    scripts.reap()

    assert scripts.void("x") == "late"
    assert scripts.used("account") == (0, 0, 0)


def test_case_10_an_estimate_that_was_accepted_for_what_was_never_sent_is_taken_back_once(scripts: Scripts) -> None:
    scripts.limit("key:k", "1/day")
    scripts.reserve("other", 7, "account", "key:k")
    scripts.settle("other", 7)
    scripts.reserve("x", 5, "account", "key:k")
    scripts.let_leases_run_out()
    scripts.reap()
    scripts.accept(0)
    mark = scripts.mark()

    assert [scripts.void("x"), scripts.void("x")] == ["late", "again"]
    today = f"day:{start_of('day', time.time())}"
    assert scripts.used("account") == scripts.used("key:k") == scripts.used("key:k", today) == (7, 0, 0)
    assert (scripts.attempt("x"), scripts.mark()) == ({"state": "voided"}, mark)


def test_case_10_an_estimate_that_is_taken_back_in_a_period_that_was_forgotten_leaves_no_debt_there(
    scripts: Scripts,
) -> None:
    scripts.suspend("x", 5, 4, "account lifetime:0 day:86400")
    scripts.accept(0)
    scripts.client.hdel(redis_layout.scope("a", "account"), "day:86400")

    assert scripts.void("x") == "late"
    assert (scripts.used("account"), scripts.used("account", "day:86400")) == ((0, 0, 0), (0, 0, 0))


def test_case_10_what_was_freed_and_never_sent_is_void(scripts: Scripts) -> None:
    scripts.suspend("x", 5, 2, HOLDS)
    scripts.free("x")

    assert [scripts.void("x"), scripts.void("x")] == ["late", "again"]
    assert (scripts.attempt("x"), scripts.used("account")) == ({"state": "voided"}, (0, 0, 0))


def test_case_04_a_reserve_that_comes_after_its_void_holds_nothing(scripts: Scripts) -> None:
    assert scripts.void("x") == "unknown"

    assert scripts.reserve("x", 5, "account") == ["closed", 0, "voided"]
    assert scripts.used("account") == (0, 0, 0)


def test_voiding_gives_the_hold_back(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")

    assert [scripts.void("x"), scripts.void("x")] == ["voided", "again"]
    assert scripts.used("account") == (0, 0, 0)


def test_more_than_was_held_is_booked_all_the_same(scripts: Scripts) -> None:
    scripts.limit_nano("account", 5)
    scripts.reserve("x", 5, "account")

    assert scripts.settle("x", 9) == "settled"
    assert scripts.used("account") == (9, 0, 0)
    assert scripts.reserve("y", 0, "account")[:3] == ["refused", 0, -4]


def test_case_05_a_settle_of_an_attempt_that_redis_lost_is_booked_where_it_says(scripts: Scripts) -> None:
    scripts.limit("key:k", "1/day")
    holds = scripts.reserve("x", 5, "account", "key:k")[3]
    scripts.client.flushall()

    assert [scripts.settle("x", 3, holds), scripts.settle("x", 3, holds)] == ["orphan", "again"]
    assert scripts.used("account") == scripts.used("key:k", f"day:{today()}") == (3, 0, 0)


def test_case_05_a_suspension_of_an_attempt_that_redis_lost_is_booked_where_it_says(scripts: Scripts) -> None:
    assert scripts.suspend("x", 5, 2, HOLDS) == "orphan"

    assert scripts.used("account") == (0, 0, 5)
    assert scripts.settle("x", 3) == "late"
    assert scripts.used("account") == (3, 0, 0)


def test_case_09_an_unknown_attempt_older_than_a_tombstone_is_not_booked_twice(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.settle("x", 3)
    scripts.client.delete("pm:{a}:attempt:x")  # its tombstone's time is over

    assert scripts.settle("x", 3, HOLDS, age=2 * HOUR) == "expired"
    assert scripts.suspend("x", 5, 5, HOLDS, age=2 * HOUR) == "expired"
    assert scripts.used("account") == (3, 0, 0)


def test_case_09_what_still_holds_money_is_never_forgotten(scripts: Scripts) -> None:
    for attempt in ("open", "suspended", "voided", "settled"):
        scripts.reserve(attempt, 5, "account")
    scripts.suspend("suspended", 5, 2)
    scripts.void("voided")
    scripts.settle("settled", 5)

    assert scripts.lives_for_ever("open")
    assert scripts.lives_for_ever("suspended")
    assert not scripts.lives_for_ever("voided")
    assert not scripts.lives_for_ever("settled")


def test_an_attempt_that_was_voided_and_ran_after_all_is_booked_for_good(scripts: Scripts) -> None:
    scripts.void("cost known")
    scripts.void("cost unknown")

    assert scripts.settle("cost known", 3, HOLDS) == "orphan"
    assert scripts.suspend("cost unknown", 5, 2, HOLDS) == "orphan"
    assert scripts.used("account") == (3, 0, 5)
    assert scripts.lives_for_ever("cost unknown")


def test_case_13_an_attempt_of_unknown_cost_stays_in_suspense_with_our_estimate_beside_it(scripts: Scripts) -> None:
    scripts.limit_nano("account", 6)
    scripts.reserve("x", 5, "account")

    assert scripts.suspend("x", 5, 2) == "suspended"
    assert scripts.used("account") == (0, 0, 5)
    assert scripts.reserve("y", 2, "account")[0] == "refused"
    facts = {"state": "suspense", "amount": "5", "estimate": "2", "key": "k", "prices": "prices", "model": "model"}
    assert scripts.attempt("x").items() >= facts.items()
    assert scripts.client.zrange(SUSPENSE, 0, -1) == ["x"]


def test_case_01_a_hold_whose_worker_died_goes_to_suspense_and_is_estimated_at_the_whole(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.let_leases_run_out()

    assert [scripts.reap(), scripts.reap()] == [1, 0]
    assert scripts.used("account") == (0, 0, 5)
    assert scripts.attempt("x")["estimate"] == "5"
    assert scripts.suspend("x", 5, 2) == "late"
    assert scripts.attempt("x")["estimate"] == "2"


def test_a_lease_without_an_attempt_is_cleared_away(scripts: Scripts) -> None:
    scripts.client.zadd(LEASES, {"lost": 1})

    assert scripts.reap() == 1
    assert scripts.client.exists(LEASES, SUSPENSE) == 0


def test_a_closed_attempt_leaves_only_how_it_ended(scripts: Scripts) -> None:
    for attempt, end in (("x", lambda: scripts.settle("x", 3)), ("y", lambda: scripts.void("y"))):
        scripts.reserve(attempt, 5, "account")
        end()

    assert [scripts.attempt("x"), scripts.attempt("y")] == [{"state": "settled", "spent": "3"}, {"state": "voided"}]
    assert scripts.client.exists(LEASES) == 0


def test_each_reserve_reaps_a_few_dead_leases_and_says_how_many(scripts: Scripts) -> None:
    for number in range(5):
        scripts.reserve(f"dead {number}", 1, "account")
    scripts.let_leases_run_out()

    assert [scripts.reserve(name, 1, "account")[1] for name in "xyz"] == [3, 2, 0]
    assert scripts.used("account") == (0, 3, 5)


def test_reaping_takes_no_more_than_it_was_told(scripts: Scripts) -> None:
    for number in range(5):
        scripts.reserve(f"dead {number}", 1, "account")
    scripts.let_leases_run_out()

    assert [scripts.reap(2), scripts.reap(2), scripts.reap(2)] == [2, 2, 1]


def test_a_renewed_lease_outlives_its_first_end(scripts: Scripts) -> None:
    scripts.reserve("alive", 5, "account")
    scripts.reserve("dead", 5, "account")
    scripts.let_leases_run_out()

    scripts.renew("alive", "never was")

    assert scripts.reap() == 1
    assert scripts.used("account") == (0, 5, 5)


@pytest.mark.parametrize("skew", [-290, 0, 290])
def test_case_08_the_clock_of_redis_says_which_day_it_is(scripts: Scripts, skew: float) -> None:
    scripts.limit("account", "1/day")

    assert scripts.reserve("x", 5, "account", now=time.time() + skew)[3] == f"account lifetime:0 day:{today()}"


@pytest.mark.parametrize("skew", [-3 * DAY, -310, 310, HOUR, 3 * DAY])
def test_case_08_clocks_that_are_minutes_apart_open_no_new_period(scripts: Scripts, skew: float) -> None:
    with pytest.raises(redis.ResponseError, match=rf"CLOCK the clock of Redis is {-skew:.0f} s ahead"):
        scripts.reserve("x", 5, "account", now=int(time.time()) + skew)

    assert scripts.used("account") == (0, 0, 0)


def test_case_08_a_cost_is_booked_into_the_periods_in_which_it_was_held(scripts: Scripts) -> None:
    scripts.limit("account", "1/day")
    scripts.reserve("x", 5, "account")
    scripts.limit("account", "1/month")

    scripts.settle("x", 3)

    assert scripts.used("account", f"day:{today()}") == (3, 0, 0)
    assert scripts.used("account") == (3, 0, 0)


def test_old_periods_go_as_a_new_one_begins_unless_something_is_still_open_in_them(scripts: Scripts) -> None:
    scripts.limit("account", "1/day")
    before = {days: today() - days * DAY for days in (1, 2, 3, 4)}
    fields = {f"day:{start}": "1 0 0" for start in before.values()}
    fields |= {f"day:{before[3]}": "1 0 7", f"month:{before[4]}": "1 0 0"}
    scripts.client.hset(redis_layout.scope("a", "account"), mapping=fields)

    scripts.reserve("x", 5, "account")

    kept = set(scripts.client.hkeys(redis_layout.scope("a", "account"))) - {"limits"}
    days = {f"day:{start}" for start in (today(), before[1], before[3])}
    assert kept == days | {f"month:{before[4]}", "lifetime:0"}


def test_case_30_a_scope_of_the_wrong_type_refuses_and_writes_nothing(scripts: Scripts) -> None:
    scripts.client.set(redis_layout.scope("a", "key:k"), "text")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.reserve("x", 5, "account", "key:k")

    assert scripts.used("account") == (0, 0, 0)
    assert scripts.attempt("x") == {}


@pytest.mark.parametrize(
    ("broken", "steps"),
    [
        ("scope:key:k", "settle x, settle lost, suspend x, suspend lost, void x, reap, extend x, restore lost"),
        ("leases", "settle x, suspend x, void x, restore lost"),
        ("suspense", "suspend x, suspend lost, reap"),
        ("mark", "settle x, settle lost, suspend x, suspend lost, reconcile late"),
    ],
)
def test_case_30_a_step_that_fails_half_way_would_be_booked_twice_so_none_begins(
    scripts: Scripts, broken: str, steps: str
) -> None:
    scripts.reserve("late", 7, "account", "key:k")
    scripts.suspend("late", 7, 7)
    holds = scripts.reserve("x", 5, "account", "key:k")[3]
    scripts.let_leases_run_out()
    scripts.client.set(f"pm:{{a}}:{broken}", "text")
    acts = {
        "settle x": lambda: scripts.settle("x", 3),
        "settle lost": lambda: scripts.settle("lost", 3, holds),
        "suspend x": lambda: scripts.suspend("x", 5, 5),
        "suspend lost": lambda: scripts.suspend("lost", 5, 5, holds),
        "void x": lambda: scripts.void("x"),
        "reap": scripts.reap,
        "extend x": lambda: scripts.extend("x", 6),
        "restore lost": lambda: scripts.restore("lost", 5, holds),
        "reconcile late": lambda: scripts.reconcile("late", 2),
    }

    for step in steps.split(", "):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            acts[step]()
        assert scripts.used("account") == (0, 5, 7), step

    assert scripts.attempt("x")["state"] == "open"
    assert scripts.attempt("late")["state"] == "suspense"
    assert scripts.attempt("lost") == {}


def test_case_30_a_server_without_memory_refuses_before_anything_is_written(scripts: Scripts) -> None:
    scripts.reserve("dead", 5, "account")
    scripts.let_leases_run_out()
    scripts.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            scripts.reserve("x", 5, "account")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            scripts.settle("dead", 5)
    finally:
        scripts.client.config_set("maxmemory", 0)

    assert scripts.used("account") == (0, 5, 0)
