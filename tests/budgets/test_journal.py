"""The journal of one worker: what is pending, what is recent, its generations, its end, and a disk that is full."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import KEEP, Clock, book, disk_full_after, files, left_behind, settle, size

from budgets.errors import JournalUnavailable
from budgets.journal import MOST_GENERATIONS, PENDING_PER_WRITE, Journal
from budgets.ledger import Resolution


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(folder: Path, clock: Clock) -> Iterator[Journal]:
    journal = Journal(folder, "worker-1", clock=clock)
    yield journal
    journal.close()


# what is pending


def test_an_entry_is_pending_until_it_is_acknowledged(journal: Journal) -> None:
    journal.append(settle(1))
    journal.append(settle(2))
    journal.acknowledge("att_default_1")

    assert journal.pending() == [settle(2)]
    assert journal.depth == 1


def test_an_acknowledgement_of_the_unknown_is_ignored(journal: Journal, folder: Path) -> None:
    journal.acknowledge("att_default_1")

    assert journal.depth == 0
    assert size(folder) == 0


def test_journals_of_one_name_have_files_of_their_own(folder: Path) -> None:
    first, second = Journal(folder, "worker-0"), Journal(folder, "worker-0")
    first.append(settle(1))
    second.append(settle(2))

    assert second.pending() == [settle(2)]
    assert len(files(folder)) == 2
    first.close()
    second.close()


def test_a_journal_is_for_its_owner_alone(journal: Journal, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700


# what is recent


def test_what_is_acknowledged_is_recent_for_a_while(journal: Journal, clock: Clock) -> None:
    journal.append(settle(1))
    clock.now += 10 * KEEP
    book(journal, 2)
    journal.acknowledge("att_default_1")
    journal.flush()

    clock.now += KEEP
    assert journal.recent() == [settle(1), settle(2)]
    clock.now += 1
    assert journal.recent() == []


def test_what_is_pending_is_recent_for_ever(journal: Journal, clock: Clock) -> None:
    journal.append(settle(1))
    for _ in range(5):
        clock.now += KEEP + 1
        book(journal, 2)
        journal.flush()

    assert settle(1) in journal.recent()


def test_of_each_attempt_the_last_entry_is_recent(journal: Journal) -> None:
    book(journal, 2)
    book(journal, 1, kind="void")
    book(journal, 1)

    assert journal.recent() == [settle(1), settle(2)]


def test_a_line_that_is_being_written_is_passed_over(
    journal: Journal, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book(journal, 1)
    with files(folder)[0].open("ab") as file:
        file.write(settle(1).to_json()[:50])

    assert journal.recent() == [settle(1)]
    assert caplog.text == ""


async def test_what_is_recent_can_be_read_while_the_journal_is_written(journal: Journal, clock: Clock) -> None:
    clock.now += KEEP / 2
    still_recent = clock.now + KEEP
    book(journal, *range(2_000))
    reading = asyncio.create_task(asyncio.to_thread(journal.recent))
    booked = 2_000
    while not reading.done():
        book(journal, booked)
        booked += 1
        clock.now = min(clock.now + 1, still_recent)  # another generation begins meanwhile
        journal.flush()
        await asyncio.sleep(0)

    found = await reading
    assert found == [settle(number) for number in range(len(found))]
    assert 2_000 <= len(found) <= booked


def test_what_was_recent_when_redis_went_away_is_so_when_it_is_back(journal: Journal, clock: Clock) -> None:
    book(journal, 1)
    journal.flush(away=True)
    for _ in range(5):
        clock.now += KEEP
        journal.append(settle(2))
        journal.flush(away=True)
    journal.flush()

    clock.now += KEEP
    assert journal.recent() == [settle(1), settle(2)]
    clock.now += 1
    assert journal.recent() == [settle(2)]


def test_files_that_cannot_be_read_are_told(journal: Journal, folder: Path) -> None:
    file = files(folder)[0]
    file.unlink()
    file.mkdir()

    with pytest.raises(JournalUnavailable, match="cannot be read"):
        journal.recent()


# generations


def test_there_are_two_files_at_most_and_what_is_old_is_in_none(journal: Journal, folder: Path, clock: Clock) -> None:
    book(journal, *range(1000))
    for number in range(1000, 1010):
        clock.now += KEEP + 1
        book(journal, number)
        journal.flush()
        assert len(files(folder)) == 2

    assert size(folder) < 2_000


def test_a_generation_stays_until_all_of_it_is_old(journal: Journal, folder: Path, clock: Clock) -> None:
    book(journal, 1)
    clock.now += KEEP + 1
    book(journal, 2)
    journal.flush()
    clock.now += KEEP
    book(journal, 3)
    journal.flush()
    assert journal.recent() == [settle(2), settle(3)]

    clock.now += 1
    journal.flush()
    assert [path.name[-9:] for path in files(folder)] == ["2.journal", "3.journal"]
    assert journal.recent() == [settle(3)]


def test_a_new_generation_has_what_is_pending_and_no_more(journal: Journal, folder: Path, clock: Clock) -> None:
    book(journal, *range(100))
    journal.append(settle(100))
    clock.now += KEEP + 1
    journal.flush()

    assert files(folder)[1].read_bytes().splitlines()[1:] == [settle(100).to_json()]


def test_a_generation_lasts_and_one_without_anything_new_does_not_end(
    journal: Journal, folder: Path, clock: Clock
) -> None:
    journal.append(settle(1))
    clock.now += KEEP
    journal.flush()
    assert len(files(folder)) == 1

    for _ in range(5):
        clock.now += KEEP + 1
        journal.flush()
    assert [path.name[-9:] for path in files(folder)] == ["2.journal"]


def test_a_clock_that_was_put_back_ends_generations_again(journal: Journal, folder: Path, clock: Clock) -> None:
    clock.now -= 1_000_000
    journal.flush()
    book(journal, 1)
    clock.now += KEEP + 1
    journal.flush()

    assert len(files(folder)) == 2


# the end


def test_closing_leaves_nothing_where_nothing_is_pending_or_recent(folder: Path, clock: Clock) -> None:
    journal = Journal(folder, "worker-0", clock=clock)
    book(journal, 1)
    clock.now += KEEP + 1
    journal.flush()
    assert len(files(folder)) == 2
    journal.close()

    assert files(folder) == []


def test_closing_leaves_what_is_pending_to_the_next(folder: Path, clock: Clock) -> None:
    journal = Journal(folder, "worker-0", clock=clock)
    journal.append(settle(1))
    clock.now += 10 * KEEP
    journal.close()

    assert left_behind(folder) == [settle(1)]


def test_closing_leaves_what_is_recent_to_the_next(folder: Path, journal: Journal, clock: Clock) -> None:
    closed = Journal(folder, "worker-0", clock=clock)
    book(closed, 1)
    closed.close()
    heir = Journal(folder, "worker-0", clock=clock)
    assert heir.adopt() == []
    heir.close()

    assert journal.adopt() == []
    assert journal.recent() == [settle(1)]
    assert journal.adoptions == 1


# a disk that refuses


def test_a_full_disk_is_told_and_the_entry_is_still_pending(journal: Journal) -> None:
    journal.append(settle(1))
    with disk_full_after(500), pytest.raises(JournalUnavailable, match="cannot be written"):
        journal.append(settle(2))

    assert journal.pending() == [settle(1), settle(2)]
    assert journal.recent() == [settle(1), settle(2)]


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
    journal.append(settle(1, booked=False))
    journal.append(settle(2))
    with disk_full_after(1):
        journal.acknowledge("att_default_1")
    assert journal.pending() == [settle(2)]
    journal.append(settle(3))
    journal.close()

    assert left_behind(folder) == [settle(2), settle(3)]


def test_what_was_recent_before_the_disk_was_full_is_so_afterwards(journal: Journal, folder: Path) -> None:
    book(journal, 1)
    with disk_full_after(1), pytest.raises(JournalUnavailable):
        book(journal, 2)
    book(journal, 3)
    journal.flush()
    book(journal, 4)

    assert journal.recent() == [settle(1), settle(2), settle(3), settle(4)]
    assert len(files(folder)) == 2


def test_a_disk_that_fails_again_and_again_does_not_fill_with_our_files(journal: Journal, folder: Path) -> None:
    journal.append(settle(0))
    for number in range(1, 3 * MOST_GENERATIONS):
        with disk_full_after(1), pytest.raises(JournalUnavailable):
            journal.append(settle(number))
        journal.flush()
        journal.acknowledge(f"att_default_{number}")

    assert len(files(folder)) == MOST_GENERATIONS
    assert journal.pending() == [settle(0)]


def test_on_a_full_disk_what_is_pending_is_not_tried_at_every_write(journal: Journal) -> None:
    tried = 0

    class Counted(Resolution):
        def to_json(self) -> bytes:
            nonlocal tried
            tried += 1
            return b"{}"

    with disk_full_after(1):
        for number in range(2_000):
            with pytest.raises(JournalUnavailable):
                journal.append(Counted(**asdict(settle(number))))

    assert tried < 2_000 * (PENDING_PER_WRITE + 5)


def test_a_generation_that_cannot_begin_begins_later(journal: Journal, folder: Path, clock: Clock) -> None:
    book(journal, 1)
    journal.append(settle(2))
    journal.flush()
    clock.now += KEEP + 1
    with disk_full_after(1):
        journal.flush()
    assert [path.name[-9:] for path in files(folder)] == ["1.journal"]
    book(journal, 3)
    journal.flush()

    assert [path.name[-9:] for path in files(folder)] == ["1.journal", "2.journal"]
    assert journal.recent() == [settle(2), settle(3)]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(JournalUnavailable, match="Not a directory"):
        Journal(tmp_path / "file" / "journal", "worker-0")


@given(steps=st.lists(st.tuples(st.sampled_from(["append", "acknowledge", "full"]), st.integers(0, 5)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_files_always_tell_what_is_pending(
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
