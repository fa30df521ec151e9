"""Runs the sandbox: `python -m gateway.sandbox --port 4010 --bill bill.jsonl` by hand, by `--fd` under a supervisor.

With `--token-stdin` the first line on standard input is the token that requests must bear, and the end of standard
input ends the process at once: its parent has died. All that was charged is on disk by then.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from gateway.sandbox.app import Sandbox
from gateway.sandbox.bill import Bill, BillDamaged
from gateway.sandbox.exchange import SandboxProtocol

_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 2_048


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal or, with a parent, until the parent is gone."""
    options = _options(arguments)
    token = _parents_token() if options.token_stdin else None
    listener = _listener(options)
    try:
        bill = Bill(options.bill)
    except (BillDamaged, OSError) as exc:
        sys.exit(f"sandbox: {exc}")
    config = uvicorn.Config(
        Sandbox(bill, token),
        loop="uvloop",
        http=SandboxProtocol,
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.sandbox", description="A provider that needs no key.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--fd", type=int, help="an inherited listening socket")
    where.add_argument("--port", type=int, help="a port on 127.0.0.1; 0 takes a free one and tells which")
    parser.add_argument("--bill", type=Path, required=True, help="the bill's file; made if it is not there")
    parser.add_argument("--token-stdin", action="store_true", help="read the bearer token from standard input")
    return parser.parse_args(arguments)


def _listener(options: argparse.Namespace) -> socket.socket:
    if options.fd is not None:
        return socket.socket(fileno=options.fd)
    try:
        listener = socket.create_server(("127.0.0.1", options.port), backlog=_BACKLOG)
    except OSError as exc:
        sys.exit(f"sandbox: port {options.port}: {exc.strerror}")
    sys.stderr.write(f"sandbox: http://127.0.0.1:{listener.getsockname()[1]}/v1\n")
    return listener


def _parents_token() -> bytes:
    """The token that the parent wrote; from now on the process ends with its parent, and by nothing on a keyboard."""
    token = sys.stdin.buffer.readline().strip()
    if not token:
        sys.exit("sandbox: no token on standard input")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is the parent's to obey: it drains first
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    return token


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
