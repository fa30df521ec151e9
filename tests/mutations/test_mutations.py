"""The peers' budget bugs, put back one at a time: the tests that each patch names must notice.

A patch is headed by who had the bug (`# peer:`, with the issue), what went wrong (`# bug:`) and the tests that must
fail with it (`# caught by:`). docs/mutations.md lists them all. A patch that does not apply is to be made anew.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATCHES = sorted(HERE.glob("*.patch"))
OPTIONS = ("-rfE", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "--hypothesis-seed=0")
AT_ONCE = 2
LONGEST = 120
"""Seconds that the tests of one patch may take."""


@dataclass(frozen=True)
class Outcome:
    """What pytest said."""

    code: int
    said: str

    @property
    def failed(self) -> list[str]:
        return re.findall(r"^FAILED (\S+)", self.said, re.MULTILINE)


def heading(patch: Path, word: str) -> list[str]:
    return re.findall(rf"^# {word}: (.+)$", patch.read_text(), re.MULTILINE)


def run(tree: Path, tests: list[str]) -> Outcome:
    """Run tests in a copy of the repository."""
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{tree}/tests", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *OPTIONS, *tests]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    return Outcome(done.returncode, done.stdout + done.stderr)


def tried(patch: Path | None, trees: "SimpleQueue[Path]") -> Outcome:
    """The tests that the patch names with it applied; without one, the tests of all without any."""
    tree = trees.get()
    try:
        if patch is None:
            return run(tree, sorted({test for each in PATCHES for test in heading(each, "caught by")}))
        apply = ["git", "apply", "-C1", "--whitespace=nowarn", str(patch)]
        applied = subprocess.run(apply, cwd=tree, capture_output=True, text=True, check=False)
        if applied.returncode:
            return Outcome(-1, f"the patch does not apply, make it anew:\n{applied.stderr}")
        try:
            return run(tree, heading(patch, "caught by"))
        finally:
            subprocess.run([*apply, "--reverse"], cwd=tree, check=True)
    finally:
        trees.put(tree)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> "SimpleQueue[Path]":
    """Copies of the repository as it is now, what is not committed yet included."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone of the repository: there is no list of its files")
    first = tmp_path_factory.mktemp("tree")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (first / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, first / name)
    # What is compiled goes by its source's hash: a patch may come and go within the same second.
    compile_all = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
    subprocess.run([*compile_all, "gateway", "routing", "budgets", "tests"], cwd=first, check=True)
    trees: SimpleQueue[Path] = SimpleQueue()
    trees.put(first)
    for number in range(1, AT_ONCE):
        trees.put(Path(shutil.copytree(first, first.with_name(f"{first.name}{number}"))))
    return trees


@pytest.fixture(scope="module")
def outcomes(trees: "SimpleQueue[Path]", request: pytest.FixtureRequest) -> Iterator[dict[Path | None, Any]]:
    """What becomes of each patch that is to be tried, and of none, several at a time: futures of outcomes."""
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = [patch for patch in PATCHES if any(each.get("patch") == patch for each in params)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {patch: pool.submit(tried, patch, trees) for patch in (None, *wanted)}


def test_without_any_patch_the_tests_pass(outcomes: dict[Path | None, Any]) -> None:
    outcome = outcomes[None].result()

    assert outcome.code == 0, outcome.said


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_bug_of_the_peers_is_caught(patch: Path, outcomes: dict[Path | None, Any]) -> None:
    outcome = outcomes[patch].result()

    assert outcome.code == 1, outcome.said
    missed = [
        test
        for test in heading(patch, "caught by")
        if not any(failed == test or failed.startswith(f"{test}[") for failed in outcome.failed)
    ]
    assert missed == [], outcome.said


def test_every_patch_says_whose_bug_it_is_and_is_listed() -> None:
    listed = (ROOT / "docs/mutations.md").read_text()

    for patch in PATCHES:
        assert all(heading(patch, word) for word in ("peer", "bug", "caught by")), patch.stem
        assert f"`{patch.stem}`" in listed
    assert f"has {len(PATCHES)} patches" in listed
