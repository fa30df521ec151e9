from pathlib import Path
from typing import Any

import pytest

from budgets.price_book import PriceBook
from gateway.catalog import Catalog, Target
from gateway.errors import ModelNotFound
from gateway.settings import Settings
from routing.deployment import Alias

OPENAI = {"kind": "openai", "base_url": "https://api.openai.com/v1", "api_key": "sk-openai-canary-0123456789"}
LOCAL = {"kind": "openai", "base_url": "http://127.0.0.1:8801/v1"}
TOYS = {"kind": "sandbox", "base_url": "http://127.0.0.1:9/v1", "api_key": "token"}
MODELS: dict[str, dict[str, Any]] = {
    "mini": {"provider": "openai", "model": "gpt-4o-mini"},
    "own": {"provider": "local", "model": "smollm2", "price": {"input": "1", "output": "2"}, "weight": 3},
    "mystery": {"provider": "local", "model": "nobody-knows-this-one"},
    "toy": {"provider": "toys", "model": "sandbox-small", "price": {"input": "0.1", "output": "0.4"}},
}
ROUTES = {"auto": {"tiers": {"simple": ["own", "mini"], "standard": ["mini"], "reasoning": ["toy"]}}}


@pytest.fixture(scope="module")
def prices() -> PriceBook:
    return PriceBook.load()


def catalog(prices: PriceBook, **sections: Any) -> Catalog:
    values = {"providers": {"openai": OPENAI, "local": LOCAL, "toys": TOYS}, "models": MODELS, "routes": ROUTES}
    return Catalog(Settings(data_dir=Path("unused"), **{**values, **sections}), prices)


def target(prices: PriceBook, name: str, **sections: Any) -> Target:
    return catalog(prices, **sections).targets[name]


def test_a_target_knows_where_to_go_and_with_which_credential(prices: PriceBook) -> None:
    mini, own = target(prices, "mini"), target(prices, "own")

    assert (mini.url, mini.headers["authorization"]) == ("https://api.openai.com/v1", f"Bearer {OPENAI['api_key']}")
    assert (own.url, "authorization" in own.headers) == ("http://127.0.0.1:8801/v1", False)


def test_what_the_price_book_knows_is_taken_from_it(prices: PriceBook) -> None:
    mini = target(prices, "mini")
    facts = prices.find("openai", "gpt-4o-mini")

    assert facts is not None
    assert (mini.price, mini.encoding) == (facts.price, facts.encoding)
    assert (mini.max_output_tokens, mini.deployment.context_window) == (facts.max_output_tokens, facts.max_input_tokens)


def test_openais_prices_hold_at_openais_address_whatever_the_provider_is_called(prices: PriceBook) -> None:
    models = {"m": {"provider": "work", "model": "gpt-4o-mini"}}

    assert target(prices, "m", providers={"work": OPENAI}, models=models, routes={}).price is not None
    assert target(prices, "m", providers={"work": LOCAL}, models=models, routes={}).price is None


def test_what_the_configuration_says_wins_over_the_book(prices: PriceBook) -> None:
    own = {
        "price": {"input": "7", "output": "8"},
        "context_window": 5,
        "max_output_tokens": 4,
        "encoding": "cl100k_base",
    }

    mini = target(prices, "mini", models={**MODELS, "mini": {**MODELS["mini"], **own}})

    assert mini.price is not None
    assert mini.price.standard[0].rates.input == 7_000_000
    assert (mini.deployment.context_window, mini.max_output_tokens, mini.encoding) == (5, 4, "cl100k_base")


def test_an_unknown_price_is_none_and_not_zero(prices: PriceBook) -> None:
    assert target(prices, "mystery").price is None


def test_only_openai_itself_is_sent_the_new_spelling_of_the_output_cap(prices: PriceBook) -> None:
    spellings = {name: each.cap_field for name, each in catalog(prices).targets.items()}

    assert spellings == {
        "mini": "max_completion_tokens",
        "own": "max_tokens",
        "mystery": "max_tokens",
        "toy": "max_tokens",
    }


def test_only_the_sandbox_hears_of_keys(prices: PriceBook) -> None:
    assert [name for name, each in catalog(prices).targets.items() if each.tells_keys] == ["toy"]


def test_a_provider_that_bills_what_it_delivered_may_be_held_in_instalments(prices: PriceBook) -> None:
    cut = {**LOCAL, "on_disconnect": "abort", "instalment": 500}

    targets = catalog(prices, providers={"openai": OPENAI, "local": cut, "toys": TOYS}).targets

    assert (targets["own"].drains, targets["own"].instalment) == (False, 500)
    assert (targets["mini"].drains, targets["mini"].instalment) == (True, None)


def test_a_target_does_not_show_its_credential(prices: PriceBook) -> None:
    assert "canary" not in f"{target(prices, 'mini')!r} {[target(prices, 'mini')]}"


def test_names_are_found(prices: PriceBook) -> None:
    found = catalog(prices)

    assert found.names == ("auto", "mini", "own", "mystery", "toy")
    alias, model = found.find("auto"), found.find("own")
    assert isinstance(alias, Alias)
    assert isinstance(model, Target)
    assert (model.deployment.id, model.deployment.model, model.deployment.weight) == ("own", "smollm2", 3)


@pytest.mark.parametrize("name", ["", "AUTO", "smollm2", "auto ", "mini/own"])
def test_other_names_are_not_found(prices: PriceBook, name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalog(prices).find(name)

    assert (caught.value.model, caught.value.known) == (name, catalog(prices).names)


def test_an_alias_has_each_of_its_members_once_the_cheapest_tier_first(prices: PriceBook) -> None:
    found = catalog(prices)

    assert [member.deployment.id for member in found.members(found.aliases["auto"])] == ["own", "mini", "toy"]


def test_savings_are_measured_against_the_strongest_tier(prices: PriceBook) -> None:
    found = catalog(prices)

    assert found.baseline(found.aliases["auto"]).deployment.id == "toy"
