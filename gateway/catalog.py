"""What can be asked for, by name: deployments with their price and address, and the routes over them.

A catalog is made from the settings and never changes; a reload makes another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

from budgets.price_book import PriceBook
from budgets.pricing import Price
from gateway.errors import ModelNotFound
from gateway.settings import ModelSettings, ProviderSettings, RouteSettings, Settings
from routing.deployment import Alias, Deployment, Tier

OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment with all that is needed to price and to call it."""

    deployment: Deployment
    url: str
    """Of the provider's API, such as `https://api.openai.com/v1`."""
    headers: Mapping[str, str]
    """Credential included: never logged."""
    price: Price | None
    """None where the price is unknown; that is not free."""
    max_output_tokens: int | None
    encoding: str | None
    """The tiktoken encoding, where one is declared."""
    cap_field: str
    """How this provider spells the output cap: OpenAI's reasoning models refuse the old name, others know no other."""
    drains: bool
    """Whether an answer nobody waits for any more is read on, so that its usage is seen."""
    tells_keys: bool
    """Whether the key's id is sent along: only to our own sandbox, whose bill is by key."""
    instalment: int | None = None
    """The output tokens that a stream's hold covers at first and is topped up by; None where it covers all at once."""
    own_price: bool = False
    """Whether the price is the configuration's, and not the price book's."""

    def __repr__(self) -> str:
        return f"Target({self.deployment.id})"


class Catalog:
    """All targets and aliases of one configuration."""

    def __init__(self, settings: Settings, prices: PriceBook) -> None:
        self.price_version = prices.version
        self.targets = MappingProxyType(
            {
                name: _target(name, model, settings.providers[model.provider], prices)
                for name, model in settings.models.items()
            }
        )
        self.aliases = MappingProxyType({name: _alias(name, route) for name, route in settings.routes.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """Everything a caller may ask for, routes first."""
        return (*self.aliases, *self.targets)

    def find(self, name: str) -> Alias | Target:
        """What the caller means by `name`. Raises ModelNotFound."""
        found = self.aliases.get(name) or self.targets.get(name)
        if found is None:
            raise ModelNotFound(name, self.names)
        return found

    def members(self, alias: Alias) -> list[Target]:
        """The targets of an alias, cheapest tier first, each once."""
        ids = dict.fromkeys(name for tier in alias.tiers for name in tier.deployments)
        return [self.targets[name] for name in ids]

    def baseline(self, alias: Alias) -> Target:
        """What savings are measured against: the first deployment of the strongest tier."""
        return self.targets[alias.tiers[-1].deployments[0]]


def _target(name: str, model: ModelSettings, provider: ProviderSettings, prices: PriceBook) -> Target:
    url = provider.base_url or ""
    facts = prices.find("openai" if urlsplit(url).hostname == OPENAI_HOST else model.provider, model.model)
    key = provider.api_key.get_secret_value() if provider.api_key else ""
    return Target(
        deployment=Deployment(
            id=name,
            provider_name=model.provider,
            model=model.model,
            weight=model.weight,
            context_window=model.context_window or (facts.max_input_tokens if facts else None),
        ),
        url=url,
        headers={"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {}),
        price=Price.from_usd_per_million(model.price) if model.price else facts.price if facts else None,
        max_output_tokens=model.max_output_tokens or (facts.max_output_tokens if facts else None),
        encoding=model.encoding or (facts.encoding if facts else None),
        cap_field="max_completion_tokens" if urlsplit(url).hostname == OPENAI_HOST else "max_tokens",
        drains=provider.on_disconnect == "drain",
        tells_keys=provider.kind == "sandbox",
        instalment=provider.instalment,
        own_price=model.price is not None,
    )


def _alias(name: str, route: RouteSettings) -> Alias:
    tiers = tuple(Tier(tier, tuple(deployments), route.order) for tier, deployments in route.tiers.items())
    return Alias(name, tiers, route.default, route.quality)
