"""A real Prometheus server, of Debian's package `prometheus`, to be asked what it has scraped."""

import math
from typing import Any

import httpx


class PrometheusServer:
    """What its HTTP API answers."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url)

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def scraped(self) -> bool:
        return any(value == 1 for value in self.values("up"))

    def values(self, query: str) -> list[float]:
        """The samples of an instant query. Fails for a query that Prometheus cannot read."""
        answer = self._client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        return [float(series["value"][1]) for series in answer["data"]["result"]]

    def finite(self, query: str) -> bool:
        """Whether there is anything to see."""
        return any(math.isfinite(value) for value in self.values(query))

    def label_values(self, metric: str, label: str) -> list[str]:
        answer = self._client.get(f"/api/v1/label/{label}/values", params={"match[]": metric}).json()
        return [value for value in answer["data"] if value]

    def rules(self) -> list[dict[str, Any]]:
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]
