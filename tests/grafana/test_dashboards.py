"""The dashboards: every panel shows something, on a real Prometheus server that scrapes a gateway under traffic."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from gateway_process import until
from prometheus_server import PrometheusServer

GRAFANA = Path(__file__).parents[2] / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
UNITS = {"reqps", "percentunit", "currencyUSD", "s", "short"}
QUERY_VARIABLE = re.compile(r"label_values\((\w+), (\w+)\)")

Json = dict[str, Any]


def load(path: Path) -> Json:
    return dict(json.loads(path.read_text()))


def panels(dashboard: Json) -> list[Json]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> Iterator[tuple[str, str]]:
    """Every query with the name of its panel."""
    for path in DASHBOARDS:
        for panel in panels(load(path)):
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']} {target['refId']}", target["expr"]


def variables(dashboard: Json) -> Iterator[tuple[str, str, str]]:
    """Name, metric and label of every variable that is asked of Prometheus."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = QUERY_VARIABLE.fullmatch(variable["query"]["query"])
            assert found is not None, variable["name"]
            yield variable["name"], found[1], found[2]


def filled(query: str, chosen: dict[str, str]) -> str:
    """The query as Grafana sends it, with `chosen` for its variables."""
    for name, value in {"__rate_interval": "4s", "__range": "1m", **chosen}.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query
    return query


def test_every_panel_shows_something(prometheus: PrometheusServer) -> None:
    missing = {where: filled(query, {"key": ".*", "model": ".*"}) for where, query in targets()}

    def nothing_missing() -> bool:
        for where in [where for where, query in missing.items() if prometheus.finite(query)]:
            del missing[where]
        return not missing

    until(nothing_missing, lambda: f"panels without data: {missing}")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_offers_values_that_can_be_chosen(path: Path, prometheus: PrometheusServer) -> None:
    dashboard = load(path)
    chosen = {}
    for name, metric, label in variables(dashboard):
        until(lambda metric=metric, label=label: prometheus.label_values(metric, label), lambda name=name: name)
        chosen[name] = "|".join(prometheus.label_values(metric, label))

    queries = [filled(target["expr"], chosen) for panel in panels(dashboard) for target in panel["targets"]]

    assert {"key", "model"} <= chosen.keys()
    assert all(isinstance(prometheus.values(query), list) for query in queries)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_are_complete_and_do_not_overlap(path: Path) -> None:
    dashboard = load(path)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) < 24

    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["targets"], panel["title"]


def test_uids_are_unique_and_the_provisioned_folder_is_the_one_that_is_mounted() -> None:
    uids = [load(path)["uid"] for path in DASHBOARDS]
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/paymaster.yaml").read_text())
    compose = yaml.safe_load((GRAFANA.parent / "compose.yaml").read_text())

    assert len(uids) == len(set(uids))
    mounted = {volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]}
    assert provider["providers"][0]["options"]["path"] in mounted
    assert "/etc/grafana/provisioning" in mounted
