"""What the tests of the journal work with: entries, other workers to be killed, a clock, a disk that is full."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from budgets.journal import Journal
from budgets.ledger import Resolution

KEEP = 120
WORKER = """
import os, signal, sys
from pathlib import Path
from budgets.journal import Journal
from budgets.ledger import Resolution
now = 1_798_761_600.0
journal = Journal(Path(sys.argv[1]), "worker-0", clock=lambda: now)
hesitant, steps = False, None

def step(event, arguments):
    global hesitant, steps
    if event not in ("open", "fcntl.flock", "os.rename", "os.remove"):
        return
    if hesitant and event == "fcntl.flock":
        hesitant = False
        print("about to lock", flush=True)
        sys.stdin.buffer.readline()
    if steps is not None:
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(step)
for line in sys.stdin.buffer:
    word, _, rest = line.rstrip(b"\\n").partition(b" ")
    if word == b"append":
        journal.append(Resolution.from_json(rest))
    elif word == b"acknowledge":
        journal.acknowledge(rest.decode())
    elif word == b"flush":
        now += int(rest or 0)
        journal.flush()
    elif word == b"hesitate":
        hesitant = True
    elif word == b"die":
        steps = int(rest)
    else:
        print(len(journal.adopt()), flush=True)
    print("done", flush=True)
"""


def settle(number: int, **changes: object) -> Resolution:
    entry = Resolution(
        kind="settle",
        attempt_id=f"att_default_{number}",
        account="default",
        key_id="key_default_1",
        holds="account lifetime:0\nkey:key_default_1 lifetime:0 day:1798761600",
        amount=2_000_000,
        spent=1_234_567,
        estimate=0,
        price_version="2026-10-01",
        model="small",
        booked=True,
        at=1_798_761_600.25 + number,
    )
    return replace(entry, **changes)  # type: ignore[arg-type]


class Clock:
    now = 1_798_761_600.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """Another process with a journal of its own in the same folder."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tell(self, word: str, rest: bytes = b"") -> list[bytes]:
        """Have it do something; what it says until it is done."""
        self.order(word, rest)
        return self.await_done()

    def order(self, word: str, rest: bytes = b"") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b" " + rest + b"\n")
        self.process.stdin.flush()

    def says(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def await_done(self) -> list[bytes]:
        return list(iter(self.says, b"done\n"))

    def survives(self, word: str, rest: bytes = b"") -> bool:
        """Whether it comes to the end of what it was told."""
        self.order(word, rest)
        return b"done\n" in iter(self.says, b"") if word == "adopt" else self.says() == b"done\n"

    def kill(self) -> None:
        with self.process:
            self.process.send_signal(signal.SIGKILL)


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write is cut short there, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def book(journal: Journal, *numbers: int, **changes: object) -> None:
    """Settles that Redis acknowledges at once."""
    for number in numbers:
        journal.append(settle(number, **changes))
        journal.acknowledge(f"att_default_{number}")


def die(journal: Journal) -> None:
    """As good as killed: all that is pending is on the disk, and the locks are free."""
    journal.append(settle(-1))
    journal.close()


def left_behind(folder: Path) -> list[Resolution]:
    """What a new worker finds in the journals of dead ones."""
    journal = Journal(folder, "finder")
    try:
        return journal.adopt()
    finally:
        journal.close()
