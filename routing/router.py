"""From a task and a purse to a plan: which deployments, in what order, and why in words.

The rule, in its order: a simple task with little money left goes to the cheapest; what requires reasoning goes to the
strong tier; the rest goes to the cheap default. Tiers are ordered from the cheapest to the strongest, so that the rule
holds for a list of any length and with any names (`tier_for`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from random import random as _chance

from routing.deployment import Alias, Candidate, Tier, TierName
from routing.errors import NoDeployment
from routing.health import Health
from routing.strategies import STRATEGIES, Random, cheapest
from routing.task import Complexity, TaskProfile, complexity_of

SCARCE = 100_000_000
"""Nano-USD, ten cents. With less left, a simple task goes to the cheapest deployment of all."""

_SPOKEN: Mapping[Complexity, str] = {
    "simple": "simple",
    "standard": "an ordinary task",
    "reasoning": "requires reasoning",
    "unknown": "no evidence of difficulty",
}


@dataclass(slots=True)
class Situation:
    """What holds for one request besides its text."""

    now: float
    """Seconds, on the clock that `Health` was told."""
    remaining: int | None = None
    """What the caller may still spend, nano-USD; None where there is no limit."""
    tokens: int = 0
    """The context the request needs: about its input plus its output cap."""
    random: Random = _chance


@dataclass(slots=True)
class Plan:
    """Candidates in the order in which they are tried. Never empty."""

    candidates: tuple[Candidate, ...]
    tier: TierName | None
    """The first candidate's tier; None for a model asked for by name."""
    reason: str
    alternative: Candidate | None = None
    """The best one of the tier not taken."""
    profile: TaskProfile | None = None


def by_name(candidate: Candidate) -> Plan:
    """The plan for a model that the caller named: that one and no other."""
    return Plan((candidate,), None, "asked for by name")


def route(
    profile: TaskProfile | None,
    alias: Alias,
    candidates: Mapping[str, Candidate],
    health: Health,
    situation: Situation,
) -> Plan:
    """Choose among `candidates` (by deployment id, only those this caller may use) for a request to `alias`.

    The chosen tier comes first, by its strategy; behind it the tiers above, nearest first, then those below.
    Deployments in cooldown or ejected, and those that `situation.remaining` cannot pay, move to the end, so a plan is
    never empty. Only a context window that is too small takes a deployment out, as long as another one is large enough.
    `profile` is None where the request has no text to judge.
    Raises NoDeployment when none of the alias's deployments is in `candidates`.
    """
    complexity = _complexity(profile, alias.quality)
    chosen = tier_for(complexity, alias)
    found = _unique(
        candidate for tier in _outwards(alias, chosen) for candidate in _in_order(tier, candidates, situation.random)
    )
    if not found:
        raise NoDeployment(alias.name)
    roomy = _roomy(found, situation.tokens)
    scarce = complexity == "simple" and situation.remaining is not None and situation.remaining < SCARCE
    wanted = cheapest(roomy) if scarce else roomy
    ordered = _sound_first(wanted, _away(alias, wanted, health, situation.now), situation.remaining)
    first = ordered[0]
    taken = chosen if first.deployment.id in chosen.deployments else _tier_of(first, alias)
    words = _Words(complexity, profile, alias, situation)
    return Plan(
        candidates=tuple(ordered),
        tier=taken.name,
        reason=words.reason(found, wanted, first, taken, scarce),
        alternative=next((other for other in ordered if other.deployment.id not in taken.deployments), None),
        profile=profile,
    )


