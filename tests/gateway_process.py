"""A gateway as users have it: `paymaster serve`, a process with children of its own, spoken to over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import yaml
from openai import AsyncOpenAI, OpenAI

ROOT = Path(__file__).parents[1]
PATIENCE = 45.0
"""Seconds after which something that was waited for counts as failed; nothing takes so long when the code is right."""
GREETING = "Paymaster serves "
_OF_THE_USERS_OWN = ("_API_KEY", "OPENAI_", "PAYMASTER_", "REDIS_URL", "XDG_")
"""Parts of the names of variables that a gateway under test must not inherit."""


def until(condition: Callable[[], object], otherwise: Callable[[], str]) -> None:
    """Wait until `condition` is true; `otherwise` says in the failure what there was instead."""
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at, otherwise()
        time.sleep(0.01)


@dataclass(frozen=True)
class Key:
    """A virtual key."""

    id: str
    text: str


@dataclass(frozen=True)
class Money:
    """What a key has spent, by the gateway's own account, in dollars."""

    spent: Decimal
    held: Decimal
    suspense: Decimal

    @property
    def counted(self) -> Decimal:
        """All that counts against the key's limits."""
        return self.spent + self.held + self.suspense


class GatewayProcess:
    """`paymaster serve` with a data folder of its own. It can be stopped or killed, and started again on its data."""

    def __init__(self, folder: Path, *, workers: int = 1, configuration: Mapping[str, Any] | None = None) -> None:
        """`configuration` is what the file says; without one the gateway finds nobody's keys and runs the sandbox."""
        self.data = folder / "data"
        self.port = 0
        self._folder = folder
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(timeout=PATIENCE, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        if configuration is not None:
            (folder / "paymaster.yaml").write_text(yaml.safe_dump(dict(configuration)))

    # Its life

    def __enter__(self) -> "GatewayProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._http.close()

    def start(self) -> None:
        """Start it, on the port that it had before if there was one; return once it says that it serves."""
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(self.port), "--workers", str(self._workers)]
        with (self._folder / "log").open("ab") as log, (self._folder / "words").open("wb") as words:
            self._process = process = subprocess.Popen(
                command, cwd=self._folder, env=self._environ(), stdout=log, stderr=words
            )
        until(lambda: GREETING in self.words() or process.poll() is not None, self.words)
        assert process.poll() is None, f"the gateway did not start:\n{self.words()}"
        url = self.words().partition(GREETING)[2].split("/v1", 1)[0]
        self.port = int(url.rpartition(":")[2])

    def stop(self) -> None:
        """Stop it in order, as `kill` does without a number."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            status = self._process.wait(PATIENCE)
            assert status == 0, f"the gateway ended with status {status}:\n{self.words()}"

    def kill(self, *programs: str) -> None:
        """`kill -9` of the supervisor and, at the same moment, of those of its children that run these programs."""
        assert self._process is not None
        victims = [pid for program in programs for pid in self.children(program)]
        for pid in (self._process.pid, *victims):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def kill_child(self, pid: int) -> None:
        """`kill -9` of one of the supervisor's children."""
        os.kill(pid, signal.SIGKILL)

    def children(self, program: str) -> list[int]:
        """The process ids of the supervisor's children whose command line names `program`."""
        assert self._process is not None
        found = []
        for children in Path(f"/proc/{self._process.pid}/task").glob("*/children"):  # of each thread
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                found += [pid for pid in children.read_text().split() if program in _command_line(pid)]
        return [int(pid) for pid in found]

    def words(self) -> str:
        """What it said to the person at the terminal since it was started last."""
        return (self._folder / "words").read_text()

    def log(self) -> list[dict[str, Any]]:
        """Every line of its log, whole since it was stopped."""
        return [json.loads(line) for line in (self._folder / "log").read_text().splitlines()]

    # What its operator does

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_key(self) -> str:
        return (self.data / "admin.key").read_text().strip()

    def admin(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A call of the admin API that must succeed."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        answer = self._http.request(method, f"{self.url}/admin{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def create_key(self, limit: str | None = None, *, models: tuple[str, ...] = ("*",)) -> Key:
        """A key with a limit such as `0.01/day`, or with none."""
        usd, _, window = (limit or "").partition("/")
        limits = [{"usd": usd, "window": window}] if limit else []
        made = self.admin("POST", "/keys", {"name": "somebody", "limits": limits, "models": models})
        return Key(made["id"], made["key"])

    def money(self, key: Key) -> Money:
        shown = self._read(f"/admin/keys/{key.id}")
        return Money(*(Decimal(shown[name]) for name in ("spent_usd", "held_usd", "suspense_usd")))

    def settled(self, key: Key) -> Money:
        """The key's money once nothing is held any more."""
        until(lambda: self.money(key).held == 0, lambda: f"still held: {self.money(key)}")
        return self.money(key)

    def billed(self, key: Key) -> Decimal:
        """What the sandbox billed for the key, by its own price table, in dollars."""
        return Decimal(self._read("/sandbox/bill")["by_key"].get(key.id, "0"))

    # Its callers

    def openai(self, key: Key, **options: Any) -> OpenAI:
        """The official SDK as everybody has it."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key.text, **options)

    def async_openai(self, key: Key, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key.text, **options)

    def post(self, key: Key, body: Any = None, **options: Any) -> httpx.Response:
        """One chat request without any SDK; `body` is made JSON, `content` among the options is sent as it is."""
        headers = {"authorization": f"Bearer {key.text}"}
        return self._http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, **options)

    def _read(self, path: str) -> dict[str, Any]:
        """What is answered to the operator, asked again where a worker that was killed took the answer with it."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        answers: list[httpx.Response] = []

        def answered() -> bool:
            with suppress(httpx.TransportError):
                answers.append(self._http.get(f"{self.url}{path}", headers=headers))
            return bool(answers)

        until(answered, lambda: f"no answer at {path}")
        return dict(answers[0].raise_for_status().json())

    def _environ(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not any(part in name for part in _OF_THE_USERS_OWN)}
        return kept | {"PAYMASTER_DATA_DIR": str(self.data), "PYTHONPATH": str(ROOT)}


def _command_line(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
