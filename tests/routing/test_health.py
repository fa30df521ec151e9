"""Which deployments are fit to be asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.health import TABLE, Event, Health, HealthPolicy, State
from routing.retry import FailureKind

POLICY = HealthPolicy(failures=3, ejection=10.0, longest_ejection=80.0, cooldown=5.0, trial=60.0)


def broken(now: float = 0.0, names: tuple[str, ...] = ("a",)) -> Health:
    health = Health(POLICY)
    for name in names:
        for _ in range(3):
            health.failed(name, FailureKind.SERVER, now)
    return health


def test_the_table_answers_every_event_in_every_state() -> None:
    assert set(TABLE) == {(state, event) for state in State for event in Event}


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_every_move_of_the_table_leads_where_the_rules_say(state: State, event: Event) -> None:
    fit, due = state is State.CLOSED, state in (State.HALF_OPEN, State.TRIAL)
    expected = {
        Event.SUCCEEDED: State.CLOSED if fit or due else state,
        Event.FAILED: State.OPEN if due else state,
        Event.TRIPPED: State.OPEN,
        Event.THROTTLED: State.OPEN if state is State.OPEN else State.COOLING,
        Event.DISPATCHED: State.CLOSED if fit else State.TRIAL,
        Event.ELAPSED: State.HALF_OPEN if due or state is State.OPEN else State.CLOSED,
    }

    assert TABLE[state, event] is expected[event]


def test_a_deployment_nobody_reported_on_is_fit() -> None:
    assert Health().available("new", 0.0)


def test_failures_in_a_row_eject_and_a_success_between_them_does_not() -> None:
    health = Health(POLICY)
    for _ in range(5):
        health.failed("a", FailureKind.SERVER, 0.0)
        health.failed("a", FailureKind.TIMEOUT, 0.0)
        health.succeeded("a", 0.0)
    assert health.available("a", 0.0)

    for _ in range(3):
        health.failed("a", FailureKind.CONNECT, 0.0)
    assert health.state("a", 0.0) is State.OPEN


def test_an_ejection_ends_by_time_with_one_trial() -> None:
    health = broken()
    assert not health.available("a", 9.9)
    assert health.available("a", 10.0)

    health.dispatched("a", 10.0)

    assert not health.available("a", 10.0)


def test_a_trial_that_succeeds_ends_it() -> None:
    health = broken()
    health.dispatched("a", 10.0)
    health.succeeded("a", 11.0)

    assert health.state("a", 11.0) is State.CLOSED


def test_each_failed_trial_doubles_the_ejection_up_to_the_longest() -> None:
    health = broken()
    now, lengths = 0.0, []
    for expected in (10.0, 20.0, 40.0, 80.0, 80.0):
        assert not health.available("a", now + expected - 0.1)
        assert health.available("a", now + expected)
        lengths.append(expected)
        now += expected
        health.dispatched("a", now)
        health.failed("a", FailureKind.CONNECT, now)

    assert lengths[-1] == POLICY.longest_ejection


def test_a_success_makes_the_next_ejection_short_again() -> None:
    health = broken()
    health.dispatched("a", 10.0)
    health.failed("a", FailureKind.SERVER, 10.0)
    health.dispatched("a", 30.0)
    health.succeeded("a", 30.0)
    for _ in range(3):
        health.failed("a", FailureKind.SERVER, 40.0)

    assert health.available("a", 50.0)


def test_a_trial_nobody_reports_on_is_given_to_another_request() -> None:
    health = broken()
    health.dispatched("a", 10.0)

    assert not health.available("a", 69.9)
    assert health.available("a", 70.0)


def test_a_late_success_of_an_earlier_request_does_not_end_an_ejection() -> None:
    health = broken()
    health.succeeded("a", 1.0)

    assert not health.available("a", 1.0)


@pytest.mark.parametrize(("retry_after", "away"), [(30.0, 30.0), (None, 5.0), (0.5, 0.5), (1e9, 3600.0)])
def test_a_throttled_deployment_is_left_alone_as_long_as_its_provider_says(
    retry_after: float | None, away: float
) -> None:
    health = Health(POLICY)
    health.failed("a", FailureKind.RATE_LIMITED, 100.0, retry_after)

    assert not health.available("a", 100.0 + away - 0.1)
    assert health.available("a", 100.0 + away)


def test_a_retry_after_of_zero_is_over_at_once() -> None:
    health = Health(POLICY)
    health.failed("a", FailureKind.RATE_LIMITED, 0.0, 0.0)

    assert health.available("a", 0.0)


def test_a_shorter_retry_after_does_not_shorten_a_longer_one() -> None:
    health = Health(POLICY)
    health.failed("a", FailureKind.RATE_LIMITED, 0.0, 30.0)
    health.failed("a", FailureKind.RATE_LIMITED, 1.0, 2.0)

    assert not health.available("a", 29.0)


def test_any_failure_that_names_a_time_is_a_throttle() -> None:
    health = Health(POLICY)
    health.failed("a", FailureKind.SERVER, 0.0, 7.0)

    assert health.state("a", 6.9) is State.COOLING


def test_a_wrong_credential_ejects_at_once() -> None:
    health = Health(POLICY)
    health.failed("a", FailureKind.DEPLOYMENT, 0.0)

    assert health.state("a", 0.0) is State.OPEN


@pytest.mark.parametrize("kind", [FailureKind.REQUEST, FailureKind.CONTEXT_WINDOW, FailureKind.CONTENT_POLICY])
def test_refusing_a_request_proves_that_a_deployment_works(kind: FailureKind) -> None:
    health = broken()
    health.dispatched("a", 10.0)
    health.failed("a", kind, 10.0)

    assert health.state("a", 10.0) is State.CLOSED


def test_at_most_half_of_a_pool_is_ejected_and_the_first_to_return_come_back() -> None:
    health = Health(POLICY)
    for at, name in enumerate("abcd"):
        for _ in range(3):
            health.failed(name, FailureKind.SERVER, float(at))

    assert health.ejected("abcd", 5.0) == {"c", "d"}


def test_the_only_one_of_a_pool_may_be_ejected() -> None:
    assert broken().ejected(["a"], 1.0) == {"a"}


def test_the_cap_does_not_overrule_a_provider_that_asked_to_wait() -> None:
    health = Health(POLICY)
    for name in "ab":
        health.failed(name, FailureKind.RATE_LIMITED, 0.0, 30.0)

    assert health.ejected("ab", 1.0) == {"a", "b"}


events = st.tuples(
    st.sampled_from(["dispatched", "succeeded", *FailureKind]), st.floats(0, 100), st.none() | st.floats(0, 100)
)


@given(st.lists(events, max_size=30))
def test_whatever_happens_a_deployment_gets_another_chance_in_time(
    steps: list[tuple[str, float, float | None]],
) -> None:
    health, now = Health(POLICY), 0.0
    for what, pause, retry_after in steps:
        now += pause
        if what == "dispatched":
            health.dispatched("a", now)
        elif what == "succeeded":
            health.succeeded("a", now)
        else:
            health.failed("a", FailureKind(what), now, retry_after)

    assert health.available("a", now + 200.0)
