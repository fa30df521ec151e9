"""The journal: what is written is found again after a SIGKILL, by one adopter only, and a full disk breaks nothing."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.errors import JournalUnavailable
from budgets.journal import MOST_ACKNOWLEDGED, SMALL_BYTES, Journal
from budgets.ledger import Resolution

WORKER = """
import sys
from pathlib import Path
from budgets.journal import Journal
from budgets.ledger import Resolution
journal = Journal(Path(sys.argv[1]), "worker-0")

def before_a_lock(event, arguments):
    if event == "fcntl.flock":
        print("about to lock", flush=True)
        sys.stdin.buffer.readline()

for line in sys.stdin.buffer:
    word, _, rest = line.rstrip(b"\\n").partition(b" ")
    if word == b"append":
        journal.append(Resolution.from_json(rest))
    elif word == b"acknowledge":
        journal.acknowledge(rest.decode())
    elif word == b"flush":
        journal.flush()
    elif word == b"hesitate":
        sys.addaudithook(before_a_lock)
    else:
        print(len(journal.adopt()), flush=True)
    print("done", flush=True)
"""


def settle(number: int, **changes: object) -> Resolution:
    entry = Resolution(
        kind="settle",
        attempt_id=f"att_default_{number}",
        account="default",
        key_id="key_default_1",
        holds="account lifetime:0\nkey:key_default_1 lifetime:0 day:1798761600",
        amount=2_000_000,
        spent=1_234_567,
        estimate=0,
        price_version="2026-10-01",
        model="small",
        booked=True,
        at=1_798_761_600.25,
    )
    return replace(entry, **changes)  # type: ignore[arg-type]


class Worker:
    """Another process with a journal of its own in the same folder."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tell(self, word: str, rest: bytes = b"") -> list[bytes]:
        """Have it do something; what it says until it is done."""
        self.order(word, rest)
        return self.await_done()

    def order(self, word: str, rest: bytes = b"") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b" " + rest + b"\n")
        self.process.stdin.flush()

    def says(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def await_done(self) -> list[bytes]:
        return list(iter(self.says, b"done\n"))

    def kill(self) -> None:
        with self.process:
            self.process.send_signal(signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def worker(folder: Path) -> Iterator[Worker]:
    worker = Worker(folder)
    yield worker
    worker.kill()


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder, "worker-1")
    yield journal
    journal.close()


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write is cut short there, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def left_behind(folder: Path) -> list[Resolution]:
    """What a new worker finds in the journals of dead ones."""
    journal = Journal(folder, "finder")
    try:
        return journal.adopt()
    finally:
        journal.close()


def test_an_entry_is_pending_until_it_is_acknowledged(journal: Journal) -> None:
    journal.append(settle(1))
    journal.append(settle(2))
    journal.acknowledge("att_default_1")

    assert journal.pending() == [settle(2)]
    assert journal.depth == 1


def test_an_acknowledgement_of_the_unknown_is_ignored(journal: Journal, folder: Path) -> None:
    journal.acknowledge("att_default_1")

    assert journal.depth == 0
    assert [path.stat().st_size for path in files(folder)] == [0]


def test_a_killed_worker_leaves_what_was_not_acknowledged(folder: Path, worker: Worker) -> None:
    for number in range(3):
        worker.tell("append", settle(number).to_json())
    worker.tell("acknowledge", b"att_default_1")
    worker.tell("append", settle(3).to_json())
    worker.kill()

    assert left_behind(folder) == [settle(0), settle(2), settle(3)]


def test_what_was_acknowledged_last_is_found_again_unless_it_was_flushed(folder: Path, worker: Worker) -> None:
    worker.tell("append", settle(1).to_json())
    worker.tell("append", settle(2).to_json())
    worker.tell("acknowledge", b"att_default_1")
    worker.tell("flush")
    worker.tell("acknowledge", b"att_default_2")
    worker.kill()

    assert left_behind(folder) == [settle(2)]


def test_what_redis_never_held_is_forgotten_by_the_disk_at_once(folder: Path, worker: Worker) -> None:
    """Else it could be booked twice: Redis cannot tell how old such an attempt is."""
    worker.tell("append", settle(1, booked=False).to_json())
    worker.tell("acknowledge", b"att_default_1")
    worker.kill()

    assert left_behind(folder) == []


def test_only_so_many_acknowledgements_wait(folder: Path, worker: Worker) -> None:
    for number in range(MOST_ACKNOWLEDGED):
        worker.tell("append", settle(number).to_json())
    for number in range(MOST_ACKNOWLEDGED):
        worker.tell("acknowledge", b"att_default_%d" % number)
    worker.kill()

    assert left_behind(folder) == []


def test_a_living_worker_is_not_robbed(folder: Path, worker: Worker, journal: Journal) -> None:
    worker.tell("append", settle(1).to_json())

    assert journal.adopt() == []
    assert journal.depth == 0


def test_what_is_adopted_outlives_its_adopter(folder: Path) -> None:
    first, second = Worker(folder), Worker(folder)
    first.tell("append", settle(1).to_json())
    first.kill()
    second.tell("adopt")
    second.kill()

    assert left_behind(folder) == [settle(1)]


def test_an_adopted_file_is_removed_once_its_entries_are_safe(folder: Path, worker: Worker, journal: Journal) -> None:
    worker.tell("append", settle(1).to_json())
    worker.kill()
    assert len(files(folder)) == 2

    assert journal.adopt() == [settle(1)]
    assert journal.pending() == [settle(1)]
    assert len(files(folder)) == 1


def test_of_many_adopters_one_gets_the_file(folder: Path, worker: Worker) -> None:
    worker.tell("append", settle(1).to_json())
    adopters = [Worker(folder) for _ in range(3)]
    for adopter in adopters:
        adopter.tell("acknowledge")  # all of them are up
    worker.kill()
    for adopter in adopters:
        adopter.order("adopt")
    adopted = [int(adopter.await_done()[0]) for adopter in adopters]
    for adopter in adopters:
        adopter.kill()

    assert sorted(adopted) == [0, 0, 1]


def test_journals_of_one_name_have_files_of_their_own(folder: Path) -> None:
    first, second = Journal(folder, "worker-0"), Journal(folder, "worker-0")
    first.append(settle(1))
    second.append(settle(2))

    assert second.pending() == [settle(2)]
    assert len(files(folder)) == 2
    first.close()
    second.close()


def test_closing_leaves_nothing_where_nothing_is_pending(folder: Path) -> None:
    journal = Journal(folder, "worker-0")
    journal.append(settle(1))
    journal.acknowledge("att_default_1")
    journal.close()

    assert files(folder) == []


def test_closing_leaves_what_is_pending_to_the_next(folder: Path) -> None:
    journal = Journal(folder, "worker-0")
    journal.append(settle(1))
    journal.close()

    assert left_behind(folder) == [settle(1)]


def test_a_journal_is_for_its_owner_alone(journal: Journal, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("cut", range(1, len(settle(2).to_json()) + 1, 7))
def test_a_last_line_cut_short_does_not_hide_the_others(folder: Path, cut: int) -> None:
    folder.mkdir()
    content = settle(1).to_json() + b"\n" + settle(2).to_json()[:cut]
    (folder / "worker-0.dead.journal").write_bytes(content)

    assert left_behind(folder)[0] == settle(1)


def test_a_last_acknowledgement_cut_short_forgets_nothing(folder: Path) -> None:
    folder.mkdir()
    (folder / "worker-0.dead.journal").write_bytes(settle(12).to_json() + b"\n-att_default_1")

    assert left_behind(folder) == [settle(12)]


def test_a_file_of_nonsense_is_passed_over(folder: Path) -> None:
    folder.mkdir()
    (folder / "worker-0.dead.journal").write_bytes(b"\x00\x00\n-\xff\n[1]\n{}\n" + settle(1).to_json() + b"\n")

    assert left_behind(folder) == [settle(1)]


def test_a_file_does_not_grow_with_what_is_done(journal: Journal, folder: Path) -> None:
    journal.append(settle(0))
    largest = 0
    for number in range(1, 8_000):
        journal.append(settle(number))
        journal.acknowledge(f"att_default_{number}")
        largest = max(largest, files(folder)[0].stat().st_size)

    assert 0.9 * SMALL_BYTES < largest < 1.1 * SMALL_BYTES
    assert len(files(folder)) == 1
    assert journal.pending() == [settle(0)]


def test_a_rewritten_file_has_what_is_pending_and_stays_locked(folder: Path, worker: Worker, journal: Journal) -> None:
    worker.tell("append", settle(0, model="m" * SMALL_BYTES).to_json())
    worker.tell("append", settle(1).to_json())  # rewrites the file, which had become large
    worker.tell("acknowledge", b"att_default_0")
    worker.tell("acknowledge", b"att_default_1")
    worker.tell("flush")
    worker.tell("append", settle(2).to_json())
    assert sum(path.stat().st_size for path in files(folder)) < 1000
    assert journal.adopt() == []
    worker.kill()

    assert journal.adopt() == [settle(2)]


def test_a_file_that_is_replaced_while_another_opens_it_is_not_lost(
    folder: Path, worker: Worker, journal: Journal
) -> None:
    journal.append(settle(0, model="m" * SMALL_BYTES))
    worker.tell("hesitate")
    worker.order("adopt")
    assert worker.says() == b"about to lock\n"
    journal.append(settle(1))  # replaces the file, which had become large
    worker.order("go on")

    assert worker.await_done() == [b"0\n"]
    journal.close()
    assert len(left_behind(folder)) == 2


def test_a_full_disk_is_told_and_the_entry_is_still_pending(journal: Journal) -> None:
    journal.append(settle(1))
    with disk_full_after(500), pytest.raises(JournalUnavailable, match="cannot be written"):
        journal.append(settle(2))

    assert journal.pending() == [settle(1), settle(2)]


def test_what_a_full_disk_did_not_take_is_written_later(folder: Path) -> None:
    journal = Journal(folder, "worker-0")
    journal.append(settle(1))
    for number in (2, 3):
        with disk_full_after(500), pytest.raises(JournalUnavailable):
            journal.append(settle(number))
    journal.append(settle(4))
    journal.close()

    assert left_behind(folder) == [settle(1), settle(2), settle(3), settle(4)]


def test_a_full_disk_does_not_stop_acknowledgements(folder: Path) -> None:
    journal = Journal(folder, "worker-0")
    journal.append(settle(1))
    journal.append(settle(2))
    with disk_full_after(1):
        journal.acknowledge("att_default_1")
    assert journal.pending() == [settle(2)]
    journal.append(settle(3))
    journal.close()

    assert left_behind(folder) == [settle(2), settle(3)]


def test_an_orphan_that_does_not_fit_on_the_disk_is_left_for_later(folder: Path, worker: Worker) -> None:
    worker.tell("append", settle(1).to_json())
    worker.kill()
    journal = Journal(folder, "worker-1")
    with disk_full_after(1), pytest.raises(JournalUnavailable):
        journal.adopt()

    assert journal.adopt() == [settle(1)]
    assert journal.pending() == [settle(1)]
    journal.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(JournalUnavailable, match="Not a directory"):
        Journal(tmp_path / "file" / "journal", "worker-0")


@given(steps=st.lists(st.tuples(st.sampled_from(["append", "acknowledge", "full"]), st.integers(0, 5)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_file_always_tells_what_is_pending(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, "worker-0")
    for step, number in steps:
        if step == "append":
            journal.append(settle(number))
        elif step == "acknowledge":
            journal.acknowledge(f"att_default_{number}")
        else:
            with disk_full_after(1), pytest.raises(JournalUnavailable):
                journal.append(settle(number))
    journal.append(settle(9))
    pending = journal.pending()
    journal.close()

    assert sorted(left_behind(folder), key=str) == sorted(pending, key=str)
