"""What a killed worker leaves is found by one adopter only, wherever either of them was killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from journals import KEEP, Clock, Worker, book, die, disk_full_after, files, left_behind, settle

from budgets.errors import JournalUnavailable
from budgets.journal import MOST_ACKNOWLEDGED, Journal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worker(folder: Path) -> Iterator[Worker]:
    worker = Worker(folder)
    yield worker
    worker.kill()


@pytest.fixture
def journal(folder: Path, clock: Clock) -> Iterator[Journal]:
    journal = Journal(folder, "worker-1", clock=clock)
    yield journal
    journal.close()


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


def test_what_redis_never_held_is_closed_on_the_disk_at_once(folder: Path, worker: Worker) -> None:
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

    worker.tell("flush", b"121")
    assert len(files(folder)) == 3
    assert journal.adopt() == []
    assert journal.depth == 0


def test_what_is_adopted_outlives_its_adopter(folder: Path) -> None:
    first, second = Worker(folder), Worker(folder)
    first.tell("append", settle(1).to_json())
    first.kill()
    second.tell("adopt")
    second.kill()

    assert left_behind(folder) == [settle(1)]


def test_adopted_files_are_removed_once_their_entries_are_safe(folder: Path, worker: Worker, journal: Journal) -> None:
    worker.tell("append", settle(1).to_json())
    worker.tell("flush", b"121")
    worker.kill()
    assert len(files(folder)) == 3

    assert journal.adopt() == [settle(1)]
    assert journal.pending() == [settle(1)]
    assert len(files(folder)) == 1


def test_what_is_acknowledged_in_a_later_generation_is_not_open(folder: Path, worker: Worker, journal: Journal) -> None:
    worker.tell("append", settle(1).to_json())
    worker.tell("append", settle(2).to_json())
    worker.tell("flush", b"121")
    worker.tell("acknowledge", b"att_default_1")
    worker.tell("flush")
    worker.kill()

    assert journal.adopt() == [settle(2)]
    assert journal.recent() == [settle(1), settle(2)]


def test_what_redis_acknowledged_to_a_killed_worker_is_recent_for_its_adopters(folder: Path, clock: Clock) -> None:
    dead = Journal(folder, "worker-0", clock=clock)
    book(dead, 1)
    clock.now += KEEP - 20
    book(dead, 2)
    die(dead)
    clock.now += 1_000_000  # nobody was there, and nothing grew old
    first = Journal(folder, "worker-1", clock=clock)
    first.adopt()
    clock.now += 15
    book(first, 3)
    die(first)
    second = Journal(folder, "worker-2", clock=clock)
    second.adopt()

    assert second.recent() == [settle(number) for number in (-1, 1, 2, 3)]
    clock.now += 10
    assert second.recent() == [settle(number) for number in (-1, 2, 3)]
    clock.now += KEEP
    assert second.recent() == [settle(-1)]
    second.close()


def test_a_clock_that_was_put_back_makes_nothing_old(folder: Path, clock: Clock, journal: Journal) -> None:
    dead = Journal(folder, "worker-0", clock=clock)
    book(dead, 1)
    clock.now -= 1_000_000
    book(dead, 2)
    die(dead)
    journal.adopt()

    assert journal.recent() == [settle(-1), settle(1), settle(2)]


def test_of_many_adopters_one_gets_the_files(folder: Path, worker: Worker) -> None:
    worker.tell("append", settle(1).to_json())
    worker.tell("flush", b"121")
    adopters = [Worker(folder) for _ in range(3)]
    for adopter in adopters:
        adopter.tell("acknowledge")  # all of them are up
    worker.kill()
    for adopter in adopters:
        adopter.order("adopt")
    adopted = [int(adopter.await_done()[0]) for adopter in adopters]
    retried = [int(adopter.tell("adopt")[0]) for adopter in adopters]
    for adopter in adopters:
        adopter.kill()

    assert sorted(map(sum, zip(adopted, retried, strict=True))) == [0, 0, 1]


@pytest.mark.parametrize("generations", [1, 2])
def test_generations_that_begin_while_an_adopter_looks_are_not_left_out(
    folder: Path, worker: Worker, generations: int
) -> None:
    adopter = Worker(folder)
    worker.tell("append", settle(1, booked=False).to_json())
    adopter.tell("hesitate")
    adopter.order("adopt")
    assert adopter.says() == b"about to lock\n"
    worker.tell("acknowledge", b"att_default_1")
    for _ in range(generations):
        worker.tell("append", settle(2).to_json())
        worker.tell("flush", b"121")
    worker.kill()
    adopter.order("go on")

    assert adopter.await_done() == [b"0\n"]
    assert adopter.tell("adopt") == [b"1\n"]
    adopter.kill()
    assert left_behind(folder) == [settle(2)]


def test_files_that_cannot_be_taken_do_not_keep_the_others_back(folder: Path, journal: Journal, clock: Clock) -> None:
    (folder / "a.dead.1.journal").mkdir()
    with pytest.raises(JournalUnavailable):
        journal.adopt()

    die(Journal(folder, "worker-0", clock=clock))
    assert journal.adopt() == [settle(-1)]


@pytest.mark.parametrize("cut", range(1, len(settle(2).to_json()) + 1, 7))
def test_a_last_line_cut_short_does_not_hide_the_others(
    folder: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    content = settle(1).to_json() + b"\n" + settle(2).to_json()[:cut]
    (folder / "worker-0.dead.1.journal").write_bytes(content)

    assert left_behind(folder) == [settle(1)]
    assert "1 lines in the journal of worker-0.dead cannot be read" in caplog.text


def test_a_last_acknowledgement_cut_short_closes_nothing(folder: Path) -> None:
    folder.mkdir()
    content = b"%b\n%b\n-att_default_1" % (settle(1).to_json(), settle(12).to_json())
    (folder / "worker-0.dead.1.journal").write_bytes(content)

    assert left_behind(folder) == [settle(1), settle(12)]


def test_a_file_of_nonsense_is_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    nonsense = b'\x00\x00\n-\xff\n-\xff 1.0\n*nan\n[1]\n{}\n{"attempt_id":"x"}\n'
    (folder / "worker-0.dead.1.journal").write_bytes(nonsense + settle(1).to_json() + b"\n")

    assert left_behind(folder) == [settle(1)]
    assert "6 lines in the journal of worker-0.dead cannot be read" in caplog.text


def test_wherever_a_worker_is_killed_while_a_generation_begins_nothing_is_lost(folder: Path) -> None:
    steps = 0
    survived = False
    while not survived:
        worker = Worker(folder)
        worker.tell("append", settle(1).to_json())
        worker.tell("flush", b"121")
        worker.tell("flush", b"60")
        worker.tell("append", settle(2).to_json())
        worker.tell("acknowledge", b"att_default_2")
        worker.tell("append", settle(3).to_json())
        worker.tell("die", b"%d" % steps)
        survived = worker.survives("flush", b"61")
        worker.kill()
        journal = Journal(folder, "finder")
        assert journal.adopt() == [settle(1), settle(3)]
        assert journal.recent() == [settle(1), settle(2), settle(3)]
        assert len(files(folder)) == 1
        for entry in journal.pending():
            journal.acknowledge(entry.attempt_id)
        journal.close()
        files(folder)[0].unlink()
        steps += 1

    assert steps > 3


def test_wherever_an_adopter_is_killed_nothing_is_lost(folder: Path, clock: Clock) -> None:
    steps = 0
    survived = False
    while not survived:
        dead = Journal(folder, "worker-1", clock=clock)
        book(dead, 1)
        dead.append(settle(2))
        clock.now += KEEP + 1
        dead.flush()
        book(dead, 3)
        die(dead)
        adopter = Worker(folder)
        adopter.tell("die", b"%d" % steps)
        survived = adopter.survives("adopt")
        adopter.kill()
        journal = Journal(folder, "finder")
        assert {entry.attempt_id for entry in journal.adopt()} == {settle(2).attempt_id, settle(-1).attempt_id}
        assert journal.recent() == [settle(-1), settle(2), settle(3)]
        assert len(files(folder)) == 1
        journal.close()
        files(folder)[0].unlink()
        steps += 1

    assert steps > 6


def test_an_orphan_that_does_not_fit_on_the_disk_is_left_for_later(folder: Path, worker: Worker) -> None:
    worker.tell("append", settle(1).to_json())
    worker.kill()
    journal = Journal(folder, "worker-1")
    with disk_full_after(1), pytest.raises(JournalUnavailable):
        journal.adopt()
    assert journal.pending() == []

    assert journal.adopt() == [settle(1)]
    assert journal.pending() == [settle(1)]
    journal.close()
