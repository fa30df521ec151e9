"""What the sandbox refuses, in the shape and the words that OpenAI uses."""

from dataclasses import dataclass

import orjson


@dataclass(eq=False)
class Refused(Exception):
    """An answer that is an error. Refused attempts are not billed.

    `param` names the field at fault, `code` is OpenAI's machine-readable reason; both may be unknown.
    `retry_after` is sent as the header of that name, as it stands.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after: str | None = None

    def body(self) -> bytes:
        """The error as OpenAI writes it."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})


_SHAPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
"""Type and code by status; where a status has no row, 4xx is the request's fault and 5xx the server's."""


def scripted(status: int, retry_after: str | None) -> Refused:
    """The failure that a fault script asks for."""
    kind, code = _SHAPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    message = f"The sandbox was told to fail with status {status}."
    return Refused(status, message, kind, code=code, retry_after=retry_after)


def invalid(param: str, message: str, code: str = "invalid_value") -> Refused:
    """A 400 that names the field at fault."""
    return Refused(400, message, param=param, code=code)


def missing(param: str) -> Refused:
    """A 400 for a field that must be there."""
    return invalid(param, f"Missing required parameter: '{param}'.", "missing_required_parameter")
