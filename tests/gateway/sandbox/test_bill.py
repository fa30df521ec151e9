import fcntl
import resource
from pathlib import Path

import pytest

from gateway.sandbox.bill import Attempt, Bill, BillDamaged, Charge, Policy
from gateway.sandbox.models import MODELS, Usage

ATTEMPT = Attempt("att_default_1", "key_default_1", MODELS["sandbox-small"], Usage(1000, 50))
COST_USD = "0.00012"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bill.jsonl"


def total(path: Path) -> tuple[str, int]:
    bill = Bill(path)
    bill.close()
    summary = bill.summary()
    return summary["total_usd"], summary["attempts"]


def test_a_bill_adds_up_by_key(path: Path) -> None:
    bill = Bill(path)
    bill.add(ATTEMPT)
    bill.add(Attempt(None, "unknown", MODELS["exact"], Usage(1000, 50)))

    by_key = {"key_default_1": COST_USD, "unknown": "0.001"}
    assert bill.summary() == {"total_usd": "0.00112", "attempts": 2, "by_key": by_key}


def test_the_same_attempt_twice_is_charged_twice(path: Path) -> None:
    bill = Bill(path)
    bill.add(ATTEMPT)
    bill.add(ATTEMPT)

    assert bill.summary()["total_usd"] == "0.00024"


def test_a_bill_opened_again_goes_on_where_it_was(path: Path) -> None:
    bill = Bill(path)
    bill.add(ATTEMPT)
    bill.close()

    assert total(path) == (COST_USD, 1)


def test_a_line_torn_by_a_crash_is_taken_off(path: Path) -> None:
    path.write_bytes(ATTEMPT.line() + ATTEMPT.line()[:-1])

    assert total(path) == (COST_USD, 1)
    assert path.read_bytes() == ATTEMPT.line()


@pytest.mark.parametrize("damage", [b"\n", b"{}\n", b"[]\n", b'{"key": "k", "nano_usd": "1"}\n', b"\x00\x00\n"])
def test_a_damaged_line_is_named_and_not_skipped(path: Path, damage: bytes) -> None:
    path.write_bytes(ATTEMPT.line() + damage)

    with pytest.raises(BillDamaged, match=r"bill\.jsonl, line 2"):
        Bill(path)


def test_a_bill_is_locked_against_a_second_sandbox(path: Path) -> None:
    bill = Bill(path)

    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    bill.close()


def test_a_disk_that_does_not_take_a_line_whole_charges_nothing(path: Path) -> None:
    bill = Bill(path)
    bill.add(ATTEMPT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(ATTEMPT.line()) + 9, limits[1]))
    try:
        with pytest.raises(OSError, match="took only 9 of"):
            bill.add(ATTEMPT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert path.read_bytes() == ATTEMPT.line()
    assert bill.summary()["attempts"] == 1


@pytest.mark.parametrize("policy", ["all", "delivered", "nothing"])
def test_a_complete_answer_is_charged_once_under_every_policy(path: Path, policy: Policy) -> None:
    with Charge(Bill(path), ATTEMPT, policy) as charge:
        charge.delivered_tokens = 50
        charge.complete()
        charge.complete()

    assert path.read_bytes() == ATTEMPT.line()


def test_everything_is_charged_before_anything_is_delivered(path: Path) -> None:
    with Charge(Bill(path), ATTEMPT, "all"):
        assert path.read_bytes() == ATTEMPT.line()


def test_a_broken_off_answer_is_charged_by_its_policy(path: Path) -> None:
    bill = Bill(path)
    for policy in ("delivered", "nothing"):
        with Charge(bill, ATTEMPT, policy) as charge:
            charge.delivered_tokens = 7

    assert bill.summary() == {
        "total_usd": "0.0001028",
        "attempts": 1,
        "by_key": {"key_default_1": "0.0001028"},
    }
