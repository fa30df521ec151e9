"""In what order the deployments of a tier are tried."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from routing.deployment import Candidate, Deployment
from routing.strategies import STRATEGIES, cheapest, ordered, weighted


def candidate(name: str, weight: int = 1, cost: int | None = 1) -> Candidate:
    return Candidate(Deployment(name, "acme", name, weight=weight), cost)


def names(candidates: list[Candidate]) -> list[str]:
    return [candidate.deployment.id for candidate in candidates]


def test_ordered_keeps_the_configured_order() -> None:
    assert names(ordered([candidate("b"), candidate("a")], Random(1).random)) == ["b", "a"]


def test_the_first_place_is_drawn_by_weight() -> None:
    rng = Random(7)
    pool = [candidate("one", 1), candidate("three", 3), candidate("six", 6)]

    firsts = Counter(names(weighted(pool, rng.random))[0] for _ in range(5000))

    assert abs(firsts["one"] - 500) < 100
    assert abs(firsts["three"] - 1500) < 150
    assert abs(firsts["six"] - 3000) < 150


def test_the_second_place_is_drawn_by_weight_among_those_that_remain() -> None:
    rng = Random(7)
    pool = [candidate("one", 1), candidate("three", 3), candidate("six", 6)]

    orders = [names(weighted(pool, rng.random)) for _ in range(5000)]
    seconds = Counter(order[1] for order in orders if order[0] == "six")

    assert abs(seconds["three"] / seconds.total() - 0.75) < 0.04


def test_weight_zero_comes_last() -> None:
    rng = Random(3)

    assert all(names(weighted([candidate("off", 0), candidate("on")], rng.random))[-1] == "off" for _ in range(50))


def test_an_unknown_cost_is_not_a_low_one() -> None:
    assert names(cheapest([candidate("unknown", cost=None), candidate("dear", cost=9), candidate("free", cost=0)])) == [
        "free",
        "dear",
        "unknown",
    ]


@given(st.lists(st.integers(0, 20), max_size=8), st.randoms(use_true_random=False))
def test_no_strategy_loses_or_doubles_a_candidate(weights: list[int], rng: Random) -> None:
    pool = [candidate(str(place), weight) for place, weight in enumerate(weights)]

    for strategy in STRATEGIES.values():
        assert sorted(names(strategy(pool, rng.random))) == sorted(names(pool))
