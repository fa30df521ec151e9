"""What a gateway under traffic tells Prometheus."""

import subprocess
from typing import Any


def test_promtool_finds_nothing_to_complain_about(promtool: str, gateway: Any) -> None:
    text = gateway.client.get("/metrics").text

    finished = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)

    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
