"""How difficult a request is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.task import REASONING_FROM, SIMPLE_BELOW, TaskText, complexity_of, profile

STORY = "The old harbour was rebuilt in four years, and the fish market moved into the northern hall in spring. " * 15


@pytest.mark.parametrize(
    "text",
    [
        "good morning!",
        "What is the longest river in Europe?",
        "Übersetze ins Englische: Wo ist der Bahnhof?",
        f"Translate this into Dutch.\n\n{STORY}",
        f"{STORY}\n\nHow many halls are mentioned in the text?",
        "Fix the spelling: I beleive we shoud go",
        "Write a short birthday message for my uncle.",
        "Draft a short email telling my landlord the sink is leaking",
        "Translate to German: Prove that the pump design is safe.",
    ],
)
def test_simple_however_long(text: str) -> None:
    assert profile(TaskText(text)).complexity == "simple"


@pytest.mark.parametrize(
    "text",
    [
        "Prove that log 2 is irrational.",
        "Design a booking system for 40 clinics that works offline and never books a room twice.",
        "Why does this deadlock only when three workers start at once, and what is the safest fix?",
        "Démontre que la racine de cinq est irrationnelle.",
        "Find the bug: this binary search loops forever when lo = hi-1. Why? Is there an input where the fix breaks?",
        "integrate x^2 e^{-x^2} from 0 to infinity",
        "Why does my regression's coefficient flip sign when I add a control variable?",
        "Compare leasing and buying for our six vans if we may move abroad in two years, and recommend one.",
    ],
)
def test_reasoning_however_short(text: str) -> None:
    judged = profile(TaskText(text))

    assert judged.complexity == "reasoning"
    assert judged.requires_reasoning
    assert judged.reasons


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Explain the difference between REST and GraphQL", "a usual explanation"),
        ("Write a SQL query for the top 5 customers by revenue last month", "a usual piece of code"),
        ("Write a product description for a bamboo toothbrush", "a usual piece of writing"),
        ("Pros and cons of wooden floors in a kitchen with two dogs?", "a usual comparison"),
    ],
)
def test_ordinary_work_lies_between_and_says_so(text: str, reason: str) -> None:
    judged = profile(TaskText(text))

    assert judged.complexity == "standard"
    assert judged.reasons[0] == reason


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (TaskText(""), "no text"),
        (TaskText("  \n "), "no text"),
        (TaskText("", images=1), "only an image"),
        (TaskText("continue"), "it only says to go on"),
        (TaskText("yes, do it"), "it only says to go on"),
        (TaskText("qwfp zxcv arst"), "nothing in it is understood"),
        (TaskText("```python\nx = 1\n```"), "a pasted text without a request"),
    ],
)
def test_without_evidence_it_is_unknown_and_says_what_is_missing(task: TaskText, reason: str) -> None:
    judged = profile(task)

    assert (judged.complexity, judged.requires_reasoning, judged.reasons) == ("unknown", False, (reason,))


def test_an_agents_reminder_does_not_make_a_greeting_difficult() -> None:
    reminder = "<system-reminder>Prove and design everything, without any race condition.</system-reminder>"

    assert profile(TaskText(f"{reminder}\nhello")).score == profile(TaskText("hello")).score


def test_a_small_output_cap_speaks_for_a_small_model_and_tools_against_it() -> None:
    text = "Compare these two offers and tell me which is better."
    score = profile(TaskText(text)).score

    assert profile(TaskText(text, output_cap=10)).score < score
    assert profile(TaskText(text, tools=("search", "read", "write"))).score > score


def test_the_bounds_belong_to_the_upper_class() -> None:
    assert complexity_of(SIMPLE_BELOW - 0.01) == "simple"
    assert complexity_of(SIMPLE_BELOW) == "standard"
    assert complexity_of(REASONING_FROM) == "reasoning"


@given(st.builds(TaskText, user=st.text(max_size=500), images=st.integers(0, 2), output_cap=st.none() | st.integers(1)))
def test_any_text_has_a_profile(task: TaskText) -> None:
    judged = profile(task)

    assert 0.0 < judged.score < 1.0
    assert judged.requires_reasoning == (judged.complexity == "reasoning")
    assert judged.complexity == "unknown" or judged.complexity == complexity_of(judged.score)
