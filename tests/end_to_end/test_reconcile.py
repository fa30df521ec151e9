"""`paymaster reconcile` with the sandbox's own bill: what nobody knew is booked to the nano-dollar."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_process import ROOT, GatewayProcess, Key, Money, until

WORKER = "gateway.worker"
IMPATIENT = {"upstream": {"first_byte_timeout": 0.3, "max_attempts": 1}}


def paymaster(gateway: GatewayProcess, *arguments: str) -> Any:
    """What the command prints as JSON, run as an operator runs it."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    environ |= {"PAYMASTER_URL": gateway.url, "PAYMASTER_ADMIN_KEY": gateway.admin_key}
    command = [sys.executable, "-m", "gateway", *arguments, "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def reconcile(gateway: GatewayProcess, *options: str) -> Any:
    return paymaster(gateway, "reconcile", str(gateway.data / "sandbox-bill.jsonl"), *options)


def suspended(gateway: GatewayProcess) -> list[Any]:
    return list(paymaster(gateway, "budgets", "suspense")["data"])


def ask(gateway: GatewayProcess, key: Key, text: str) -> int:
    body = {"model": "sandbox-small", "messages": [{"role": "user", "content": text}], "max_tokens": 200}
    return gateway.post(key, body).status_code


def test_case_13_what_was_cut_is_booked_as_billed_and_what_was_not_billed_is_free(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, configuration=IMPATIENT) as gateway:
        key = gateway.create_key("1/day")
        assert ask(gateway, key, "Hello") == 200
        assert ask(gateway, key, "Think. [[stall 5]] [[bill all]]") == 504
        assert ask(gateway, key, "Think. [[stall 5]] [[bill nothing]]") == 504
        before = gateway.settled(key)
        assert before.spent < gateway.billed(key) < before.counted
        _, unbilled = suspended(gateway)

        told = reconcile(gateway)
        assert (told["counts"]["resolved"], told["counts"]["same"]) == (1, 1)
        assert suspended(gateway) == [unbilled]
        assert gateway.settled(key) == Money(gateway.billed(key), Decimal(0), Decimal(unbilled["held_usd"]))

        def nothing_waits() -> bool:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            return bool(reconcile(gateway, "--provider", "sandbox", "--complete-until", now)["absent"])

        until(nothing_waits, lambda: f"in suspense: {suspended(gateway)}")
        assert suspended(gateway) == []
        assert gateway.settled(key) == Money(gateway.billed(key), Decimal(0), Decimal(0))


def test_case_01_what_a_killed_worker_left_is_booked_as_billed(tmp_path: Path) -> None:
    with (
        GatewayProcess(tmp_path, configuration={"ledger": {"lease": 2}}) as gateway,
        ThreadPoolExecutor() as caller,
    ):
        key = gateway.create_key("1/day")
        asked = caller.submit(ask, gateway, key, "Think. [[stall]] [[bill all]]")
        until(lambda: gateway.billed(key) > 0, lambda: "never billed")
        (worker,) = gateway.children(WORKER)
        gateway.kill_child(worker)
        with pytest.raises(httpx.TransportError):
            asked.result()
        before = gateway.settled(key)
        assert before.spent < gateway.billed(key) < before.counted

        told = reconcile(gateway)

        assert (told["counts"]["resolved"], suspended(gateway)) == (1, [])
        assert gateway.settled(key) == Money(gateway.billed(key), Decimal(0), Decimal(0))
