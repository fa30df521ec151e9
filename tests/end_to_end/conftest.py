"""Gateways for the end-to-end tests: real processes, and nothing between them and the test but HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess

CONFIGURATION: dict[str, Any] = {
    "providers": {"sandbox": {"kind": "sandbox"}, "nowhere": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}},
    "models": {
        **{
            name: {"provider": "sandbox", "model": name}
            for name in ("sandbox-small", "sandbox-medium", "sandbox-large", "exact")
        },
        "unpriced": {"provider": "nowhere", "model": "never-heard-of"},
    },
    "routes": {
        "auto": {"tiers": {"simple": ["sandbox-small"], "standard": ["sandbox-medium"], "reasoning": ["sandbox-large"]}}
    },
}


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Two workers before the sandbox, for all tests that leave them as they found them and give no reason for a 5xx."""
    folder = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(folder, workers=2, configuration=CONFIGURATION) as gateway:
        yield gateway
    assert [line for line in gateway.log() if line["level"] != "info"] == []
    assert "Traceback" not in gateway.words()


@pytest.fixture
def fresh_gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """Two workers with leases of 2 s, for one test alone: it may kill them."""
    with GatewayProcess(tmp_path, workers=2, configuration={"ledger": {"lease": 2}}) as gateway:
        yield gateway
