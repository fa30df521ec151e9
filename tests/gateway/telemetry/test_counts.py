"""Counts: what was counted survives, whatever happens to the process that counted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.counts import SEGMENT_CELLS, Counts, read_folder

COUNT_UNTIL_KILLED = """
import sys
from pathlib import Path
from gateway.telemetry.counts import Counts

cells = Counts(Path(sys.argv[1])).cells(("requests", "chat"), 1)
while True:
    cells[0] += 1
    print(int(cells[0]), flush=True)
"""

COUNT_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from gateway.telemetry.counts import SEGMENT_BYTES, Counts

resource.setrlimit(resource.RLIMIT_FSIZE, (SEGMENT_BYTES, SEGMENT_BYTES))
counts = Counts(Path(sys.argv[1]))
for number in range(20_000):
    counts.cells((f"number {number}",), 1)[0] += 1
print(len(counts.runs))
"""


def test_a_successor_goes_on_where_its_predecessor_stopped(tmp_path: Path) -> None:
    Counts(tmp_path / "worker-0").cells(("requests", "chat"), 1)[0] += 3

    successor = Counts(tmp_path / "worker-0").cells(("requests", "chat"), 1)
    successor[0] += 4

    assert dict(read_folder(tmp_path))[("requests", "chat")].tolist() == [7]


def test_two_processes_of_one_name_at_once_do_not_share_a_file(tmp_path: Path) -> None:
    predecessor, successor = (Counts(tmp_path / "worker-0") for _ in range(2))
    predecessor.cells(("requests", "chat"), 1)[0] += 3
    successor.cells(("requests", "models"), 1)[0] += 4
    predecessor.cells(("requests", "models"), 1)[0] += 5

    assert sorted((name[1], run[0]) for name, run in read_folder(tmp_path)) == [
        ("chat", 3),
        ("models", 4),
        ("models", 5),
    ]


def test_the_third_takes_the_place_that_the_first_has_left(tmp_path: Path) -> None:
    first, second = (Counts(tmp_path / "worker-0") for _ in range(2))
    first.close()
    third = Counts(tmp_path / "worker-0")
    third.cells(("requests",), 1)[0] += 1
    second.cells(("requests",), 1)[0] += 1

    assert {path.name for path in tmp_path.glob("*.names")} == {"worker-0.names", "worker-0~1.names"}


def test_how_a_dead_process_stood_is_left_out_and_what_it_counted_is_not(tmp_path: Path) -> None:
    dead, living = (Counts(tmp_path / f"worker-{index}") for index in range(2))
    for counts in (dead, living):
        counts.cells(("requests",), 1)[0] = 1
        counts.cells(("open",), 1)[0] = 1
    dead.close()

    assert [name for name, _ in read_folder(tmp_path, {"open"})] == [("requests",), ("requests",), ("open",)]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    counts = Counts(tmp_path / "nowhere" / "worker-0")
    counts.cells(("requests",), 1)[0] += 1

    assert counts.runs[("requests",)][0] == 1


def test_a_killed_process_loses_nothing_it_had_counted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT_UNTIL_KILLED, str(tmp_path / "worker-0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        heard = [int(worker.stdout.readline()) for _ in range(1000)][-1]
        os.kill(worker.pid, signal.SIGKILL)
        heard = max([heard, *map(int, worker.stdout.read().split())])

    counted = Counts(tmp_path / "worker-0").cells(("requests", "chat"), 1)[0]

    assert heard <= counted <= heard + 1  # killed between counting and saying so


def test_a_name_cut_short_by_a_kill_is_forgotten(tmp_path: Path) -> None:
    Counts(tmp_path / "worker-0").cells(("whole",), 1)[0] += 1
    with (tmp_path / "worker-0.names").open("ab") as names:
        names.write(b'[1,1,"cut')

    successor = Counts(tmp_path / "worker-0")
    successor.cells(("next",), 1)[0] += 2

    assert {name: list(run) for name, run in read_folder(tmp_path)} == {("whole",): [1], ("next",): [2]}


def test_a_reader_skips_a_name_that_is_being_written(tmp_path: Path) -> None:
    Counts(tmp_path / "worker-0").cells(("whole",), 1)
    with (tmp_path / "worker-0.names").open("ab") as names:
        names.write(b"[1,1")

    assert [name for name, _ in read_folder(tmp_path)] == [("whole",)]


def test_every_process_of_a_folder_is_read(tmp_path: Path) -> None:
    for index in range(3):
        Counts(tmp_path / f"worker-{index}").cells(("requests",), 1)[0] = index

    assert sorted(run[0] for _, run in read_folder(tmp_path)) == [0, 1, 2]


def test_a_run_does_not_cross_segments(tmp_path: Path) -> None:
    counts = Counts(tmp_path / "worker-0")
    first = counts.cells(("most",), SEGMENT_CELLS - 1)
    second = counts.cells(("two",), 2)
    first[SEGMENT_CELLS - 2], second[0], second[1] = 1, 2, 3

    found = dict(read_folder(tmp_path))

    assert found[("two",)].tolist() == [2, 3]
    assert list(found[("most",)])[-1] == 1


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT_ON_A_FULL_DISK, str(tmp_path / "worker-0")]

    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = dict(read_folder(tmp_path))

    assert finished.stdout == "20000\n"
    assert 0 < len(kept) < 20_000
    assert {run[0] for run in kept.values()} == {1}
    assert "number" in finished.stderr  # the log says so


def test_a_segment_cut_short_is_completed(tmp_path: Path) -> None:
    (tmp_path / "worker-0.values").write_bytes(bytes(100))

    Counts(tmp_path / "worker-0").cells(("most",), SEGMENT_CELLS)[SEGMENT_CELLS - 1] = 1

    assert [run[SEGMENT_CELLS - 1] for _, run in read_folder(tmp_path)] == [1]


def test_the_space_is_taken_when_the_file_grows_not_when_it_is_written(tmp_path: Path) -> None:
    Counts(tmp_path / "worker-0").cells(("requests",), 1)

    assert (tmp_path / "worker-0.values").stat().st_blocks * 512 >= SEGMENT_CELLS * 8


def test_without_a_path_numbers_live_in_memory_alone() -> None:
    counts = Counts()
    counts.cells(("requests",), 2)[1] += 5

    assert counts.cells(("requests",), 2).tolist() == [0, 5]


@given(
    st.dictionaries(
        st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=4).map(tuple),
        st.lists(st.integers(0, 2**53), min_size=1, max_size=20),
        max_size=30,
    )
)
def test_whatever_was_counted_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, runs: dict[tuple[str, ...], list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("counts")
    for name, numbers in runs.items():
        successor = Counts(folder / "worker-0")  # one for each run, so that every run is also inherited
        for place, number in enumerate(numbers):
            successor.cells(name, len(numbers))[place] += number
        successor.close()

    assert {name: list(run) for name, run in read_folder(folder)} == runs
