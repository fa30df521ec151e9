"""The exposition: what Prometheus reads is what all workers counted."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from budgets.errors import LedgerUnavailable
from gateway import __version__
from gateway.telemetry import semconv
from gateway.telemetry.exposition import BudgetRow, exposition
from gateway.telemetry.metrics import Known, Metrics
from routing.health import State

KNOWN = Known(models=frozenset({"auto"}), providers=frozenset({"acme"}), deployments=frozenset({"small"}))


async def no_budgets() -> Sequence[BudgetRow]:
    return ()


async def ledger_away() -> Sequence[BudgetRow]:
    raise LedgerUnavailable("no answer in 0.25 s")


async def samples(metrics: Metrics, rows: Sequence[BudgetRow] | None = ()) -> dict[str, float]:
    """Every sample as Prometheus reads it, by name and labels; `rows` None for a ledger that is away."""

    async def budgets() -> Sequence[BudgetRow]:
        return rows or ()

    text = await exposition(metrics, ledger_away if rows is None else budgets)
    lines = (line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def test_workers_add_up(tmp_path: Path) -> None:
    workers = [Metrics(KNOWN, folder=tmp_path, index=index) for index in range(3)]
    for worker in workers:
        worker.refusals.child("insufficient_quota", "team").inc(2)
        worker.sample({}, 5, 0)

    for worker in workers:  # whichever is asked
        found = await samples(worker)
        assert found['paymaster_refusals_total{key="team",reason="insufficient_quota"}'] == 6
        assert found["paymaster_journal_entries"] == 15


async def test_the_worst_breaker_of_all_workers_shows(tmp_path: Path) -> None:
    first, second = (Metrics(KNOWN, folder=tmp_path, index=index) for index in range(2))
    second.breaker("small", State.OPEN)

    assert (await samples(first))['paymaster_breaker_state{deployment="small"}'] == 2


async def test_a_dead_worker_still_counts(tmp_path: Path) -> None:
    Metrics(KNOWN, folder=tmp_path, index=1).refusals.child("insufficient_quota", "team").inc(2)

    found = await samples(Metrics(KNOWN, folder=tmp_path, index=0))

    assert found['paymaster_refusals_total{key="team",reason="insufficient_quota"}'] == 2


async def test_a_process_without_a_folder_shows_its_own_numbers() -> None:
    metrics = Metrics(KNOWN)
    metrics.refusals.child("insufficient_quota", "team").inc()

    assert (await samples(metrics))['paymaster_refusals_total{key="team",reason="insufficient_quota"}'] == 1


async def test_money_is_shown_in_dollars_and_adds_up_exactly(tmp_path: Path) -> None:
    workers = [Metrics(KNOWN, folder=tmp_path, index=index) for index in range(2)]
    for _ in range(1000):
        for worker in workers:
            worker.spend.child("auto", "acme", "small", "team").inc(100_001_000)

    spent = {value for name, value in (await samples(workers[0])).items() if name.startswith("paymaster_spend_usd")}
    assert spent == {200.002}


async def test_buckets_are_cumulative(tmp_path: Path) -> None:
    workers = [Metrics(KNOWN, folder=tmp_path, index=index) for index in range(2)]
    for worker, seconds in zip(workers, (0.0002, 30.0), strict=True):
        worker.ledger_answered("reserve", seconds)

    found = await samples(workers[0])

    bucket = 'paymaster_ledger_duration_seconds_bucket{{le="{}",operation="reserve"}}'
    assert [found[bucket.format(bound)] for bound in ("0.0001", "0.00025", "1.0", "+Inf")] == [0, 1, 1, 2]
    assert found['paymaster_ledger_duration_seconds_count{operation="reserve"}'] == 2
    assert found['paymaster_ledger_duration_seconds_sum{operation="reserve"}'] == pytest.approx(30.0002)


async def test_budgets_are_read_when_asked() -> None:
    row = BudgetRow("team", "day", limit=5_000_000_000, spent=1_250_000_000, held=3, suspense=0)

    found = await samples(Metrics(KNOWN), [row])

    assert found['paymaster_budget_limit_usd{key="team",window="day"}'] == 5
    assert found['paymaster_budget_spent_usd{key="team",window="day"}'] == 1.25
    assert found['paymaster_budget_held_usd{key="team",window="day"}'] == 3e-9
    assert found['paymaster_budget_suspense_usd{key="team",window="day"}'] == 0


async def test_keys_beyond_the_bound_share_one_budget_row() -> None:
    rows = [BudgetRow(name, "day", limit=2_000_000_000, spent=0, held=0, suspense=0) for name in ("a", "b", "c")]

    found = await samples(Metrics(KNOWN, max_keys=1), rows)

    assert found['paymaster_budget_limit_usd{key="a",window="day"}'] == 2
    assert found['paymaster_budget_limit_usd{key="other",window="day"}'] == 4


async def test_a_ledger_that_is_away_is_told_and_the_rest_still_shows() -> None:
    metrics = Metrics(KNOWN)
    metrics.refusals.child("ledger", "team").inc()

    found = await samples(metrics, rows=None)

    assert found["paymaster_ledger_up"] == 0
    assert found['paymaster_refusals_total{key="team",reason="ledger"}'] == 1
    assert not [name for name in found if name.startswith("paymaster_budget")]


async def test_the_build_is_named() -> None:
    found = await samples(Metrics(KNOWN))

    assert found[f'paymaster_build_info{{version="{__version__}"}}'] == 1
    assert found["paymaster_ledger_up"] == 1


async def test_every_series_has_its_help_and_type() -> None:
    text = (await exposition(Metrics(KNOWN), no_budgets)).decode()

    for series in semconv.ALL:
        assert f"# HELP {series.name} " in text
        assert f"# TYPE {series.name} {'gauge' if series.kind == 'scraped' else series.kind}\n" in text


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
async def test_a_key_may_have_any_name(name: str) -> None:
    metrics = Metrics(KNOWN)
    metrics.refusals.child("insufficient_quota", metrics.key(name)).inc()

    text = await exposition(metrics, no_budgets)

    families = text_string_to_metric_families(text.decode())
    found = [sample.labels["key"] for family in families for sample in family.samples if "reason" in sample.labels]
    assert found == [name]
