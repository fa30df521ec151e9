"""The points of an attempt's life at which a worker can be made to break, and how it is told to, once.

A fault lies as a small file in the world's folder, named for its point. The worker that comes to the point first takes
it by renaming the file, which only one can do, and breaks.
"""

import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["kill", "stop", "exception", "cancel", "slow"]
Point = Literal[
    "before reserve",
    "reserve sent",
    "reserve acked",
    "before dispatch",
    "after headers",
    "after first byte",
    "mid-stream",
    "usage seen",
    "before journal",
    "after journal",
    "settle sent",
    "settle acked",
    "during reap",
]

_ALL: frozenset[Kind] = frozenset({"kill", "stop", "exception", "cancel", "slow"})
POINTS: dict[Point, frozenset[Kind]] = {
    "before reserve": _ALL,
    "reserve sent": _ALL,
    "reserve acked": _ALL - {"exception"},
    "before dispatch": _ALL,
    "after headers": _ALL - {"exception"},
    "after first byte": _ALL,
    "mid-stream": _ALL,
    "usage seen": _ALL,
    "before journal": _ALL,
    "after journal": _ALL - {"exception"},
    "settle sent": _ALL,
    "settle acked": _ALL - {"exception", "cancel"},
    "during reap": _ALL - {"exception", "cancel"},
}
"""What can happen where. Nothing is raised between an answer and the one who waits for it, since nothing of ours runs
there; and where no request is under way, none is cancelled."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a point, once. `seconds` is for how long a worker is stopped or slow."""

    id: int
    point: Point
    kind: Kind
    seconds: float = 0.0


def arm(folder: Path, fault: Fault) -> None:
    """Let the fault happen at its point's next turn; the file is there whole or not at all."""
    draft = folder / f".fault-{fault.id}"
    draft.write_text(json.dumps(asdict(fault)), encoding="utf-8")
    draft.rename(file_of(folder, fault.point))


def disarm(folder: Path, point: Point) -> bool:
    """Take a fault back; false where it has happened."""
    try:
        file_of(folder, point).unlink()
    except FileNotFoundError:
        return False
    return True


def file_of(folder: Path, point: Point) -> Path:
    """Where a fault lies until it happens."""
    return folder / f"fault.{point.replace(' ', '-')}"


def claim(file: Path) -> Fault | None:
    """The fault that lies there, now the caller's alone; None where another worker was faster."""
    taken = file.with_name(f"taken.{os.getpid()}.{file.name}")
    try:
        file.rename(taken)
    except FileNotFoundError:
        return None
    fault = Fault(**json.loads(taken.read_text(encoding="utf-8")))
    taken.rename(file.with_name(f"fired.{fault.id}.{os.getpid()}"))
    return fault


def fired(folder: Path, fault: Fault) -> int | None:
    """The process id of the worker that the fault has happened to; None where it has not."""
    for file in folder.glob(f"fired.{fault.id}.*"):
        return int(file.suffix[1:])
    return None


def awake(folder: Path, fault: Fault) -> Path:
    """What a worker that was stopped puts there when it goes on."""
    return folder / f"awake.{fault.id}"


def go_on(pid: int) -> None:
    """Wake a worker that was stopped."""
    with suppress(ProcessLookupError):  # it was killed in its sleep
        os.kill(pid, signal.SIGCONT)
