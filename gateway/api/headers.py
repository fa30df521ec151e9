"""A request's headers in the form the rest of the gateway reads."""

from collections.abc import Iterable

from fastapi import Request

from gateway.auth import Headers


def headers_from(lines: Iterable[tuple[bytes, bytes]]) -> Headers:
    """By lower-case name; what came in several lines is one list (RFC 9110 section 5.3), so no key hides another."""
    headers: dict[bytes, bytes] = {}
    for name, value in lines:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def headers_of(request: Request) -> Headers:
    """Those of a Starlette request."""
    return headers_from(request.scope["headers"])
