"""The alert rules: Prometheus reads them, their own tests pass, and what they watch exists."""

import re
import subprocess
from pathlib import Path

import yaml
from gateway_process import until
from prometheus_server import PrometheusServer

GRAFANA = Path(__file__).parents[2] / "grafana"
RULES = [rule for group in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
THRESHOLD = re.compile(r"\s(==|>|<) [\d.]+$")


def run(*command: str) -> None:
    finished = subprocess.run(command, cwd=GRAFANA, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_promtool_accepts_the_rules(promtool: str) -> None:
    run(promtool, "check", "rules", "--lint-fatal", "alerts.yaml")


def test_promtool_accepts_the_configuration(promtool: str) -> None:
    run(promtool, "check", "config", "prometheus.yml")


def test_every_alert_fires_when_it_should_and_only_then(promtool: str) -> None:
    run(promtool, "test", "rules", "alerts.test.yaml")


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load((GRAFANA / "alerts.test.yaml").read_text())["tests"]

    for test in tests:
        assert {case["alertname"] for case in test["alert_rule_test"]} == {rule["alert"] for rule in RULES}


def test_every_alert_watches_something_that_a_gateway_tells(prometheus: PrometheusServer) -> None:
    """Without its threshold each expression has a value."""
    watched = {rule["alert"]: THRESHOLD.sub("", rule["expr"]) for rule in RULES}
    watched = {name: query.replace("[5m]", "[10s]").replace("[10m]", "[10s]") for name, query in watched.items()}
    del watched["PaymasterUnpricedAnswers"]  # has no series until there is such an answer

    until(
        lambda: all(prometheus.finite(query) for query in watched.values()),
        lambda: f"without a value: {[name for name, query in watched.items() if not prometheus.finite(query)]}",
    )


def test_prometheus_evaluates_every_alert_without_an_error(prometheus: PrometheusServer) -> None:
    until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), lambda: str(prometheus.rules()))

    assert {rule["name"] for rule in prometheus.rules()} == {rule["alert"] for rule in RULES}
