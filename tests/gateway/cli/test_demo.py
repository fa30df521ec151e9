"""`paymaster demo`, as the process that it is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).parents[3]


def demo(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "COLUMNS": "160"}
    command = [sys.executable, "-m", "gateway", "demo", "--port", "0", *arguments]
    return subprocess.Popen(
        command, env=environ, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_agents_spend_and_are_shown_with_what_they_spent(tmp_path: Path) -> None:
    with demo(tmp_path, "--requests", "12", "--pace", "0") as process:
        shown, _ = process.communicate()

    assert process.returncode == 0, shown
    table = [line.split() for line in shown.splitlines() if line.rstrip().endswith("stopped")]
    rows = {row[0]: row for row in table}
    assert list(rows) == ["chat-user", "tool-agent", "stream-reader", "small-budget"]
    assert sum(int(row[1]) for row in rows.values()) == 12
    assert all(float(row[2]) > 0 for row in rows.values())


def test_without_agents_it_waits_for_the_user_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    with demo(tmp_path, "--no-agents", "--data", "kept") as process:
        assert process.stdout is not None
        shown = dict(line.removeprefix("export ").strip().split("=", 1) for line in _until_ready(process.stdout))
        headers = {"authorization": f"Bearer {shown['OPENAI_API_KEY']}"}
        body = {"model": "exact", "messages": [{"role": "user", "content": "Hello"}]}
        url = f"{shown['OPENAI_BASE_URL']}/chat/completions"
        answer = httpx.post(url, headers=headers, json=body, trust_env=False)
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert answer.status_code == 200
    assert process.returncode == 0
    assert (tmp_path / "kept" / "gateway.log").exists()


def _until_ready(lines: Iterable[str]) -> Iterator[str]:
    """The variables to export, of what is shown before the demonstration waits."""
    for line in lines:
        if line.startswith("export "):
            yield line
        if "Ctrl-C stops it." in line:
            return
