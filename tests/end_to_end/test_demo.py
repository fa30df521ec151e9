"""`paymaster demo`, as `make demo` runs it: it says where it is, shows agents at work, and ends without a trace."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateway_process import PATIENCE, ROOT, until

from gateway.process import free_port


@pytest.fixture
def folder() -> Iterator[Path]:
    """One whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        yield Path(name)


def test_a_demonstration_of_some_requests_shows_what_agents_spend_and_ends(folder: Path) -> None:
    process = demonstration(folder, "--requests", "8", "--pace", "0")
    output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0, output
    assert "sk-pm-default-" in output
    assert "OPENAI_BASE_URL=http://127.0.0.1:" in output
    for agent in ("chat-user", "tool-agent", "stream-reader", "small-budget"):
        assert agent in output
    assert list(folder.iterdir()) == []


def test_a_demonstration_serves_until_ctrl_c(folder: Path) -> None:
    port = free_port()
    process = demonstration(folder, "--pace", "0.05", "--port", str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        until(lambda: process.poll() is not None or billed(client) > 4, lambda: "no life")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0, output
    assert f"http://127.0.0.1:{port}/v1" in output
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)


def demonstration(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A demonstration that has nowhere but `folder` for its temporary data."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ = {**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-m", "gateway", "demo", "--port", "0", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def billed(client: httpx.Client) -> int:
    """How many attempts the demonstration's sandbox has billed; none while nobody answers."""
    try:
        return int(client.get("/sandbox/bill").json()["attempts"])
    except httpx.TransportError:
        return 0
