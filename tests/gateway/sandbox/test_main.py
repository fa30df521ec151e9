"""The process: how it starts, what it keeps, when it ends."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sandbox_process import ROOT, SandboxProcess

BODY = {"model": "exact", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def own_sandbox(tmp_path: Path) -> Iterator[SandboxProcess]:
    """A sandbox that the test may kill."""
    running = SandboxProcess(tmp_path)
    yield running
    running.stop()


def run(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.sandbox", *arguments]
    return subprocess.run(command, input=given, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)


def test_the_bill_survives_a_kill_in_mid_stream(own_sandbox: SandboxProcess, tmp_path: Path) -> None:
    own_sandbox.post(BODY, x_paymaster_key="whole")
    stream = {"model": "sandbox-small", "stream": True, "messages": [{"role": "user", "content": "[[long 16000]]"}]}
    with own_sandbox.raw(stream, "cut") as connection:
        assert connection.recv(65_536)
        own_sandbox.kill()
    lines = own_sandbox.bill_file.read_text().splitlines()

    successor = SandboxProcess(tmp_path)
    bill = successor.bill()
    successor.stop()
    assert [json.loads(line)["key"] for line in lines] == ["whole", "cut"]
    assert (bill["attempts"], bill["by_key"]["whole"]) == (2, "0.001")


def test_the_end_of_its_input_ends_the_process_even_in_mid_stream(own_sandbox: SandboxProcess) -> None:
    stalled = BODY | {"messages": [{"role": "user", "content": "[[stall]]"}]}
    with own_sandbox.raw(stalled) as connection:
        assert own_sandbox.process.stdin is not None
        own_sandbox.process.stdin.close()
        assert own_sandbox.process.wait(timeout=5) == 0
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_it_can_be_run_by_hand_on_a_port_without_a_token(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway.sandbox", "--port", "0", "--bill", str(tmp_path / "bill.jsonl")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split()[-1]
        script = f"import httpx; print(httpx.get('{url}/models').status_code)"
        answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        process.terminate()

    assert answer.stdout == "200\n"


def test_it_wants_a_place_and_a_token_and_a_sound_bill(tmp_path: Path) -> None:
    bill = tmp_path / "bill.jsonl"
    bill.write_text("nonsense\n")

    assert "one of the arguments --fd --port is required" in run("--bill", str(bill)).stderr
    assert "no token" in run("--port", "0", "--bill", str(bill), "--token-stdin", given="").stderr
    assert "line 1: not a charge" in run("--port", "0", "--bill", str(bill)).stderr


def test_a_port_in_use_is_named(sandbox: SandboxProcess, tmp_path: Path) -> None:
    refusal = run("--port", str(sandbox.port), "--bill", str(tmp_path / "bill.jsonl"))

    assert refusal.returncode == 1
    assert f"port {sandbox.port}: Address already in use" in refusal.stderr


def test_it_imports_nothing_of_the_gateways() -> None:
    ours = {"gateway", "routing", "budgets"}
    for file in (ROOT / "gateway" / "sandbox").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            strangers = [name for name in names if name.split(".")[0] in ours]
            assert all(name.startswith("gateway.sandbox") for name in strangers), file
