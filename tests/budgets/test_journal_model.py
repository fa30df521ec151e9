"""Journals against a small model, in any order of what can happen: nothing open is lost, nothing recent is missing."""

import shutil
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from journals import KEEP, Clock, files, settle

from budgets.journal import Journal
from budgets.ledger import Resolution

WORKERS = st.integers(0, 2)


@dataclass
class Known:
    """What has to be known of an attempt: its last entry, and for how long Redis has had it; None while it is open."""

    entry: Resolution
    age: float | None = None


class JournalMachine(RuleBasedStateMachine):
    """Three workers, each followed by another when it dies, on one folder."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.journals = [self.new_journal(number) for number in range(3)]
        self.known: list[dict[str, Known]] = [{} for _ in range(3)]
        self.away = [False] * 3
        self.dead: dict[str, Known] = {}
        self.entries = 0

    def new_journal(self, number: int) -> Journal:
        return Journal(self.folder, f"worker-{number}", keep=KEEP, clock=self.clock)

    @rule(worker=WORKERS, booked=st.booleans())
    def append(self, worker: int, booked: bool) -> None:
        self.entries += 1
        self.put(worker, settle(self.entries, booked=booked))

    @rule(worker=WORKERS, data=st.data())
    def append_another_of_the_same_attempt(self, worker: int, data: st.DataObject) -> None:
        if self.known[worker]:
            attempt = data.draw(st.sampled_from(sorted(self.known[worker])))
            self.entries += 1
            self.put(worker, replace(self.known[worker][attempt].entry, spent=self.entries))

    def put(self, worker: int, entry: Resolution) -> None:
        self.journals[worker].append(entry)
        self.known[worker][entry.attempt_id] = Known(entry)

    @rule(worker=WORKERS, data=st.data())
    def acknowledge(self, worker: int, data: st.DataObject) -> None:
        pending = sorted(attempt for attempt, known in self.known[worker].items() if known.age is None)
        if pending:
            attempt = data.draw(st.sampled_from(pending))
            self.journals[worker].acknowledge(attempt)
            self.known[worker][attempt].age = 0

    @rule(seconds=st.sampled_from([1, KEEP // 2, KEEP, KEEP + 1]))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds
        for worker, attempts in enumerate(self.known):
            for known in attempts.values():
                if known.age is not None and not self.away[worker]:
                    known.age += seconds

    @rule(worker=WORKERS, away=st.booleans())
    def heartbeat(self, worker: int, away: bool) -> None:
        self.journals[worker].flush(away=away)
        self.away[worker] = away

    @rule(worker=WORKERS, killed=st.booleans())
    def die(self, worker: int, killed: bool) -> None:
        if not killed:
            self.journals[worker].close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nobody closes the files of what is killed
            self.journals[worker] = self.new_journal(worker)
        self.dead |= self.known[worker]
        self.known[worker], self.away[worker] = {}, False

    @rule(worker=WORKERS)
    def adopt(self, worker: int) -> None:
        adopted = {entry.attempt_id: entry for entry in self.journals[worker].adopt()}

        found = {attempt: known.entry for attempt, known in self.dead.items()}
        assert adopted.items() <= found.items()
        assert len(files(self.folder)) <= 2 * len(self.journals)
        assert {attempt for attempt, known in self.dead.items() if known.age is None} <= adopted.keys()
        for attempt in adopted:
            self.dead[attempt].age = None
        self.known[worker] |= self.dead
        self.dead = {}

    @invariant()
    def what_is_open_is_pending(self) -> None:
        for journal, attempts in zip(self.journals, self.known, strict=True):
            pending = {attempt: known.entry for attempt, known in attempts.items() if known.age is None}
            assert {entry.attempt_id: entry for entry in journal.pending()} == pending

    @invariant()
    def what_is_recent_is_found(self) -> None:
        for journal, attempts in zip(self.journals, self.known, strict=True):
            found = {entry.attempt_id: entry for entry in journal.recent()}
            assert found.items() <= {attempt: known.entry for attempt, known in attempts.items()}.items()
            assert {attempt for attempt, known in attempts.items() if (known.age or 0) <= KEEP} <= found.keys()

    def teardown(self) -> None:
        for worker in range(3):
            self.die(worker, killed=True)
        self.adopt(0)
        self.what_is_open_is_pending()
        self.what_is_recent_is_found()
        for journal in self.journals:
            journal.close()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("derandomized", [True, False], ids=["the same as ever", "something new"])
def test_whatever_happens_in_any_order_nothing_open_or_recent_is_lost(derandomized: bool) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        JournalMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            derandomize=derandomized,
            suppress_health_check=list(HealthCheck),
        ),
    )
