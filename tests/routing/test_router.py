"""From a task and a purse to a plan."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.deployment import Alias, Candidate, Deployment, Tier
from routing.errors import NoDeployment
from routing.health import Health
from routing.retry import FailureKind
from routing.router import Plan, Situation, by_name, dollars, route, tier_for, weighed
from routing.task import Complexity, TaskProfile

USD = 1_000_000_000
COSTS = {"small": 1_000_000, "medium": 10_000_000, "large": 100_000_000}
AUTO = Alias(
    "auto",
    (Tier("simple", ("small",)), Tier("standard", ("medium",)), Tier("reasoning", ("large",))),
    default="standard",
)
SIMPLE = TaskProfile("simple", False, 0.1, ("a short question of fact",))
STANDARD = TaskProfile("standard", False, 0.4, ())
REASONING = TaskProfile("reasoning", True, 0.9, ("asks for a proof", "three constraints"))
UNKNOWN = TaskProfile("unknown", False, 0.5, ("it only says to go on",))


def candidate(name: str, cost: int | None = 1, window: int | None = None, weight: int = 1) -> Candidate:
    return Candidate(Deployment(name, "acme", name, weight=weight, context_window=window), cost, cost)


def priced(**costs: int | None) -> dict[str, Candidate]:
    return {name: candidate(name, cost) for name, cost in (costs or COSTS).items()}


def planned(
    profile: TaskProfile | None, remaining: int | None = None, alias: Alias = AUTO, **costs: int | None
) -> Plan:
    return route(profile, alias, priced(**costs), Health(), Situation(now=0.0, remaining=remaining))


def order(plan: Plan) -> list[str]:
    return [candidate.deployment.id for candidate in plan.candidates]


def ill(*names: str) -> Health:
    health = Health()
    for name in names:
        health.failed(name, FailureKind.RATE_LIMITED, 0.0, 30.0)
    return health


@pytest.mark.parametrize(
    ("profile", "tier"),
    [(SIMPLE, "simple"), (STANDARD, "standard"), (REASONING, "reasoning"), (UNKNOWN, "standard"), (None, "standard")],
)
def test_each_complexity_goes_to_its_tier(profile: TaskProfile | None, tier: str) -> None:
    assert planned(profile, 5 * USD).tier == tier


def test_a_simple_task_with_less_than_ten_cents_goes_to_the_cheapest_of_all() -> None:
    upside_down = priced(small=3_000_000, medium=1_000_000, large=2_000_000)

    scarce = route(SIMPLE, AUTO, upside_down, Health(), Situation(0.0, remaining=USD // 10 - 1))
    enough = route(SIMPLE, AUTO, upside_down, Health(), Situation(0.0, remaining=USD // 10))

    assert order(scarce) == ["medium", "large", "small"]
    assert order(enough)[0] == "small"


def test_what_requires_reasoning_goes_to_the_strong_tier_even_with_little_left() -> None:
    assert planned(REASONING, remaining=COSTS["large"]).tier == "reasoning"


def test_fallbacks_go_upwards_first_and_then_downwards() -> None:
    alias = Alias("four", tuple(Tier(name, (name,)) for name in "abcd"), default="b")

    assert order(planned(STANDARD, alias=alias, a=1, b=2, c=3, d=4)) == ["b", "c", "d", "a"]


def test_the_alternative_is_the_best_of_the_tier_not_taken() -> None:
    up, down = planned(SIMPLE).alternative, planned(REASONING).alternative

    assert up is not None
    assert up.deployment.id == "medium"
    assert down is not None
    assert down.deployment.id == "medium"


def test_an_alias_of_one_deployment_has_no_alternative() -> None:
    assert planned(SIMPLE, alias=Alias("one", (Tier("only", ("small",)),), "only")).alternative is None


def test_a_deployment_of_several_tiers_appears_once() -> None:
    alias = Alias("auto", (Tier("simple", ("small",)), Tier("standard", ("small", "large"))), "standard")

    assert order(planned(STANDARD, alias=alias)) == ["small", "large"]


def test_weights_share_the_first_place() -> None:
    alias = Alias("shared", (Tier("standard", ("small", "large"), "weighted"),), "standard")
    pool = {"small": candidate("small", weight=1), "large": candidate("large", weight=3)}
    situation = Situation(0.0, random=Random(5).random)

    firsts = Counter(order(route(STANDARD, alias, pool, Health(), situation))[0] for _ in range(2000))

    assert abs(firsts["large"] - 1500) < 100


def test_a_deployment_in_cooldown_moves_to_the_end() -> None:
    plan = route(SIMPLE, AUTO, priced(), ill("small"), Situation(1.0))

    assert order(plan) == ["medium", "large", "small"]
    assert plan.tier == "standard"
    assert "small is cooling down" in plan.reason


def test_when_all_are_in_cooldown_all_are_kept() -> None:
    assert order(route(SIMPLE, AUTO, priced(), ill("small", "medium", "large"), Situation(1.0))) == [
        "small",
        "medium",
        "large",
    ]


def test_what_cannot_be_paid_steps_down_to_the_strongest_that_can() -> None:
    plan = planned(REASONING, remaining=50_000_000)

    assert order(plan) == ["medium", "small", "large"]
    assert "large could cost $0.10, more than is left" in plan.reason


def test_when_nothing_can_be_paid_the_cheapest_is_tried_and_none_is_dropped() -> None:
    plan = planned(REASONING, remaining=10)

    assert order(plan) == ["small", "medium", "large"]
    assert "what is left pays for none" in plan.reason


def test_with_a_limit_an_unknown_price_comes_after_a_known_one() -> None:
    plan = planned(REASONING, remaining=USD, small=1, medium=1, large=None)

    assert order(plan)[-1] == "large"
    assert "the price of large is not known" in plan.reason


def test_without_a_limit_an_unknown_price_is_no_matter() -> None:
    assert planned(REASONING, small=1, medium=1, large=None).tier == "reasoning"


def test_a_context_window_that_is_too_small_goes_out() -> None:
    pool = {"small": candidate("small", window=8_000), "medium": candidate("medium", window=128_000)}

    plan = route(SIMPLE, AUTO, pool, Health(), Situation(0.0, tokens=9_000))

    assert order(plan) == ["medium"]
    assert "9,000 tokens do not fit" in plan.reason


def test_when_no_context_window_is_large_enough_the_largest_is_kept() -> None:
    pool = {"small": candidate("small", window=8_000), "medium": candidate("medium", window=128_000)}

    assert order(route(SIMPLE, AUTO, pool, Health(), Situation(0.0, tokens=200_000))) == ["medium"]


def test_an_alias_whose_deployments_may_not_be_used_is_an_error() -> None:
    with pytest.raises(NoDeployment) as raised:
        route(SIMPLE, AUTO, {"other": candidate("other")}, Health(), Situation(0.0))

    assert raised.value.alias == "auto"


def test_a_tier_without_a_usable_deployment_is_stepped_over() -> None:
    assert planned(REASONING, small=1, medium=2).tier == "standard"


@pytest.mark.parametrize(
    ("names", "default", "expected"),
    [
        (("only",), "only", ("only", "only", "only")),
        (("cheap", "strong"), "cheap", ("cheap", "cheap", "strong")),
        (("cheap", "strong"), "strong", ("cheap", "strong", "strong")),
        (("a", "b", "c", "d"), "gone", ("a", "b", "d")),
        (("reasoning", "standard", "simple"), "standard", ("simple", "standard", "reasoning")),
        (("tiny", "reasoning", "huge"), "tiny", ("tiny", "tiny", "reasoning")),
    ],
)
def test_complexity_finds_its_tier_by_name_or_by_place(
    names: tuple[str, ...], default: str, expected: tuple[str, str, str]
) -> None:
    alias = Alias("any", tuple(Tier(name, (name,)) for name in names), default)
    complexities: tuple[Complexity, ...] = ("simple", "standard", "reasoning")

    assert tuple(tier_for(complexity, alias).name for complexity in complexities) == expected


def test_no_evidence_goes_to_the_default_tier_and_says_so() -> None:
    alias = Alias("auto", AUTO.tiers, default="reasoning")

    plan = planned(UNKNOWN, alias=alias)

    assert plan.tier == "reasoning"
    assert plan.reason == "no evidence of difficulty: it only says to go on → reasoning tier, large"


@pytest.mark.parametrize(("quality", "tier"), [(0.0, "simple"), (0.5, "standard"), (1.0, "reasoning")])
def test_quality_moves_the_threshold(quality: float, tier: str) -> None:
    plan = planned(STANDARD, alias=Alias("auto", AUTO.tiers, "standard", quality))

    assert plan.tier == tier
    assert ("moved by quality" in plan.reason) == (quality != 0.5)


def test_quality_does_not_move_what_is_unknown() -> None:
    assert planned(UNKNOWN, alias=Alias("auto", AUTO.tiers, "standard", 1.0)).tier == "standard"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_more_quality_never_lowers_a_score(score: float, one: float, other: float) -> None:
    low, high = sorted((one, other))

    assert 0.0 <= weighed(score, low) <= weighed(score, high) + 1e-12 <= 1.0 + 1e-9
    assert weighed(score, 0.5) == pytest.approx(score)


def test_the_reason_is_a_sentence() -> None:
    plan = planned(REASONING, remaining=4_200_000_000)

    assert plan.reason == "requires reasoning: asks for a proof, three constraints → reasoning tier, large; $4.20 left"


def test_the_reason_tells_that_money_is_scarce() -> None:
    assert planned(SIMPLE, remaining=50_000_000).reason == (
        "simple: a short question of fact → the cheapest, small; only $0.05 left"
    )


def test_the_reason_does_not_call_cheapest_what_only_stands_in_for_it() -> None:
    plan = route(SIMPLE, AUTO, priced(), ill("small"), Situation(1.0, remaining=50_000_000))

    assert "→ standard tier, medium; small is cooling down; only $0.05 left" in plan.reason


def test_a_model_asked_for_by_name_is_the_whole_plan() -> None:
    plan = by_name(candidate("small"))

    assert order(plan) == ["small"]
    assert (plan.tier, plan.reason, plan.alternative) == (None, "asked for by name", None)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(4_200_000_000, "$4.20"), (0, "$0.00"), (10_000_000, "$0.01"), (1_340_000, "$0.0013"), (1, "$0.000000001")],
)
def test_small_amounts_stay_readable(nano: int, text: str) -> None:
    assert dollars(nano) == text


profiles = st.sampled_from([None, SIMPLE, STANDARD, REASONING, UNKNOWN])


@given(
    profile=profiles,
    tiers=st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=5),
    costs=st.dictionaries(st.sampled_from("abcdef"), st.none() | st.integers(0, USD)),
    windows=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000)),
    sick=st.sets(st.sampled_from("abcdef")),
    remaining=st.none() | st.integers(0, USD),
    tokens=st.integers(0, 20_000),
    quality=st.floats(0, 1),
)
def test_a_plan_is_never_empty_and_never_names_a_deployment_twice(
    *,
    profile: TaskProfile | None,
    tiers: list[set[str]],
    costs: dict[str, int | None],
    windows: dict[str, int],
    sick: set[str],
    remaining: int | None,
    tokens: int,
    quality: float,
) -> None:
    alias = Alias("any", tuple(Tier(str(n), tuple(sorted(t)), "weighted") for n, t in enumerate(tiers)), "0", quality)
    pool = {name: candidate(name, costs.get(name, 1), windows.get(name)) for name in set().union(*tiers)}

    plan = route(profile, alias, pool, ill(*sick), Situation(1.0, remaining, tokens, Random(1).random))

    assert plan.candidates
    assert len(set(order(plan))) == len(plan.candidates)
    assert plan.tier in {tier.name for tier in alias.tiers}
    assert order(plan)[0] in plan.reason
    payable = [c for c in plan.candidates if c.expected_cost is not None and c.expected_cost <= (remaining or 0)]
    if remaining is not None and payable:
        assert plan.candidates[0] in payable
