"""Changes the ledger's, the prices' and the usage's code in every small way, and counts what the tests notice.

    .venv/bin/pip install mutmut==3.8.1
    .venv/bin/python tools/mutate.py [--jobs 2] [--every 1] [FILE …]

A mutant is killed when a test fails or does not end; the others are printed as they are found. The tests of each file
run in a process forked from this one, in a copy of the repository. docs/mutations.md has the figures, and says why what
survives does.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from mutants import Mutant, of_lua, of_python

ROOT = Path(__file__).parents[1]
LEDGER = "ledger_bites redis_ledger redis_ledger_losses outbox"
LUA = "lua lua_losses ledger_bites lua_model"
TESTS = {
    "budgets/money.py": "money",
    "budgets/usage.py": "usage",
    "budgets/usage_export.py": "usage_export export_rows",
    "budgets/export_rows.py": "export_rows usage_export",
    "gateway/wire/chat.py": "chat chat_stream",
    "gateway/wire/chat_stream.py": "chat_stream chat",
    "budgets/pricing.py": "pricing estimate price_table",
    "budgets/price_table.py": "price_table",
    "budgets/price_book.py": "price_book",
    "budgets/estimate.py": "estimate",
    "budgets/windows.py": "windows budget",
    "budgets/budget.py": "budget",
    "budgets/instalments.py": "instalments ledger_bites",
    "budgets/ledger.py": f"ledger {LEDGER}",
    "budgets/journal.py": "journal journal_bites journal_adoption journal_model",
    "budgets/outbox.py": f"outbox_bites outbox {LEDGER}",
    "budgets/marks.py": f"marks {LEDGER}",
    "budgets/redis_ledger.py": LEDGER,
    **{f"budgets/lua/{path.name}": LUA for path in sorted((ROOT / "budgets/lua").glob("*.lua"))},
}
"""The tests that have to notice a change, each a `test_….py` of the same package."""

OPTIONS = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-W", "ignore")
PATIENCE = 5
"""A mutant has so many times as long as the code without it, and ten seconds."""
SURVIVED, NOT_RUN = 0, (4, 5)
"""Exit codes of pytest: all passed; it was called wrongly, or there are no tests."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    outcome: str
    """`survived`, `killed` or `timeout`."""
    said: str
    """The last of what pytest said."""


def main() -> int:
    """Every file with its figures; the survivors on the way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"one of {', '.join(TESTS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--every", type=int, default=1, help="try every so many-th mutant of a file only")
    options = parser.parse_args()
    for name in ("orjson", "pytest_asyncio", "redis.asyncio"):  # once, before the forks
        import_module(name)
    whole = [0, 0]
    with tempfile.TemporaryDirectory(prefix="mu") as scratch, _lanes(Path(scratch), options.jobs) as lanes:
        for file in options.files or TESTS:
            killed, made = _mutate(file, lanes, options.every)
            whole = [whole[0] + killed, whole[1] + made]
    _say(f"{_share(*whole)}  all")
    return 0


def _mutate(file: str, lanes: ProcessPoolExecutor, every: int) -> tuple[int, int]:
    """How many mutants of a file were killed, and how many were tried."""
    source = (ROOT / file).read_text()
    folder = Path("tests", file.replace("/lua/", "/")).parent
    tests = tuple(dict.fromkeys(f"{folder}/test_{name}.py" for name in TESTS[file].split()))
    started = time.monotonic()
    as_it_is = lanes.submit(_try, file, Mutant(0, "", "", source), tests, 600.0).result()
    if as_it_is.outcome != "survived":
        raise SystemExit(f"the tests of {file} do not pass as it is:\n{as_it_is.said}")
    patience = PATIENCE * (time.monotonic() - started) + 10
    mutants = (of_lua(source) if file.endswith(".lua") else of_python(source))[::every]
    verdicts = lanes.map(_try, *zip(*((file, mutant, tests, patience) for mutant in mutants), strict=True))
    outcomes = [_told(file, verdict) for verdict in verdicts]
    killed, late = len(mutants) - outcomes.count("survived"), outcomes.count("timeout")
    _say(f"{_share(killed, len(mutants))}  {file}  ({late} by time, {time.monotonic() - started:.0f} s)")
    return killed, len(mutants)


def _told(file: str, verdict: Verdict) -> str:
    if verdict.outcome == "survived":
        _say(f"  {file}:{verdict.mutant.line}\n    - {verdict.mutant.before}\n    + {verdict.mutant.after}")
    return verdict.outcome


def _share(killed: int, made: int) -> str:
    return f"{100 * killed / made:5.1f} %  {killed:4} of {made:4}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# What runs in a lane: a process in a copy of the repository, which forks one for each mutant.


def _lanes(scratch: Path, jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, get_context("fork"), _open_lane, (scratch,))


def _open_lane(scratch: Path) -> None:
    lane = scratch / str(os.getpid())
    for name in _files():
        (lane / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, lane / name)
    os.chdir(lane)
    os.environ.update(PYTHONPATH=f"{lane}:{lane}/tests", PYTHONDONTWRITEBYTECODE="1")
    sys.path[:0] = [str(lane), str(lane / "tests")]
    sys.dont_write_bytecode = True


def _files() -> Iterator[str]:
    """What belongs to the repository, by the version control's own list."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603
    yield from (name for name in listed.split("\0") if (ROOT / name).is_file())


def _try(file: str, mutant: Mutant, tests: tuple[str, ...], patience: float) -> Verdict:
    """Run the tests with the mutant in the file's place."""
    place = Path(file)
    original = place.read_text()
    place.write_text(mutant.source)
    with tempfile.TemporaryDirectory(prefix="m", dir=Path.cwd()) as scratch:
        child = os.fork()
        if not child:
            _run_tests(tests, scratch)
        code = _wait(child, patience)
        said = (Path(scratch) / "out").read_text(errors="replace")[-2000:]
    place.write_text(original)
    if code in NOT_RUN:
        raise RuntimeError(f"pytest could not run: {code}, at {file}:{mutant.line} {mutant.before} → {mutant.after}")
    return Verdict(mutant, {None: "timeout", SURVIVED: "survived"}.get(code, "killed"), said)


def _run_tests(tests: tuple[str, ...], scratch: str) -> None:
    """In the child: never returns."""
    code = 4
    try:
        os.setsid()
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        out = os.open(f"{scratch}/out", os.O_CREAT | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
        settings.load_profile("mutants")  # a failure is enough, it need not be a small one
        code = int(pytest.main([*OPTIONS, *tests], plugins=[_QuickOnesFirst()]))
    finally:
        os._exit(code)


class _QuickOnesFirst:
    """What draws its examples comes last: most mutants die without it."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: hasattr(getattr(item, "function", None), "hypothesis"))


def _wait(child: int, patience: float) -> int | None:
    """The exit code of the tests, None if they did not end; whatever they started is gone afterwards."""
    ends = time.monotonic() + patience
    done = status = 0
    while not done and time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if done:
        return os.waitstatus_to_exitcode(status)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    sys.exit(main())
