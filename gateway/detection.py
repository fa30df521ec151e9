"""What is served when nobody configured it: providers whose API keys are in the environment, else the sandbox.

`detected()` answers what a configuration file would say, so nothing here is out of a file's reach. The table is short
on purpose: providers that speak OpenAI's dialect at a fixed address, whose models the price book knows. OpenRouter is
left out: the book has none of its prices, and a request of unknown cost is refused for every key with a limit.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

OPENAI_URL = "https://api.openai.com/v1"

SANDBOX_PRICES: dict[str, dict[str, str]] = {
    "sandbox-small": {"input": "0.10", "output": "0.40"},
    "sandbox-medium": {"input": "0.50", "output": "2"},
    "sandbox-large": {"input": "3", "output": "15", "cache_read": "0.30"},
    "exact": {"input": "0", "output": "0", "request": "0.001"},
}
"""USD per million tokens, and per request, of the models of a provider of kind `sandbox`."""


class WellKnown(NamedTuple):
    """A provider of kind `openai` and its models for simple, standard and reasoning tasks, by the provider's names."""

    name: str
    variable: str
    base_url: str
    simple: str
    standard: str
    reasoning: str


# Names are those of the price table. The order is the order of preference inside a tier.
WELL_KNOWN = (
    WellKnown("openai", "OPENAI_API_KEY", OPENAI_URL, "gpt-6-luna", "gpt-5.4-mini", "gpt-6-sol"),
    WellKnown(
        "mistral",
        "MISTRAL_API_KEY",
        "https://api.mistral.ai/v1",
        "mistral-small-latest",
        "mistral-large-latest",
        "magistral-medium-latest",
    ),
    WellKnown(
        "deepseek",
        "DEEPSEEK_API_KEY",
        "https://api.deepseek.com/v1",
        "deepseek-v4-flash",
        "deepseek-v4-flash",
        "deepseek-v4-pro",
    ),
    WellKnown("xai", "XAI_API_KEY", "https://api.x.ai/v1", "grok-4.3", "grok-4.3", "grok-4.7"),
    WellKnown(
        "groq",
        "GROQ_API_KEY",
        "https://api.groq.com/openai/v1",
        "openai/gpt-oss-20b",
        "openai/gpt-oss-120b",
        "openai/gpt-oss-120b",
    ),
    WellKnown(
        "together_ai",
        "TOGETHER_API_KEY",
        "https://api.together.xyz/v1",
        "Qwen/Qwen3.5-9B",
        "openai/gpt-oss-120b",
        "zai-org/GLM-5.3",
    ),
)

NOT_SPOKEN_YET = {
    "ANTHROPIC_API_KEY": "Anthropic",
    "GEMINI_API_KEY": "Google",
    "GOOGLE_API_KEY": "Google",
    "AZURE_OPENAI_API_KEY": "Azure",
    "COHERE_API_KEY": "Cohere",
}
"""Whose key is in which variable, of providers that need a dialect or an address of their own."""


def detected(environ: Mapping[str, str]) -> dict[str, Any]:
    """`providers`, `models` and `routes` for the API keys in `environ`; for none of them, those of the sandbox.

    Models of OpenAI keep their names, others are `<provider>/<model>`. The route `auto` goes from cheap to strong.
    """
    found = [known for known in WELL_KNOWN if environ.get(known.variable)]
    if not found:
        return sandbox()
    providers, models = {}, {}
    tiers: dict[str, list[str]] = {"simple": [], "standard": [], "reasoning": []}
    for known in found:
        base_url = environ.get("OPENAI_BASE_URL") if known.name == "openai" else None
        api_key = environ[known.variable]
        providers[known.name] = {"kind": "openai", "base_url": base_url or known.base_url, "api_key": api_key}
        for tier, deployments in tiers.items():
            model = getattr(known, tier)
            name = model if known.name == "openai" else f"{known.name}/{model}"
            models[name] = {"provider": known.name, "model": model}
            deployments.append(name)
    return {"providers": providers, "models": models, "routes": {"auto": {"tiers": tiers}}}


def unspoken(environ: Mapping[str, str], served: Collection[str]) -> str | None:
    """A line for whoever set an API key and gets the sandbox all the same; None where nobody needs it.

    `served` are the names of the providers served.
    """
    variables = [variable for variable in NOT_SPOKEN_YET if environ.get(variable)]
    if not variables or set(served) != {"sandbox"} or any(environ.get(known.variable) for known in WELL_KNOWN):
        return None
    providers = dict.fromkeys(NOT_SPOKEN_YET[variable] for variable in variables)
    why = f"this version does not speak to {' and '.join(providers)} yet"
    return f"{' and '.join(variables)}: {why}; the sandbox is served instead"


def sandbox() -> dict[str, Any]:
    """The sandbox provider with all of its models, and `auto` over the three that differ in strength."""
    return {
        "providers": {"sandbox": {"kind": "sandbox"}},
        "models": {name: {"provider": "sandbox", "model": name} for name in SANDBOX_PRICES},
        "routes": {
            "auto": {
                "tiers": {"simple": ["sandbox-small"], "standard": ["sandbox-medium"], "reasoning": ["sandbox-large"]}
            }
        },
    }
