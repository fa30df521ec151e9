"""What the ledger is, in plain Python: attempts in a state, and what that comes to. The second oracle of its tests."""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

Scopes: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    state: str
    amount: int
    scopes: Scopes
    spent: int = 0
    estimate: int = 0
    was_running: bool = False
    """When it was freed."""


class Model:
    """Each step may come twice, or late, or of an attempt that is not known."""

    def __init__(self) -> None:
        self.attempts: dict[str, Entry] = {}
        self.limits: dict[str, int] = {}

    def used(self, scope: str) -> tuple[int, int, int]:
        entries = [entry for entry in self.attempts.values() if scope in entry.scopes]
        held, suspense = (sum(e.amount for e in entries if e.state == state) for state in ("open", "suspense"))
        return sum(entry.spent for entry in entries), held, suspense

    def fits(self, amount: int, scopes: Scopes) -> bool:
        return all(sum(self.used(s)) + amount <= self.limits[s] for s in scopes if s in self.limits)

    def state(self, attempt: str) -> str:
        return self.attempts[attempt].state if attempt in self.attempts else "unknown"

    def change(self, attempt: str, *states: str, **changes: Any) -> None:
        if self.state(attempt) in states:
            self.attempts[attempt] = replace(self.attempts[attempt], **changes)

    def hold(self, attempt: str, amount: int, scopes: Scopes) -> None:
        self.attempts.setdefault(attempt, Entry("open", amount, scopes))
        if amount > self.attempts[attempt].amount:
            self.change(attempt, "open", amount=amount)

    def restore(self, attempt: str, amount: int, scopes: Scopes) -> None:
        self.change(attempt, "freed", state="open", amount=amount)
        self.hold(attempt, amount, scopes)

    def settle(self, attempt: str, spent: int, scopes: Scopes) -> None:
        if self.state(attempt) in {"accepted", "freed"}:
            self.change(attempt, "accepted", "freed", state="settled", spent=spent)
        elif self.state(attempt) != "settled":
            self.attempts[attempt] = Entry("settled", 0, scopes, spent)

    def void(self, attempt: str) -> None:
        if self.state(attempt) != "settled":
            self.attempts[attempt] = Entry("voided", 0, ())

    def suspend(self, attempt: str, amount: int, estimate: int, scopes: Scopes) -> None:
        if self.state(attempt) in {"unknown", "voided"} or self.is_freed_too_early(attempt):
            self.attempts[attempt] = Entry("suspense", amount, scopes)
        self.change(attempt, "open", "suspense", state="suspense", estimate=estimate)

    def reap(self, attempt: str) -> None:
        self.change(attempt, "open", state="suspense", estimate=self.attempts[attempt].amount)

    def accept(self, attempt: str) -> None:
        self.change(attempt, "suspense", state="accepted", amount=0, spent=self.attempts[attempt].estimate)

    def reconcile(self, attempt: str, billed: int) -> None:
        self.change(attempt, "suspense", state="settled", amount=0, spent=billed)
        if self.state(attempt) in {"accepted", "freed"} and billed >= self.attempts[attempt].spent:
            self.change(attempt, "accepted", "freed", state="settled", spent=billed)

    def free(self, attempt: str, *, was_running: bool) -> None:
        self.change(attempt, "suspense", state="freed", amount=0, was_running=was_running)

    def is_freed_too_early(self, attempt: str) -> bool:
        return self.state(attempt) == "freed" and self.attempts[attempt].was_running
