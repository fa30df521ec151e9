"""What is served without a configuration file."""

import pytest

from budgets.price_book import PriceBook
from gateway.detection import WELL_KNOWN, WellKnown, detected, unspoken


def test_without_keys_the_sandbox_is_served() -> None:
    found = detected({"PATH": "/bin", "OPENAI_API_KEY": ""})

    assert found["providers"] == {"sandbox": {"kind": "sandbox"}}
    assert list(found["models"]) == ["sandbox-small", "sandbox-medium", "sandbox-large", "exact"]
    assert found["routes"]["auto"]["tiers"] == {
        "simple": ["sandbox-small"],
        "standard": ["sandbox-medium"],
        "reasoning": ["sandbox-large"],
    }


def test_openais_models_keep_their_names() -> None:
    found = detected({"OPENAI_API_KEY": "sk-1"})

    assert found["providers"] == {
        "openai": {"kind": "openai", "base_url": "https://api.openai.com/v1", "api_key": "sk-1"}
    }
    assert found["models"]["gpt-6-luna"] == {"provider": "openai", "model": "gpt-6-luna"}


def test_another_address_for_openai_is_respected() -> None:
    found = detected({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "GROQ_API_KEY": "g"})

    assert found["providers"]["openai"]["base_url"] == "http://127.0.0.1:9/v1"
    assert found["providers"]["groq"]["base_url"] == "https://api.groq.com/openai/v1"


def test_several_providers_share_the_tiers_in_the_tables_order() -> None:
    found = detected({"GROQ_API_KEY": "g", "OPENAI_API_KEY": "sk-1"})

    assert found["routes"]["auto"]["tiers"]["simple"] == ["gpt-6-luna", "groq/openai/gpt-oss-20b"]
    assert found["models"]["groq/openai/gpt-oss-20b"] == {"provider": "groq", "model": "openai/gpt-oss-20b"}


def test_every_model_has_a_price_in_the_book() -> None:
    book = PriceBook.load()

    found = detected({known.variable: "secret" for known in WELL_KNOWN})
    models = found["models"].values()
    assert [model for model in models if book.find(model["provider"], model["model"]) is None] == []


@pytest.mark.parametrize("known", WELL_KNOWN, ids=lambda known: known.name)
def test_every_provider_has_a_model_for_every_tier(known: WellKnown) -> None:
    found = detected({known.variable: "secret"})

    tiers = found["routes"]["auto"]["tiers"]
    assert list(tiers) == ["simple", "standard", "reasoning"]
    assert all(len(deployments) == 1 and deployments[0] in found["models"] for deployments in tiers.values())


def test_keys_that_are_of_no_use_yet_are_told() -> None:
    assert unspoken({"ANTHROPIC_API_KEY": "a"}, ["sandbox"]) == (
        "ANTHROPIC_API_KEY: this version does not speak to Anthropic yet; the sandbox is served instead"
    )
    assert unspoken({"GOOGLE_API_KEY": "g", "GEMINI_API_KEY": "g", "COHERE_API_KEY": "c"}, ["sandbox"]) == (
        "GEMINI_API_KEY and GOOGLE_API_KEY and COHERE_API_KEY: this version does not speak to Google and Cohere yet; "
        "the sandbox is served instead"
    )


@pytest.mark.parametrize(
    ("environ", "served"),
    [
        ({}, ["sandbox"]),
        ({"ANTHROPIC_API_KEY": ""}, ["sandbox"]),
        ({"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "sk-1"}, ["openai"]),
        ({"ANTHROPIC_API_KEY": "a"}, ["local"]),
        ({"ANTHROPIC_API_KEY": "a"}, ["local", "sandbox"]),
    ],
)
def test_nothing_is_told_where_the_sandbox_stands_in_for_nobody(environ: dict[str, str], served: list[str]) -> None:
    assert unspoken(environ, served) is None
