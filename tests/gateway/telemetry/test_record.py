"""A request is told once, whatever happens to it: in the metrics, and as one line of the log."""

import asyncio
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.usage import Usage
from gateway.telemetry import record as record_module
from gateway.telemetry import semconv
from gateway.telemetry.logs import PIPE_BUF
from gateway.telemetry.metrics import Known, Metrics
from gateway.telemetry.record import RequestRecord, Telemetry, token_kinds

KNOWN = Known(
    models=frozenset({"auto", "small", "large"}),
    providers=frozenset({"acme"}),
    deployments=frozenset({"small", "large"}),
)
SECRET = "sk-pm-default-" + "s3cr3t" * 7


class Teller:
    """Telemetry with a clock that is moved by hand, and what it told."""

    def __init__(self) -> None:
        self.time = 100.0
        self.metrics = Metrics(KNOWN)
        self.written: list[bytes] = []
        self.telemetry = Telemetry(self.metrics, self.written.append, clock=lambda: self.time, now=lambda: 0.0)

    def tell(self, fill: Callable[[RequestRecord], None]) -> dict[str, object]:
        """One request whose record is filled by `fill`: its log line."""
        with self.telemetry.request("req_12345678", "chat") as record:
            fill(record)
        return self.last()

    def last(self) -> dict[str, object]:
        return dict(json.loads(self.written[-1]))

    def counted(self, series: semconv.Series) -> dict[tuple[str, ...], list[float]]:
        """The numbers of every child of `series` that is not zero."""
        runs = self.metrics.counts.runs.items()
        return {name[1:]: list(run) for name, run in runs if name[0] == series.name and any(run)}


@pytest.fixture
def teller() -> Teller:
    return Teller()


def answered(record: RequestRecord) -> None:
    """What the pipeline tells about a routed, streamed answer."""
    record.caller("key_default_1", "team", "default")
    record.asked("auto", stream=True)
    record.planned("auto", "simple", "short question")
    record.tried("small", "acme")
    record.first_byte()
    record.attempt("small", "ok")
    record.booked(Usage(100, 20, cache_read_input_tokens=60, reasoning_output_tokens=5), 12_345, 99_000)
    record.response_model = "small-2026-01-01"
    record.status = 200


def test_an_answer_is_one_line(teller: Teller) -> None:
    found = teller.tell(answered)

    assert len(teller.written) == 1
    assert found == {
        "time": "1970-01-01T00:00:00Z",
        "level": "info",
        "message": "request",
        "request_id": "req_12345678",
        "gen_ai.operation.name": "chat",
        "account": "default",
        "key_id": "key_default_1",
        "key": "team",
        "gen_ai.request.model": "auto",
        "route": "auto",
        "tier": "simple",
        "route_reason": "short question",
        "deployment": "small",
        "gen_ai.provider.name": "acme",
        "gen_ai.response.model": "small-2026-01-01",
        "stream": True,
        "http.response.status_code": 200,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "cost_usd": "0.000012345",
        "baseline_usd": "0.000099",
        "attempts": ["small: ok"],
        "duration_seconds": 0.0,
        "upstream_seconds": 0.0,
        "overhead_seconds": 0.0,
        "time_to_first_token_seconds": 0.0,
    }


def test_an_answer_is_counted_under_what_it_was(teller: Teller) -> None:
    teller.tell(answered)

    model = ("auto", "acme", "small", "team")
    assert teller.counted(semconv.REQUESTS) == {("chat", *model, "200", ""): [1]}
    assert teller.counted(semconv.SPEND) == {model: [12_345]}
    assert teller.counted(semconv.BASELINE) == {model: [99_000]}
    assert teller.counted(semconv.ROUTE_DECISIONS) == {("auto", "simple", "small"): [1]}
    assert teller.counted(semconv.UPSTREAM_ATTEMPTS) == {("small", "ok"): [1]}
    assert teller.counted(semconv.TOKENS) == {
        (*model, "input", "cache_read"): [60],
        (*model, "input", "plain"): [40],
        (*model, "output", "reasoning"): [5],
        (*model, "output", "plain"): [15],
    }


