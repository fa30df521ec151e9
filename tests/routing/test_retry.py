"""What to do when an attempt failed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.retry import (
    LONGEST_WAIT,
    RULES,
    Failure,
    FailureKind,
    NextCandidate,
    Progress,
    Retry,
    RetryAllowance,
    RetryBudget,
    Stop,
    backoff,
    verdict,
)

TRANSIENT = [FailureKind.CONNECT, FailureKind.CUT, FailureKind.SERVER, FailureKind.RATE_LIMITED]
failures = st.builds(
    Failure,
    kind=st.sampled_from(FailureKind),
    retry_after=st.none() | st.floats(0, 1000),
    sent_first_byte=st.booleans(),
)
progresses = st.builds(Progress, st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))


def first(others: int = 1) -> Progress:
    return Progress(attempts=1, attempts_here=1, others=others)


def second(others: int = 1) -> Progress:
    return Progress(attempts=2, attempts_here=2, others=others)


@pytest.fixture
def allowance() -> RetryAllowance:
    return RetryAllowance(RetryBudget())


def test_every_kind_of_failure_has_a_rule() -> None:
    assert set(RULES) == set(FailureKind)


@pytest.mark.parametrize("kind", TRANSIENT)
def test_a_passing_failure_is_tried_once_more_at_the_same_place(kind: FailureKind, allowance: RetryAllowance) -> None:
    assert verdict(Failure(kind), first(), allowance, 0.5) == Retry(0.5)


@pytest.mark.parametrize("kind", TRANSIENT)
def test_a_passing_failure_that_lasts_moves_on(kind: FailureKind, allowance: RetryAllowance) -> None:
    assert verdict(Failure(kind), second(), allowance, 0.5) == NextCandidate()


@pytest.mark.parametrize("kind", TRANSIENT)
def test_the_last_candidate_is_tried_until_the_attempts_are_used_up(
    kind: FailureKind, allowance: RetryAllowance
) -> None:
    assert verdict(Failure(kind), second(others=0), allowance, 1.0) == Retry(2.0)
    assert isinstance(verdict(Failure(kind), Progress(3, 3, 0), allowance, 1.0), Stop)


def test_a_time_out_moves_on_at_once_because_the_same_may_take_as_long_again(allowance: RetryAllowance) -> None:
    assert verdict(Failure(FailureKind.TIMEOUT), first(), allowance, 0.5) == NextCandidate()
    assert verdict(Failure(FailureKind.TIMEOUT), first(others=0), allowance, 0.5) == Retry(0.5)


@pytest.mark.parametrize("kind", [FailureKind.CONTEXT_WINDOW, FailureKind.CONTENT_POLICY, FailureKind.DEPLOYMENT])
def test_what_the_same_model_will_refuse_again_goes_to_another_only(
    kind: FailureKind, allowance: RetryAllowance
) -> None:
    assert verdict(Failure(kind, 400), first(), allowance, 0.5) == NextCandidate()
    assert isinstance(verdict(Failure(kind, 400), first(others=0), allowance, 0.5), Stop)


def test_a_wrong_request_stops(allowance: RetryAllowance) -> None:
    assert isinstance(verdict(Failure(FailureKind.REQUEST, 422), first(), allowance, 0.5), Stop)


def test_retry_after_is_the_least_wait(allowance: RetryAllowance) -> None:
    failure = Failure(FailureKind.RATE_LIMITED, 429, retry_after=4.0)

    assert verdict(failure, first(), allowance, 0.5) == Retry(4.0)


def test_a_retry_after_longer_than_anyone_waits_moves_on_or_stops(allowance: RetryAllowance) -> None:
    failure = Failure(FailureKind.RATE_LIMITED, 429, retry_after=LONGEST_WAIT + 1)

    assert verdict(failure, first(), allowance, 0.5) == NextCandidate()
    assert isinstance(verdict(failure, first(others=0), allowance, 0.5), Stop)


@given(failures, progresses)
def test_there_is_no_way_back_after_the_first_byte_nor_after_the_last_attempt(
    failure: Failure, progress: Progress
) -> None:
    decision = verdict(failure, progress, RetryAllowance(RetryBudget()), 0.5)

    if failure.sent_first_byte or progress.attempts >= progress.max_attempts:
        assert isinstance(decision, Stop)


@given(failures, progresses, st.floats(0, 1))
def test_nobody_waits_longer_than_the_longest_wait(failure: Failure, progress: Progress, random: float) -> None:
    decision = verdict(failure, progress, RetryAllowance(RetryBudget()), random)

    if isinstance(decision, Retry):
        assert (failure.retry_after or 0.0) <= decision.delay <= LONGEST_WAIT
    if isinstance(decision, NextCandidate):
        assert progress.others


@given(st.integers(1, 50), st.floats(0, 1))
def test_the_back_off_is_uniform_up_to_a_doubling_bound(attempts: int, random: float) -> None:
    assert backoff(attempts, random) == random * min(2.0 ** (attempts - 1), LONGEST_WAIT)


def test_three_requests_may_retry_however_few_are_active() -> None:
    budget = RetryBudget()
    with budget.request() as one, budget.request() as two, budget.request() as three, budget.request() as four:
        assert [allowance.take() for allowance in (one, two, three, four)] == [True, True, True, False]


def test_a_fifth_of_many_active_requests_may_retry() -> None:
    budget = RetryBudget()
    requests = [budget.request() for _ in range(100)]

    assert sum(request.take() for request in requests) == 20


def test_a_request_that_may_retry_may_do_so_again_and_gives_back_once() -> None:
    budget = RetryBudget()
    with budget.request() as allowance:
        assert allowance.take()
        assert allowance.take()
        assert (budget.active, budget.retrying) == (1, 1)

    assert (budget.active, budget.retrying) == (0, 0)


def test_a_request_that_fails_gives_its_allowance_back() -> None:
    budget = RetryBudget()
    with pytest.raises(RuntimeError), budget.request() as allowance:  # noqa: PT012
        allowance.take()
        raise RuntimeError

    assert (budget.active, budget.retrying) == (0, 0)


def test_without_budget_a_request_moves_on_and_stops_only_where_it_cannot() -> None:
    nothing = RetryAllowance(RetryBudget(floor=0))

    assert verdict(Failure(FailureKind.SERVER, 500), first(), nothing, 0.5) == NextCandidate()
    assert isinstance(verdict(Failure(FailureKind.SERVER, 500), first(others=0), nothing, 0.5), Stop)


def test_moving_on_takes_nothing_from_the_budget() -> None:
    budget = RetryBudget()
    with budget.request() as allowance:
        verdict(Failure(FailureKind.TIMEOUT), first(), allowance, 0.5)

        assert budget.retrying == 0
