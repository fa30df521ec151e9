"""The scripts against a model of the ledger in plain Python, in any order, with lost leases and everything twice."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from scripts import LEASES, SUSPENSE, Scripts

SCOPES = ("account", "team:t", "key:k")
ATTEMPTS = st.sampled_from([f"attempt {number}" for number in range(6)])
AMOUNTS = st.integers(0, 5)
MINUTE = 60


@dataclass(frozen=True)
class Entry:
    state: str
    amount: int
    scopes: tuple[str, ...]
    booked: int = 0
    """What was spent, or, of one in suspense, what is estimated."""


class Model:
    """Ten lines that say what the ledger is: attempts in a state, and what was spent."""

    def __init__(self) -> None:
        self.attempts: dict[str, Entry] = {}
        self.spent: Counter[str] = Counter()
        self.limits: dict[str, int] = {}

    def total(self, state: str, scope: str) -> int:
        return sum(e.amount for e in self.attempts.values() if e.state == state and scope in e.scopes)

    def used(self, scope: str) -> tuple[int, int, int]:
        return self.spent[scope], self.total("open", scope), self.total("suspense", scope)

    def fits(self, amount: int, scopes: tuple[str, ...]) -> bool:
        return all(sum(self.used(s)) + amount <= self.limits[s] for s in scopes if s in self.limits)

    def move(self, attempt: str, state: str, booked: int = 0) -> None:
        self.attempts[attempt] = replace(self.attempts[attempt], state=state, booked=booked)

    def book(self, attempt: str, scopes: tuple[str, ...], spent: int, state: str = "settled") -> None:
        self.attempts[attempt] = Entry(state, 0, scopes, spent)
        self.spent.update(dict.fromkeys(scopes, spent))


class LedgerMachine(RuleBasedStateMachine):
    """One step is one script on the real server and one line of the model."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        client = redis.Redis.from_url(self.url, decode_responses=True)
        client.flushall()
        self.scripts = Scripts(client)
        self.model = Model()
        self.settled: Counter[str] = Counter()

    @rule(scope=st.sampled_from(SCOPES), limit=st.integers(0, 20))
    def limit(self, scope: str, limit: int) -> None:
        self.scripts.limit_nano(scope, limit)
        self.model.limits[scope] = limit

    @rule(attempt=ATTEMPTS, amount=AMOUNTS, scopes=st.sampled_from([SCOPES, SCOPES[:1], SCOPES[::2]]))
    def reserve(self, attempt: str, amount: int, scopes: tuple[str, ...]) -> None:
        known = self.model.attempts.get(attempt)

        answer = self.scripts.reserve(attempt, amount, *scopes)

        if known is not None:
            assert answer[0] == ("held" if known.state == "open" else "closed")
        elif self.model.fits(amount, scopes):
            assert answer[0] == "held"
            self.model.attempts[attempt] = Entry("open", amount, scopes)
            assert all(
                sum(self.scripts.used(s)) <= limit for s, limit in self.model.limits.items() if s in scopes
            )  # I4
        else:
            assert answer[0] == "refused"
            assert self.scripts.attempt(attempt) == {}

    @rule(attempt=ATTEMPTS, spent=st.integers(0, 8))
    def settle(self, attempt: str, spent: int) -> None:
        known = self.model.attempts.get(attempt, Entry("unknown", 0, SCOPES))

        answer = self.scripts.settle(attempt, spent, _holds(SCOPES))

        corrected = {"accepted": "corrected", "freed": "corrected"}
        expected = {"open": "settled", "suspense": "late", "voided": "orphan", "unknown": "orphan", **corrected}
        assert answer == expected.get(known.state, "again")
        if answer == "corrected":
            self.model.book(attempt, known.scopes, spent - known.booked)
            self.model.move(attempt, "settled", spent)
        elif answer != "again":
            scopes = known.scopes if known.state in {"open", "suspense"} else SCOPES
            self.model.book(attempt, scopes, spent)
        self.settled[attempt] += answer != "again"

    @rule(attempt=ATTEMPTS)
    def void(self, attempt: str) -> None:
        known = self.model.attempts.get(attempt)

        answer = self.scripts.void(attempt)

        expected = {"open": "voided", "suspense": "late", "accepted": "late", "freed": "late"}
        assert answer == (expected.get(known.state, "again") if known else "unknown")
        if known is not None and known.state == "accepted":
            self.model.book(attempt, known.scopes, -known.booked)
        if answer != "again":
            self.model.attempts[attempt] = Entry("voided", 0, ())

    @rule(attempt=ATTEMPTS, amount=AMOUNTS, is_later=st.booleans())
    def suspend(self, attempt: str, amount: int, is_later: bool) -> None:
        """`is_later`: it ended after it was freed; see `free`."""
        known = self.model.attempts.get(attempt, Entry("unknown", 0, ()))

        answer = self.scripts.suspend(attempt, amount, amount // 2, _holds(SCOPES), age=0 if is_later else MINUTE)

        freed = "orphan" if is_later else "again"
        expected = {"open": "suspended", "suspense": "late", "voided": "orphan", "unknown": "orphan", "freed": freed}
        assert answer == expected.get(known.state, "again")
        if answer in {"suspended", "late"}:
            self.model.attempts[attempt] = replace(known, amount=max(known.amount, amount))
            self.model.move(attempt, "suspense", amount // 2)
        elif answer == "orphan":
            self.model.attempts[attempt] = Entry("suspense", amount, SCOPES, amount // 2)

    @rule(attempt=ATTEMPTS)
    def lease_runs_out(self, attempt: str) -> None:
        self.scripts.client.zadd(LEASES, {attempt: 1}, xx=True)
        self.scripts.reap()
        known = self.model.attempts.get(attempt)
        if known is not None and known.state == "open":
            self.model.move(attempt, "suspense", known.amount)

    @rule(attempt=ATTEMPTS)
    def renew(self, attempt: str) -> None:
        self.scripts.renew(attempt)  # the invariants say that it revives nothing

    @rule(attempt=ATTEMPTS, amount=AMOUNTS)
    def restore(self, attempt: str, amount: int) -> None:
        known = self.model.attempts.get(attempt)

        answer = self.scripts.restore(attempt, amount, _holds(SCOPES))

        is_lost = (
            known is None or known.state == "freed" or (known.state in {"open", "suspense"} and amount > known.amount)
        )
        assert answer == ("restored" if is_lost else known and known.state)
        if known is None or known.state == "freed":
            self.model.attempts[attempt] = Entry("open", amount, SCOPES)
        elif is_lost:
            self.model.attempts[attempt] = replace(known, amount=amount)

    @rule(attempt=ATTEMPTS, more=AMOUNTS)
    def extend(self, attempt: str, more: int) -> None:
        known = self.model.attempts.get(attempt, Entry("unknown", 0, ()))

        answer = self.scripts.extend(attempt, known.amount + more)

        if known.state != "open":
            assert answer[0] == "closed"
        elif not more or self.model.fits(more, known.scopes):
            assert answer[0] == "held"
            self.model.attempts[attempt] = replace(known, amount=known.amount + more)
        else:
            assert answer[0] == "refused"

    @rule(attempt=ATTEMPTS, billed=st.integers(0, 8))
    def reconcile(self, attempt: str, billed: int) -> None:
        known = self.model.attempts.get(attempt, Entry("unknown", 0, ()))

        answer = self.scripts.reconcile(attempt, billed)[0]

        if known.state == "suspense":
            assert answer == "resolved"
            self.model.book(attempt, known.scopes, billed)
            self.settled[attempt] += 1
        elif known.state in {"accepted", "freed"} and billed > known.booked:
            assert answer == "resolved"
            self.model.book(attempt, known.scopes, billed - known.booked)
            self.model.move(attempt, "settled", billed)
            self.settled[attempt] += 1
        elif known.state in {"settled", "accepted", "freed"}:
            assert answer == ("same" if billed == known.booked else "differs")
            self.model.move(attempt, "settled" if answer == "same" else known.state, known.booked)
        elif known.state == "voided":
            assert answer == ("voided" if billed else "same")
        else:
            assert answer == known.state

    @rule(attempt=ATTEMPTS)
    def free(self, attempt: str) -> None:
        """Half a minute after it came to suspense, that is after what ended a minute ago, and before what ends now."""
        known = self.model.attempts.get(attempt, Entry("unknown", 0, ()))
        self.scripts.waited(attempt, MINUTE / 2)

        answer = self.scripts.free(attempt)[0]

        if known.state == "suspense":
            assert answer == "resolved"
            self.model.book(attempt, known.scopes, 0, "freed")
        elif known.state in {"settled", "accepted", "freed"}:
            assert answer == ("differs" if known.booked else "same")
        else:
            assert answer == ("same" if known.state == "voided" else known.state)

    @rule()
    def accept_all_estimates(self) -> None:
        suspended = {name: entry for name, entry in self.model.attempts.items() if entry.state == "suspense"}

        assert self.scripts.accept(0) == len(suspended)

        for name, entry in suspended.items():
            self.model.book(name, entry.scopes, entry.booked, "accepted")

    @invariant()
    def every_scope_is_as_the_model_says(self) -> None:
        for scope in SCOPES:
            assert self.scripts.used(scope) == self.model.used(scope)  # I1
            assert min(self.scripts.used(scope)) >= 0

    @invariant()
    def what_holds_money_is_listed_and_nothing_else(self) -> None:
        for name, state in ((LEASES, "open"), (SUSPENSE, "suspense")):
            listed = set(self.scripts.client.zrange(name, 0, -1))
            assert listed == {attempt for attempt, entry in self.model.attempts.items() if entry.state == state}

    @invariant()
    def nothing_is_settled_twice(self) -> None:
        assert max(self.settled.values(), default=0) <= 1  # I5

    def teardown(self) -> None:
        self.scripts.let_leases_run_out()
        self.scripts.reap()
        assert [self.scripts.used(scope)[1] for scope in SCOPES] == [0] * len(SCOPES)  # I6
        self.scripts.client.close()


def _holds(scopes: tuple[str, ...]) -> str:
    return "\n".join(f"{scope} lifetime:0" for scope in scopes)


@pytest.mark.parametrize("derandomized", [True, False], ids=["the same as ever", "something new"])
def test_the_ledger_does_what_ten_lines_of_python_do(redis_url: str, derandomized: bool) -> None:
    LedgerMachine.url = redis_url

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        LedgerMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            derandomize=derandomized,
            suppress_health_check=list(HealthCheck),
        ),
    )
