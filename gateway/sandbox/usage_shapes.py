"""The usage of an answer as it is written on the wire: as it is, left out, or absurd on demand.

huge       10^18 tokens of output        cached     more cached tokens than there are in the prompt
negative   fewer than none               reasoning  more reasoning tokens than there are in the answer
bool       `true` tokens                 total      a total that is not the sum
text       a number in quotes            nan        `NaN`, which is not even JSON
"""

from collections.abc import Callable
from typing import Any

import orjson

from gateway.sandbox.models import Usage

HONEST = "honest"
NONE = "none"


def _cached(usage: Usage) -> dict[str, Any]:
    return {"prompt_tokens_details": {"cached_tokens": usage.input_tokens + 1}}


def _reasoning(usage: Usage) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": usage.output_tokens + 1}}


ABSURDITIES: dict[str, Callable[[Usage], dict[str, Any]]] = {
    "huge": lambda usage: {"completion_tokens": 10**18, "total_tokens": usage.input_tokens + 10**18},
    "negative": lambda usage: {"completion_tokens": -usage.output_tokens},
    "bool": lambda usage: {"completion_tokens": True},
    "text": lambda usage: {"completion_tokens": str(usage.output_tokens)},
    "nan": lambda usage: {"completion_tokens": orjson.Fragment(b"NaN")},
    "cached": _cached,
    "reasoning": _reasoning,
    "total": lambda usage: {"total_tokens": usage.input_tokens + usage.output_tokens + 1},
}
"""By kind: the fields of the written usage that lie."""


def usage_shape(usage: Usage, kind: str) -> dict[str, Any] | None:
    """`usage` in OpenAI's shape; with one of `ABSURDITIES` as `kind` a lie, with `NONE` nothing at all."""
    if kind == NONE:
        return None
    shape = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    return shape if kind == HONEST else shape | ABSURDITIES[kind](usage)
