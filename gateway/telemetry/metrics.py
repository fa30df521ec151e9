"""The Prometheus series of a worker, their labels bounded.

A series' children are looked up in a plain dict, and label values that nobody configured are folded into `other`, so
that no caller can grow the number of series. Workers count into a shared folder, one file per worker index: what a
worker counted survives its death, `kill -9` included, and its successor goes on from there.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from gateway.telemetry import semconv
from gateway.telemetry.counts import Cells, Counts, read_folder
from gateway.telemetry.semconv import ABSENT, KEY, OTHER, Series
from routing.health import State

C = TypeVar("C", bound="Child")

BREAKER_STATES: Mapping[State, int] = MappingProxyType(
    {State.CLOSED: 0, State.HALF_OPEN: 1, State.TRIAL: 1, State.COOLING: 2, State.OPEN: 2}
)
MAX_CHILDREN = 5_000
"""Label combinations of one series in one worker; with more, updates go to the combination of `other`."""
MAX_LABEL_LENGTH = 64


class Child:
    """One series under one combination of label values: its cells in the worker's counts."""

    __slots__ = ("_bounds", "_cells")

    def __init__(self, series: Series, counts: Counts, labels: tuple[str, ...]) -> None:
        self._bounds = series.buckets
        self._cells: Cells = counts.cells((series.name, *labels), series.width)


class Counter(Child):
    """A number that only grows."""

    __slots__ = ()

    def inc(self, amount: int = 1) -> None:
        self._cells[0] += amount


class Gauge(Child):
    """A number that is set."""

    __slots__ = ()

    def set(self, value: float) -> None:
        self._cells[0] = value


class Histogram(Child):
    """Observations by size: the cells are their sum, then the count of each bucket, the last one unbounded."""

    __slots__ = ()

    def observe(self, value: float) -> None:
        self._cells[0] += value
        self._cells[1 + bisect_left(self._bounds, value)] += 1


class Family(Generic[C]):
    """One series with its children by label values; at most `MAX_CHILDREN` of them."""

    def __init__(self, kind: type[C], series: Series, counts: Counts, overflow: Callable[[], None]) -> None:
        self._kind = kind
        self._series = series
        self._counts = counts
        self._overflow = overflow
        self._children: dict[tuple[str, ...], C] = {}

    def child(self, *labels: str) -> C:
        """The child with these label values, given in the order of the series' attributes."""
        return self._children.get(labels) or self._new(labels)

    def _new(self, labels: tuple[str, ...]) -> C:
        if len(self._children) >= MAX_CHILDREN:
            self._overflow()
            labels = (OTHER,) * len(labels)
        child = self._kind(self._series, self._counts, labels)
        self._children[labels] = child
        return child


@dataclass(frozen=True, slots=True)
class Known:
    """The label values that a configuration allows. Replaced as a whole when the configuration is."""

    models: frozenset[str]
    """Aliases and deployments: whatever a caller may ask for."""
    providers: frozenset[str]
    deployments: frozenset[str]

    def model(self, name: str | None) -> str:
        return _bounded(name, self.models)

    def provider(self, name: str | None) -> str:
        return _bounded(name, self.providers)

    def deployment(self, name: str | None) -> str:
        return _bounded(name, self.deployments)


def _bounded(name: str | None, allowed: frozenset[str]) -> str:
    if name is None:
        return ABSENT
    return name if name in allowed else OTHER


class KeyNames:
    """The names of the first `limit` keys seen; every later name is `other`."""

    def __init__(self, limit: int, seen: Iterable[str], overflow: Callable[[], None]) -> None:
        self._limit = limit
        self._overflow = overflow
        self._labels: dict[str, str] = {name: name for name in seen}

    def label(self, name: str | None) -> str:
        if name is None:
            return ABSENT
        return self._labels.get(name) or self._new(name)

    def _new(self, name: str) -> str:
        if len(self._labels) >= self._limit:
            self._overflow()
            return OTHER
        self._labels[name] = name[:MAX_LABEL_LENGTH]
        return self._labels[name]


