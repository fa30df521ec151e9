"""A gateway under traffic, and a real Prometheus server that scrapes it once a second."""

import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from gateway_process import until
from prometheus_server import PrometheusServer

from gateway.process import free_port

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
ADMIN_KEY = "an admin key of the dashboards' tests"
PROVIDER_KEYS = ("_API_KEY", "REDIS_URL", "PAYMASTER_")
"""Parts of the names of variables that a gateway under test must not inherit."""

PROMPTS = (
    "Say hello.",
    "Prove that the square root of two is irrational, step by step, and discuss each assumption.",
    "Name a colour. [[first 1 fail 500]]",
    "Tell a story. [[long 60]] [[cut 3]]",
)
"""For the sandbox: easy, hard, one that succeeds when it is repeated, one that breaks off."""


@dataclass(frozen=True)
class Gateway:
    """A running gateway, spoken to as its users do."""

    port: int

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)

    def ready(self) -> bool:
        try:
            return self.client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def new_key(self, name: str, usd: str) -> str:
        """A virtual key that may spend `usd` in a day."""
        body = {"name": name, "limits": [{"usd": usd, "window": "day"}]}
        made = self.client.post("/admin/keys", json=body, headers={"authorization": f"Bearer {ADMIN_KEY}"})
        return str(made.raise_for_status().json()["key"])


def tool(name: str) -> str:
    """The path of a program of Debian's package `prometheus`."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install --no-install-recommends prometheus")
    return path


@pytest.fixture(scope="session")
def promtool() -> str:
    return tool("promtool")


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers before the sandbox, with callers of all kinds until the tests are over."""
    folder = tmp_path_factory.mktemp("gateway")
    running = Gateway(free_port())
    kept = {name: value for name, value in os.environ.items() if not any(part in name for part in PROVIDER_KEYS)}
    environ = {**kept, "PAYMASTER_ADMIN_KEY": ADMIN_KEY, "PAYMASTER_DATA_DIR": str(folder / "data")}
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(running.port), "--workers", "2"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log) as process:
        try:
            until(running.ready, lambda: f"the gateway is not ready: {(folder / 'log').read_text()}")
            with traffic(running):
                yield running
        finally:
            process.terminate()


@contextmanager
def traffic(gateway: Gateway) -> Iterator[None]:
    """Requests without pause, one after the other, of a caller who may and of one who has no money."""
    keys = (gateway.new_key("team", "5"), gateway.new_key("poor", "0.000001"))
    stop = threading.Event()
    thread = threading.Thread(target=send_requests, args=(gateway, keys, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def send_requests(gateway: Gateway, keys: tuple[str, ...], stop: threading.Event) -> None:
    with gateway.client as client:
        for prompt, stream, key in itertools.cycle(itertools.product(PROMPTS, (False, True), keys)):
            if stop.is_set():
                return
            body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": prompt}]}
            with suppress(httpx.RemoteProtocolError):  # the answers that break off
                client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory, gateway: Gateway) -> Iterator[PrometheusServer]:
    """Prometheus with the configuration that is shipped, but for the address and the interval."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(GRAFANA / name) for name in configuration["rule_files"]]
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{gateway.port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [tool("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with subprocess.Popen(command) as process:
        try:
            server = PrometheusServer(f"http://127.0.0.1:{port}")
            until(server.ready, lambda: "Prometheus did not start")
            until(server.scraped, lambda: "Prometheus did not reach the gateway")
            yield server
        finally:
            process.terminate()
