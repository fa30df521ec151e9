"""The most a request can cost, before it is sent: what a hold must cover. Pure, on the parsed request."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from budgets.money import NanoUSD
from budgets.pricing import Price, Rates, Tariff, nano

REQUEST_OVERHEAD = 128
"""Tokens a chat template may add to any request: start, reply priming, a built-in system prompt or date."""
MESSAGE_OVERHEAD = 8
TOOLS_OVERHEAD = 1_024
"""Tokens of the system prompt that providers add to a request with tools (Anthropic documents up to 804)."""

TOKENS_PER_MESSAGE, TOKENS_PER_NAME, REPLY_PRIMING = 3, 1, 3
TOKENS_PER_TOOL = 24
COUNT_MARGIN = 20
"""What `counted_bound` adds: one token in so many."""

DEAREST_IMAGE = 48_169
"""Tokens: a base of 2,833 and eight tiles of 5,667, as gpt-4o-mini bills them; no documented rule comes to more."""
IMAGE_TOKENS = (
    ("gpt-4o-mini", 2_833, DEAREST_IMAGE),
    ("gpt-4o", 85, 1_445),
    ("gpt-4.1", 25_000, 25_000),
    ("gpt-5", 25_000, 25_000),
)
"""The most one image costs by the model's prefix, at detail `low` and else: by tiles of 512 pixels (gpt-4o), or 10,000
patches of 32 pixels at the dearest known multiplier, 2.46, whatever the detail."""

TEXT_PARTS = ("text", "refusal")
OWN_TOOLS = ("function", "custom")
"""Tools that the caller runs; every other kind is run, and billed, by the provider."""
UNBOUNDED_FIELDS = frozenset(
    {
        "web_search_options",
        "search_parameters",
        "plugins",
        "enable_search",
        "prediction",
        "inference_geo",
        "speed",
        "models",
        "route",
        "best_of",
        "n_predict",
        "num_predict",
        "options",
        "max_new_tokens",
        "max_length",
        "max_output_tokens",
        "min_tokens",
        "min_length",
        "min_new_tokens",
        "min_completion_tokens",
        "extra_body",
        "provider",
        "providerOptions",
    }
)
"""Fields that make some upstream bill what no price of ours covers: searches, rejected predictions, surcharges; other
models; more answers or more tokens than the output cap (`n_predict` of llama.cpp, `num_predict` of Ollama, …)."""
PRICED_FIELDS = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "n", "stream_options", "service_tier", "modalities"}
)
"""What the hold rests on: some upstreams read a field's name in any case, so a twin could say something else."""
CHEAPER_TIERS = frozenset({"flex", "batch"})


@dataclass(slots=True)
class Bounds:
    """The most one attempt can use. `output_tokens` is for each of its `n` answers."""

    input_tokens: int
    output_tokens: int
    n: int = 1
    service_tier: str | None = None
    """The tier that was asked for; the standard one may be given in its place."""
    audio: bool = True
    """Whether sound may come in or go out (`uses_audio`)."""


def worst_case(price: Price, bounds: Bounds) -> NanoUSD:
    """The dearest cost an attempt within `bounds` can reach: no usage within them costs more.

    Every input token is taken at the dearest input class, every output token at the dearest output class, at the
    dearest step of long context that so many input tokens can reach, in the standard tier or the one asked for.
    """
    tariffs = price.tariffs(bounds.service_tier)
    if tariffs[0] is not price.standard:
        tariffs = (price.standard, *tariffs)
    pico = max([_dearest(rates, bounds) for tariff in tariffs for rates in _reachable(tariff, bounds.input_tokens)])
    return nano(pico + price.request)


def _reachable(tariff: Tariff, input_tokens: int) -> list[Rates]:
    return [step.rates for step in tariff if step.above < input_tokens]


def _dearest(rates: Rates, bounds: Bounds) -> int:
    output_tokens = bounds.output_tokens * bounds.n
    return bounds.input_tokens * rates.dearest_input(audio=bounds.audio) + output_tokens * rates.dearest_output(
        audio=bounds.audio
    )


