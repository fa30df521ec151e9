"""Only what can be true is priced: case 22 of the failures that ledgers get wrong."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgets.errors import AbsurdUsage
from budgets.usage import Usage

COUNTS = [field.name for field in fields(Usage) if field.name.endswith("_tokens")]
GOOD = Usage(100, 50, 20, 30, 10, 40, 5, 6, "default")


def test_a_usage_within_its_bounds_is_accepted_as_it_is() -> None:
    assert GOOD.within(100, 50) is GOOD
    assert Usage(0, 0).within(0, 0) == Usage(0, 0)


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [-1, True, False, 1.0, "7", None, float("nan"), 10**18, [], {}])
def test_a_count_that_is_no_whole_number_in_bounds_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(AbsurdUsage) as caught:
        replace(GOOD, **{field: value}).within(100, 50)

    assert caught.value.field.split("_")[-2] == field.split("_")[-2]


@pytest.mark.parametrize(
    ("usage", "field"),
    [
        (Usage(101, 0), "input_tokens"),
        (Usage(0, 51), "output_tokens"),
        (Usage(10, 0, cache_read_input_tokens=11), "cache_read_input_tokens"),
        (Usage(10, 0, cache_read_input_tokens=6, cache_creation_input_tokens=5), "cache_read_input_tokens"),
        (Usage(10, 0, 0, 2, cache_creation_1h_input_tokens=3), "cache_creation_1h_input_tokens"),
        (Usage(10, 0, audio_input_tokens=11), "audio_input_tokens"),
        (Usage(0, 10, reasoning_output_tokens=11), "reasoning_output_tokens"),
        (Usage(0, 10, reasoning_output_tokens=6, audio_output_tokens=5), "reasoning_output_tokens"),
    ],
)
def test_a_part_above_its_total_is_refused(usage: Usage, field: str) -> None:
    with pytest.raises(AbsurdUsage) as caught:
        usage.within(100, 50)

    assert caught.value.field == field


def test_a_service_tier_that_is_no_text_is_refused() -> None:
    with pytest.raises(AbsurdUsage):
        replace(GOOD, service_tier=3).within(100, 50)  # type: ignore[arg-type]


def test_a_refusal_names_the_count_that_is_wrong_and_what_was_sent() -> None:
    for usage, field, value in (
        (Usage(0, -1), "output_tokens", -1),
        (Usage(101, 0), "input_tokens", 101),
        (Usage(0, 0, service_tier=3), "service_tier", 3),  # type: ignore[arg-type]
    ):
        with pytest.raises(AbsurdUsage) as caught:
            usage.within(100, 50)
        assert (caught.value.field, caught.value.value) == (field, value)


def test_what_a_provider_does_not_tell_is_nothing() -> None:
    assert Usage(1, 2) == Usage(1, 2, 0, 0, 0, 0, 0, 0, None)


JUNK = st.one_of(st.integers(), st.booleans(), st.floats(), st.text(max_size=3), st.none())


@settings(deadline=None)
@given(st.lists(JUNK, min_size=len(COUNTS), max_size=len(COUNTS)))
def test_whatever_an_upstream_sends_is_accepted_whole_or_refused_as_absurd(values: list[Any]) -> None:
    usage = Usage(*values)
    try:
        usage.within(1_000, 1_000)
    except AbsurdUsage:
        return
    assert all(type(getattr(usage, name)) is int and 0 <= getattr(usage, name) <= 1_000 for name in COUNTS)
