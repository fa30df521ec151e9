import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from bank import until

from budgets.errors import BudgetExceeded
from gateway.errors import CallerGone, UpstreamFailed
from gateway.upstream.failover import Failover
from routing.deployment import Candidate, Deployment
from routing.health import Health, HealthPolicy, State
from routing.retry import LONGEST_WAIT, RetryBudget
from routing.router import Plan

OVERLOADED = UpstreamFailed("acme", "status", "overloaded", status=503)
NO_CONNECTION = UpstreamFailed("acme", "connect", "refused")
LATE = UpstreamFailed("acme", "timeout", "late")
WRONG_KEY = UpstreamFailed("acme", "status", "wrong key", status=401)
WRONG_REQUEST = UpstreamFailed("acme", "status", "wrong request", status=400)
TOO_LONG = UpstreamFailed("acme", "status", "maximum context", status=400)
CUT_MIDWAY = UpstreamFailed("acme", "cut", "cut", streaming=True)


def plan(*names: str) -> Plan:
    return Plan(tuple(Candidate(Deployment(name, "acme", name), 1) for name in names), "standard", "because")


def dear(needed: int) -> BudgetExceeded:
    return BudgetExceeded("account", "day", 100, 50, needed, None)


def priced(**highest_costs: int | None) -> Plan:
    return Plan(
        tuple(Candidate(Deployment(name, "acme", name), 1, cost) for name, cost in highest_costs.items()),
        None,
        "because",
    )


def throttled(seconds: float) -> UpstreamFailed:
    return UpstreamFailed("acme", "status", "slow down", status=429, retry_after=seconds)


@dataclass
class Requests:
    """Sends requests through a failover; each attempt ends as it is told to."""

    now: float = 1_000.0

    health: Health = field(default_factory=Health)
    budget: RetryBudget = field(default_factory=RetryBudget)
    random: Callable[[], float] = lambda: 0.0
    max_attempts: int = 3
    tried: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)

    async def send(self, to: Plan, *outcomes: Exception | None) -> None:
        """None: the attempt succeeds. Raises what comes out for the caller."""
        failover = Failover(self.health, self.budget, self.max_attempts, lambda: self.now, self.random)
        left = iter(outcomes)
        async for attempt in failover.attempts(to, lambda name, outcome: self.told.append((name, outcome))):
            with attempt as candidate:
                self.tried.append(candidate.deployment.id)
                outcome = next(left)
                if not isinstance(outcome, BudgetExceeded):
                    attempt.sent()
                if outcome is not None:
                    raise outcome


