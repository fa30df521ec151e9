"""The ledger's face: what is held, for whom, and how an attempt ends. The Lua in `budgets/lua` is the only ledger."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import orjson

from budgets.errors import BudgetExceeded, LedgerUnavailable
from budgets.money import NanoUSD

Tighter: TypeAlias = Callable[[], Awaitable[NanoUSD | None]]
"""A dearer look at what an attempt can cost at most; None where it finds nothing better."""


@dataclass(slots=True)
class Attempt:
    """One call of an upstream, the unit of spend: a retry or a fallback is another attempt with its own hold."""

    id: str
    """`att_<account>_<random>`, made by us and sent upstream, so that a provider's bill can be matched."""
    account: str
    key_id: str
    key_version: int
    scopes: tuple[str, ...]
    """What spends, outermost first: `account`, `key:<key id>`."""
    amount: NanoUSD
    """The most this attempt can cost."""
    capped: bool
    """Whether anything limits the caller: such an attempt is not made while the ledger is away."""
    price_version: str
    model: str
    """The deployment's name, for the log and for reconciliation."""


@dataclass(slots=True)
class Reservation:
    """A hold that was granted. The pipeline tells it what happened; `reserved()` resolves it accordingly."""

    attempt: Attempt
    holds: str = ""
    """Where the amount is held, as the reserve script chose it: a line for each scope, its name and its periods
    (`key:key_a_1 lifetime:0 day:1798761600`). A settle gives the text back as it is."""
    remaining: NanoUSD | None = None
    """What the tightest limit has left after this hold; None where no scope has a limit."""
    sent: bool = False
    """Whether bytes may have reached the upstream."""
    spent: NanoUSD | None = None
    """The exact cost, once it is known; 0 for an attempt the upstream refused."""
    estimator: Callable[[int], NanoUSD] | None = None
    """Our own idea of the cost, by the output tokens that were delivered."""
    delivered: int = 0
    """Output tokens that went to the caller, as far as we can tell."""
    booked: bool = True
    """False where the ledger was away and the caller has no cap: nothing is held, the journal settles later."""

    @property
    def estimate(self) -> NanoUSD:
        """What the attempt has cost by our own idea, at most its hold, kept beside a suspense; 0 where we have none."""
        return min(self.attempt.amount, self.estimator(self.delivered)) if self.estimator else 0


Ending: TypeAlias = Literal["settle", "void", "suspend"]


@dataclass(slots=True)
class Resolution:
    """How one attempt ended, with everything Redis needs to book it even where it lost the reservation.

    This is what the journal stores; `from_json(r.to_json()) == r`.
    """

    kind: Ending
    attempt_id: str
    account: str
    key_id: str
    holds: str
    """`Reservation.holds`; empty for a void whose reserve was never answered."""
    amount: NanoUSD
    """What was held, or would have been."""
    spent: NanoUSD
    """The exact cost; read only by `settle`."""
    estimate: NanoUSD
    """Our own estimate; read only by `suspend`."""
    price_version: str
    model: str
    booked: bool
    """`Reservation.booked`: whether Redis is expected to know the attempt."""
    at: float
    """When the attempt ended, in Unix seconds. What is older than a tombstone cannot be told from a duplicate."""
    tried: bool = False
    """Whether Redis may know it although it was not `booked`: it was sent once, or was about to be."""

    def to_json(self) -> bytes:
        """One line without a line end."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, line: bytes) -> "Resolution":
        """The resolution that `to_json` wrote. Raises ValueError for anything else."""
        try:
            stored = orjson.loads(line)
            return cls(**{name: stored[name] for name in cls.__slots__ if name in stored})  # a later one may have more
        except TypeError as exc:
            raise ValueError(f"not a resolution: {exc}") from exc


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One limit of a scope and what its current period has used; nano-USD."""

    window: str
    limit: NanoUSD
    spent: NanoUSD
    held: NanoUSD
    suspense: NanoUSD
    resets_at: float | None
    """Unix seconds; None for a lifetime limit."""

    @property
    def remaining(self) -> NanoUSD:
        """Below zero where an attempt cost more than it held."""
        return self.limit - self.spent - self.held - self.suspense


@dataclass(frozen=True, slots=True)
class ScopeStatus:
    """What a scope has spent, holds and has in suspense over its lifetime (nano-USD), and the state of its limits."""

    spent: NanoUSD
    held: NanoUSD
    suspense: NanoUSD
    limits: tuple[LimitStatus, ...]


