"""Every name that leaves the process: log fields, metric labels and metric series, each with its meaning and unit.

Where OpenTelemetry's GenAI conventions have a name, it is theirs (https://github.com/open-telemetry/semantic-conventions-genai);
as a Prometheus label its dots are underscores. An absent value is the empty label, which Prometheus treats as no label.
"""

from dataclasses import dataclass
from typing import Literal

from budgets.money import NANO_PER_USD

# Log fields named by OpenTelemetry.
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION_INPUT_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
STATUS_CODE = "http.response.status_code"
ERROR_TYPE = "error.type"

# Log fields of our own.
TIME = "time"
LEVEL = "level"
LOGGER = "logger"
MESSAGE = "message"
EXCEPTION = "exception"
REQUEST_ID = "request_id"
ACCOUNT = "account"
KEY = "key"
KEY_ID = "key_id"
DEPLOYMENT = "deployment"
ROUTE = "route"
TIER = "tier"
ROUTE_REASON = "route_reason"
REFUSAL = "refusal"
STREAM = "stream"
CLIENT_GONE = "client_gone"
COST_USD = "cost_usd"
BASELINE_USD = "baseline_usd"
ATTEMPTS = "attempts"
DURATION = "duration_seconds"
OVERHEAD = "overhead_seconds"
UPSTREAM = "upstream_seconds"
TIME_TO_FIRST_TOKEN = "time_to_first_token_seconds"  # noqa: S105 - the name of a field

# Label values.
OTHER = "other"
"""A value that is not configured, or one too many."""
ABSENT = ""

Kind = Literal["counter", "histogram", "gauge", "scraped"]
"""`gauge` is set by every worker; `scraped` is read when Prometheus asks, by the worker that answers."""


def label(attribute: str) -> str:
    """The Prometheus label of an attribute: `gen_ai.request.model` is `gen_ai_request_model`."""
    return attribute.replace(".", "_")


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: its name, what it counts, and its labels in the order in which the code gives their values."""

    name: str
    kind: Kind
    help: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, for histograms only."""
    per_unit: int = 1
    """How many of what is counted make one of what is shown. Money is counted in nano-dollars: whole numbers add up."""
    merge: Literal["sum", "max"] = "sum"
    """How the workers' numbers become one."""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(label(attribute) for attribute in self.attributes)

    @property
    def width(self) -> int:
        """How many numbers one combination of labels takes: a histogram's sum, its buckets, and the unbounded one."""
        return len(self.buckets) + 2 if self.buckets else 1


_MODEL = (REQUEST_MODEL, PROVIDER_NAME, DEPLOYMENT, KEY)

_LATENCY = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
# The next two are the bounds that OpenTelemetry advises, the first with one step more for a provider on this machine.
_DURATION = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