def test_overhead_is_what_was_not_spent_waiting_for_the_upstream(teller: Teller) -> None:
    with teller.telemetry.request("req_12345678", "chat") as record:
        record.asked("auto", stream=True)
        record.tried("small", "acme")
        teller.time += 2.003
        record.upstream_seconds += 2.0
        record.first_byte()
        teller.time += 7.0
        record.first_byte()  # the second piece of the stream
        record.status = 200

    found = teller.last()
    assert found["overhead_seconds"] == 0.003
    assert found["time_to_first_token_seconds"] == 2.003
    assert found["duration_seconds"] == 9.003
    assert teller.counted(semconv.GATEWAY_OVERHEAD)[("chat",)][0] == pytest.approx(0.003)
    assert teller.counted(semconv.FIRST_TOKEN)[("chat", "small")][0] == pytest.approx(2.003)
    assert teller.counted(semconv.REQUEST_DURATION)[("chat", "small", "true")][0] == pytest.approx(9.003)


def test_a_refusal_is_told_without_a_deployment(teller: Teller) -> None:
    def refused(record: RequestRecord) -> None:
        record.caller("key_default_1", "team", "default")
        record.asked("auto", stream=False)
        record.refused("insufficient_quota")
        record.status = 402

    found = teller.tell(refused)

    assert found["refusal"] == "insufficient_quota"
    assert "deployment" not in found
    assert teller.counted(semconv.REFUSALS) == {("insufficient_quota", "team"): [1]}
    assert teller.counted(semconv.REQUESTS) == {("chat", "auto", "", "", "team", "402", ""): [1]}


def test_a_failover_counts_every_attempt(teller: Teller) -> None:
    def failed_over(record: RequestRecord) -> None:
        for deployment, outcome in (("small", "timeout"), ("small", "timeout"), ("large", "ok")):
            record.tried(deployment, "acme")
            record.attempt(deployment, outcome)
        record.status = 200

    found = teller.tell(failed_over)

    assert found["attempts"] == ["small: timeout", "small: timeout", "large: ok"]
    assert found["deployment"] == "large"
    assert teller.counted(semconv.UPSTREAM_ATTEMPTS) == {("small", "timeout"): [2], ("large", "ok"): [1]}


def test_an_error_is_told_and_goes_on(teller: Teller) -> None:
    with pytest.raises(KeyError), teller.telemetry.request("req_12345678", "chat"):
        raise KeyError("lost")

    found = teller.last()
    assert (found["level"], found["http.response.status_code"], found["error.type"]) == ("error", 500, "KeyError")
    assert teller.counted(semconv.REQUESTS) == {("chat", "", "", "", "", "500", "KeyError"): [1]}


def test_an_error_after_the_status_was_sent_keeps_the_status(teller: Teller) -> None:
    def broken(record: RequestRecord) -> None:
        record.status = 200
        raise KeyError("lost")

    with pytest.raises(KeyError):
        teller.tell(broken)

    assert teller.last()["http.response.status_code"] == 200
    assert teller.last()["error.type"] == "KeyError"


async def test_a_cancelled_request_is_one_whose_client_is_gone(teller: Teller) -> None:
    started = asyncio.Event()

    async def serve() -> None:
        with teller.telemetry.request("req_12345678", "chat"):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await started.wait()
    task.cancel()
    await asyncio.wait([task])

    assert teller.last()["client_gone"] is True
    assert teller.counted(semconv.REQUESTS) == {("chat", "", "", "", "", "499", "CancelledError"): [1]}


def test_an_unknown_price_is_counted_as_such_and_not_as_zero(teller: Teller) -> None:
    def unpriced(record: RequestRecord) -> None:
        record.tried("small", "acme")
        record.booked(Usage(10, 5), None, None)
        record.status = 200

    found = teller.tell(unpriced)

    assert "cost_usd" not in found
    assert teller.counted(semconv.UNPRICED) == {("small",): [1]}
    assert teller.counted(semconv.SPEND) == {}


def test_without_a_baseline_nothing_is_saved(teller: Teller) -> None:
    def by_name(record: RequestRecord) -> None:
        record.asked("small", stream=False)
        record.booked(Usage(10, 5), 700, None)

    teller.tell(by_name)

    assert teller.counted(semconv.BASELINE) == teller.counted(semconv.SPEND) == {("small", "", "", ""): [700]}


