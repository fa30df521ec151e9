"""What can be called: a deployment (one model at one provider), and an alias (a name callers use for several)."""

from dataclasses import dataclass
from typing import Literal

TierName = str


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model at one provider under one credential. `id` is its name in the configuration."""

    id: str
    provider_name: str
    model: str
    """The name the provider knows it by."""
    weight: int = 1
    context_window: int | None = None
    """Tokens of input and output together; None where unknown."""


@dataclass(slots=True)
class Candidate:
    """A deployment as seen for one request."""

    deployment: Deployment
    expected_cost: int | None
    """What the request will probably cost there, nano-USD; None where the price is unknown."""
    highest_cost: int | None = None
    """The most it can cost there: what has to be free for it to be tried. None where that is not known."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Deployments of one strength. `ordered`: the first is preferred; `weighted`: shared by weight."""

    name: TierName
    deployments: tuple[str, ...]
    order: Literal["ordered", "weighted"] = "ordered"


@dataclass(frozen=True, slots=True)
class Alias:
    """A name callers use for several deployments. Tiers go from the cheapest to the strongest."""

    name: str
    tiers: tuple[Tier, ...]
    default: TierName
    """The tier for a request about whose difficulty there is no evidence."""
    quality: float = 0.5
    """0 prefers the cheapest, 1 the strongest: moves the threshold of `requires_reasoning`."""
