from pathlib import Path

import pytest

from gateway.assignment import Assignment
from gateway.settings import Runtime


@pytest.mark.parametrize("config_path", [None, Path("paymaster.yaml")])
def test_an_assignment_arrives_as_it_was_sent(config_path: Path | None) -> None:
    runtime = Runtime("unix:///redis", "admin", "pepper", Path("metrics"), Path("run"), "http://sandbox", "token", 2)
    sent = Assignment(runtime, config_path, {"server": {"port": 4001}}, (3, 4), 5)

    assert "\n" not in sent.to_json()
    assert Assignment.from_json(sent.to_json()) == sent