@dataclass(frozen=True, slots=True)
class Suspended:
    """An attempt whose cost nobody knows: its amount counts until it is resolved; money in nano-USD."""

    attempt_id: str
    account: str
    key_id: str
    model: str
    """The deployment's name."""
    price_version: str
    amount: NanoUSD
    estimate: NanoUSD
    ended_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of a bill for one attempt; `budgets/lua/reconcile.lua` says what the outcomes mean."""

    outcome: Literal["resolved", "same", "differs", "open", "voided", "unknown"]
    booked: NanoUSD | None
    """What is booked for the attempt now; None where it is running or not known."""


@dataclass(slots=True)
class LedgerCounters:
    """What a ledger has met since the process started, for metrics."""

    orphans: int = 0
    """Resolutions of attempts that Redis had lost; booked all the same."""
    unbooked: int = 0
    """Attempts that ran without a hold while Redis was away; booked afterwards."""
    late: int = 0
    """Resolutions that came after the lease had run out, or even after the suspense was resolved without them."""
    overruns: int = 0
    """Attempts that cost more than they held."""
    expired: int = 0
    """Resolutions of unknown attempts, too old to tell whether they were booked before; not booked."""
    reaped: int = 0
    """Leases that ran out; their holds are in suspense."""
    replays: int = 0
    """Resolutions that were sent again."""
    restored: int = 0
    """Holds of running attempts that Redis had lost, written again."""
    accepted: int = 0
    """Estimates that were booked because nobody knew better for too long."""
    reconciled: int = 0
    """Attempts in suspense that a provider's bill resolved."""


class Ledger(Protocol):
    """Holds and settles money; every call is idempotent by attempt id."""

    async def reserve(self, attempt: Attempt) -> Reservation:
        """Hold `attempt.amount` on all scopes or on none.

        Raises BudgetExceeded, StaleKey, AttemptClosed or LedgerUnavailable.
        """
        ...

    async def extend(self, reservation: Reservation, more: NanoUSD) -> None:
        """Hold `more` besides, in the same periods; `reservation.attempt.amount` grows by it.

        Raises BudgetExceeded or LedgerUnavailable; then what was held is held on.
        """
        ...

    def unbooked(self, attempt: Attempt) -> Reservation:
        """A reservation without a hold, for a caller without any limit while the ledger is away."""
        ...

    def resolve(self, reservation: Reservation) -> None:
        """Settle, void or suspend: written to the journal, sent in the background, repeated until acknowledged."""
        ...

    def known(self, account: str) -> tuple[str, int]:
        """The account's mark, as far as this gateway has seen it: `Marks.known`."""
        ...

    def heard(self, key_id: str, remaining: NanoUSD | None) -> None:
        """Redis was asked about the key and said what its tightest limit has left."""
        ...

    def remaining(self, key_id: str) -> NanoUSD | None:
        """What the key's tightest limit had left by the last answer of Redis; None where unlimited or unknown."""
        ...


def reserved(ledger: Ledger, attempt: Attempt, tighter: Tighter) -> AbstractAsyncContextManager[Reservation]:
    """Hold `attempt.amount` on all of its scopes, or on none, while the body runs.

    Where that much is refused, `tighter` is asked for a smaller amount that is safe too, and that is tried once.
    While the ledger is away an attempt without a cap goes ahead without a hold; what it costs is booked later.
    On any way out the attempt is resolved: settled with `reservation.spent` where the cost is known, voided where
    nothing was sent, else moved to suspense. The journal has it before Redis is told.
    Raises BudgetExceeded when a scope cannot cover the amount; the body does not run.
    """
    return _Reserved(ledger, attempt, tighter)


class _Reserved:
    """See `reserved`."""

    def __init__(self, ledger: Ledger, attempt: Attempt, tighter: Tighter) -> None:
        self._ledger = ledger
        self._attempt = attempt
        self._tighter = tighter

    async def __aenter__(self) -> Reservation:
        self._reservation = await _reserve(self._ledger, self._attempt, self._tighter)
        return self._reservation

    async def __aexit__(self, *_: object) -> None:
        self._ledger.resolve(self._reservation)


async def _reserve(ledger: Ledger, attempt: Attempt, tighter: Tighter) -> Reservation:
    try:
        return await ledger.reserve(attempt)
    except LedgerUnavailable:
        if attempt.capped:
            raise
        return ledger.unbooked(attempt)
    except BudgetExceeded:
        amount = await tighter()
        if amount is None or amount >= attempt.amount:
            raise
    return await ledger.reserve(replace(attempt, amount=amount))