def tier_for(complexity: Complexity, alias: Alias) -> Tier:
    """The tier of `alias` for a task of this complexity.

    A tier of that very name is taken first. Otherwise: simple → the first, reasoning → the last, standard and unknown →
    the default tier, or the middle one (the lower of two) where the default names none.
    """
    named = {tier.name: tier for tier in alias.tiers}
    default = named.get(alias.default, alias.tiers[(len(alias.tiers) - 1) // 2])
    if complexity == "unknown":
        return default
    position = {"simple": alias.tiers[0], "standard": default, "reasoning": alias.tiers[-1]}
    return named.get(complexity, position[complexity])


def _complexity(profile: TaskProfile | None, quality: float) -> Complexity:
    if profile is None or profile.complexity == "unknown":
        return "unknown"
    if quality == 0.5:
        return profile.complexity
    return complexity_of(weighed(profile.score, quality))


def weighed(score: float, quality: float) -> float:
    """`score`, with `quality` as the odds that a strong model is worth its price: 0.5 leaves it, 0 and 1 decide."""
    strong, cheap = score * quality, (1.0 - score) * (1.0 - quality)
    return strong / (strong + cheap) if strong + cheap else quality


def _outwards(alias: Alias, chosen: Tier) -> list[Tier]:
    """The chosen tier, those above it (nearest first), those below it (nearest first)."""
    at = alias.tiers.index(chosen)
    return [*alias.tiers[at:], *reversed(alias.tiers[:at])]


def _in_order(tier: Tier, candidates: Mapping[str, Candidate], random: Random) -> list[Candidate]:
    return STRATEGIES[tier.order]([candidates[name] for name in tier.deployments if name in candidates], random)


def _unique(candidates: Iterable[Candidate]) -> list[Candidate]:
    return list({candidate.deployment.id: candidate for candidate in candidates}.values())


def _roomy(candidates: list[Candidate], tokens: int) -> list[Candidate]:
    """Those whose context holds `tokens`; if none does, the largest, since the count is only an estimate."""
    windows = [candidate.deployment.context_window or tokens for candidate in candidates]
    enough = min(tokens, max(windows))
    return [candidate for candidate, window in zip(candidates, windows, strict=True) if window >= enough]


def _away(alias: Alias, candidates: list[Candidate], health: Health, now: float) -> frozenset[str]:
    present = {candidate.deployment.id for candidate in candidates}
    pools = ([name for name in tier.deployments if name in present] for tier in alias.tiers)
    return frozenset().union(*(health.ejected(pool, now) for pool in pools))


def _sound_first(candidates: list[Candidate], away: frozenset[str], remaining: int | None) -> list[Candidate]:
    """What can be paid and is well, then what can be paid, then the rest; the cheapest first where nothing can be."""
    if not any(_payable(candidate, remaining) for candidate in candidates):
        candidates = cheapest(candidates)
    return sorted(
        candidates,
        key=lambda candidate: (not _payable(candidate, remaining), candidate.deployment.id in away),
    )


def _payable(candidate: Candidate, remaining: int | None) -> bool:
    """Without a limit everything is; with one, an unknown cost is not."""
    return remaining is None or (candidate.highest_cost is not None and candidate.highest_cost <= remaining)


def _tier_of(candidate: Candidate, alias: Alias) -> Tier:
    return next(tier for tier in alias.tiers if candidate.deployment.id in tier.deployments)


@dataclass(frozen=True, slots=True)
class _Words:
    """Puts a decision into a sentence."""

    complexity: Complexity
    profile: TaskProfile | None
    alias: Alias
    situation: Situation

    def reason(
        self, found: list[Candidate], wanted: list[Candidate], first: Candidate, taken: Tier, scarce: bool
    ) -> str:
        """As in `requires reasoning: asks for a proof → reasoning tier, large; $4.20 left`."""
        target = "the cheapest" if scarce and first is wanted[0] else f"{taken.name} tier"
        steps = [f"{self._verdict()} → {target}, {first.deployment.id}"]
        if wanted[0] is not first:
            steps.append(self._passed_over(wanted[0], first))
        if len(wanted) < len(found):
            steps.append(f"about {self.situation.tokens:,} tokens do not fit every model's context")
        if self.situation.remaining is not None:
            steps.append(f"{'only ' if scarce else ''}{dollars(self.situation.remaining)} left")
        return "; ".join(steps)

    def _verdict(self) -> str:
        spoken = _SPOKEN[self.complexity]
        if self.profile is None:
            return f"{spoken}: nothing to read"
        evidence = ", ".join(self.profile.reasons[:3])
        if self.complexity not in (self.profile.complexity, "unknown"):
            moved = f"{_SPOKEN[self.profile.complexity]} by itself, moved by quality {self.alias.quality:g}"
            evidence = f"{moved}; {evidence}" if evidence else moved
        return f"{spoken}: {evidence}" if evidence else spoken

    def _passed_over(self, best: Candidate, first: Candidate) -> str:
        if _payable(best, self.situation.remaining):
            return f"{best.deployment.id} is cooling down"
        if not _payable(first, self.situation.remaining):
            return "what is left pays for none, so the cheapest is tried"
        if best.highest_cost is None:
            return f"the price of {best.deployment.id} is not known"
        return f"{best.deployment.id} could cost {dollars(best.highest_cost)}, more than is left"


def dollars(nano: int) -> str:
    """Nano-USD for reading: `$4.20`, and less than a cent to two digits that count, such as `$0.0013`."""
    usd = Decimal(nano) / 1_000_000_000
    return f"${usd:.2f}" if usd >= Decimal("0.01") or nano <= 0 else f"${Decimal(f'{usd:.2g}'):f}"