class Metrics:
    """Every series that workers update.

    `folder` is shared by all workers and `index` is this worker's own; a successor takes its predecessor's index.
    Without a folder the numbers live in this process alone.
    """

    def __init__(self, known: Known, *, max_keys: int = 500, folder: Path | None = None, index: int = 0) -> None:
        self.known = known
        self.folder = folder
        self.counts = Counts(folder / f"worker-{index}" if folder else None)
        self._overflow = self._family(Counter, semconv.LABEL_OVERFLOW)
        self.requests = self._family(Counter, semconv.REQUESTS)
        self.tokens = self._family(Counter, semconv.TOKENS)
        self.spend = self._family(Counter, semconv.SPEND)
        self.baseline = self._family(Counter, semconv.BASELINE)
        self.unpriced = self._family(Counter, semconv.UNPRICED)
        self.refusals = self._family(Counter, semconv.REFUSALS)
        self.route_decisions = self._family(Counter, semconv.ROUTE_DECISIONS)
        self.attempts = self._family(Counter, semconv.UPSTREAM_ATTEMPTS)
        self.durations = self._family(Histogram, semconv.REQUEST_DURATION)
        self.overheads = self._family(Histogram, semconv.GATEWAY_OVERHEAD)
        self.first_tokens = self._family(Histogram, semconv.FIRST_TOKEN)
        self._ledger_durations = self._family(Histogram, semconv.LEDGER_DURATION)
        self._ledger_events = self._family(Counter, semconv.LEDGER_EVENTS)
        self._lines_dropped = self._family(Counter, semconv.LOG_LINES_DROPPED)
        self._breakers = self._family(Gauge, semconv.BREAKER)
        self._journal = self._family(Gauge, semconv.JOURNAL)
        self._behind = self._family(Gauge, semconv.LEDGER_BEHIND)
        self._damaged = self._family(Gauge, semconv.LEDGER_DAMAGED)
        self._totals: dict[str, int] = {}
        self._key_names = KeyNames(max_keys, self._key_labels(), self._overflowed(KEY))
        self._begin()

    def configure(self, known: Known) -> None:
        """Take a changed configuration. The breaker of a deployment that is gone no longer shows as open."""
        for deployment in self.known.deployments - known.deployments:
            self.breaker(deployment, State.CLOSED)
        self.known = known

    def key(self, name: str | None) -> str:
        """The label of the key called `name`."""
        return self._key_names.label(name)

    def breaker(self, deployment: str, state: State) -> None:
        """The state of a deployment's circuit breaker in this worker."""
        self._breakers.child(self.known.deployment(deployment)).set(BREAKER_STATES[state])

    def ledger_answered(self, operation: str, seconds: float) -> None:
        """The ledger took `seconds` for `operation` (`reserve`, `extend`), whatever it answered."""
        self._ledger_durations.child(operation).observe(seconds)

    def sample(
        self,
        ledger_events: Mapping[str, int],
        journal_depth: int,
        lines_dropped: int,
        accounts_behind: int = 0,
        accounts_damaged: int = 0,
    ) -> None:
        """Take over what other parts count as plain numbers from the process's start.

        To be called every second or so, and before a scrape is answered.
        """
        for event, total in ledger_events.items():
            self._ledger_events.child(event).inc(self._growth(event, total))
        self._lines_dropped.child().inc(self._growth(semconv.LOG_LINES_DROPPED.name, lines_dropped))
        self._journal.child().set(journal_depth)
        self._behind.child().set(accounts_behind)
        self._damaged.child().set(accounts_damaged)

    def _growth(self, name: str, total: int) -> int:
        grown = total - self._totals.get(name, 0)
        self._totals[name] = total
        return grown

    def _begin(self) -> None:
        """Gauges that a predecessor left are not ours, and a deployment shows before its first failure."""
        for deployment in self.known.deployments:
            self.breaker(deployment, State.CLOSED)
        self.sample({}, 0, 0)

    def _key_labels(self) -> set[str]:
        """Names that have a label already, so that restarts cannot add up to more than `max_keys`."""
        places = {s.name: 1 + s.attributes.index(KEY) for s in semconv.ALL if KEY in s.attributes}
        names = (name for name, _ in read_folder(self.folder)) if self.folder else ()
        return {name[places[name[0]]] for name in names if name[0] in places} - {ABSENT, OTHER}

    def _family(self, kind: type[C], series: Series) -> Family[C]:
        return Family(kind, series, self.counts, self._overflowed(series.name))

    def _overflowed(self, of: str) -> Callable[[], None]:
        return lambda: self._overflow.child(of).inc()
