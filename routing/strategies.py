"""In what order the deployments of one tier are tried."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, log
from types import MappingProxyType
from typing import Literal, TypeAlias

from routing.deployment import Candidate

Random: TypeAlias = Callable[[], float]
"""Gives a number from 0 to 1 at each call, as `random.random` does."""


def ordered(candidates: Sequence[Candidate], random: Random) -> list[Candidate]:
    """As configured."""
    return list(candidates)


def weighted(candidates: Sequence[Candidate], random: Random) -> list[Candidate]:
    """A random order in which each place is drawn by weight from those that remain. Weight 0 comes last.

    Each waits an exponential time with its weight as rate; the shortest wait wins, which is a draw by weight.
    """

    def wait(candidate: Candidate) -> float:
        weight = candidate.deployment.weight
        return -log(1.0 - random()) / weight if weight > 0 else inf

    return sorted(candidates, key=wait)


def cheapest(candidates: Sequence[Candidate]) -> list[Candidate]:
    """By expected cost; equal costs keep their order, and an unknown cost is not a low one."""
    return sorted(candidates, key=lambda candidate: inf if candidate.expected_cost is None else candidate.expected_cost)


STRATEGIES: Mapping[Literal["ordered", "weighted"], Callable[[Sequence[Candidate], Random], list[Candidate]]] = (
    MappingProxyType({"ordered": ordered, "weighted": weighted})
)
