"""One request, told once: its record is filled along the way and becomes metrics and one log line at the end."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from budgets.money import NanoUSD, to_usd
from budgets.usage import Usage
from gateway.telemetry import semconv
from gateway.telemetry.logs import clean, line
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.semconv import ABSENT, OTHER

MAX_KINDS = 1_000
"""Of requests remembered at a time; more cost a little time."""
CLIENT_CLOSED_REQUEST = 499
"""The status of a request whose client went away, as nginx writes it; no client ever sees it."""


@dataclass(slots=True)
class RequestRecord:
    """What is known about one request. Filled by the pipeline; read once, when the request is over.

    Instants are those of `clock`, in seconds. None means unknown or not applicable.
    """

    request_id: str
    operation_name: str
    """`chat`, `embeddings`, …, as OpenTelemetry names operations."""
    clock: Callable[[], float] = field(repr=False)
    started: float
    key_id: str | None = None
    key_name: str | None = None
    account: str | None = None
    request_model: str | None = None
    """What the caller asked for: an alias, a deployment, or nonsense."""
    route: str | None = None
    """The alias by which the deployment was chosen; None where the caller named it."""
    tier: str | None = None
    reason: str | None = None
    """The route's reason in words."""
    deployment: str | None = None
    """The last deployment tried."""
    provider_name: str | None = None
    response_model: str | None = None
    """What the provider says has answered."""
    stream: bool = False
    status: int | None = None
    """The HTTP status sent to the client."""
    error_type: str | None = None
    """Our code of what went wrong, even after the status was sent."""
    refusal: str | None = None
    client_gone: bool = False
    usage: Usage | None = None
    cost: NanoUSD | None = None
    baseline_cost: NanoUSD | None = None
    """What the usage had cost on the route's baseline model."""
    attempts: list[tuple[str, str]] = field(default_factory=list)
    """Each attempt's deployment and outcome, in order."""
    upstream_seconds: float = 0.0
    """Time spent waiting for upstreams, over all attempts, up to the answer's first byte."""
    sent_at: float | None = None
    """When the attempt that is waited for was sent."""
    first_byte_at: float | None = None
    overhead: float | None = None
    """Seconds that the gateway itself added before the first byte."""

    def caller(self, key_id: str, key_name: str, account: str) -> None:
        """The request was authenticated."""
        self.key_id = key_id
        self.key_name = key_name
        self.account = account

    def asked(self, model: str, *, stream: bool) -> None:
        """The request was understood."""
        self.request_model = model
        self.stream = stream

    def planned(self, route: str | None, tier: str | None, reason: str) -> None:
        """A route was chosen: by the alias `route`, or by name where that is None."""
        self.route = route
        self.tier = tier
        self.reason = reason

    def tried(self, deployment: str, provider_name: str) -> None:
        """A deployment is asked now."""
        self.deployment = deployment
        self.provider_name = provider_name

    def sent(self) -> None:
        """An attempt goes to its upstream now."""
        self.sent_at = self.clock()

    def booked(self, usage: Usage, cost: NanoUSD | None, baseline_cost: NanoUSD | None) -> None:
        """An attempt used `usage`; the costs are None where a price is unknown. Those of several attempts add up."""
        self.usage = usage
        self.cost = _sum(self.cost, cost)
        self.baseline_cost = _sum(self.baseline_cost, baseline_cost)

    def refused(self, reason: str) -> None:
        """The gateway itself said no; `reason` is the error's code: `insufficient_quota`, `invalid_api_key` …"""
        self.refusal = reason

    def attempt(self, deployment: str, outcome: str) -> None:
        """A call of an upstream ended; `outcome` is a short code: `ok`, or how it failed."""
        self.attempts.append((deployment, outcome))
        self._waited(self.clock())

    def first_byte(self) -> None:
        """The first byte of the answer's content goes to the client now. Later calls change nothing."""
        if self.first_byte_at is None:
            self.first_byte_at = self.clock()
            self._waited(self.first_byte_at)
            self.overhead = self.first_byte_at - self.started - self.upstream_seconds

    def _waited(self, now: float) -> None:
        if self.sent_at is not None:
            self.upstream_seconds += now - self.sent_at
            self.sent_at = None


