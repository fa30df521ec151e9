"""What a supervisor and its workers tell each other: one line of JSON down, signals later, single bytes up.

The line goes to the worker's standard input, which stays open for as long as the supervisor lives.
"""

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.settings import Runtime

READY = b"r"
"""The worker accepts connections."""
RELOAD = b"c"
"""The worker was asked to have all workers read the configuration anew."""
LEAVE = signal.SIGUSR1
"""To a worker: a successor serves the same sockets. Let nobody in any more, serve who is in, and end."""
LEAVING_GRACE = 10.0
"""Seconds for which a worker that leaves keeps connections on which nothing is asked. By then clients let go of them by
themselves (httpx after 5 s), so that none is closed in the moment in which it sends a request."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One worker's work. The file descriptors are inherited."""

    runtime: Runtime
    config_path: Path | None
    overrides: Mapping[str, Mapping[str, object]]
    """Settings from the command line."""
    listeners: tuple[int, ...] = ()
    """Bound sockets: the public one, then the admin API's where it has its own."""
    notices: int = -1
    """The pipe on which READY and RELOAD are written."""

    def to_json(self) -> str:
        """The one line; it holds secrets."""
        fields = {
            "runtime": self.runtime.to_json(),
            "config_path": None if self.config_path is None else str(self.config_path),
            "overrides": self.overrides,
            "listeners": self.listeners,
            "notices": self.notices,
        }
        return json.dumps(fields, default=str)

    @classmethod
    def from_json(cls, text: str) -> "Assignment":
        """Raises ValueError, KeyError or TypeError for what `to_json` did not write."""
        fields = json.loads(text)
        return cls(
            runtime=Runtime.from_json(fields["runtime"]),
            config_path=None if fields["config_path"] is None else Path(fields["config_path"]),
            overrides=fields["overrides"],
            listeners=tuple(fields["listeners"]),
            notices=fields["notices"],
        )
