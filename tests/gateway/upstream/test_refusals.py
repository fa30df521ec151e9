import time
from email.utils import formatdate
from typing import Any

import pytest

from gateway.errors import UpstreamFailed, UpstreamFailureKind
from gateway.upstream.refusals import MAX_MESSAGE, failure_of, for_routing, redacted
from routing.retry import FailureKind


def failed(status: int, message: Any = "no", code: Any = None, **headers: str) -> UpstreamFailed:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return failure_of("acme", status, named, {"error": {"message": message, "code": code}})


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "no", "code": "c", "type": "t"}}, "no", "c"),
        ({"error": {"message": "no", "type": "t"}}, "no", "t"),
        ({"error": {"message": "no", "code": 400, "type": "t"}}, "no", "t"),
        ({"error": "no"}, "no", None),
        ({"message": "no", "code": "c"}, "no", "c"),
        ({"detail": "no"}, "status 400 without an explanation", None),
        ({"error": None}, "status 400 without an explanation", None),
        ({"error": {"message": {"a": 1}}}, "{'a': 1}", None),
        ([], "[]", None),
        (None, "status 400 without an explanation", None),
    ],
)
def test_an_explanation_is_found_in_every_form(body: Any, message: str, code: str | None) -> None:
    failure = failure_of("acme", 400, {}, body)

    assert (failure.provider_name, failure.kind, failure.status) == ("acme", "status", 400)
    assert (failure.message, failure.code) == (message.replace("[]", "status 400 without an explanation"), code)


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-0123456789abcdef",
        "sk-pm-team-0123456789abcdef",
        "gsk_0123456789abcdef",
        "xai-0123456789abcdef",
        "Bearer abcdef0123456789",
        "key 0123456789abcdef",
    ],
)
def test_what_looks_like_a_credential_is_not_repeated(secret: str) -> None:
    failure = failed(401, f"Incorrect API key provided: {secret}.", code=secret)

    assert secret not in f"{failure.message} {failure.code}"
    assert failure.message.startswith("Incorrect API key provided: ")


def test_a_message_is_cut() -> None:
    assert len(redacted("x" * 10_000)) == MAX_MESSAGE


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after_ms": "250"}, 0.25),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-5"}, None),
        ({"retry_after": ""}, None),
        ({"retry_after": "²"}, None),
        ({"retry_after_ms": "soon"}, None),
        ({"retry_after_ms": "-1"}, 0.0),
        ({"retry_after_ms": "nan"}, 0.0),
        ({"retry_after": "9" * 400}, float("inf")),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"retry_after": "Sun, 06 Nov 99999 08:49:37 GMT"}, None),
    ],
)
def test_the_time_to_wait_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert failed(429, **headers).retry_after == seconds


def test_an_instant_to_wait_for_becomes_seconds() -> None:
    asked = failed(429, retry_after=formatdate(time.time() + 3_600, usegmt=True)).retry_after

    assert asked is not None
    assert 3_000 < asked <= 3_600


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (429, "slow down", FailureKind.RATE_LIMITED),
        (429, "insufficient_quota", FailureKind.DEPLOYMENT),
        (429, "check your billing details", FailureKind.DEPLOYMENT),
        (408, "no", FailureKind.TIMEOUT),
        (401, "no", FailureKind.DEPLOYMENT),
        (402, "no", FailureKind.DEPLOYMENT),
        (403, "no", FailureKind.DEPLOYMENT),
        (404, "no such model", FailureKind.DEPLOYMENT),
        (302, "no", FailureKind.DEPLOYMENT),
        (204, "no", FailureKind.DEPLOYMENT),
        (400, "context_length_exceeded", FailureKind.CONTEXT_WINDOW),
        (400, "This model's maximum context length is 8192 tokens", FailureKind.CONTEXT_WINDOW),
        (413, "prompt is too long: 300000 tokens", FailureKind.CONTEXT_WINDOW),
        (400, "content_policy_violation", FailureKind.CONTENT_POLICY),
        (400, "blocked by the content management policy", FailureKind.CONTENT_POLICY),
        (400, "no", FailureKind.REQUEST),
        (409, "no", FailureKind.REQUEST),
        (422, "no", FailureKind.REQUEST),
        (500, "no", FailureKind.SERVER),
        (502, "no", FailureKind.SERVER),
        (529, "overloaded", FailureKind.SERVER),
    ],
)
def test_routing_is_told_what_a_status_means(status: int, message: str, kind: FailureKind) -> None:
    assert for_routing(failed(status, message)).kind is kind
    assert for_routing(failed(status, "no", code=message)).kind is kind


@pytest.mark.parametrize(
    ("kind", "means"),
    [
        ("connect", FailureKind.CONNECT),
        ("timeout", FailureKind.TIMEOUT),
        ("cut", FailureKind.CUT),
        ("garbage", FailureKind.SERVER),
    ],
)
def test_routing_is_told_what_a_failure_without_a_status_means(kind: UpstreamFailureKind, means: FailureKind) -> None:
    assert for_routing(UpstreamFailed("acme", kind, "no")).kind is means


def test_routing_is_told_how_long_to_wait_and_whether_the_caller_has_a_part() -> None:
    failure = for_routing(UpstreamFailed("acme", "status", "no", status=503, retry_after=4.0, streaming=True))

    assert (failure.status, failure.retry_after, failure.sent_first_byte) == (503, 4.0, True)