def input_bound(body: Mapping[str, Any], size_bytes: int, model: str, window: int | None) -> int | None:
    """The most input tokens the request can have; cheap, and never too few.

    No tokenizer makes more tokens than bytes of text, and the JSON around a text is longer than what a chat
    template puts in its place, so the size of the body as it is sent (`size_bytes`) bounds its text. Images in it
    are counted by table instead. Sound, files and video have no such bound: then it is the model's context window
    (`window`, tokens), which no provider lets a prompt exceed; None where that is not known either.
    """
    messages = _list(body.get("messages"))
    overhead = REQUEST_OVERHEAD + MESSAGE_OVERHEAD * len(messages) + (TOOLS_OVERHEAD if body.get("tools") else 0)
    tokens = size_bytes + overhead
    for part in _parts(body):
        kind = part.get("type")
        if kind == "image_url":
            tokens += _image_tokens(part, model) - _inline_bytes(part)
        elif kind not in TEXT_PARTS:
            return window
    return tokens


def counted_bound(body: Mapping[str, Any], text_tokens: int, model: str) -> int | None:
    """The most input tokens of a request whose `texts` have so many; tighter than `input_bound`, by the tokenizer.

    The chat template's share is OpenAI's own rule for its models (cookbook, "How to count tokens with tiktoken": three
    a message, one a name, three to prime the reply); it renders tools shorter than their JSON, yet frames each. A
    twentieth on top covers what that rule leaves out. None where something in the request cannot be counted.
    """
    messages = _dicts(body.get("messages"))
    tools = [*_list(body.get("tools")), *_list(body.get("functions"))]
    tokens = text_tokens + REPLY_PRIMING + TOKENS_PER_MESSAGE * len(messages)
    tokens += sum(TOKENS_PER_NAME for message in messages if "name" in message)
    tokens += TOKENS_PER_TOOL * len(tools)
    tokens += -(-tokens // COUNT_MARGIN)
    for part in _parts(body):
        kind = part.get("type")
        if kind == "image_url":
            tokens += _image_tokens(part, model)
        elif kind not in TEXT_PARTS:
            return None
    return tokens


def texts(body: Mapping[str, Any]) -> list[str]:
    """Everything in the request that a tokenizer sees, structure included as its JSON; images left out."""
    found = [_json(value) for name, value in body.items() if name not in {"messages", "model", "stream"}]
    for message in _dicts(body.get("messages")):
        found += [_text(value) for name, value in message.items() if name != "content" or not isinstance(value, list)]
    found += [_text(part.get(str(part.get("type")))) for part in _parts(body) if part.get("type") in TEXT_PARTS]
    return found


def uses_audio(body: Mapping[str, Any]) -> bool:
    """Whether the request sends sound or asks for it."""
    return "audio" in _list(body.get("modalities")) or any(part.get("type") == "input_audio" for part in _parts(body))


def unpriceable(body: Mapping[str, Any], price: Price) -> str | None:
    """The field of the request whose cost `price` does not bound, None where there is none.

    A caller with a cap is refused such a request: what the provider's own tools, searches and the like will cost is
    known only when the bill comes.
    """
    for name, value in body.items():
        if name in PRICED_FIELDS:
            continue
        if name.lower() in PRICED_FIELDS or (name in UNBOUNDED_FIELDS and value is not None and value is not False):
            return name
    if any(tool.get("type") not in OWN_TOOLS for tool in _dicts(body.get("tools"))):
        return "tools"
    if body.get("modalities") and not _modalities_priced(_list(body["modalities"]), price):
        return "modalities"
    return None if _tier_priced(body.get("service_tier"), price) else "service_tier"


def _modalities_priced(modalities: list[Any], price: Price) -> bool:
    """Text always is; sound where it has a price of its own, for nobody sells it at that of text; nothing else."""
    sound = all(step.rates.audio_output > step.rates.output for step in price.standard)
    return all(kind == "text" or (kind == "audio" and sound) for kind in modalities)


def _tier_priced(service_tier: object, price: Price) -> bool:
    """A tier without a price of its own is covered by the standard one only where it is a discount."""
    if service_tier is None:
        return True
    return isinstance(service_tier, str) and (service_tier in CHEAPER_TIERS or price.tariff(service_tier) is not None)


def _image_tokens(part: Mapping[str, Any], model: str) -> int:
    image = part.get("image_url")
    low = isinstance(image, dict) and image.get("detail") == "low"
    for prefix, at_low, else_ in IMAGE_TOKENS:
        if model.startswith(prefix):
            return at_low if low else else_
    return DEAREST_IMAGE


def _inline_bytes(part: Mapping[str, Any]) -> int:
    """The length of an image that is sent inside the request: base64, so a byte a character."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    return len(url) if isinstance(url, str) and url.startswith("data:") and url.isascii() else 0


def _parts(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The content parts of all messages whose content is not plain text."""
    contents = [message.get("content") for message in _dicts(body.get("messages"))]
    return [part for content in contents if isinstance(content, list) for part in _dicts(content)]


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
