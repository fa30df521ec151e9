"""The scripts where Redis has lost something or nobody knows a cost: marks, restore, accept, reconcile."""

import time

import pytest
import redis
from scripts import LEASES, SUSPENSE, Scripts

from budgets import redis_layout
from budgets.marks import CHANGE
from budgets.windows import start_of

HOLDS = "account lifetime:0"


@pytest.fixture
def scripts(redis_url: str) -> Scripts:
    return Scripts(redis.Redis.from_url(redis_url, decode_responses=True))


# The mark


def test_every_step_that_changes_what_was_spent_counts_in_the_era(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    era, count = scripts.mark()

    scripts.settle("x", 3)
    scripts.settle("x", 3)
    scripts.suspend("lost", 5, 5, HOLDS)
    scripts.reconcile("lost", 4)

    assert era.startswith("1:")
    assert scripts.mark() == (era, count + 3)


def test_case_07_a_redis_that_has_less_than_was_seen_admits_nobody(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    era, count = scripts.mark()
    scripts.known = (era, count + 1)

    assert scripts.reserve("y", 5, "account") == ["behind", 0, era, count]
    assert scripts.used("account") == (0, 5, 0)


def test_case_07_a_redis_that_was_emptied_admits_nobody(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.known = scripts.mark()
    scripts.client.flushall()

    assert scripts.reserve("y", 5, "account") == ["behind", 0, "", 0]
    assert scripts.client.keys() == []


def test_case_07_an_emptied_redis_with_another_history_admits_nobody_however_long_it_is(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.known = (scripts.mark()[0], 2)
    scripts.client.delete(redis_layout.mark("a"))
    for number in range(5):
        scripts.settle(f"orphan {number}", 1, HOLDS)

    assert scripts.reserve("y", 5, "account")[0] == "behind"


def test_case_07_what_an_operator_confirms_is_the_truth(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.settle("x", 5)
    scripts.known = scripts.mark()
    scripts.client.delete(redis_layout.mark("a"))

    era, count = scripts.confirm()

    assert (era.partition(":")[0], count) == ("2", 0)
    assert scripts.reserve("y", 5, "account")[0] == "held"


def test_what_has_come_back_is_enough(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    era, count = scripts.mark()
    scripts.known = (era, count + 1)
    scripts.settle("lost", 3, HOLDS)  # sent once more

    assert scripts.reserve("y", 5, "account")[0] == "held"


def test_nothing_is_reaped_or_accepted_where_something_was_lost(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.suspend("late", 5, 5, HOLDS)
    scripts.let_leases_run_out()
    era, count = scripts.mark()
    scripts.known = (era, count + 1)

    assert (scripts.reap(), scripts.accept(0)) == (0, 0)
    assert scripts.used("account") == (0, 5, 5)


def test_a_key_that_may_be_among_what_was_lost_is_not_unknown(scripts: Scripts) -> None:
    scripts.known = ("1:5", 5)

    assert scripts.resolve("digest") == "behind"
    scripts.known = ("", 0)
    assert scripts.resolve("digest") is None


@pytest.mark.parametrize(
    ("known", "capped"),
    [
        (("1:5", 7), 0),
        (("1:5", 8), 0),
        (("1:5", CHANGE + 6), 0),
        (("1:5", CHANGE + 7), 1),
        (("1:4", 1), 1),
        (("2:5", 1), 1),
        (("0:5", CHANGE), 0),
        (("", CHANGE), 0),
    ],
)
def test_case_07_who_may_have_lost_a_limit_passes_for_limited(
    scripts: Scripts, known: tuple[str, int], capped: int
) -> None:
    scripts.client.set(redis_layout.secret("a", "digest"), "k")
    scripts.client.hset(redis_layout.mark("a"), mapping={"era": "1:5", "count": 7})
    scripts.known = known

    assert scripts.resolve("digest") == ["{}", 1, capped, None]


# Periods


def test_case_08_a_period_that_is_over_does_not_come_back(scripts: Scripts) -> None:
    scripts.limit("account", "1/day")
    tomorrow = start_of("day", float(scripts.client.time()[0]), 1)
    scripts.client.hset(redis_layout.mark("a"), "day", tomorrow)  # the clock of Redis was ahead, and is back

    assert scripts.reserve("x", 5, "account")[3] == f"account lifetime:0 day:{tomorrow}"


def test_case_08_the_latest_period_that_was_used_is_remembered(scripts: Scripts) -> None:
    now = float(scripts.client.time()[0])

    scripts.reserve("x", 5, "account")

    stored = scripts.client.hmget(redis_layout.mark("a"), "day", "month")
    assert stored == [str(start_of(window, now)) for window in ("day", "month")]


# Holds that were lost


def test_case_05_a_lost_hold_is_found_missing_and_written_again(scripts: Scripts) -> None:
    holds = scripts.reserve("x", 5, "account", "key:k")[3]
    scripts.reserve("there", 1, "account")
    scripts.client.delete("pm:{a}:attempt:x")
    scripts.client.zrem(LEASES, "x")
    for scope in ("account", "key:k"):
        scripts.client.hset(redis_layout.scope("a", scope), "lifetime:0", "0 1 0")

    assert scripts.renew("x", "there") == ["x"]
    assert [scripts.restore("x", 5, holds), scripts.restore("x", 5, holds)] == ["restored", "open"]
    assert scripts.used("account") == scripts.used("key:k") == (0, 6, 0)
    assert scripts.settle("x", 3) == "settled"
    assert scripts.used("key:k") == (3, 1, 0)


def test_case_05_what_was_held_besides_and_lost_goes_to_suspense_whole(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")

    assert scripts.suspend("x", 9, 2) == "suspended"
    assert scripts.used("account") == (0, 0, 9)
    assert scripts.restore("x", 11, HOLDS) == "restored"
    assert [scripts.suspend("x", 9, 2), scripts.attempt("x")["amount"]] == ["late", "11"]
    assert scripts.used("account") == (0, 0, 11)


def test_case_07_a_redis_that_has_less_than_was_seen_holds_nothing_more(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    era, count = scripts.mark()
    scripts.known = (era, count + 1)

    assert scripts.extend("x", 9) == ["behind"]
    assert scripts.used("account") == (0, 5, 0)


def test_case_05_what_was_held_besides_and_lost_is_held_again(scripts: Scripts) -> None:
    holds = scripts.reserve("x", 5, "account")[3]

    assert [scripts.restore("x", 9, holds), scripts.restore("x", 7, holds)] == ["restored", "open"]
    assert scripts.used("account") == (0, 9, 0)
    assert scripts.settle("x", 3) == "settled"
    assert scripts.used("account") == (3, 0, 0)


@pytest.mark.parametrize("end", ["settled", "voided", "suspense"])
def test_case_05_what_is_known_is_not_held_again(scripts: Scripts, end: str) -> None:
    holds = scripts.reserve("x", 5, "account")[3]
    {
        "settled": lambda: scripts.settle("x", 3),
        "voided": lambda: scripts.void("x"),
        "suspense": lambda: scripts.suspend("x", 5, 5),
    }[end]()
    before = scripts.used("account")

    assert scripts.restore("x", 5, holds) == end
    assert scripts.used("account") == before


def test_case_05_what_was_freed_and_still_runs_is_held_again(scripts: Scripts) -> None:
    holds = scripts.reserve("x", 5, "account", "key:k")[3]
    scripts.let_leases_run_out()
    scripts.reap()
    scripts.free("x")

    assert scripts.renew("x") == ["x"]
    assert [scripts.restore("x", 5, holds), scripts.restore("x", 5, holds)] == ["restored", "open"]
    assert scripts.used("account") == scripts.used("key:k") == (0, 5, 0)
    assert (scripts.lives_for_ever("x"), scripts.renew("x")) == (True, [])
    assert scripts.settle("x", 3) == "settled"
    assert scripts.used("account") == scripts.used("key:k") == (3, 0, 0)


# Holding more


def test_more_is_held_where_it_fits_and_only_once(scripts: Scripts) -> None:
    scripts.limit_nano("key:k", 12)
    scripts.reserve("x", 5, "account", "key:k")

    assert scripts.extend("x", 9) == ["held", 3]
    assert [scripts.extend("x", 9), scripts.extend("x", 7)] == [["held", 3]] * 2
    assert scripts.used("account") == scripts.used("key:k") == (0, 9, 0)
    assert scripts.settle("x", 8) == "settled"
    assert scripts.used("key:k") == (8, 0, 0)


def test_more_than_fits_is_refused_by_the_outermost_limit_and_holds_nothing(scripts: Scripts) -> None:
    scripts.limit_nano("account", 9)
    scripts.limit_nano("key:k", 8)
    scripts.reserve("x", 5, "account", "key:k")

    assert scripts.extend("x", 9) == ["refused", 3, "key:k", "lifetime", 0, 8, 3, 0]
    assert scripts.extend("x", 10)[2] == "account"
    assert scripts.used("account") == (0, 5, 0)


def test_nothing_more_is_held_for_what_is_not_running(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.settle("x", 3)

    assert scripts.extend("x", 9) == ["closed", "settled"]
    assert scripts.extend("never was", 9) == ["closed", None]


# What nobody knows the cost of


def test_an_estimate_is_accepted_after_its_time_and_the_rest_is_free(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.suspend("x", 5, 2)

    assert scripts.accept(1000) == 0
    assert scripts.accept(0) == 1
    assert scripts.used("account") == (2, 0, 0)
    assert scripts.client.zcard(SUSPENSE) == 0
    assert not scripts.lives_for_ever("x")


def test_an_accepted_estimate_stands_until_the_cost_is_known(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.suspend("x", 5, 2)
    scripts.accept(0)

    assert scripts.suspend("x", 5, 5) == "again"
    assert scripts.reserve("x", 5, "account")[0] == "closed"
    assert scripts.used("account") == (2, 0, 0)


@pytest.mark.parametrize("spent", [0, 1, 2, 4, 9])
def test_case_10_a_settle_takes_the_place_of_an_accepted_estimate_once(scripts: Scripts, spent: int) -> None:
    scripts.limit("key:k", "1/day")
    scripts.reserve("other", 7, "account", "key:k")
    scripts.settle("other", 7)
    scripts.reserve("x", 5, "account", "key:k")
    scripts.suspend("x", 5, 2)
    scripts.accept(0)
    era, count = scripts.mark()

    assert [scripts.settle("x", spent), scripts.settle("x", spent)] == ["corrected", "again"]
    today = f"day:{start_of('day', time.time())}"
    assert scripts.used("account") == scripts.used("key:k") == scripts.used("key:k", today) == (7 + spent, 0, 0)
    assert scripts.reconcile("x", spent) == ["same", spent]
    assert scripts.mark() == (era, count + 1)
    assert not scripts.lives_for_ever("x")


def test_case_10_what_is_corrected_in_a_period_that_was_forgotten_leaves_no_debt_there(scripts: Scripts) -> None:
    holds = "account lifetime:0 day:86400"
    scripts.suspend("x", 5, 4, holds)
    scripts.accept(0)
    scripts.client.hdel(redis_layout.scope("a", "account"), "day:86400")  # as a new one began

    assert scripts.settle("x", 1) == "corrected"
    assert (scripts.used("account"), scripts.used("account", "day:86400")) == ((1, 0, 0), (0, 0, 0))


def test_accepting_takes_no_more_than_it_was_told_and_the_oldest_first(scripts: Scripts) -> None:
    for number in range(5):
        scripts.suspend(f"x{number}", 1, 1, HOLDS)
        scripts.client.zadd(SUSPENSE, {f"x{number}": number + 1})

    assert scripts.accept(0, most=2) == 2
    assert scripts.client.zrange(SUSPENSE, 0, -1) == ["x2", "x3", "x4"]


def test_what_is_in_suspense_of_some_attempts_is_told(scripts: Scripts) -> None:
    for number in range(3):
        scripts.suspend(f"x{number}", 10 + number, number, HOLDS)
        scripts.client.zadd(SUSPENSE, {f"x{number}": 100 - number})
    scripts.settle("x0", 1)
    scripts.reserve("open", 5, "account")

    assert scripts.suspended("x2", "x0", "open", "stranger", "x1") == [
        ["x2", 98, 12, 2, "k", "prices", "model"],
        ["x1", 99, 11, 1, "k", "prices", "model"],
    ]


# What the provider says


def test_a_bill_resolves_what_was_in_suspense_once(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account", "key:k")
    scripts.suspend("x", 5, 2)

    assert [scripts.reconcile("x", 4), scripts.reconcile("x", 4)] == [["resolved", 4], ["same", 4]]
    assert scripts.used("account") == scripts.used("key:k") == (4, 0, 0)
    assert scripts.settle("x", 3) == "again"


def test_a_bill_above_the_hold_is_booked_as_it_is(scripts: Scripts) -> None:
    scripts.suspend("x", 5, 2, HOLDS)

    assert scripts.reconcile("x", 9) == ["resolved", 9]
    assert scripts.used("account") == (9, 0, 0)


@pytest.mark.parametrize(("billed", "outcome"), [(3, ["same", 3]), (4, ["differs", 3]), (2, ["differs", 3])])
def test_a_bill_for_what_was_settled_is_only_compared(scripts: Scripts, billed: int, outcome: list[object]) -> None:
    scripts.reserve("x", 5, "account")
    scripts.settle("x", 3)

    assert scripts.reconcile("x", billed) == outcome
    assert scripts.used("account") == (3, 0, 0)


@pytest.mark.parametrize(("billed", "outcome", "spent"), [(2, "same", 2), (4, "resolved", 4), (1, "differs", 2)])
def test_a_bill_raises_an_accepted_estimate_and_never_lowers_it(
    scripts: Scripts, billed: int, outcome: str, spent: int
) -> None:
    scripts.suspend("x", 5, 2, HOLDS)
    scripts.accept(0)

    assert scripts.reconcile("x", billed) == [outcome, spent]
    assert scripts.used("account") == (spent, 0, 0)


@pytest.mark.parametrize("end", ["accepted", "freed"])
def test_a_bill_of_exactly_what_is_booked_settles_it_so_that_nothing_lowers_it(scripts: Scripts, end: str) -> None:
    scripts.suspend("x", 5, 2, HOLDS)
    booked = 2 if end == "accepted" else 0
    _ = scripts.accept(0) if end == "accepted" else scripts.free("x")
    mark = scripts.mark()

    assert [scripts.reconcile("x", booked), scripts.reconcile("x", booked)] == [["same", booked]] * 2
    assert scripts.attempt("x") == {"state": "settled", "spent": str(booked)}
    assert not scripts.lives_for_ever("x")
    assert [scripts.settle("x", 1), scripts.void("x"), scripts.suspend("x", 5, 5, HOLDS)] == ["again"] * 3
    assert (scripts.used("account"), scripts.mark()) == ((booked, 0, 0), mark)


def test_a_bill_that_does_not_name_what_is_booked_at_nothing_settles_nothing(scripts: Scripts) -> None:
    scripts.suspend("accepted", 5, 0, HOLDS)
    scripts.accept(0)
    scripts.suspend("freed", 5, 2, HOLDS)
    scripts.free("freed")

    assert [scripts.free("accepted"), scripts.free("freed")] == [["same", 0]] * 2
    assert [scripts.settle("accepted", 3), scripts.settle("freed", 4)] == ["corrected"] * 2
    assert scripts.used("account") == (7, 0, 0)


# What the provider does not name


def test_what_is_freed_is_booked_all_the_same_when_its_cost_comes_and_once(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account", "key:k")
    scripts.let_leases_run_out()
    scripts.reap()

    assert [scripts.free("x"), scripts.free("x")] == [["resolved", 0], ["same", 0]]
    assert scripts.used("account") == scripts.used("key:k") == (0, 0, 0)
    assert not scripts.lives_for_ever("x")
    assert scripts.reserve("x", 5, "account")[0] == "closed"

    assert [scripts.settle("x", 3), scripts.settle("x", 3)] == ["corrected", "again"]
    assert scripts.used("account") == scripts.used("key:k") == (3, 0, 0)


def test_what_is_freed_and_ends_later_with_its_cost_unknown_is_in_suspense(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.let_leases_run_out()
    scripts.reap()
    scripts.waited("x", 5)
    scripts.free("x")

    assert [scripts.suspend("x", 5, 2, HOLDS), scripts.suspend("x", 5, 2, HOLDS)] == ["orphan", "late"]
    assert scripts.used("account") == (0, 0, 5)
    assert scripts.settle("x", 3) == "late"
    assert scripts.used("account") == (3, 0, 0)


def test_what_is_freed_stays_free_when_its_suspension_is_sent_again(scripts: Scripts) -> None:
    scripts.reserve("x", 5, "account")
    scripts.suspend("x", 5, 2)
    scripts.free("x")

    assert scripts.suspend("x", 5, 2, HOLDS, age=1) == "again"
    assert scripts.used("account") == (0, 0, 0)


@pytest.mark.parametrize(("ended", "answer"), [(101.5, "again"), (102.0, "orphan")])
def test_what_is_freed_was_not_billed_up_to_the_end_of_the_second_in_which_it_came_to_suspense(
    scripts: Scripts, ended: float, answer: str
) -> None:
    scripts.suspend("x", 5, 2, HOLDS)
    scripts.client.zadd(SUSPENSE, {"x": 101})
    scripts.free("x")
    seconds, micros = scripts.client.time()

    assert scripts.suspend("x", 5, 2, HOLDS, age=seconds + micros / 10**6 - ended) == answer


def test_what_is_freed_is_booked_when_a_later_bill_names_it(scripts: Scripts) -> None:
    scripts.suspend("x", 5, 2, HOLDS)
    scripts.free("x")

    assert [scripts.reconcile("x", 4), scripts.reconcile("x", 4)] == [["resolved", 4], ["same", 4]]
    assert scripts.used("account") == (4, 0, 0)


def test_only_what_is_in_suspense_is_freed(scripts: Scripts) -> None:
    scripts.reserve("open", 5, "account")
    scripts.void("voided")
    scripts.settle("settled", 3, HOLDS)
    scripts.suspend("accepted", 5, 2, HOLDS)
    scripts.accept(0)

    answers = {name: scripts.free(name) for name in ("open", "voided", "settled", "accepted", "stranger")}

    assert answers == {
        "open": ["open", None],
        "voided": ["same", 0],
        "settled": ["differs", 3],
        "accepted": ["differs", 2],
        "stranger": ["unknown", None],
    }
    assert scripts.used("account") == (5, 5, 0)


def test_a_bill_for_what_runs_or_was_never_sent_or_is_not_ours_books_nothing(scripts: Scripts) -> None:
    scripts.reserve("open", 5, "account")
    scripts.void("voided")

    assert scripts.reconcile("open", 4) == ["open", None]
    assert scripts.reconcile("voided", 4) == ["voided", 0]
    assert scripts.reconcile("voided", 0) == ["same", 0]
    assert scripts.reconcile("stranger", 4) == ["unknown", None]
    assert scripts.used("account") == (0, 5, 0)
