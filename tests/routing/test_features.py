"""What can be seen in a text without understanding it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.features import NAMES, FeatureReader, counted

READER = FeatureReader()
LONG = "The ferry leaves at nine and the island has two cafés, a lighthouse and a long beach of white sand. " * 12


def test_a_pasted_text_adds_nothing_but_its_size() -> None:
    alone = READER.read("Summarise this in one sentence.")
    with_text = READER.read(f"Summarise this in one sentence.\n\n{LONG}")

    assert {name for name in with_text if with_text[name] != alone.get(name)} == {"payload", "payload_easy"}


def test_the_situation_is_told_apart_from_what_is_asked() -> None:
    features = READER.read("Yesterday the lamp fell down and it was very loud. What is the capital of Chad?")

    assert features["context"]
    assert features["bare_question"] == 1.0


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("Prove that 2 is even.", "lead:prove"),
        ("It must fit, without glue, at most 3 cm.", "has:limit"),
        ("Solve x^2 = 4 for x.", "maths_signs"),
        ("What does `ls -l` do?", "inline_code"),
        ("Is it raining?", "yes_no_question"),
        ("continue", "only_go_on"),
        ("```\nx = 1\n```", "no_request"),
        ("I passed the test today!", "no_ask"),
        ("Compare the two, then decide why the second fails.", "several_hard"),
        ("Why does the second worker hang?", "diagnosis"),
        ("It got slower but the load went down", "paradox"),
        ("Why do owls blink?", "curious_why"),
        ("npm ERR! code 128, how do I get past it?", "stock_error"),
        ("Explain how a sail works.", "plain_explanation"),
        ("Write a SQL query for all open orders.", "ordinary_code"),
        ("Write a cover letter for a cook.", "ordinary_writing"),
        ("Plan a picnic for six.", "ordinary_plan"),
        ("Pros and cons of wooden floors?", "ordinary_choice"),
        ("Solve 4x - 1 = 11.", "school_maths"),
        ("Is this right?\n```\nx = 1\n```", "code_question"),
    ],
)
def test_each_sign_is_seen(text: str, feature: str) -> None:
    assert READER.read(text).get(feature, 0.0) > 0


@pytest.mark.parametrize(
    "formula",
    ["x^2", "f(x)", "y'' + y", "E[max]", "\\sum_n", "A = [[1,2]]", "n!", "3x", "a -> b", "|x - y|", "sin x", "P(A)"],
)
def test_formulas_are_seen_as_they_are_typed(formula: str) -> None:
    assert READER.read(f"about {formula} please").get("maths_signs", 0.0) > 0


def test_an_edit_asked_for_is_not_one_that_is_spoken_of() -> None:
    assert "has:transform" in READER.read("Remove the commas.")
    assert "has:transform" not in READER.read("Why does it fail when I remove the commas?")
    assert "has:transform" not in READER.read("Write a function that removes commas and call it when you sort names.")


def test_in_a_usual_kind_of_work_other_signs_count_for_less() -> None:
    usual = {"ordinary_code": 1.0, "words": 1.0, "plain_and_short": 1.0}

    assert counted({"words": 1.0}) == {"words": 1.0}
    assert counted(usual)["ordinary_code"] == 1.0
    assert 0.0 < counted(usual)["words"] < 1.0
    assert counted(usual)["plain_and_short"] == 0.0


def test_going_on_with_something_named_is_a_request() -> None:
    assert "only_go_on" not in READER.read("continue with the proof")
    assert "only_go_on" not in READER.read("The pump is old. The tank leaks. Make it work.")


@given(st.text(max_size=300))
def test_features_are_small_positive_numbers(text: str) -> None:
    features = READER.read(text)

    assert all(0 < value < 10 for value in features.values())
    assert features.keys() <= {*NAMES, "no_request", "only_go_on", "has:go_on"}
