"""The names: what Prometheus and OpenTelemetry expect of them."""

import re
from pathlib import Path

from gateway.telemetry import semconv


def test_no_name_is_used_twice() -> None:
    names = [series.name for series in semconv.ALL]

    assert len(names) == len(set(names))


def test_all_has_every_series_of_the_module() -> None:
    assert {found for found in vars(semconv).values() if isinstance(found, semconv.Series)} == set(semconv.ALL)


def test_every_name_says_whose_it_is_and_what_it_measures() -> None:
    for series in semconv.ALL:
        assert re.fullmatch(r"paymaster_[a-z]+(_[a-z]+)*", series.name)
        assert series.name.endswith("_total") == (series.kind == "counter")
        assert series.name.endswith("_seconds") == (series.kind == "histogram") == bool(series.buckets)
        assert ("_usd" in series.name) == (series.per_unit != 1)


def test_labels_are_attributes_with_underscores() -> None:
    assert semconv.label(semconv.REQUEST_MODEL) == "gen_ai_request_model"
    for series in semconv.ALL:
        assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in series.labels)


def test_buckets_rise() -> None:
    for series in semconv.ALL:
        assert list(series.buckets) == sorted(set(series.buckets))


def test_every_series_is_shown_or_watched_in_grafana() -> None:
    folder = Path(__file__).parents[3] / "grafana"
    shown = "".join(path.read_text() for path in [*folder.glob("dashboards/*.json"), folder / "alerts.yaml"])

    assert [series.name for series in semconv.ALL if series.name not in shown] == []
