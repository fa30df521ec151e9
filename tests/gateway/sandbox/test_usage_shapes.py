import json
import math

import orjson
import pytest

from gateway.sandbox.models import Usage
from gateway.sandbox.usage_shapes import ABSURDITIES, HONEST, NONE, usage_shape

USAGE = Usage(100, 40, cached_input_tokens=30, reasoning_tokens=20)


def test_an_honest_usage_has_its_parts_inside_its_totals() -> None:
    assert usage_shape(USAGE, HONEST) == {
        "prompt_tokens": 100,
        "completion_tokens": 40,
        "total_tokens": 140,
        "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 20,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_a_usage_can_be_left_out() -> None:
    assert usage_shape(USAGE, NONE) is None


@pytest.mark.parametrize("kind", ABSURDITIES)
def test_an_absurd_usage_differs_from_the_honest_one(kind: str) -> None:
    absurd = usage_shape(USAGE, kind)

    assert orjson.dumps(absurd) != orjson.dumps(usage_shape(USAGE, HONEST))
    assert absurd is not None
    assert absurd["prompt_tokens"] == 100


def test_a_nan_is_written_though_json_has_none() -> None:
    written = orjson.dumps(usage_shape(USAGE, "nan"))
    assert math.isnan(json.loads(written)["completion_tokens"])
