"""What can go wrong with money. Facts are attributes; only `gateway/api/errors.py` knows a status."""

from dataclasses import dataclass

from budgets.money import NanoUSD


class BudgetError(Exception):
    """The base of every error of this package."""


@dataclass
class BudgetExceeded(BudgetError):
    """A scope cannot cover the amount. Nothing was written.

    `remaining` and `needed` are nano-USD; `resets_at` is Unix seconds, None for a limit that never resets.
    """

    scope: str
    window: str
    limit: NanoUSD
    remaining: NanoUSD
    needed: NanoUSD
    resets_at: float | None
    suspense: NanoUSD = 0
    """What of the limit is taken by attempts whose cost was never learnt."""


@dataclass
class InstalmentRefused(BudgetExceeded):
    """The budget does not cover more of a stream that is under way; `needed` is what the next part takes."""


@dataclass
class LedgerUnavailable(BudgetError):
    """Redis did not answer in time, or answered that it cannot serve."""

    reason: str
    answered: bool = False
    """Whether Redis itself said so: then the command did not run. Else it may have, or may still."""


@dataclass
class LedgerBehind(LedgerUnavailable):
    """Redis has less than this gateway has seen of `account`: it was flushed, or an older state came back."""

    account: str = ""


@dataclass
class StaleKey(BudgetError):
    """The key's record changed since it was read; `record` is the new one as stored (JSON), None if deleted."""

    record: str | None
    version: int


@dataclass
class AttemptClosed(BudgetError):
    """A reserve arrived for an attempt that was resolved before (`state`: settled, voided, suspense)."""

    state: str


@dataclass
class UnpricedModel(BudgetError):
    """A caller with a cap asked for a model whose price is unknown."""

    model: str


@dataclass
class ScriptFailed(BudgetError):
    """Redis refused a command for a reason that waiting does not cure: a fault of ours, or a key of the wrong type.

    `code` is the first word of its answer (`ERR`, `WRONGTYPE`, …), `message` the whole of it.
    """

    code: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass
class JournalUnavailable(BudgetError):
    """The journal's folder cannot be written. What was to be written is remembered, in memory only."""

    reason: str


@dataclass
class NoRedisServer(BudgetError):
    """No Redis server was found on this machine; `hint` says what to install or to set."""

    hint: str


@dataclass
class RedisServerFailed(BudgetError):
    """The embedded Redis server did not start, or is not ours to use; `reason` names the file to look at."""

    reason: str


@dataclass
class NoSuchKey(BudgetError):
    """No key has this id."""

    key_id: str


@dataclass
class AbsurdUsage(BudgetError):
    """An upstream reported a usage that cannot be: no whole number, out of bounds, or a part above its total."""

    field: str
    value: object
