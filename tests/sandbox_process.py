"""A sandbox as users get it: a process of its own, reached over HTTP. For the tests of whatever talks to it."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

TOKEN = "sandbox-token"
ROOT = Path(__file__).parents[1]


class SandboxProcess:
    """`python -m gateway.sandbox` on an inherited socket, its bill in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.bill_file = folder / "bill.jsonl"
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            self.port: int = listener.getsockname()[1]
            descriptor = str(listener.fileno())
            command = [sys.executable, "-m", "gateway.sandbox", "--fd", descriptor, "--token-stdin"]
            command += ["--bill", str(self.bill_file)]
            self.process = subprocess.Popen(
                command, pass_fds=[listener.fileno()], stdin=subprocess.PIPE, cwd=ROOT, stderr=subprocess.PIPE
            )
        assert self.process.stdin is not None
        self.process.stdin.write(TOKEN.encode() + b"\n")
        self.process.stdin.flush()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=20
        )

    def openai(self, key: str | None = None, **options: Any) -> AsyncOpenAI:
        """The official SDK as the client, one attempt a call."""
        headers = {"x-paymaster-key": key} if key else {}
        base_url = f"http://127.0.0.1:{self.port}/v1"
        return AsyncOpenAI(base_url=base_url, api_key=TOKEN, max_retries=0, default_headers=headers, **options)

    def post(self, body: Any, **headers: str) -> httpx.Response:
        """One chat request; header names with underscores for dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post("/v1/chat/completions", json=body, headers=named)

    def raw(self, body: Any, key: str = "raw") -> socket.socket:
        """A connection over which a chat request was sent, and nothing read yet."""
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: sandbox\r\nauthorization: Bearer {TOKEN}\r\n"
        head += f"x-paymaster-key: {key}\r\ncontent-length: {len(content)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(head.encode() + content)
        return connection

    def bill(self) -> dict[str, Any]:
        """`GET /bill`."""
        return dict(self.http.get("/bill").json())

    def billed(self, key: str) -> list[dict[str, Any]]:
        """The charges of one key."""
        lines = self.http.get("/bill/attempts").text.splitlines()
        return [charge for charge in map(json.loads, lines) if charge["key"] == key]

    def stop(self) -> None:
        """End the process as the death of its parent would."""
        self.http.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait()
