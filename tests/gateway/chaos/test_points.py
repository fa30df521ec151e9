"""Faults that lie in wait: each happens once, to one worker."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.chaos import points
from gateway.chaos.points import POINTS, Fault


def test_a_fault_is_taken_once_and_tells_by_whom(tmp_path: Path) -> None:
    fault = Fault(3, "settle sent", "slow", 0.5)
    points.arm(tmp_path, fault)
    file = points.file_of(tmp_path, "settle sent")

    assert points.fired(tmp_path, fault) is None
    assert points.claim(file) == fault
    assert points.claim(file) is None
    assert points.fired(tmp_path, fault) == os.getpid()


def test_of_many_who_come_at_once_one_takes_it(tmp_path: Path) -> None:
    fault = Fault(1, "before reserve", "exception")
    points.arm(tmp_path, fault)

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(points.claim, [points.file_of(tmp_path, "before reserve")] * 64))

    assert [claim for claim in claims if claim] == [fault]


def test_a_fault_can_be_taken_back_until_it_has_happened(tmp_path: Path) -> None:
    points.arm(tmp_path, Fault(1, "mid-stream", "kill"))

    assert points.disarm(tmp_path, "mid-stream")
    assert not points.disarm(tmp_path, "mid-stream")
    assert points.claim(points.file_of(tmp_path, "mid-stream")) is None


def test_every_point_can_be_a_workers_last() -> None:
    assert [point for point, kinds in POINTS.items() if "kill" not in kinds or "stop" not in kinds] == []
    assert len(POINTS) == 13


def test_waking_a_dead_worker_does_nothing() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)

    points.go_on(child)


@pytest.mark.parametrize("point", POINTS)
def test_every_point_has_a_file_of_its_own(tmp_path: Path, point: points.Point) -> None:
    points.arm(tmp_path, Fault(1, point, "kill"))

    assert [each for each in POINTS if points.claim(points.file_of(tmp_path, each))] == [point]
