"""The sandbox that these tests share."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sandbox_process import SandboxProcess


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """A sandbox that the tests share; each keeps to a key of its own."""
    running = SandboxProcess(tmp_path_factory.mktemp("sandbox"))
    yield running
    running.stop()


@pytest.fixture
def key() -> str:
    """A key id that no other test uses."""
    return f"key_default_{uuid4().hex}"
