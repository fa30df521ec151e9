"""Tries a plan's candidates in order, as `routing/retry.py` rules; keeps delays, health and the retry budget."""

import asyncio
from collections.abc import Callable
from types import TracebackType

from budgets.errors import BudgetExceeded, InstalmentRefused
from gateway.errors import UpstreamFailed
from gateway.upstream.refusals import for_routing
from routing.deployment import Candidate
from routing.health import Health
from routing.retry import NextCandidate, Progress, Retry, RetryBudget, Stop, verdict
from routing.router import Plan

Tell = Callable[[str, str], None]


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

    def attempts(self, plan: Plan, tell: Tell) -> "Attempts":
        """Attempts for `async for`, each to be used as `with attempt as candidate`; they end when one does not fail.

        The last attempt's UpstreamFailed goes on to the caller. `tell` hears of each attempt's deployment and outcome.
        """
        return Attempts(self, plan, tell)


class Attempts:
    """One request's way through its plan. It counts as active until it succeeds, gives up or is given up.

    A class and not a generator: the event loop keeps books on every asynchronous generator, at a price.
    """

    def __init__(self, failover: Failover, plan: Plan, tell: Tell) -> None:
        self._failover = failover
        self._next: Candidate | None = plan.candidates[0]
        self._others = list(plan.candidates[1:])
        self._tell = tell
        self._delay = 0.0
        self._attempts = 0
        self._attempts_here = 0
        self._last_failure: UpstreamFailed | None = None
        self._allowance = failover.budget.request()

    def __aiter__(self) -> "Attempts":
        return self

    async def __anext__(self) -> "Attempt":
        if self._next is None:
            raise StopAsyncIteration
        if self._delay:
            await self._wait()
        return Attempt(self, self._next)

    async def _wait(self) -> None:
        try:
            await asyncio.sleep(self._delay)
        except asyncio.CancelledError:
            self.end()
            raise

    def end(self) -> None:
        """The request is through with its attempts."""
        self._next = None
        self._allowance.end()

    def sent(self, candidate: Candidate) -> None:
        self._attempts += 1
        self._attempts_here += 1
        self._failover.health.dispatched(candidate.deployment.id, self._failover.clock())

    def succeeded(self, candidate: Candidate) -> None:
        self._tell(candidate.deployment.id, "ok")
        self._failover.health.succeeded(candidate.deployment.id, self._failover.clock())

    def go_on(self, candidate: Candidate, error: BaseException) -> bool:
        """Choose what follows an attempt that ended with `error`; false where that goes to the caller."""
        if isinstance(error, UpstreamFailed):
            return self._after_failure(candidate, error)
        if isinstance(error, InstalmentRefused):
            return False  # a part of the answer is out, and paid for
        return isinstance(error, BudgetExceeded) and self._after_refusal(error)

    def _after_failure(self, candidate: Candidate, error: UpstreamFailed) -> bool:
        self._last_failure = error
        failure = for_routing(error)
        self._tell(candidate.deployment.id, failure.kind)
        now = self._failover.clock()
        self._failover.health.failed(candidate.deployment.id, failure.kind, now, failure.retry_after)
        progress = Progress(self._attempts, self._attempts_here, len(self._others), self._failover.max_attempts)
        match verdict(failure, progress, self._allowance, self._failover.random()):
            case Retry(delay):
                self._delay = delay
            case NextCandidate(delay):
                self._delay, self._next, self._attempts_here = delay, self._others.pop(0), 0
            case Stop():
                return False
        return True

    def _after_refusal(self, error: BudgetExceeded) -> bool:
        """Go on with what may need less than was refused.

        Raises the failure of an earlier attempt: it, and not the price of what should have mended it, is the reason.
        """
        fitting = [other for other in self._others if (other.highest_cost or error.needed) < error.needed]
        if fitting:
            self._delay, self._next, self._others, self._attempts_here = 0.0, fitting[0], fitting[1:], 0
            return True
        if self._last_failure is not None:
            self.end()
            raise self._last_failure from error
        return False


class Attempt:
    """One attempt, as a context: its failure, or its price, is swallowed when there is something else to try."""

    def __init__(self, attempts: Attempts, candidate: Candidate) -> None:
        self._attempts = attempts
        self._candidate = candidate

    def __enter__(self) -> Candidate:
        return self._candidate

    def sent(self) -> None:
        """The attempt is on its way: a hold was found for it."""
        self._attempts.sent(self._candidate)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is None:
            self._attempts.succeeded(self._candidate)
        elif self._attempts.go_on(self._candidate, error):
            return True
        self._attempts.end()
        return False
