"""Further SDKs as clients, each in a virtual environment of its own. They are downloaded, so: `make test-clients`."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from gateway_process import ROOT, GatewayProcess, Key

pytestmark = pytest.mark.clients
QUIET = ("--quiet", "--disable-pip-version-check")


@pytest.mark.parametrize("major", ["2", "3"])
def test_each_major_version_of_the_openai_sdk_works_unchanged(
    gateway: GatewayProcess, tmp_path: Path, major: str
) -> None:
    key = gateway.create_key("1/day")
    python = environment(tmp_path, f"openai=={major}.*")
    facts = run(python, "client_openai.py", gateway, key)

    assert facts["version"].startswith(f"{major}.")
    assert facts["tool"] == "get_weather"
    assert {"auto", "exact"} <= set(facts["models"])
    assert_served_and_paid(facts, gateway, key)


def test_the_litellm_sdk_works_unchanged(gateway: GatewayProcess, tmp_path: Path) -> None:
    key = gateway.create_key("1/day")
    python = environment(tmp_path, "--require-hashes", "-r", str(ROOT / "requirements-litellm.txt"))
    facts = run(python, "client_litellm.py", gateway, key)

    assert_served_and_paid(facts, gateway, key)


def assert_served_and_paid(facts: dict[str, Any], gateway: GatewayProcess, key: Key) -> None:
    assert facts["same"]
    assert facts["usage"] > 0
    assert facts["routed"].startswith("sandbox-")
    assert facts["refusal"] == {"status": 402, "explained": True}
    assert gateway.settled(key).spent == gateway.billed(key) > Decimal(0)


def environment(folder: Path, *requirements: str) -> Path:
    """The interpreter of a new virtual environment with what is required in it."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", *QUIET, *requirements], check=True)
    return python


def run(python: Path, program: str, gateway: GatewayProcess, key: Key) -> dict[str, Any]:
    """What a program of this folder printed, run as a stranger in `python`'s environment."""
    poor = gateway.create_key("0.0001/day")
    command = [python, "-P", Path(__file__).with_name(program), f"{gateway.url}/v1", key.text, poor.text]
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it need not ask the internet for prices
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environ)
    return dict(json.loads(done.stdout.splitlines()[-1]))
