"""What can go wrong in routing. Facts are attributes; only `gateway/api/errors.py` knows a status."""

from dataclasses import dataclass


class RoutingError(Exception):
    """The base of every error of this package."""


@dataclass
class NoDeployment(RoutingError):
    """An alias leads to no deployment that this request may use."""

    alias: str
