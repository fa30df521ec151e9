"""Every error's status, type and code, and the words a caller reads. One table; nothing else knows a status.

Types and codes are OpenAI's where it has one: https://platform.openai.com/docs/guides/error-codes
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from budgets import errors as money
from budgets.money import to_usd
from gateway import errors
from gateway.configuration import ConfigurationError
from gateway.upstream.refusals import for_routing
from gateway.wire.errors import InvalidAnswer, InvalidRequest
from gateway.wire.strict_json import dump
from routing.errors import NoDeployment
from routing.retry import FailureKind


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kind of error looks on the wire. `retry` False tells SDKs that trying again is pointless."""

    status: int
    type: str
    code: str
    retry: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the caller sees it."""

    status: int
    type: str
    code: str
    message: str
    retry: bool
    param: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    retry_after: float | None = None
    label: str | None = None
    """Our own word for it where `code` is a provider's, which nobody bounds: for metrics."""

    def body(self) -> bytes:
        """OpenAI's error envelope."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return dump({"error": error | ({"metadata": self.metadata} if self.metadata else {})})

    def headers(self) -> dict[str, str]:
        """What SDKs act on."""
        headers = {"content-type": "application/json", "x-should-retry": "true" if self.retry else "false"}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after)))
        return headers


INVALID = "invalid_request_error"
SERVER = "server_error"
UPSTREAM_REFUSED = "upstream_refused"

SHAPES: Mapping[type[Exception], Shape] = {
    InvalidRequest: Shape(400, INVALID, "invalid_request", retry=False),
    errors.NoKey: Shape(401, INVALID, "missing_api_key", retry=False),
    errors.SeveralKeys: Shape(400, INVALID, "several_api_keys", retry=False),
    errors.UnknownKey: Shape(401, INVALID, "invalid_api_key", retry=False),
    errors.KeyNotUsable: Shape(401, INVALID, "key_not_usable", retry=False),
    errors.ModelNotFound: Shape(404, INVALID, "model_not_found", retry=False),
    errors.ModelForbidden: Shape(403, INVALID, "model_not_allowed", retry=False),
    errors.NotAdmin: Shape(401, INVALID, "not_admin", retry=False),
    errors.NoSandbox: Shape(404, INVALID, "no_sandbox", retry=False),
    money.NoSuchKey: Shape(404, INVALID, "no_such_key", retry=False),
    ConfigurationError: Shape(400, INVALID, "invalid_configuration", retry=False),
    errors.NoSuchPath: Shape(404, INVALID, "unknown_url", retry=False),
    errors.BodyTooLarge: Shape(413, INVALID, "request_too_large", retry=False),
    errors.BodyEncoded: Shape(415, INVALID, "unsupported_encoding", retry=False),
    errors.CallerGone: Shape(499, INVALID, "client_closed_request", retry=False),
    errors.UnboundedCost: Shape(400, INVALID, "unbounded_cost", retry=False),
    errors.UpstreamFailed: Shape(502, SERVER, "upstream_failed", retry=False),
    money.BudgetExceeded: Shape(402, "insufficient_quota", "insufficient_quota", retry=False),
    money.InstalmentRefused: Shape(402, "insufficient_quota", "insufficient_quota", retry=False),
    money.UnpricedModel: Shape(400, INVALID, "unpriced_model", retry=False),
    money.LedgerUnavailable: Shape(503, SERVER, "ledger_unavailable", retry=True),
    money.LedgerBehind: Shape(503, SERVER, "ledger_behind", retry=True),
    money.StaleKey: Shape(503, SERVER, "key_changing", retry=True),
    money.AttemptClosed: Shape(500, SERVER, "internal_error", retry=False),
    money.ScriptFailed: Shape(500, SERVER, "ledger_damaged", retry=False),
    money.AbsurdUsage: Shape(502, SERVER, "upstream_failed", retry=False),
    InvalidAnswer: Shape(502, SERVER, "upstream_failed", retry=False),
    NoDeployment: Shape(404, INVALID, "model_not_found", retry=False),
}
UNFORESEEN = Shape(500, SERVER, "internal_error", retry=False)

LEDGER_RETRY_AFTER = 1.0

# Which refusal of a budget a client stops on, by its User-Agent. Measured: on a 402 Codex tries six times, on a 429
# with x-should-retry: false once; every other client tried stops on 402.
STOPS_ON_429 = re.compile(r"codex", re.IGNORECASE)


def refusal_of(error: Exception, user_agent: str = "", budget_status: int | str = "auto") -> Refusal:
    """The error as the caller sees it: what was wrong, which value, what to do. No secret, no traceback."""
    if isinstance(error, money.BudgetExceeded):
        return _over_budget(error, user_agent, budget_status)
    if isinstance(error, errors.UpstreamFailed):
        return _of_upstream(error)
    shape = _shape(error)
    return Refusal(
        shape.status,
        shape.type,
        shape.code,
        message_of(error),
        shape.retry,
        param=_param(error),
        retry_after=LEDGER_RETRY_AFTER if shape.status == 503 else None,
    )


def _shape(error: Exception) -> Shape:
    return next((SHAPES[kind] for kind in type(error).__mro__ if kind in SHAPES), UNFORESEEN)


def _param(error: Exception) -> str | None:
    if isinstance(error, InvalidRequest):
        return error.param
    return "model" if isinstance(error, errors.ModelNotFound | errors.ModelForbidden | money.UnpricedModel) else None


def message_of(error: Exception) -> str:
    """The words for `error`, for the caller or the operator."""
    words = next((_WORDS[kind] for kind in type(error).__mro__ if kind in _WORDS), None)
    return words(error) if words else "Something went wrong in the gateway; its log has the request id."


def _over_budget(error: money.BudgetExceeded, user_agent: str, budget_status: int | str) -> Refusal:
    shape = _shape(error)
    status = (
        budget_status if isinstance(budget_status, int) else 429 if STOPS_ON_429.search(user_agent) else shape.status
    )
    facts = {
        "reason": "budget_exceeded",
        "scope": error.scope,
        "window": error.window,
        "limit_usd": to_usd(error.limit),
        "remaining_usd": to_usd(error.remaining),
        "needed_usd": to_usd(error.needed),
        "suspense_usd": to_usd(error.suspense),
        "resets_at": error.resets_at,
    }
    return Refusal(status, shape.type, shape.code, message_of(error), shape.retry, metadata=facts)


def _of_upstream(error: errors.UpstreamFailed) -> Refusal:
    """A provider's refusal of the request itself is the caller's to mend; everything else is a bad gateway.

    The provider's 401, 402 and 403 are about our credential: the caller's own key is not at fault.
    """
    shape = _shape(error)
    facts = {"reason": f"upstream_{error.kind}", "provider": error.provider_name, "upstream_status": error.status}
    if error.kind == "timeout":
        return Refusal(504, shape.type, "upstream_timeout", message_of(error), retry=False, metadata=facts)
    if for_routing(error).kind is FailureKind.RATE_LIMITED:  # not where a 429 means that we have not paid
        return Refusal(
            429, "rate_limit_error", "rate_limit_exceeded", message_of(error), retry=True, metadata=facts,
            retry_after=min(error.retry_after or 1.0, 60.0),
        )  # fmt: skip
    if error.status in (400, 404, 409, 413, 415, 422):
        return Refusal(
            error.status, INVALID, error.code or UPSTREAM_REFUSED, message_of(error), False, error.param, facts,
            label=UPSTREAM_REFUSED,
        )  # fmt: skip
    return Refusal(shape.status, shape.type, shape.code, message_of(error), shape.retry, metadata=facts)


def _told_over_budget(error: money.BudgetExceeded) -> str:
    return (
        f"The budget of {_scope(error.scope)} does not cover this request: {_told_money(error)} "
        "Ask for fewer output tokens or a cheaper model, or have the limit raised."
    )


def _told_cut_by_budget(error: money.InstalmentRefused) -> str:
    return (
        f"The answer was cut, because the budget of {_scope(error.scope)} does not cover more of it: "
        f"{_told_money(error)} Have the limit raised, or ask for a shorter answer or a cheaper model."
    )


def _told_money(error: money.BudgetExceeded) -> str:
    reset = "It does not reset." if error.resets_at is None else f"It resets at {_instant(error.resets_at)}."
    left = f"{to_usd(error.remaining)} USD left" if error.remaining > 0 else "nothing left"
    have = f"{to_usd(error.limit)} USD per {error.window}, {left}"
    if error.suspense:
        have += f", {to_usd(error.suspense)} USD kept for attempts whose cost was never learnt"
    return f"{have}, up to {to_usd(error.needed)} USD needed. {reset}"


def _told_upstream(error: errors.UpstreamFailed) -> str:
    what = {
        "connect": "could not be reached",
        "timeout": "did not answer in time",
        "cut": "broke off its answer",
        "garbage": "sent an answer that cannot be understood",
        "status": f"answered {error.status}",
    }[error.kind]
    return f"The provider {error.provider_name!r} {what}: {error.message}"


def _told_not_found(error: errors.ModelNotFound) -> str:
    known = ", ".join(error.known[:20])
    return f"There is no model {error.model[:100]!r} here. Known: {known or 'none that this key may use'}."


_WORDS: Mapping[type[Exception], Callable[[Any], str]] = {
    InvalidRequest: lambda error: error.message,
    errors.NoKey: lambda _: "No API key was sent. Send a virtual key as `Authorization: Bearer sk-pm-…`.",
    errors.SeveralKeys: lambda _: "Different API keys stand in different headers. Send one.",
    errors.UnknownKey: lambda _: "This API key is not known here. Virtual keys start with `sk-pm-`; was it deleted?",
    errors.KeyNotUsable: lambda error: f"This API key is {error.why}. Ask whoever gave it to you for another.",
    errors.ModelNotFound: _told_not_found,
    errors.ModelForbidden: lambda error: (
        f"This key may not use the model {error.model[:100]!r}. It may use: {', '.join(error.allowed)}."
    ),
    errors.NotAdmin: lambda _: "This needs the admin key; virtual keys do not open the admin API.",
    errors.NoSandbox: lambda _: "No sandbox runs here: the configuration has no provider of the kind `sandbox`.",
    money.NoSuchKey: lambda error: f"There is no key {error.key_id[:80]!r}.",
    ConfigurationError: str,
    errors.NoSuchPath: lambda error: (
        f"Nothing is served at {error.method} {error.path[:100]}. The API is under /v1: POST /v1/chat/completions, …"
    ),
    errors.BodyTooLarge: lambda error: f"The body is larger than {error.limit_bytes:,} bytes, the most taken here.",
    errors.BodyEncoded: lambda error: (
        f"The body is encoded as {error.encoding[:40]!r}. Send it as it is, without `Content-Encoding`."
    ),
    errors.CallerGone: lambda _: "The caller hung up.",
    errors.UnboundedCost: lambda error: (
        f"This key has a budget, and the most this request can cost is not known: {error.why}."
    ),
    errors.UpstreamFailed: _told_upstream,
    money.BudgetExceeded: _told_over_budget,
    money.InstalmentRefused: _told_cut_by_budget,
    money.UnpricedModel: lambda error: (
        f"This key has a budget, and the price of {error.model!r} is not known. "
        f"Set `models.{error.model}.price` in the configuration, or ask for another model."
    ),
    money.LedgerUnavailable: lambda _: "The ledger cannot be reached, so no budget can be checked. Try again shortly.",
    money.LedgerBehind: lambda _: (
        "The ledger has lost what was spent last, so no budget can be checked. That comes back within a minute, "
        "or has to be confirmed by whoever runs this gateway."
    ),
    money.ScriptFailed: lambda _: (
        "The ledger holds something that it cannot work with, so nothing can be booked. The gateway's log says what."
    ),
    money.StaleKey: lambda _: "The key was changed while the request was on its way. Try again.",
    NoDeployment: lambda error: f"None of the models behind {error.alias!r} may be used by this key.",
}  # fmt: skip


def _scope(scope: str) -> str:
    return "this key" if scope.startswith("key:") else f"the {scope}"


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
