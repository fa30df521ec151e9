"""Which deployments are fit to be asked: a circuit breaker each, as a table of states and events.

Failures in a row eject a deployment for a while, twice as long after each failed trial. A provider that names a time
(`Retry-After`) or says 429 is left alone until then. The state is a worker's own and lives in memory.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from routing.retry import FailureKind


class State(StrEnum):
    """Where a deployment stands."""

    CLOSED = "closed"
    """Fit."""
    COOLING = "cooling"
    """Throttled by its provider until a known time."""
    OPEN = "open"
    """Ejected after failures in a row."""
    HALF_OPEN = "half_open"
    """The ejection is over; the next request is the trial."""
    TRIAL = "trial"
    """The trial is under way; everybody else keeps away."""


class Event(StrEnum):
    """What moves a deployment from one state to another."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TRIPPED = "tripped"
    """The failure that is one too many."""
    THROTTLED = "throttled"
    DISPATCHED = "dispatched"
    ELAPSED = "elapsed"
    """The state's time is over."""


_COLUMNS = (Event.SUCCEEDED, Event.FAILED, Event.TRIPPED, Event.THROTTLED, Event.DISPATCHED, Event.ELAPSED)
_ROWS = {
    #                  succeeded      failed         tripped     throttled      dispatched    elapsed
    State.CLOSED:    (State.CLOSED,  State.CLOSED,  State.OPEN, State.COOLING, State.CLOSED, State.CLOSED),
    State.COOLING:   (State.COOLING, State.COOLING, State.OPEN, State.COOLING, State.TRIAL,  State.CLOSED),
    State.OPEN:      (State.OPEN,    State.OPEN,    State.OPEN, State.OPEN,    State.TRIAL,  State.HALF_OPEN),
    State.HALF_OPEN: (State.CLOSED,  State.OPEN,    State.OPEN, State.COOLING, State.TRIAL,  State.HALF_OPEN),
    State.TRIAL:     (State.CLOSED,  State.OPEN,    State.OPEN, State.COOLING, State.TRIAL,  State.HALF_OPEN),
}  # fmt: skip
# While cooling or open, a late success or failure is that of an earlier request and says nothing new. A request sent
# there nevertheless, because nothing better was left, is a trial.

TABLE: Mapping[tuple[State, Event], State] = MappingProxyType(
    {(state, event): target for state, row in _ROWS.items() for event, target in zip(_COLUMNS, row, strict=True)}
)

_ANSWERED = frozenset({FailureKind.REQUEST, FailureKind.CONTEXT_WINDOW, FailureKind.CONTENT_POLICY})
"""Refusals of one request: the deployment itself works."""

MOST_DOUBLINGS = 32
"""Of an ejection: beyond, any longest one is reached, and a float would overflow some day."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When a deployment is left out, and for how long. Times in seconds."""

    failures: int = 5
    """In a row, to be ejected."""
    ejection: float = 10.0
    """The first time; doubled at each further ejection in a row."""
    longest_ejection: float = 300.0
    cooldown: float = 5.0
    """After a 429 that names no time."""
    longest_cooldown: float = 3600.0
    trial: float = 60.0
    """After which a trial that nobody reported on is given to the next request."""
    ejected_share: float = 0.5
    """Of a pool, at most; one may always be ejected."""


@dataclass(slots=True)
class _Breaker:
    state: State = State.CLOSED
    failures: int = 0
    ejections: int = 0
    until: float | None = None
    """When the state ends by itself; None where it does not."""


class Health:
    """The breakers of all deployments, by id. A deployment nobody has reported on is fit."""

    def __init__(self, policy: HealthPolicy | None = None) -> None:
        self._policy = policy or HealthPolicy()
        self._breakers: dict[str, _Breaker] = {}
        """Of those that failed since their last success: most requests find nothing here, and leave nothing."""

    def dispatched(self, deployment: str, now: float) -> None:
        """A request is on its way there; where a trial is due, this is it."""
        if deployment in self._breakers:
            self._move(deployment, Event.DISPATCHED, now)

    def succeeded(self, deployment: str, now: float) -> None:
        """It answered."""
        if deployment in self._breakers:
            self._move(deployment, Event.SUCCEEDED, now)

    def failed(self, deployment: str, kind: FailureKind, now: float, retry_after: float | None = None) -> None:
        """An attempt there failed. `retry_after`: seconds the provider asks for, None where it named no time."""
        breaker = self._at(deployment, now)
        event = self._event(breaker, kind, retry_after)
        self._move(deployment, event, now, retry_after)

    def state(self, deployment: str, now: float) -> State:
        """The state at `now`, for metrics and for the console."""
        return self._at(deployment, now).state if deployment in self._breakers else State.CLOSED

    def available(self, deployment: str, now: float) -> bool:
        """Whether a request may go there now: fit, or due for its trial."""
        return self.state(deployment, now) in (State.CLOSED, State.HALF_OPEN)

    def ejected(self, pool: Collection[str], now: float) -> frozenset[str]:
        """Those of `pool` to keep away from.

        Breakers may take out a limited share only, so that the rest is not overrun: those that return soonest are let
        in again. A provider's own word (cooling) and a trial under way are always respected.
        """
        away = {deployment for deployment in pool if not self.available(deployment, now)}
        broken = [deployment for deployment in away if self.state(deployment, now) is State.OPEN]
        broken.sort(key=lambda deployment: self._breakers[deployment].until or now, reverse=True)
        allowed = max(1, int(len(pool) * self._policy.ejected_share))
        return frozenset(away - set(broken[allowed:]))

    def _at(self, deployment: str, now: float) -> _Breaker:
        breaker = self._breakers.setdefault(deployment, _Breaker())
        if breaker.until is not None and now >= breaker.until:
            breaker.state = TABLE[breaker.state, Event.ELAPSED]
            breaker.until = None
        return breaker

    def _event(self, breaker: _Breaker, kind: FailureKind, retry_after: float | None) -> Event:
        if kind in _ANSWERED:
            return Event.SUCCEEDED
        if kind is FailureKind.DEPLOYMENT:
            return Event.TRIPPED
        if kind is FailureKind.RATE_LIMITED or retry_after is not None:
            return Event.THROTTLED
        breaker.failures += 1
        return Event.TRIPPED if breaker.failures >= self._policy.failures else Event.FAILED

    def _move(self, deployment: str, event: Event, now: float, retry_after: float | None = None) -> None:
        breaker = self._at(deployment, now)
        before, breaker.state = breaker.state, TABLE[breaker.state, event]
        if event is Event.THROTTLED:
            asked = self._policy.cooldown if retry_after is None else min(retry_after, self._policy.longest_cooldown)
            known = breaker.until if before in (State.COOLING, State.OPEN) else None
            breaker.until = now + asked if known is None else max(known, now + asked)
        elif breaker.state is State.OPEN and before is not State.OPEN:
            breaker.until = now + self._ejection(breaker.ejections)
            breaker.ejections += 1
            breaker.failures = 0
        elif breaker.state is State.TRIAL and before is not State.TRIAL:
            breaker.until = now + self._policy.trial
        elif breaker.state is State.CLOSED and event is Event.SUCCEEDED:
            del self._breakers[deployment]

    def _ejection(self, before: int) -> float:
        """Seconds to stay away, after so many ejections in a row before."""
        doublings = min(before, MOST_DOUBLINGS)
        return min(self._policy.ejection * 2.0**doublings, self._policy.longest_ejection)
