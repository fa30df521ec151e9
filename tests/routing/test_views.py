"""A text told apart: what is asked, and what was pasted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.lexicon import Lexicon
from routing.views import CLIP, Splitter, clipped, without_boilerplate

LETTER = """Dear Ms Okoro,

the parcel you sent on Monday has arrived, but two of the six cups were broken. I have kept the wrapping in case the
carrier wants to see it, and I would be glad to hear from you how we should proceed.

Kind regards,
Milan"""
CODE = "def area(w, h):\n    return w * h\n\nprint(area(2, 3))"
CONSTRAINTS = """- at most three hours a day
- no flights
- 3,500 euros for everything, trains included
- one rest day in the middle of the week"""


@pytest.fixture(scope="module")
def splitter() -> Splitter:
    return Splitter(Lexicon())


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        (f"Make this friendlier:\n\n{LETTER}", "Make this friendlier:"),
        (f"{LETTER}\n\nWhat is this letter about?", "What is this letter about?"),
        (f"Who wrote this?\n```python\n{CODE}\n```", "Who wrote this?"),
        (f"{CODE}\n\nDoes it work?", "Does it work?"),
        ("Translate to French: where is the station", "Translate to French"),
        (f'Is this rude? "{LETTER.splitlines()[2]}"', "Is this rude?"),
        ("Sort this:\npear\napple\nfig", "Sort this:"),
        ("Translate to Polish: Why does the pump stop?", "Translate to Polish"),
        ('Language of this sentence? "Onde fica a praia?"', "Language of this sentence?"),
    ],
)
def test_pasted_text_is_set_aside(splitter: Splitter, text: str, instruction: str) -> None:
    views = splitter.views(text)

    assert views.instruction == instruction
    assert views.payload


@pytest.mark.parametrize(
    "text",
    [
        "Refactor the module: propose the seams and the order of steps.",
        f"Plan a trip through Portugal for five.\n\n{CONSTRAINTS}",
        "We sold the shop last year and the buyer has not paid yet.\n\nWhat can we do?",
        "Find the bug: the loop never ends when the list is empty. Why, and which input breaks the fix?",
        'Who said "I came, I saw, I conquered"?',
        "",
        "hello",
    ],
)
def test_what_belongs_to_the_request_stays(splitter: Splitter, text: str) -> None:
    views = splitter.views(text)

    assert views.instruction == text
    assert views.payload == ""


def test_pasted_code_is_known_as_code(splitter: Splitter) -> None:
    assert splitter.views(f"What does it do?\n\n{CODE}").code
    assert not splitter.views(f"What does it say?\n\n{LETTER}").code


def test_what_agents_add_is_taken_away() -> None:
    text = "<system-reminder>Prove it.</system-reminder>\nhello<environment_details>\ncwd: x\n</environment_details>"

    assert without_boilerplate(text) == "hello"


def test_a_list_of_tools_is_taken_away(splitter: Splitter) -> None:
    text = "You have the following tools at hand:\n- prove: proves\n- design: designs\nsay hello"

    assert splitter.views(text).instruction == "say hello"


def test_a_tag_around_the_users_own_words_does_not_hide_them() -> None:
    assert "hello" in without_boilerplate("<user_query>hello</user_query>")


def test_a_tag_that_is_never_closed_hides_nothing() -> None:
    assert without_boilerplate("<system-reminder> hello") == "<system-reminder> hello"


def test_a_long_text_keeps_its_two_ends() -> None:
    text = "a" * CLIP + "b" * 1000 + "c" * CLIP

    assert clipped(text) == f"{'a' * CLIP}\n\n{'c' * CLIP}"
    assert clipped("short") == "short"


@given(st.text(alphabet='ab:?\n "`<>/-{};=1.,', max_size=400))
def test_any_text_can_be_split(text: str) -> None:
    views = Splitter(Lexicon()).views(text)

    assert len(views.instruction) + len(views.payload) <= len(text) + 10


@pytest.mark.parametrize("piece", ["<a-b>", '"""', "```", '"', "available tools ", "w", "x.", "a(", "- ", "{ ", "\n"])
def test_a_megabyte_of_anything_is_split(splitter: Splitter, piece: str) -> None:
    assert len(splitter.views(piece * (1_000_000 // len(piece))).instruction) <= 2 * CLIP + 2