class Telemetry:
    """Tells what happened to each request: to `metrics`, and as one line to `write`."""

    def __init__(
        self,
        metrics: Metrics,
        write: Callable[[bytes], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.metrics = metrics
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._write = write
        self._clock = clock
        self._now = now

    def request(self, request_id: str, operation_name: str) -> AbstractContextManager[RequestRecord]:
        """A record of one request, told on any way out of the body; errors pass through.

        Where the body raised before it set a status, a cancelled request counts as one whose client is gone, and any
        other error as a 500 of the error's type.
        """
        return _Told(self, RequestRecord(request_id, operation_name, self._clock, self._clock()))

    def tell(self, record: RequestRecord) -> None:
        """The request is over."""
        seconds = self._clock() - record.started
        kind = self._kind(record)
        self._count(record, kind, seconds)
        self._write(line(_fields(record, kind, seconds), self._now()))

    def _kind(self, record: RequestRecord) -> "_Kind":
        """What is known about requests like this one; kept for whole answers, for only these come again and again."""
        alike = (
            record.operation_name,
            record.key_id,
            record.key_name,
            record.request_model,
            record.route,
            record.tier,
            record.deployment,
            record.provider_name,
            record.response_model,
            record.stream,
        )
        kind = self._kinds.get(alike)
        if kind is not None and kind.known is self.metrics.known and _is_whole(record):
            return kind
        kind = _Kind(self.metrics, record)
        if _is_whole(record) and OTHER not in kind.model:  # what is folded is counted as such each time
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            self._kinds[alike] = kind
        return kind

    def _count(self, record: RequestRecord, kind: "_Kind", seconds: float) -> None:
        metrics = self.metrics
        kind.requests.inc()
        kind.durations.observe(seconds)
        overhead = seconds - record.upstream_seconds if record.overhead is None else record.overhead
        kind.overheads.observe(max(0.0, overhead))
        if record.stream and record.first_byte_at is not None:
            first_tokens = metrics.first_tokens.child(record.operation_name, kind.deployment)
            first_tokens.observe(record.first_byte_at - record.started)
        if record.refusal is not None:
            metrics.refusals.child(record.refusal, kind.key).inc()
        if record.route is not None and record.deployment is not None:
            route = metrics.known.model(record.route)
            metrics.route_decisions.child(route, record.tier or ABSENT, kind.deployment).inc()
        for attempted, outcome in record.attempts:
            metrics.attempts.child(metrics.known.deployment(attempted), outcome).inc()
        self._count_money(record, kind.model)

    def _count_money(self, record: RequestRecord, model: tuple[str, str, str, str]) -> None:
        metrics = self.metrics
        if record.usage is not None:
            for token_type, kind, tokens in token_kinds(record.usage):
                metrics.tokens.child(*model, token_type, kind).inc(tokens)
        if record.cost is not None:
            baseline = record.cost if record.baseline_cost is None else record.baseline_cost
            metrics.spend.child(*model).inc(record.cost)
            metrics.baseline.child(*model).inc(baseline)
        elif record.usage is not None:
            metrics.unpriced.child(model[2]).inc()


def _is_whole(record: RequestRecord) -> bool:
    return record.status == 200 and record.error_type is None and not record.client_gone


class _Kind:
    """What requests of one kind share: the series they are counted in, and most of the log line."""

    def __init__(self, metrics: Metrics, record: RequestRecord) -> None:
        self.known = known = metrics.known
        self.key = metrics.key(record.key_name)
        self.deployment = known.deployment(record.deployment)
        self.model = (
            known.model(record.request_model),
            known.provider(record.provider_name),
            self.deployment,
            self.key,
        )
        operation = record.operation_name
        status = str(CLIENT_CLOSED_REQUEST if record.client_gone else record.status or ABSENT)
        self.requests = metrics.requests.child(operation, *self.model, status, record.error_type or ABSENT)
        self.durations = metrics.durations.child(operation, self.deployment, "true" if record.stream else "false")
        self.overheads = metrics.overheads.child(operation)
        fields = {
            semconv.LEVEL: "error" if (record.status or 0) >= 500 else "info",
            semconv.MESSAGE: "request",
            semconv.OPERATION_NAME: operation,
            semconv.ACCOUNT: record.account,
            semconv.KEY_ID: record.key_id,
            semconv.KEY: _cleaned(record.key_name),
            semconv.REQUEST_MODEL: _cleaned(record.request_model),
            semconv.ROUTE: record.route,
            semconv.TIER: record.tier,
            semconv.DEPLOYMENT: record.deployment,
            semconv.PROVIDER_NAME: record.provider_name,
            semconv.RESPONSE_MODEL: _cleaned(record.response_model),
            semconv.STREAM: record.stream,
            semconv.STATUS_CODE: record.status,
            semconv.ERROR_TYPE: record.error_type,
            semconv.REFUSAL: record.refusal,
            semconv.CLIENT_GONE: record.client_gone or None,
        }
        self.fields = {name: value for name, value in fields.items() if value is not None}


class _Told:
    """See `Telemetry.request`."""

    def __init__(self, telemetry: Telemetry, record: RequestRecord) -> None:
        self._telemetry = telemetry
        self._record = record

    def __enter__(self) -> RequestRecord:
        return self._record

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            _blame(self._record, error)
        self._telemetry.tell(self._record)


def token_kinds(usage: Usage) -> list[tuple[str, str, int]]:
    """The tokens of `usage` as (type, kind, count), without overlap: the counts of a type add up to its total."""
    read_in = (
        ("cache_read", usage.cache_read_input_tokens),
        ("cache_creation", usage.cache_creation_input_tokens),
        ("audio", usage.audio_input_tokens),
    )
    written = (("reasoning", usage.reasoning_output_tokens), ("audio", usage.audio_output_tokens))
    return _split("input", usage.input_tokens, read_in) + _split("output", usage.output_tokens, written)


def _split(token_type: str, total: int, parts: Iterable[tuple[str, int]]) -> list[tuple[str, str, int]]:
    """`total` by part, the rest `plain`. Where parts overlap (cached audio), the first has the tokens."""
    split: list[tuple[str, str, int]] = []
    for kind, tokens in parts:
        if tokens:
            counted = min(tokens, total)
            total -= counted
            split.append((token_type, kind, counted))
    split.append((token_type, "plain", total))
    return split


def _blame(record: RequestRecord, exc: BaseException) -> None:
    if isinstance(exc, asyncio.CancelledError):
        record.client_gone = True
    elif record.status is None:
        record.status = 500
    if record.error_type is None:
        record.error_type = type(exc).__name__


def _fields(record: RequestRecord, kind: _Kind, seconds: float) -> dict[str, object]:
    """The log line; None where nothing is known. What a caller or a provider chose is cleaned, what we chose is not."""
    fields: dict[str, object] = {
        **kind.fields,
        semconv.REQUEST_ID: clean(record.request_id),
        semconv.ROUTE_REASON: _cleaned(record.reason),
        semconv.DURATION: round(seconds, 6),
        semconv.UPSTREAM: round(record.upstream_seconds, 6),
        semconv.OVERHEAD: record.overhead and round(record.overhead, 6),
        semconv.TIME_TO_FIRST_TOKEN: record.first_byte_at and round(record.first_byte_at - record.started, 6),
    }
    if record.usage is not None:
        fields |= _used(record, record.usage)
    if record.attempts:
        fields[semconv.ATTEMPTS] = [f"{deployment}: {outcome}" for deployment, outcome in record.attempts]
    return fields


def _used(record: RequestRecord, usage: Usage) -> dict[str, object]:
    fields: dict[str, object] = {
        semconv.INPUT_TOKENS: usage.input_tokens,
        semconv.OUTPUT_TOKENS: usage.output_tokens,
        semconv.COST_USD: _usd(record.cost),
    }
    parts = (
        (semconv.CACHE_READ_INPUT_TOKENS, usage.cache_read_input_tokens),
        (semconv.CACHE_CREATION_INPUT_TOKENS, usage.cache_creation_input_tokens),
        (semconv.REASONING_OUTPUT_TOKENS, usage.reasoning_output_tokens),
    )
    fields |= {name: tokens for name, tokens in parts if tokens}
    if record.baseline_cost is not None:
        fields[semconv.BASELINE_USD] = to_usd(record.baseline_cost)
    return fields


def _sum(before: NanoUSD | None, more: NanoUSD | None) -> NanoUSD | None:
    return before if more is None else (before or 0) + more


def _cleaned(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _usd(amount: NanoUSD | None) -> str | None:
    return None if amount is None else to_usd(amount)