@pytest.fixture
def requests() -> Requests:
    return Requests()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays that were waited for, which pass at once."""
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return delays


async def test_the_first_success_is_the_end(requests: Requests) -> None:
    await requests.send(plan("a", "b"), None)

    assert (requests.tried, requests.told) == (["a"], [("a", "ok")])


@pytest.mark.parametrize("failure", [OVERLOADED, NO_CONNECTION, UpstreamFailed("acme", "cut", "cut")])
async def test_a_passing_failure_is_tried_again_in_the_same_place_then_in_the_next(
    requests: Requests, failure: UpstreamFailed
) -> None:
    await requests.send(plan("a", "b"), failure, failure, None)

    assert requests.tried == ["a", "a", "b"]
    assert requests.told[-1] == ("b", "ok")


async def test_what_failed_by_time_goes_on_to_the_next_at_once(requests: Requests) -> None:
    await requests.send(plan("a", "b"), LATE, None)

    assert requests.tried == ["a", "b"]


@pytest.mark.parametrize("failure", [WRONG_KEY, TOO_LONG])
async def test_a_deployment_that_will_not_do_is_not_asked_twice(requests: Requests, failure: UpstreamFailed) -> None:
    await requests.send(plan("a", "b"), failure, None)

    assert requests.tried == ["a", "b"]


@pytest.mark.parametrize("failure", [WRONG_REQUEST, CUT_MIDWAY])
async def test_a_wrong_request_and_a_caller_who_has_a_part_are_not_tried_again(
    requests: Requests, failure: UpstreamFailed
) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        await requests.send(plan("a", "b"), failure)

    assert caught.value is failure
    assert requests.tried == ["a"]


async def test_the_last_failure_goes_to_the_caller(requests: Requests) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        await requests.send(plan("a"), NO_CONNECTION, OVERLOADED, LATE)

    assert caught.value is LATE
    assert requests.tried == ["a", "a", "a"]


async def test_attempts_have_an_end(requests: Requests) -> None:
    requests.max_attempts = 2
    with pytest.raises(UpstreamFailed):
        await requests.send(plan("a", "b", "c"), LATE, LATE)

    assert requests.tried == ["a", "b"]


@pytest.mark.parametrize("error", [CallerGone(), BudgetExceeded("account", "day", 1, 0, 1, None), ValueError()])
async def test_other_errors_are_no_failures_of_the_provider(requests: Requests, error: Exception) -> None:
    with pytest.raises(type(error)):
        await requests.send(plan("a", "b"), error)

    assert (requests.tried, requests.told) == (["a"], [])
    assert requests.health.state("a", 1_000.0) is State.CLOSED


async def test_what_happened_is_told_of_every_attempt(requests: Requests) -> None:
    await requests.send(plan("a", "b"), WRONG_KEY, None)

    assert requests.told == [("a", "deployment"), ("b", "ok")]


async def test_health_learns_from_every_attempt(requests: Requests) -> None:
    await requests.send(plan("a", "b"), WRONG_KEY, None)

    assert requests.health.state("a", 1_000.0) is State.OPEN
    assert requests.health.state("b", 1_000.0) is State.CLOSED


async def test_a_provider_that_asks_to_wait_is_left_alone(requests: Requests) -> None:
    with pytest.raises(UpstreamFailed):
        await requests.send(plan("a"), throttled(60))

    assert requests.health.state("a", 1_059.0) is State.COOLING
    assert requests.health.state("a", 1_061.0) is State.CLOSED


async def test_between_attempts_in_one_place_it_waits_longer_each_time(requests: Requests, slept: list[float]) -> None:
    requests.random = lambda: 1.0
    with pytest.raises(UpstreamFailed):
        await requests.send(plan("a"), OVERLOADED, OVERLOADED, OVERLOADED)

    assert slept == [1.0, 2.0]


async def test_it_waits_at_least_as_long_as_the_provider_asks(requests: Requests, slept: list[float]) -> None:
    await requests.send(plan("a"), throttled(7), None)

    assert slept == [7.0]


async def test_a_caller_is_not_kept_for_longer_than_is_bearable(requests: Requests, slept: list[float]) -> None:
    await requests.send(plan("a", "b"), throttled(LONGEST_WAIT + 1), None)

    assert (requests.tried, slept) == (["a", "b"], [])


async def test_moving_on_needs_no_wait(requests: Requests, slept: list[float]) -> None:
    requests.random = lambda: 1.0
    await requests.send(plan("a", "b"), OVERLOADED, OVERLOADED, None)

    assert (requests.tried, slept) == (["a", "a", "b"], [1.0])


async def test_retries_of_all_requests_together_have_a_budget(requests: Requests) -> None:
    requests.budget = RetryBudget(share=0.0, floor=0)
    with pytest.raises(UpstreamFailed):
        await requests.send(plan("a"), OVERLOADED)

    assert requests.tried == ["a"]


@pytest.mark.parametrize("last", [None, OVERLOADED, CallerGone()])
async def test_a_request_that_ends_gives_back_what_it_took_of_the_budget(
    requests: Requests, last: Exception | None
) -> None:
    with suppress(UpstreamFailed, CallerGone):
        await requests.send(plan("a"), OVERLOADED, OVERLOADED, last)

    async def given_back() -> bool:
        return (requests.budget.active, requests.budget.retrying) == (0, 0)

    await until(given_back)


async def test_a_trial_that_could_not_be_paid_is_left_to_the_next_request(requests: Requests) -> None:
    with pytest.raises(UpstreamFailed):
        await requests.send(plan("a"), WRONG_KEY)
    requests.now += HealthPolicy().ejection
    assert requests.health.state("a", requests.now) is State.HALF_OPEN

    with pytest.raises(BudgetExceeded):
        await requests.send(plan("a"), BudgetExceeded("account", "day", 1, 0, 1, None))

    assert requests.health.available("a", requests.now)


async def test_what_the_budget_does_not_cover_gives_way_to_what_needs_less(requests: Requests) -> None:
    await requests.send(priced(a=80, b=90, c=None, d=40), dear(80), None)

    assert requests.tried == ["a", "d"]


async def test_where_nothing_needs_less_the_budget_s_refusal_goes_to_the_caller(requests: Requests) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        await requests.send(priced(a=80, b=80, c=60), dear(80), dear(60))

    assert caught.value.needed == 60
    assert requests.tried == ["a", "c"]


async def test_a_failure_is_not_hidden_by_the_price_of_its_fallback(requests: Requests) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        await requests.send(priced(a=10, b=80), LATE, dear(80))

    assert caught.value is LATE
    assert requests.budget.active == 0


async def test_an_attempt_that_found_no_hold_was_none(requests: Requests) -> None:
    requests.max_attempts = 2

    await requests.send(priced(a=80, b=40, c=30, d=20), dear(80), dear(40), LATE, None)

    assert requests.tried == ["a", "b", "c", "d"]
