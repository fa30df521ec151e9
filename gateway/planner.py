"""From a request to a plan: names resolved, the task read, the prices looked up; the choice itself is `routing`'s."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from budgets.money import NanoUSD
from budgets.pricing import cost
from budgets.usage import Usage
from gateway.catalog import Catalog, Target
from gateway.quotes import BYTES_PER_TOKEN, EXPECTED_OUTPUT_TOKENS, Quotes
from gateway.wire import chat
from gateway.wire.request import ModelRequest
from routing.deployment import Alias, Candidate
from routing.health import Health
from routing.router import Plan, Situation, by_name, route
from routing.task import profile


@dataclass(slots=True)
class Route:
    """A plan, and what its candidates are in the catalog it was made from."""

    plan: Plan
    targets: Mapping[str, Target]
    price_version: str
    alias: str | None = None
    baseline: Target | None = None
    """What savings are measured against; None for a model asked for by name."""


class Planner:
    """Plans requests with the catalog of the day; a reload puts another in its place."""

    def __init__(self, catalog: Catalog, health: Health, quotes: Quotes, clock: Callable[[], float]) -> None:
        self.catalog = catalog
        self.health = health
        self._quotes = quotes
        self._clock = clock

    def plan(self, request: ModelRequest, remaining: NanoUSD | None) -> Route:
        """Where `request` may go, for a caller with `remaining` nano-USD left (None: no limit).

        Raises ModelNotFound, or NoDeployment for an alias that leads nowhere.
        """
        catalog = self.catalog
        found = catalog.find(request.model)
        if not isinstance(found, Alias):
            return Route(by_name(Candidate(found.deployment, None)), catalog.targets, catalog.price_version)
        candidates = {
            target.deployment.id: Candidate(
                target.deployment, expected_cost(request, target), self._quotes.highest_cost(request, target)
            )
            for target in catalog.members(found)
        }
        situation = Situation(now=self._clock(), remaining=remaining, tokens=_tokens(request))
        plan = route(profile(chat.task_text(request)), found, candidates, self.health, situation)
        return Route(plan, catalog.targets, catalog.price_version, found.name, catalog.baseline(found))


def _tokens(request: ModelRequest) -> int:
    return request.size_bytes // BYTES_PER_TOKEN + (request.output_cap or EXPECTED_OUTPUT_TOKENS)


def expected_cost(request: ModelRequest, target: Target) -> NanoUSD | None:
    """What the request will probably cost at `target`; None where the price is unknown."""
    if target.price is None:
        return None
    output_tokens = min(request.output_cap or EXPECTED_OUTPUT_TOKENS, EXPECTED_OUTPUT_TOKENS)
    return cost(Usage(request.size_bytes // BYTES_PER_TOKEN, output_tokens * request.n), target.price)
