import logging
from pathlib import Path

import pytest

from budgets.marks import CHANGE, HEALING, NEVER, Marks


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def marks(tmp_path: Path, clock: Clock) -> Marks:
    return Marks(tmp_path / "marks.json", clock)


def test_nothing_is_known_of_a_new_account(marks: Marks) -> None:
    assert marks.known("a") == ("", 0)
    assert not marks.heard("a", "", 7)
    assert (marks.known("a"), marks.lost) == (("", 0), {})


def test_the_highest_count_of_an_era_is_kept(marks: Marks) -> None:
    marks.heard("a", "1:5", 7)
    marks.counted("a", 9)
    marks.counted("a", 8)
    marks.counted("never heard of", 3)

    assert marks.known("a") == ("1:5", 9)
    assert marks.accounts == {"a"}


@pytest.mark.parametrize(("era", "count"), [("1:5", 6), ("1:5", 0), ("", 0), ("", 99), ("1:6", 99)])
def test_case_07_less_than_was_seen_is_noticed_once(marks: Marks, era: str, count: int) -> None:
    marks.heard("a", "1:5", 7)

    assert [marks.heard("a", era, count), marks.heard("a", era, count)] == [True, False]
    assert marks.lost == {"a": 1000.0}
    assert marks.known("a") == ("1:5", 7)


def test_what_comes_back_in_time_ends_it(marks: Marks, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    marks.heard("a", "1:5", 7)
    marks.heard("a", "1:5", 3)
    clock.now += HEALING

    marks.heard("a", "1:5", 8)

    assert marks.lost == {}
    assert caplog.messages[-1] == "what Redis had lost of the account a is there again"


def test_case_07_what_does_not_come_back_in_time_waits_for_an_operator(
    marks: Marks, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    marks.heard("a", "1:5", 7)
    marks.heard("a", "1:5", 3)
    for count in (4, 4, 5):
        clock.now += HEALING / 3
        marks.heard("a", "1:5", count)
    assert marks.known("a") == ("1:5", 7)
    clock.now += 1
    marks.heard("a", "1:5", 5)

    assert marks.known("a") == ("1:5", NEVER)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "paymaster budgets confirm --account a" in caplog.text
    marks.heard("a", "1:5", 1000)  # so much was spent since, by callers without a limit
    assert marks.lost == {"a": 1000.0}

    marks.heard("a", "2:9", 0)

    assert (marks.known("a"), marks.lost) == (("2:9", 0), {})


def test_time_in_which_nothing_could_come_back_does_not_count(marks: Marks, clock: Clock) -> None:
    marks.heard("a", "1:5", 7)
    marks.heard("a", "1:5", 3)
    clock.now += 100 * HEALING  # Redis was away, or we were asleep
    marks.heard("a", "1:5", 3)

    marks.heard("a", "1:5", 7)

    assert marks.lost == {}


def test_time_counts_as_it_passes(marks: Marks, clock: Clock) -> None:
    marks.heard("a", "1:5", 7)
    marks.heard("a", "1:5", 3)
    for _ in range(10):
        clock.now += 1
        marks.heard("a", "1:5", 3)

    assert marks.known("a") == ("1:5", 7)


def test_case_07_a_change_of_a_key_that_was_lost_is_not_made_up_for_by_another(marks: Marks) -> None:
    marks.heard("a", "1:5", CHANGE + 7)
    marks.heard("a", "1:5", 5)

    marks.heard("a", "1:5", CHANGE + 8)

    assert list(marks.lost) == ["a"]


def test_case_08_a_clock_that_is_set_back_does_not_keep_a_loss_from_being_given_up(marks: Marks, clock: Clock) -> None:
    marks.heard("a", "1:5", 7)
    for step in (0, -86_400, HEALING / 3, HEALING / 3, HEALING / 3, HEALING / 3):
        clock.now += step
        marks.heard("a", "1:5", 3)

    assert marks.known("a") == ("1:5", NEVER)


def test_what_one_worker_has_given_up_all_have(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "marks.json"
    one, other = Marks(path, clock), Marks(path, clock)
    for marks in (one, other):
        marks.heard("a", "1:5", 7)
    for _ in range(5):
        one.heard("a", "1:5", 3)
        clock.now += HEALING / 3
    one.save()

    other.save()

    assert other.known("a") == ("1:5", NEVER)


def test_while_something_is_lost_only_what_was_lost_counts(marks: Marks, clock: Clock) -> None:
    marks.heard("a", "1:5", 7)
    assert marks.counts("a", clock.now, is_new=True)
    marks.heard("a", "1:5", 3)

    assert [marks.counts("a", at, is_new=False) for at in (clock.now - 1, clock.now)] == [True, False]
    assert not marks.counts("a", clock.now - 1, is_new=True)
    assert marks.counts("another", clock.now, is_new=True)


def test_while_something_may_be_lost_nothing_new_counts(marks: Marks, clock: Clock) -> None:
    marks.heard("a", "1:5", 7)
    marks.doubt()

    assert marks.counts("a", clock.now, is_new=False)
    assert not marks.counts("a", clock.now, is_new=True)

    marks.heard("a", "1:5", 7)

    assert marks.counts("a", clock.now, is_new=True)


def test_what_was_seen_is_known_after_a_restart_and_to_other_workers(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "marks.json"
    one, other = Marks(path, clock), Marks(path, clock)
    one.heard("a", "1:5", 7)
    one.heard("b", "10:5", 1)
    other.heard("a", "1:5", 9)
    other.heard("b", "9:5", 100)
    one.save()
    other.save()
    one.save()

    fresh = Marks(path, clock)

    assert (fresh.known("a"), fresh.known("b")) == (("1:5", 9), ("10:5", 1))


def test_a_higher_count_is_brought_to_the_file_too(tmp_path: Path, clock: Clock) -> None:
    marks = Marks(tmp_path / "marks.json", clock)
    found_behind = []
    for count in (7, 9):
        found_behind.append(marks.heard("a", "1:5", count))
        marks.save()

    assert found_behind == [False, False]
    assert Marks(tmp_path / "marks.json", clock).known("a") == ("1:5", 9)


def test_nothing_is_written_where_nothing_has_changed(tmp_path: Path, marks: Marks) -> None:
    marks.save()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": 5}', b'{"a": ["1:5", "x"]}', b"\xff"])
def test_a_file_that_cannot_be_read_is_told_and_begun_anew(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "marks.json"
    path.write_bytes(content)
    marks = Marks(path, clock)
    marks.heard("a", "1:5", 7)

    marks.save()

    assert Marks(path, clock).known("a") == ("1:5", 7)
    assert "cannot be read" in caplog.text
