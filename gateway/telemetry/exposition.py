"""The answer to `/metrics`: the series of all workers, and what is read only when Prometheus asks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from budgets.errors import LedgerUnavailable
from budgets.money import NanoUSD
from gateway import __version__
from gateway.telemetry import semconv
from gateway.telemetry.counts import Name, read_folder
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.semconv import Series

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One limit of one key, with what the ledger says about its window."""

    key_name: str
    window: str
    limit: NanoUSD
    spent: NanoUSD
    held: NanoUSD
    suspense: NanoUSD


async def exposition(metrics: Metrics, budgets: Callable[[], Awaitable[Sequence[BudgetRow]]]) -> bytes:
    """All series in Prometheus' text format, of content type `CONTENT_TYPE`.

    `budgets` reads the ledger; where it raises LedgerUnavailable they are left out, and `paymaster_ledger_up` is 0.
    The text is made in a thread: with many series it takes longer than a request may wait.
    """
    try:
        rows: Sequence[BudgetRow] | None = await budgets()
    except LedgerUnavailable:
        rows = None
    return await asyncio.to_thread(_text, metrics, rows)


def _text(metrics: Metrics, rows: Sequence[BudgetRow] | None) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Scrape(metrics, rows))
    return generate_latest(registry)


class _Scrape(Collector):
    """Every series as it is now."""

    def __init__(self, metrics: Metrics, rows: Sequence[BudgetRow] | None) -> None:
        self._metrics = metrics
        self._rows = rows

    def collect(self) -> Iterator[Metric]:
        merged = _merged(self._metrics)
        merged.update(self._scraped())
        for series in semconv.ALL:
            runs = {name[1:]: run for name, run in merged.items() if name[0] == series.name}
            yield _family(series, runs)

    def _scraped(self) -> dict[Name, list[float]]:
        """What no worker counts."""
        found: dict[Name, list[float]] = {
            (semconv.BUILD_INFO.name, __version__): [1],
            (semconv.LEDGER_UP.name,): [int(self._rows is not None)],
        }
        for row in self._rows or ():
            amounts = {
                semconv.BUDGET_LIMIT: row.limit,
                semconv.BUDGET_SPENT: row.spent,
                semconv.BUDGET_HELD: row.held,
                semconv.BUDGET_SUSPENSE: row.suspense,
            }
            for series, amount in amounts.items():  # keys of one name, and those beyond the bound, are added up
                found.setdefault((series.name, self._metrics.key(row.key_name), row.window), [0])[0] += amount
        return found


def _merged(metrics: Metrics) -> dict[Name, list[float]]:
    """The numbers of all workers made one: what dead ones counted too, but not how they stood."""
    gauges = {series.name for series in semconv.ALL if series.kind == "gauge"}
    biggest = {series.name for series in semconv.ALL if series.merge == "max"}
    merged: dict[Name, list[float]] = {}
    for name, run in read_folder(metrics.folder, gauges) if metrics.folder else metrics.counts.runs.items():
        so_far = merged.setdefault(name, [0.0] * len(run))
        combine = max if name[0] in biggest else float.__add__
        so_far[:] = map(combine, so_far, run)
    return merged


def _family(series: Series, runs: dict[Name, list[float]]) -> Metric:
    if series.kind == "histogram":
        return _histogram(series, runs)
    family_of = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    family = family_of(series.name, series.help, labels=series.labels)
    for labels, run in runs.items():
        family.add_metric(labels, run[0] / series.per_unit)
    return family


def _histogram(series: Series, runs: dict[Name, list[float]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(series.name, series.help, labels=series.labels)
    bounds = [*map(floatToGoString, series.buckets), "+Inf"]
    for labels, (total, *counts) in runs.items():
        family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
    return family