REQUESTS = Series(
    "paymaster_requests_total",
    "counter",
    "Requests answered or refused; error_type is empty where the answer was whole.",
    (OPERATION_NAME, *_MODEL, STATUS_CODE, ERROR_TYPE),
)
REQUEST_DURATION = Series(
    "paymaster_request_duration_seconds",
    "histogram",
    "From a request's first byte to its answer's last; deployment is empty where none was asked.",
    (OPERATION_NAME, DEPLOYMENT, STREAM),
    _DURATION,
)
GATEWAY_OVERHEAD = Series(
    "paymaster_gateway_overhead_seconds",
    "histogram",
    "What the gateway itself added before the answer's first byte: all but waiting for upstreams.",
    (OPERATION_NAME,),
    _LATENCY,
)
FIRST_TOKEN = Series(
    "paymaster_time_to_first_token_seconds",
    "histogram",
    "From a streamed request's first byte to its answer's first event.",
    (OPERATION_NAME, DEPLOYMENT),
    _FIRST_TOKEN,
)
TOKENS = Series(
    "paymaster_tokens_total",
    "counter",
    "Tokens billed. The kinds (plain, cache_read, cache_creation, audio, reasoning) do not overlap.",
    (*_MODEL, TOKEN_TYPE, "kind"),
)
SPEND = Series(
    "paymaster_spend_usd_total",
    "counter",
    "Money spent on answers, in US dollars.",
    _MODEL,
    per_unit=NANO_PER_USD,
)
BASELINE = Series(
    "paymaster_baseline_usd_total",
    "counter",
    "What the same answers had cost on their route's baseline model; equal to the spend where nothing was routed.",
    _MODEL,
    per_unit=NANO_PER_USD,
)
UNPRICED = Series("paymaster_unpriced_requests_total", "counter", "Answers whose cost is unknown.", (DEPLOYMENT,))
REFUSALS = Series("paymaster_refusals_total", "counter", "Requests refused by the gateway itself.", ("reason", KEY))
ROUTE_DECISIONS = Series(
    "paymaster_route_decisions_total",
    "counter",
    "Choices of a deployment for an alias, by the tier of difficulty.",
    (ROUTE, TIER, DEPLOYMENT),
)
UPSTREAM_ATTEMPTS = Series(
    "paymaster_attempts_total",
    "counter",
    "Calls of upstreams by how they ended; retries and failovers count one each.",
    (DEPLOYMENT, "outcome"),
)
BREAKER = Series(
    "paymaster_breaker_state",
    "gauge",
    "A deployment's circuit breaker: 0 closed, 1 on trial, 2 open or throttled; the worst of all workers.",
    (DEPLOYMENT,),
    merge="max",
)
LEDGER_DURATION = Series(
    "paymaster_ledger_duration_seconds",
    "histogram",
    "How long the ledger took to answer, by operation.",
    ("operation",),
    _LATENCY,
)
LEDGER_EVENTS = Series(
    "paymaster_ledger_events_total",
    "counter",
    "What the ledger saw besides plain settles: orphans, overruns, late settles and the like.",
    ("event",),
)
JOURNAL = Series(
    "paymaster_journal_entries",
    "gauge",
    "Settles written to the journals of all workers that Redis has not acknowledged.",
)
LEDGER_BEHIND = Series(
    "paymaster_ledger_accounts_behind",
    "gauge",
    "Accounts of which Redis has lost something that a gateway had seen; the most of all workers.",
    merge="max",
)
LEDGER_DAMAGED = Series(
    "paymaster_ledger_accounts_damaged",
    "gauge",
    "Accounts whose ledger cannot be used, or contradicts itself; the most of all workers.",
    merge="max",
)
LOG_LINES_DROPPED = Series(
    "paymaster_log_lines_dropped_total", "counter", "Log lines dropped because their reader was too slow."
)
LABEL_OVERFLOW = Series(
    "paymaster_label_overflow_total",
    "counter",
    "Updates counted under `other` because a label or a series had too many values already.",
    ("of",),
)
LEDGER_UP = Series("paymaster_ledger_up", "scraped", "1 where the ledger answered this scrape, else 0.")
BUDGET_LIMIT = Series("paymaster_budget_limit_usd", "scraped", "A key's limit.", (KEY, "window"), per_unit=NANO_PER_USD)
BUDGET_SPENT = Series(
    "paymaster_budget_spent_usd",
    "scraped",
    "Spent in the limit's window so far.",
    (KEY, "window"),
    per_unit=NANO_PER_USD,
)
BUDGET_HELD = Series(
    "paymaster_budget_held_usd", "scraped", "Held for requests under way.", (KEY, "window"), per_unit=NANO_PER_USD
)
BUDGET_SUSPENSE = Series(
    "paymaster_budget_suspense_usd",
    "scraped",
    "Held for requests whose cost was never learnt.",
    (KEY, "window"),
    per_unit=NANO_PER_USD,
)
BUILD_INFO = Series("paymaster_build_info", "scraped", "Always 1; the version is a label.", ("version",))

ALL: tuple[Series, ...] = (
    REQUESTS,
    REQUEST_DURATION,
    GATEWAY_OVERHEAD,
    FIRST_TOKEN,
    TOKENS,
    SPEND,
    BASELINE,
    UNPRICED,
    REFUSALS,
    ROUTE_DECISIONS,
    UPSTREAM_ATTEMPTS,
    BREAKER,
    LEDGER_DURATION,
    LEDGER_EVENTS,
    JOURNAL,
    LEDGER_BEHIND,
    LEDGER_DAMAGED,
    LOG_LINES_DROPPED,
    LABEL_OVERFLOW,
    LEDGER_UP,
    BUDGET_LIMIT,
    BUDGET_SPENT,
    BUDGET_HELD,
    BUDGET_SUSPENSE,
    BUILD_INFO,
)
