"""Tries a plan's candidates in order, as `routing/retry.py` rules; keeps delays, health and the retry budget."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from gateway.errors import UpstreamFailed
from gateway.upstream.refusals import for_routing
from routing.deployment import Candidate
from routing.health import Health
from routing.retry import NextCandidate, Progress, Retry, RetryAllowance, RetryBudget, Stop, verdict
from routing.router import Plan

Tell = Callable[[str, str], None]


class Try:
    """One attempt, as a context: its failure is swallowed when there is something else to try."""

    def __init__(self, series: "_Series", candidate: Candidate) -> None:
        self.candidate = candidate
        self._series = series

    def __enter__(self) -> Candidate:
        self._series.begin()
        return self.candidate

    def sent(self) -> None:
        """The attempt is on its way: a hold was found for it."""
        self._series.sent(self.candidate)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is None:
            self._series.succeeded(self.candidate)
        return isinstance(error, UpstreamFailed) and self._series.failed(self.candidate, error)


class Failover:
    """Gives out attempts until one succeeds, or none is left."""

    def __init__(
        self,
        health: Health,
        budget: RetryBudget,
        max_attempts: int,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.health = health
        self.budget = budget
        self.max_attempts = max_attempts
        self.clock = clock
        self.random = random

    async def attempts(self, plan: Plan, tell: Tell) -> AsyncIterator[Try]:
        """Attempts to be used as `with attempt as candidate`; they end with the first that does not fail.

        The last attempt's UpstreamFailed goes on to the caller. `tell` hears of each attempt's deployment and outcome.
        """
        with self.budget.request() as allowance:
            series = _Series(self, plan, allowance, tell)
            while (candidate := series.next) is not None:
                if series.delay:
                    await asyncio.sleep(series.delay)
                yield Try(series, candidate)


class _Series:
    """How far one request has come through its plan."""

    def __init__(self, failover: Failover, plan: Plan, allowance: RetryAllowance, tell: Tell) -> None:
        self.next: Candidate | None = plan.candidates[0]
        self.delay = 0.0
        self._failover = failover
        self._others = list(plan.candidates[1:])
        self._allowance = allowance
        self._tell = tell
        self._attempts = 0
        self._attempts_here = 0

    def begin(self) -> None:
        self._attempts += 1
        self._attempts_here += 1

    def sent(self, candidate: Candidate) -> None:
        self._failover.health.dispatched(candidate.deployment.id, self._failover.clock())

    def succeeded(self, candidate: Candidate) -> None:
        self.next = None
        self._tell(candidate.deployment.id, "ok")
        self._failover.health.succeeded(candidate.deployment.id, self._failover.clock())

    def failed(self, candidate: Candidate, error: UpstreamFailed) -> bool:
        """Note the failure and choose what follows; false where it goes to the caller."""
        failure = for_routing(error)
        self._tell(candidate.deployment.id, failure.kind)
        now = self._failover.clock()
        self._failover.health.failed(candidate.deployment.id, failure.kind, now, failure.retry_after)
        progress = Progress(self._attempts, self._attempts_here, len(self._others), self._failover.max_attempts)
        match verdict(failure, progress, self._allowance, self._failover.random()):
            case Retry(delay):
                self.delay = delay
            case NextCandidate(delay):
                self.delay, self.next, self._attempts_here = delay, self._others.pop(0), 0
            case Stop():
                return False
        return True
