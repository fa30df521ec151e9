"""A provider's error status, read: what it says, how long to wait, and what routing should make of it."""

import re
from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from gateway.errors import UpstreamFailed
from routing.retry import Failure, FailureKind

MAX_MESSAGE = 500

_SECRET = re.compile(
    r"\b(?:(?:sk|pk|gsk|xai)[-_]|(?:key|bearer)[-_ ](?=\S*\d))[A-Za-z0-9*._-]{8,}", re.IGNORECASE
)  # "key provided" is none
_CONTEXT = re.compile(r"context.?(?:length|window)|maximum context|too many tokens|prompt is too long", re.IGNORECASE)
_POLICY = re.compile(r"content.?(?:policy|filter|management)|safety|moderation", re.IGNORECASE)

_QUOTA = re.compile(r"insufficient_quota|billing", re.IGNORECASE)

# Status, and what the words must tell where it is not enough; the first row that fits.
_STATUSES: tuple[tuple[FailureKind, Collection[int], re.Pattern[str] | None], ...] = (
    (FailureKind.DEPLOYMENT, (429,), _QUOTA),
    (FailureKind.RATE_LIMITED, (429,), None),
    (FailureKind.TIMEOUT, (408,), None),
    (FailureKind.DEPLOYMENT, (*range(100, 400), 401, 402, 403, 404), None),
    (FailureKind.CONTEXT_WINDOW, (400, 413, 422), _CONTEXT),
    (FailureKind.CONTENT_POLICY, (400, 422), _POLICY),
)


def failure_of(provider_name: str, status: int, headers: Mapping[str, str], body: object) -> UpstreamFailed:
    """The failure that `status` and the JSON `body` (None where there is none) tell of."""
    error = body.get("error", body) if isinstance(body, dict) else body
    facts: Mapping[str, Any] = error if isinstance(error, dict) else {"message": error}
    return UpstreamFailed(
        provider_name,
        "status",
        redacted(str(facts.get("message") or f"status {status} without an explanation")),
        status=status,
        code=_word(facts.get("code")) or _word(facts.get("type")),
        param=_word(facts.get("param")),
        retry_after=_retry_after(headers),
    )


def redacted(message: str) -> str:
    """`message` without what looks like a credential, and not too long."""
    return _SECRET.sub("[redacted]", message)[:MAX_MESSAGE]


def for_routing(failed: UpstreamFailed) -> Failure:
    """The failure as `routing/retry.py` looks at it."""
    return Failure(_kind(failed), failed.status, failed.retry_after, failed.streaming)


def _kind(failed: UpstreamFailed) -> FailureKind:
    if failed.kind == "status" and failed.status is not None:
        return _kind_of_status(failed.status, f"{failed.code or ''} {failed.message}")
    kinds = {"connect": FailureKind.CONNECT, "timeout": FailureKind.TIMEOUT, "cut": FailureKind.CUT}
    return kinds.get(failed.kind, FailureKind.SERVER)


def _kind_of_status(status: int, words: str) -> FailureKind:
    for means, statuses, telling in _STATUSES:
        if status in statuses and (telling is None or telling.search(words)):
            return means
    return FailureKind.SERVER if status >= 500 else FailureKind.REQUEST


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or a date, RFC 9110 section 10.2.3)."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after")
        if text is None:
            return None
        if text.replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except ValueError:
        return None


def _word(value: object) -> str | None:
    return redacted(value)[:80] if isinstance(value, str) else None
