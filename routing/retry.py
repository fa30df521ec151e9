"""What to do when an attempt failed: once more, on to the next candidate, or stop.

`RULES` says which steps a failure allows, in order of preference; `verdict` takes the first that circumstances permit.
There is one back-off, full jitter: uniform(0, 2^n s), never shorter than the provider's `Retry-After`
(https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, TypeAlias

LONGEST_WAIT = 10.0
"""Seconds a caller is kept waiting between two attempts. A longer `Retry-After` sends the request elsewhere."""

TRIES_EACH = 2
"""Attempts on one deployment while there is another: a dropped connection should not move a request to a dearer one."""


class FailureKind(StrEnum):
    """Why an attempt failed, as far as routing cares."""

    CONNECT = "connect"
    """No connection: nothing was sent."""
    TIMEOUT = "timeout"
    """No answer in time."""
    CUT = "cut"
    """The connection closed, or the stream ended early."""
    RATE_LIMITED = "rate_limited"
    SERVER = "server"
    """The provider says that the fault is its own: 5xx, overloaded."""
    DEPLOYMENT = "deployment"
    """Our credential, our quota or the model's name is wrong there: every request will fail alike."""
    CONTEXT_WINDOW = "context_window"
    """The request is too long for this model."""
    CONTENT_POLICY = "content_policy"
    """This provider will not answer it; another may."""
    REQUEST = "request"
    """The request itself is wrong: any other 4xx."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt's end. `status` is the provider's, for messages; decisions rest on `kind`."""

    kind: FailureKind
    status: int | None = None
    retry_after: float | None = None
    """Seconds the provider asks us to wait."""
    sent_first_byte: bool = False
    """Whether the caller has received a part of the answer; from then on there is no way back."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The same deployment once more, after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class NextCandidate:
    """The plan's next candidate. It has done no wrong, so there is usually no delay."""

    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """The failure goes to the caller. `reason` is for the log."""

    reason: str


Decision: TypeAlias = Retry | NextCandidate | Stop
Step: TypeAlias = Literal["same", "next"]

RULES: Mapping[FailureKind, tuple[Step, ...]] = MappingProxyType(
    {
        FailureKind.CONNECT: ("same", "next"),
        FailureKind.CUT: ("same", "next"),
        FailureKind.SERVER: ("same", "next"),
        FailureKind.RATE_LIMITED: ("same", "next"),
        FailureKind.TIMEOUT: ("next", "same"),  # the same again may take as long again
        FailureKind.DEPLOYMENT: ("next",),
        FailureKind.CONTEXT_WINDOW: ("next",),
        FailureKind.CONTENT_POLICY: ("next",),
        FailureKind.REQUEST: (),
    }
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come when an attempt fails."""

    attempts: int
    """Made so far, the failed one included."""
    attempts_here: int
    """Of these, on the deployment that just failed."""
    others: int
    """Candidates of the plan not tried yet."""
    max_attempts: int = 3


class RetryAllowance:
    """One active request, and its claim on the retry budget: the first `take` that succeeds is enough for all retries.

    It ends with `end`, or as a context.
    """

    def __init__(self, budget: "RetryBudget") -> None:
        self._budget = budget
        self._active = True
        self.taken = False
        budget.active += 1

    def end(self) -> None:
        """The request is no longer active; what it was allowed is given back. Later calls change nothing."""
        if self._active:
            self._active = False
            self._budget.active -= 1
            self._budget.retrying -= self.taken

    def __enter__(self) -> "RetryAllowance":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def take(self) -> bool:
        """Whether this request may retry; if so, it counts as retrying until it ends."""
        if not self.taken and self._budget.retrying < self._budget.limit:
            self._budget.retrying += 1
            self.taken = True
        return self.taken


class RetryBudget:
    """Keeps retries from multiplying an outage: at most a share of the active requests may be retrying.

    A move to another candidate is no retry: each deployment still sees the request once.
    """

    def __init__(self, share: float = 0.2, floor: int = 3) -> None:
        self._share = share
        self._floor = floor
        self.active = 0
        self.retrying = 0

    @property
    def limit(self) -> int:
        """How many requests may be retrying at this moment."""
        return max(self._floor, int(self.active * self._share))

    def request(self) -> RetryAllowance:
        """Count a request as active until its allowance ends."""
        return RetryAllowance(self)


def verdict(failure: Failure, progress: Progress, allowance: RetryAllowance, random: float) -> Decision:
    """What to do about `failure`; `random` is a number from 0 to 1 for the jitter.

    Takes from the retry budget when, and only when, the answer is `Retry`.
    """
    if failure.sent_first_byte:
        return Stop("the caller already has a part of the answer")
    if not RULES[failure.kind]:
        return Stop("the request itself was refused")
    if progress.attempts >= progress.max_attempts:
        return Stop(f"{progress.attempts} attempts were made")
    for step in RULES[failure.kind]:
        if step == "next" and progress.others:
            return NextCandidate()
        if step == "same" and _worth_repeating(failure, progress) and allowance.take():
            return Retry(backoff(progress.attempts_here, random, failure.retry_after))
    return Stop("no other candidate is left, and the same one may not be tried again now")


def backoff(attempts_here: int, random: float, retry_after: float | None = None) -> float:
    """Seconds to wait after the `attempts_here`-th failure: uniform(0, 2^n), n from 0, at least `retry_after`."""
    jitter = random * min(2.0 ** (attempts_here - 1), LONGEST_WAIT)
    return max(jitter, retry_after or 0.0)


def _worth_repeating(failure: Failure, progress: Progress) -> bool:
    soon = (failure.retry_after or 0.0) <= LONGEST_WAIT
    return soon and (progress.attempts_here < TRIES_EACH or not progress.others)
