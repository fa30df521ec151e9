"""What a body on the wire can have wrong."""

from dataclasses import dataclass


@dataclass
class InvalidRequest(Exception):
    """The caller's request cannot be understood. `param` is the path of the field, None for the whole body."""

    message: str
    param: str | None = None


@dataclass
class InvalidAnswer(Exception):
    """An upstream's answer cannot be understood."""

    message: str
