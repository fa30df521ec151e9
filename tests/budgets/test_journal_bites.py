"""Slips of the pen in the journal that no other test would notice; see docs/mutations.md."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from journals import KEEP, Clock, book, die, disk_full_after, files, settle, size

from budgets.errors import JournalUnavailable
from budgets.journal import Journal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(folder: Path, clock: Clock) -> Iterator[Journal]:
    journal = Journal(folder, "worker-1", clock=clock)
    yield journal
    journal.close()


def test_a_journal_that_was_never_used_leaves_nothing(folder: Path) -> None:
    Journal(folder, "worker-1").close()

    assert files(folder) == []


def test_what_was_acknowledged_is_written_once(journal: Journal, folder: Path) -> None:
    book(journal, 1)
    journal.flush()
    written = size(folder)

    journal.flush()
    journal.append(settle(2))
    assert size(folder) == written + len(settle(2).to_json()) + 1


def test_what_was_acknowledged_at_the_edge_of_its_time_waits_for_the_next(
    journal: Journal, folder: Path, clock: Clock
) -> None:
    book(journal, 1)
    clock.now += KEEP

    journal.close()

    assert len(files(folder)) == 1


def test_outages_add_up_and_one_without_length_is_none(journal: Journal, clock: Clock) -> None:
    book(journal, 1)
    for length in (KEEP + 5, 0, 0, KEEP + 5):
        journal.flush(away=True)
        clock.now += length
        journal.flush()

    clock.now += KEEP
    assert journal.recent() == [settle(1)]
    clock.now += 0.5
    assert journal.recent() == []


def test_every_adoption_is_counted(journal: Journal, folder: Path) -> None:
    for name in ("worker-2", "worker-3"):
        die(Journal(folder, name))
        journal.adopt()

    assert journal.adoptions == 2


def test_while_what_is_pending_does_not_fit_nothing_is_added_to_a_damaged_file(journal: Journal) -> None:
    for room, numbers in ((1, range(50)), (10_000, range(50, 60))):
        for number in numbers:
            with disk_full_after(room), pytest.raises(JournalUnavailable):
                journal.append(settle(number))

    assert journal.depth == 60


def test_once_the_disk_has_room_what_is_pending_is_soon_on_it(journal: Journal) -> None:
    with disk_full_after(1):
        for number in range(100):
            with pytest.raises(JournalUnavailable):
                journal.append(settle(number))

    failures = 0
    while True:
        try:
            journal.append(settle(1_000 + failures))
            break
        except JournalUnavailable:
            failures += 1
            assert failures <= 10
    assert len(journal.recent()) == 100 + failures + 1


def test_what_the_disk_refuses_is_told_with_the_folder(journal: Journal, folder: Path, tmp_path: Path) -> None:
    in_words = f"({re.escape(str(folder))})"
    journal.append(settle(1))
    with disk_full_after(1), pytest.raises(JournalUnavailable, match=in_words):
        journal.append(settle(2))

    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnavailable, match=re.escape(str(tmp_path / "file" / "journal"))):
        Journal(tmp_path / "file" / "journal", "worker-2")

    shutil.rmtree(folder)
    with pytest.raises(JournalUnavailable, match=in_words):
        journal.adopt()
