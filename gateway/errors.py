"""Why the gateway refuses or fails. Facts are attributes; statuses and words are in `gateway/api/errors.py`."""

from dataclasses import dataclass
from typing import Literal


class GatewayError(Exception):
    """The base of every error of this package that a caller may see."""


class NoKey(GatewayError):
    """The request carries no key."""


class SeveralKeys(GatewayError):
    """The request carries different keys in different headers."""


class UnknownKey(GatewayError):
    """No virtual key has this text."""


@dataclass
class KeyNotUsable(GatewayError):
    """The key exists, but must not be used now."""

    why: Literal["blocked", "expired"]


@dataclass
class ModelNotFound(GatewayError):
    """Neither a model nor a route has this name. `known` are names the caller may use."""

    model: str
    known: tuple[str, ...]


@dataclass
class ModelForbidden(GatewayError):
    """The key's policy does not include this model."""

    model: str
    allowed: tuple[str, ...]


@dataclass
class BodyTooLarge(GatewayError):
    """The body is larger than `limit_bytes`."""

    limit_bytes: int


@dataclass
class BodyEncoded(GatewayError):
    """The body is compressed: what it comes to is not known before it is unpacked, so none is taken."""

    encoding: str


class CallerGone(GatewayError):
    """The caller hung up, or stopped reading, before the answer was complete."""


@dataclass
class NoSuchPath(GatewayError):
    """Nothing is served at this path."""

    method: str
    path: str


@dataclass
class UnboundedCost(GatewayError):
    """The most a request can cost is not known, and the caller has a cap. `why` names the field."""

    why: str


UpstreamFailureKind = Literal["connect", "timeout", "cut", "status", "garbage"]


@dataclass
class UpstreamFailed(GatewayError):
    """An attempt did not bring a usable answer.

    `status` is the upstream's, where it answered; `message`, `code` and `param` are its words, secrets removed;
    `retry_after` is in seconds; `streaming` tells that the caller has had bytes already.
    """

    provider_name: str
    kind: UpstreamFailureKind
    message: str
    status: int | None = None
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    streaming: bool = False


class NotAdmin(GatewayError):
    """The credential is not the admin key."""


class NoSandbox(GatewayError):
    """No sandbox runs here, so there is no bill of it."""


class CannotStart(Exception):
    """Why the gateway does not start, in words for the person at the terminal. No caller ever sees it."""
