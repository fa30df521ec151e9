"""From the command to the first answer, and what each process weighs then. By hand, on a machine without other work:

PYTHONPATH=tests .venv/bin/python tools/start_time.py
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway_process import GatewayProcess

from gateway.chaos.load import chat

RUNS = 5
PROGRAMS = ("gateway.worker", "gateway.sandbox", "valkey-server")


def main() -> None:
    """One line for each run."""
    for _ in range(RUNS):
        with TemporaryDirectory() as folder:
            started = time.monotonic()
            with GatewayProcess(Path(folder)) as gateway:
                answer = gateway.post(gateway.create_key("1/day"), chat("auto", "Hello"))
                seconds = time.monotonic() - started
                weights = [f"{name} {mebibytes(pid)}" for name in PROGRAMS for pid in gateway.children(name)]
        answer.raise_for_status()
        sys.stdout.write(f"{seconds:.2f} s; MiB resident: {', '.join(weights)}\n")


def mebibytes(pid: int) -> str:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return f"{pages * 4096 / 2**20:.0f}"


if __name__ == "__main__":
    main()
