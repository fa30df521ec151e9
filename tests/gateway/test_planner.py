import json
from typing import Any

import pytest

from budgets.price_book import PriceBook
from budgets.tokens import TokenCounter
from gateway.catalog import Catalog
from gateway.errors import ModelNotFound
from gateway.planner import Planner, expected_cost
from gateway.quotes import Quotes
from gateway.settings import LedgerSettings, Settings
from gateway.wire.chat import parse_request
from gateway.wire.request import ModelRequest
from routing.health import Health
from routing.retry import FailureKind

QUOTES = Quotes(LedgerSettings(output_cap=50), TokenCounter(None))
LOCAL = {"kind": "openai", "base_url": "http://127.0.0.1:8801/v1"}
HARD = "Prove rigorously, by strong induction, that every integer above one is a product of primes; discuss uniqueness."


def model(price: dict[str, str] | None, **fields: Any) -> dict[str, Any]:
    return {"provider": "acme", "model": "m", "price": price, **fields}


MODELS = {
    "small": model({"input": "0.10", "output": "0.40"}),
    "large": model({"input": "3", "output": "15"}),
    "mystery": model(None),
    "flat": model({"input": "0", "output": "0", "request": "0.001"}),
}
ROUTES = {
    "auto": {"tiers": {"simple": ["small"], "standard": ["small"], "reasoning": ["large"]}},
    "pair": {"tiers": {"standard": ["large", "small"]}},
}


def configured(models: Any, routes: Any) -> Settings:
    providers = {"acme": LOCAL}
    return Settings.model_validate({"data_dir": "unused", "providers": providers, "models": models, "routes": routes})


@pytest.fixture(scope="module")
def prices() -> PriceBook:
    return PriceBook.load()


@pytest.fixture
def planner(prices: PriceBook) -> Planner:
    settings = configured(MODELS, ROUTES)
    return Planner(Catalog(settings, prices), Health(), QUOTES, lambda: 1_000.0)


def asking(name: str, text: str = "Hi!", **fields: Any) -> ModelRequest:
    return parse_request(
        json.dumps({"model": name, "messages": [{"role": "user", "content": text}], **fields}).encode()
    )


def order(planner: Planner, request: ModelRequest, remaining: int | None = None) -> list[str]:
    return [candidate.deployment.id for candidate in planner.plan(request, remaining).plan.candidates]


def test_a_model_asked_for_by_name_is_the_only_candidate(planner: Planner) -> None:
    route = planner.plan(asking("large"), None)

    assert [candidate.deployment.id for candidate in route.plan.candidates] == ["large"]
    assert (route.alias, route.baseline, route.plan.tier) == (None, None, None)


def test_a_task_goes_to_the_tier_it_needs(planner: Planner) -> None:
    easy, hard = planner.plan(asking("auto", "Say hello."), None), planner.plan(asking("auto", HARD), None)

    assert easy.plan.candidates[0].deployment.id == "small"
    assert (hard.plan.candidates[0].deployment.id, hard.plan.tier) == ("large", "reasoning")
    assert hard.baseline is not None
    assert (hard.alias, hard.baseline.deployment.id) == ("auto", "large")


def test_what_cannot_be_paid_comes_last(planner: Planner) -> None:
    assert order(planner, asking("pair")) == ["large", "small"]
    assert order(planner, asking("pair"), remaining=1_000_000) == ["small", "large"]


def test_what_has_failed_comes_last(planner: Planner) -> None:
    planner.health.failed("large", FailureKind.DEPLOYMENT, 1_000.0)

    assert order(planner, asking("pair")) == ["small", "large"]


def test_a_context_that_is_too_small_is_left_out(prices: PriceBook) -> None:
    models = {**MODELS, "large": model({"input": "3", "output": "15"}, context_window=1_000)}
    settings = configured(models, ROUTES)
    planner = Planner(Catalog(settings, prices), Health(), QUOTES, lambda: 1_000.0)

    assert order(planner, asking("pair", "x" * 8_000)) == ["small"]
    assert order(planner, asking("pair", max_tokens=1_000)) == ["small"]
    assert order(planner, asking("pair")) == ["large", "small"]


def test_a_name_that_is_not_served_is_told_with_those_that_are(planner: Planner) -> None:
    with pytest.raises(ModelNotFound) as caught:
        planner.plan(asking("gpt-99"), None)

    assert caught.value.known == ("auto", "pair", "small", "large", "mystery", "flat")


def test_another_catalog_serves_from_the_next_request_on(planner: Planner, prices: PriceBook) -> None:
    before = planner.plan(asking("small"), None)
    settings = configured({"new": MODELS["small"]}, {})

    planner.catalog = Catalog(settings, prices)

    assert order(planner, asking("new")) == ["new"]
    with pytest.raises(ModelNotFound):
        planner.plan(asking("small"), None)
    assert before.targets["small"].deployment.id == "small"


def test_the_expected_cost_is_that_of_an_average_answer(planner: Planner) -> None:
    targets = planner.catalog.targets
    short, capped = asking("small", "x" * 4_000), asking("small", "x" * 4_000, max_tokens=10, n=2)

    assert expected_cost(short, targets["small"]) == short.size_bytes // 4 * 100 + 400 * 400
    assert expected_cost(capped, targets["small"]) == capped.size_bytes // 4 * 100 + 20 * 400
    assert expected_cost(short, targets["flat"]) == 1_000_000
    assert expected_cost(short, targets["mystery"]) is None
