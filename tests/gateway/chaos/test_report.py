"""The page of results."""

import subprocess
from pathlib import Path

import pytest

from gateway.chaos import report
from gateway.chaos.outcome import Outcome
from gateway.chaos.promises import NAMES, Order, Results
from gateway.chaos.report import commit, page


def results() -> Results:
    kept = Outcome("P1", "The books are exact.", {"attempts": 200_000, "difference": 0, "s": 0.25, "by": "nobody"})
    broken = Outcome("P6", "An attempt is settled once.")
    broken.violate("round 3: settled 2 times")
    return Results(Order(seed=42, full=True), [kept, broken], {"P1": 61.4}, redis="valkey 9.1.2")


def test_it_says_what_was_done_where_and_what_came_of_it() -> None:
    text = page(results(), "paymaster chaos --full --seed 42")

    assert "`paymaster chaos --full --seed 42`" in text
    assert text.count("; full, scale 1, seed 42") == 2
    assert "seed 42, 61 s;" in text
    assert "valkey 9.1.2" in text
    assert "| P1 | The books are exact. | attempts: 200,000; difference: 0; s: 0.25; by: nobody | kept | 20" in text
    assert "| P6 | An attempt is settled once. |  | BROKEN (1) | 20" in text
    assert "- P6: round 3: settled 2 times" in text


def test_promises_that_were_not_shown_anew_keep_their_lines() -> None:
    earlier = page(results(), "paymaster chaos --full --seed 42")
    mended = Results(Order(seed=7), [Outcome("P6", "An attempt is settled once.", {"rounds": 5})])

    text = page(mended, "paymaster chaos --only P6", earlier)

    p1, p6 = (line for line in text.splitlines() if line.startswith("| P"))
    assert p1 in earlier
    assert "rounds: 5 | kept | 20" in p6
    assert "violated\n" not in text


def test_it_explains_every_promise() -> None:
    text = page(Results(Order(seed=1)), "paymaster chaos")

    assert [name for name in NAMES if f"**{name}**" not in text] == []
    assert "violated\n" not in text


def test_the_page_itself_is_no_change_of_what_was_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SOURCE", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / report.PAGE).write_text("as it was")
    (tmp_path / "code.py").write_text("as it was")
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@example.com commit -qm first"):
        subprocess.run(["git", "-C", tmp_path, *command.split()], check=True)
    name = commit()

    (tmp_path / report.PAGE).write_text("as it is now")
    assert commit() == name
    (tmp_path / "code.py").write_text("as it is now")
    assert commit() == f"{name}, with changes"


def test_outside_a_repository_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert commit() == "unknown"
    assert report.SOURCE.is_dir()
