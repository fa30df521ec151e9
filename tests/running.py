"""A gateway in the test's own event loop: the real application and server, real Valkey, a provider that can be told."""

import asyncio
import io
import json
import re
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
from bank import Server
from fakes import FakeUpstream, fake_upstream

from budgets.money import from_usd
from gateway.app import Gateway, create_app
from gateway.listeners import split_address
from gateway.server import Limits
from gateway.server import Server as HttpServer
from gateway.settings import Runtime, load
from gateway.telemetry.logs import LineWriter

ADMIN_KEY = "the-admin-key-of-the-tests"
PROVIDER_KEY = "sk-provider-canary-0123456789abcdef"
PRICES = {"small": ("0.10", "0.40"), "large": ("3", "15")}
"""USD per million tokens, in and out."""


@dataclass(frozen=True)
class Key:
    """A virtual key and its text."""

    id: str
    text: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.text}"}


@dataclass(frozen=True)
class Money:
    """What a key has spent, holds and has in suspense over its lifetime, in nano-USD."""

    spent: int
    held: int
    suspense: int


@dataclass
class Running:
    """A gateway that serves, seen from outside."""

    http: httpx.AsyncClient
    upstream: FakeUpstream
    port: int
    config: Path
    log: io.BytesIO
    app: Gateway
    _server: HttpServer

    async def admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """A request with the admin key."""
        return await self.http.request(method, f"/admin{path}", json=body, headers={"x-api-key": ADMIN_KEY})

    async def create_key(self, *limits: str, **fields: Any) -> Key:
        """A key; limits like `0.01/lifetime`."""
        parts = (limit.partition("/") for limit in limits)
        body = {"name": "test", "limits": [{"usd": usd, "window": window} for usd, _, window in parts], **fields}
        made = (await self.admin("POST", "/keys", body)).raise_for_status().json()
        return Key(made["id"], made["key"])

    async def chat(self, key: Key, model: str = "small", text: str = "Hi!", **fields: Any) -> httpx.Response:
        """A chat completion; its fields, and `headers` besides the key's."""
        headers = key.headers | fields.pop("headers", {})
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return await self.http.post("/v1/chat/completions", json=body, headers=headers)

    async def stream(self, key: Key, go_on: asyncio.Event | None = None, **fields: Any) -> tuple[bytes, bool]:
        """What arrives of a stream, and whether its end is a clean one. `go_on` is set once something has arrived."""
        content = b""
        body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "Hi!"}], **fields}
        async with self.http.stream("POST", "/v1/chat/completions", json=body, headers=key.headers) as answer:
            try:
                async for piece in answer.aiter_raw():
                    content += piece
                    if go_on is not None:
                        go_on.set()
            except httpx.RemoteProtocolError:
                return content, False
        return content, True

    async def open_chat(self, key: Key, **fields: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection over which a chat request was sent, and nothing read yet."""
        body = {"model": "small", "messages": [{"role": "user", "content": "Hi!"}], **fields}
        content = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key.text}\r\n"
            f"content-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        return reader, writer

    async def raw(self, request: bytes) -> bytes:
        """All that comes for these bytes until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def money(self, key: Key) -> Money:
        """The key's money once every request is over and booked."""
        await self.drained()
        shown = (await self.admin("GET", f"/keys/{key.id}")).raise_for_status().json()
        return Money(*(from_usd(shown[name]) for name in ("spent_usd", "held_usd", "suspense_usd")))

    async def spent(self, key: Key) -> int:
        """Nano-USD; nothing may be held or in suspense."""
        money = await self.money(key)
        assert money == Money(money.spent, 0, 0)
        return money.spent

    async def drained(self) -> None:
        """Wait until no request is under way, and all that was spent is booked."""
        async with asyncio.timeout(20):
            while tasks := list(self._server.server_state.tasks):
                await asyncio.wait(tasks)
            while await self.metric("paymaster_journal_entries"):
                pass

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        text = (await self.http.get("/metrics")).text
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        series = re.findall(rf"^{name}({{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for found, value in series if all(each in found for each in wanted))

    async def logged(self, answer: httpx.Response) -> dict[str, Any]:
        """The log line of a request."""
        request_id = answer.headers["x-request-id"]
        async with asyncio.timeout(20):
            while True:
                lines = map(json.loads, self.log.getvalue().splitlines())
                found = next((line for line in lines if line.get("request_id") == request_id), None)
                if found is not None:
                    return dict(found)
                await asyncio.sleep(0)

    def stop(self) -> None:
        """Have it end, once all that is under way is answered."""
        self._server.stop()

    def fresh(self) -> "Running":
        """Itself, with a provider that has forgotten what it was told and asked."""
        self.upstream.forget()
        return self


def configuration(upstream_url: str, sections: Mapping[str, Any]) -> str:
    """A configuration with one provider and two models, changed by `sections`; JSON is YAML."""
    models = {
        name: {"provider": "acme", "model": f"acme-{name}", "price": {"input": read, "output": written}}
        for name, (read, written) in PRICES.items()
    }
    values = {
        "providers": {"acme": {"kind": "openai", "base_url": upstream_url, "api_key": PROVIDER_KEY}},
        "models": models,
        "routes": {"auto": {"tiers": {"simple": ["small"], "standard": ["small"], "reasoning": ["large"]}}},
    }
    return json.dumps({**values, **sections})


@asynccontextmanager
async def running(redis_url: str, folder: Path, **sections: Any) -> AsyncIterator[Running]:
    """A gateway with a provider of its own. `sections` of the configuration replace those of `configuration`."""
    config = folder / "paymaster.yaml"
    async with fake_upstream() as upstream:
        config.write_text(configuration(upstream.url, sections))
        runtime = Runtime(redis_url=redis_url, admin_key=ADMIN_KEY, pepper="pepper", run_dir=folder)
        reread = partial(load, config, {"PAYMASTER_DATA_DIR": str(folder)}, runtime)
        log = io.BytesIO()
        writer = LineWriter(log, linger=0)
        settings = reread()
        app = create_app(settings, runtime, writer, reread=reread)
        started = asyncio.Event()
        server = HttpServer(cast(Any, app), Limits(), shutdown_timeout=5, on_started=started.set)
        addresses = [("127.0.0.1", 0), *([split_address(settings.admin.listen)] if settings.admin.listen else [])]
        listeners = [socket.create_server(address) for address in addresses]
        port = listeners[0].getsockname()[1]
        serving = asyncio.create_task(server.serve(listeners))
        await asyncio.wait([serving, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
                yield Running(http, upstream, port, config, log, app, server)
        finally:
            if not server.should_exit:
                server.stop()
            await serving
            writer.close()


class LedgerServer(Server):
    """A Valkey server of one test that can be made to hang."""

    def pause(self) -> None:
        """It is there, and says nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def ledger_server() -> Iterator[LedgerServer]:
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        server = LedgerServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
