"""The provider of a proof: the sandbox as a process of its own, and its bill, read from its file."""

import asyncio
import re
import secrets
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson

COMMAND = (sys.executable, "-P", "-m", "gateway.sandbox")
_ATTEMPT = re.compile(r"att_([a-z0-9]{1,32})_")
_BACKLOG = 2_048
_TURNS = 3


class Provider:
    """Bills what it answers, by its own price table. Use it as an asynchronous context manager."""

    def __init__(self, folder: Path) -> None:
        self.bill = Bill(folder / "bill.jsonl")
        self.token = secrets.token_urlsafe(32)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "Provider":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        self._listener.close()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    async def start(self) -> None:
        """Start it, or another on the same port and the same bill; who connects before it serves waits."""
        descriptor = self._listener.fileno()
        arguments = ("--fd", str(descriptor), "--bill", str(self.bill.path), "--token-stdin")
        with (self._folder / "provider.log").open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *COMMAND, *arguments, stdin=PIPE, stdout=DEVNULL, stderr=log, pass_fds=[descriptor],
                start_new_session=True,
            )  # fmt: skip
        if process.stdin is not None:
            process.stdin.write(f"{self.token}\n".encode())

    async def idle(self) -> None:
        """Wait until it has dealt with all that was said to it before: it answers one thing after the other."""
        for _ in range(_TURNS):
            reader, writer = await asyncio.open_connection(*self.address)
            try:
                writer.write(b"GET /bill HTTP/1.1\r\nhost: sandbox\r\nconnection: close\r\n\r\n")
                await reader.read()
            finally:
                writer.close()

    async def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Bill:
    """The provider's bill by account: every attempt's id says whose it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._nano: defaultdict[str, int] = defaultdict(int)
        self._rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._read_bytes = 0

    def total(self, account: str) -> int:
        """What was billed for an account's attempts until now, in nano-dollars."""
        self._read()
        return self._nano[account]

    def rows(self, account: str) -> list[dict[str, Any]]:
        """Its attempts as the provider exports them: `attempt`, `nano_usd`, `model` and the tokens."""
        self._read()
        return self._rows[account]

    def _read(self) -> None:
        """What was added to the file since the last time; a line being written waits for the next."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            lines, end, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(lines) + len(end)
        for line in lines.splitlines():
            row = orjson.loads(line)
            match = _ATTEMPT.match(row["attempt"] or "")
            account = match[1] if match else ""
            self._nano[account] += row["nano_usd"]
            self._rows[account].append(row)
