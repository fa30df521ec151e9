"""`paymaster serve`, as the process that it is."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from typer.testing import Result

from gateway.process import free_port

Command = Callable[..., Result]

SERVE = (sys.executable, "-m", "gateway", "serve")


@contextmanager
def serving(data_dir: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "PAYMASTER_DATA_DIR": str(data_dir)}
    environ |= variables
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen([*SERVE, *arguments], env=environ, cwd=data_dir.parent, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_tells_its_address_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--port", "0", "--workers", "2", GEMINI_API_KEY="secret") as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        url = told.removeprefix("Paymaster serves ").split("/v1")[0]
        healthy = httpx.get(f"{url}/healthz", trust_env=False).status_code
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        status = process.wait()

    assert told.rstrip().endswith("with auto, sandbox-small, sandbox-medium, sandbox-large, exact")
    assert healthy == 200
    assert rest.startswith("GEMINI_API_KEY: this version does not speak to Google yet; the sandbox is served instead\n")
    assert f"PAYMASTER_URL={url} paymaster keys create" in rest
    assert status == 0


def test_the_commands_are_pointed_at_the_admin_apis_own_listener(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    (tmp_path / "paymaster.yaml").write_text(f"admin: {{listen: '{listen}'}}\nserver: {{port: {free_port()}}}\n")

    assert hint(tmp_path, "--port", "0").startswith(f"Make a key with: PAYMASTER_URL=http://{listen} paymaster keys")
    assert hint(tmp_path).startswith("Make a key with: paymaster keys")


def hint(folder: Path, *arguments: str) -> str:
    """What a gateway that starts tells after its address."""
    with serving(folder / "data", *arguments) as process:
        assert process.stderr is not None
        process.stderr.readline()
        told = process.stderr.readline()
        process.terminate()
        process.wait()
    return told


def test_a_data_folder_in_use_is_told_without_a_traceback(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with (data_dir / "supervisor.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with serving(data_dir, "--port", "0") as process:
            _, told = process.communicate()

    assert process.returncode == 1
    assert told.startswith(f"another gateway is running on {data_dir}")
    assert "Traceback" not in told


def test_a_wrong_configuration_is_told_and_nothing_starts(paymaster: Command, tmp_path: Path) -> None:
    (tmp_path / "paymaster.yaml").write_text("server: {prot: 4000}\n")

    result = paymaster("serve")
    assert result.exit_code == 1
    assert result.stderr.strip() == "paymaster.yaml:1: server.prot: no such field; did you mean 'port'?"
    assert not (tmp_path / "data").exists()


def test_options_win_over_the_file_and_are_checked(paymaster: Command) -> None:
    result = paymaster("serve", "--host", "0.0.0.0")

    assert result.exit_code == 1
    assert "0.0.0.0 is not loopback and would show the admin API" in result.stderr
    assert paymaster("serve", "--workers", "0").exit_code == 2
