import json

import pytest

from gateway.sandbox.errors import invalid, missing, scripted


def test_an_error_has_openais_shape() -> None:
    assert json.loads(invalid("n", "Too many.").body()) == {
        "error": {"message": "Too many.", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
    }


def test_a_missing_field_is_named() -> None:
    assert (missing("messages").status, missing("messages").param) == (400, "messages")


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (429, "requests", "rate_limit_exceeded"),
        (401, "invalid_request_error", "invalid_api_key"),
        (418, "invalid_request_error", None),
        (503, "server_error", None),
    ],
)
def test_a_scripted_failure_looks_like_a_real_one(status: int, kind: str, code: str | None) -> None:
    refusal = scripted(status, "2")

    assert (refusal.status, refusal.type, refusal.code, refusal.retry_after) == (status, kind, code, "2")
