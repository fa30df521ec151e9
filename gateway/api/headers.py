"""A Starlette request's headers in the form the rest of the gateway reads."""

from fastapi import Request

from gateway.auth import Headers


def headers_of(request: Request) -> Headers:
    """Lower-case names, raw values."""
    return dict(request.scope["headers"])
