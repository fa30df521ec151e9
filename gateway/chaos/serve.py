"""The gateway under test, `python -m gateway.chaos.serve`: `paymaster serve` with chaos workers.

It ends with its parent: the end of standard input is taken as SIGTERM.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from gateway.errors import CannotStart
from gateway.settings import load
from gateway.supervisor import Supervisor

WORKER = (sys.executable, "-P", "-m", "gateway.chaos.worker")


def main() -> None:
    """Serve until a signal, or until the parent is gone."""
    options = _options()
    overrides = {"server": {"host": options.host, "port": options.port}}
    settings = load(options.config, os.environ, overrides=overrides)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    supervisor = Supervisor(settings, options.config, os.environ, overrides=overrides, worker_command=WORKER)
    try:
        supervisor.run(lambda url: None)
    except CannotStart as exc:
        sys.exit(str(exc))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.chaos.serve")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", type=Path, required=True)
    return parser.parse_args()


def _stop_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
