"""Metrics: no caller can grow the number of series, and restarts change nothing."""

from pathlib import Path

import pytest

from gateway.telemetry import semconv
from gateway.telemetry.metrics import MAX_CHILDREN, MAX_LABEL_LENGTH, Known, Metrics
from routing.health import State

KNOWN = Known(
    models=frozenset({"auto", "small", "large"}),
    providers=frozenset({"acme"}),
    deployments=frozenset({"small", "large"}),
)


def value(metrics: Metrics, series: semconv.Series, *labels: str) -> float:
    return metrics.counts.runs[(series.name, *labels)][0]


def test_what_nobody_configured_is_other() -> None:
    assert KNOWN.model("auto") == "auto"
    assert KNOWN.model("gpt-99") == "other"
    assert KNOWN.provider("acme") == "acme"
    assert KNOWN.provider("nobody") == "other"
    assert KNOWN.deployment("gpt-99") == "other"


def test_what_is_absent_has_the_empty_label() -> None:
    assert KNOWN.model(None) == ""
    assert Metrics(KNOWN).key(None) == ""


def test_the_first_keys_are_named_and_the_rest_are_other() -> None:
    metrics = Metrics(KNOWN, max_keys=2)

    assert [metrics.key(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]
    assert value(metrics, semconv.LABEL_OVERFLOW, "key") == 2


def test_a_restart_does_not_name_more_keys(tmp_path: Path) -> None:
    first = Metrics(KNOWN, max_keys=2, folder=tmp_path, index=0)
    for name in ("a", "b"):
        first.refusals.child("insufficient_quota", first.key(name)).inc()

    successor = Metrics(KNOWN, max_keys=2, folder=tmp_path, index=0)
    neighbour = Metrics(KNOWN, max_keys=2, folder=tmp_path, index=1)

    assert [successor.key(name) for name in ("a", "c")] == ["a", "other"]
    assert [neighbour.key(name) for name in ("b", "c")] == ["b", "other"]


def test_a_long_key_name_is_cut() -> None:
    assert Metrics(KNOWN).key("k" * 1000) == "k" * MAX_LABEL_LENGTH


def test_a_series_with_too_many_children_counts_under_other() -> None:
    metrics = Metrics(KNOWN)
    for number in range(MAX_CHILDREN + 3):
        metrics.refusals.child(f"reason {number}", "").inc()

    assert value(metrics, semconv.REFUSALS, "other", "other") == 3
    assert value(metrics, semconv.LABEL_OVERFLOW, semconv.REFUSALS.name) == 3


def test_counters_continue_over_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        metrics = Metrics(KNOWN, folder=tmp_path)
        metrics.spend.child("auto", "acme", "small", "team").inc(1_234_567_891)
        metrics.counts.close()

    assert value(metrics, semconv.SPEND, "auto", "acme", "small", "team") == 2_469_135_782


def test_gauges_do_not(tmp_path: Path) -> None:
    first = Metrics(KNOWN, folder=tmp_path)
    first.breaker("small", State.OPEN)
    first.sample({}, 7, 0)
    first.counts.close()

    successor = Metrics(KNOWN, folder=tmp_path)

    assert value(successor, semconv.BREAKER, "small") == 0
    assert value(successor, semconv.JOURNAL) == 0


def test_every_deployment_shows_a_breaker_from_the_start() -> None:
    metrics = Metrics(KNOWN)

    assert {name[1] for name in metrics.counts.runs if name[0] == semconv.BREAKER.name} == {"small", "large"}


def test_every_state_of_a_breaker_can_be_shown() -> None:
    metrics = Metrics(KNOWN)
    shown = {}
    for state in State:
        metrics.breaker("small", state)
        shown[state] = value(metrics, semconv.BREAKER, "small")

    assert shown == {State.CLOSED: 0, State.HALF_OPEN: 1, State.TRIAL: 1, State.COOLING: 2, State.OPEN: 2}


def test_a_deployment_that_left_the_configuration_is_no_longer_open() -> None:
    metrics = Metrics(KNOWN)
    metrics.breaker("small", State.OPEN)
    metrics.configure(Known(models=frozenset(), providers=frozenset(), deployments=frozenset({"large"})))

    assert value(metrics, semconv.BREAKER, "small") == 0
    assert metrics.known.deployment("small") == "other"


def test_plain_counts_of_other_parts_are_taken_over_once(tmp_path: Path) -> None:
    for _ in range(2):  # the second process starts again from zero
        metrics = Metrics(KNOWN, folder=tmp_path)
        metrics.sample({"orphans": 2}, 5, 1)
        metrics.sample({"orphans": 3}, 4, 1)
        metrics.counts.close()

    assert value(metrics, semconv.LEDGER_EVENTS, "orphans") == 6
    assert value(metrics, semconv.LOG_LINES_DROPPED) == 2
    assert value(metrics, semconv.JOURNAL) == 4


def test_an_observation_goes_to_the_first_bucket_that_holds_it() -> None:
    metrics = Metrics(KNOWN)
    first, second, *_, last = semconv.LEDGER_DURATION.buckets
    for seconds in (first, (first + second) / 2, last + 1):
        metrics.ledger_answered("reserve", seconds)

    total, *counts = metrics.counts.runs[(semconv.LEDGER_DURATION.name, "reserve")]
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (1, 1, 1, 3)
    assert total == pytest.approx(first + (first + second) / 2 + last + 1)