def test_the_logs_hold_no_key_and_no_line_of_the_callers(teller: Teller) -> None:
    def hostile(record: RequestRecord) -> None:
        record.request_id = SECRET
        record.caller("key_default_1", f"name\n{SECRET}", "default")
        record.asked(f'x"}}\n{{"level": "error", "key": "{SECRET}"}}', stream=False)
        record.response_model = SECRET
        record.planned("auto", "simple", SECRET)

    teller.tell(hostile)

    assert b"s3cr3t" not in teller.written[0]
    assert teller.written[0].count(b"\n") == 1


@given(st.text(), st.text(), st.text())
def test_a_line_fits_into_one_write(request_model: str, response_model: str, name: str) -> None:
    teller = Teller()

    def wordy(record: RequestRecord) -> None:
        answered(record)
        record.asked(request_model * 100, stream=False)
        record.caller("key_default_1", name * 100, "default")
        record.response_model = response_model * 100

    teller.tell(wordy)

    assert len(teller.written[0]) <= 3 * PIPE_BUF
    assert teller.last()["message"] == "request"


@given(st.builds(Usage, *[st.integers(0, 1000)] * 7))
def test_kinds_of_tokens_add_up_to_what_was_billed(usage: Usage) -> None:
    totals = {"input": 0, "output": 0}
    for token_type, _, tokens in token_kinds(usage):
        assert tokens >= 0
        totals[token_type] += tokens

    assert totals == {"input": usage.input_tokens, "output": usage.output_tokens}


def test_the_costs_of_several_attempts_add_up(teller: Teller) -> None:
    with teller.telemetry.request("req_12345678", "chat") as record:
        record.booked(Usage(10, 5), 700, 900)
        record.booked(Usage(10, 6), 800, None)

    assert (record.cost, record.baseline_cost) == (1_500, 900)


def test_alike_requests_add_up_and_keep_what_is_their_own(teller: Teller) -> None:
    for number in range(3):
        with teller.telemetry.request(f"req_1234567{number}", "chat") as record:
            answered(record)
            record.usage = Usage(100 + number, 20)

    model = ("auto", "acme", "small", "team")
    assert teller.counted(semconv.REQUESTS) == {("chat", *model, "200", ""): [3]}
    assert [json.loads(text)["request_id"] for text in teller.written] == [
        "req_12345670",
        "req_12345671",
        "req_12345672",
    ]
    assert teller.last()["gen_ai.usage.input_tokens"] == 102


def test_a_failure_between_alike_answers_is_told_as_one(teller: Teller) -> None:
    def failed(record: RequestRecord) -> None:
        answered(record)
        record.status, record.error_type = 502, "upstream_error"

    teller.tell(answered)
    found = teller.tell(failed)
    again = teller.tell(answered)

    assert (found["level"], found["error.type"]) == ("error", "upstream_error")
    assert again["level"] == "info"
    assert "error.type" not in again


def test_a_changed_configuration_changes_the_labels_of_requests_seen_before(teller: Teller) -> None:
    teller.tell(answered)
    teller.metrics.configure(Known(KNOWN.models - {"small"}, KNOWN.providers, frozenset({"large"})))
    teller.tell(answered)

    labels = [labels[3] for labels in teller.counted(semconv.REQUESTS)]
    assert labels == ["small", "other"]


def test_every_request_of_a_key_too_many_is_counted_as_folded(teller: Teller) -> None:
    metrics = Metrics(KNOWN, max_keys=1)
    telemetry = Telemetry(metrics, teller.written.append)
    for key in ("a", "b", "b", "b"):
        with telemetry.request("req_12345678", "chat") as record:
            answered(record)
            record.caller(f"key_default_{key}", key, "default")

    assert metrics.counts.runs[semconv.LABEL_OVERFLOW.name, semconv.KEY][0] == 3


def test_only_so_many_kinds_of_requests_are_remembered(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "MAX_KINDS", 2)
    for key in ("a", "b", "c", "a"):
        with teller.telemetry.request("req_12345678", "chat") as record:
            answered(record)
            record.caller(f"key_default_{key}", key, "default")

    counted = teller.counted(semconv.REQUESTS)
    assert {labels[4]: number for labels, (number,) in counted.items()} == {"a": 2, "b": 1, "c": 1}
