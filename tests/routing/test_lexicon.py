"""Words and phrases looked up in their classes."""

from routing.lexicon import Lexicon, words_of


def test_a_stem_stands_for_every_word_that_begins_so() -> None:
    assert Lexicon().classes(["translating"]) == [["transform"]]


def test_a_phrase_is_found_where_it_begins_and_once() -> None:
    assert [("prove" in found) for found in Lexicon().classes(words_of("now show that"))] == [False, True, False]


def test_a_verb_of_editing_is_no_request_when_it_is_used_as_a_noun() -> None:
    assert Lexicon().lead("sort these") == {"transform"}
    assert Lexicon().lead("my sort is wrong") == frozenset()


def test_the_last_word_counts_once() -> None:
    assert Lexicon().classes(["must"]) == [["limit"]]


def test_the_lead_is_the_first_operation() -> None:
    assert Lexicon().lead("Could you please summarise this and then compare both?") == {"summarise"}
    assert Lexicon().lead("the green one") == frozenset()


def test_words_are_lower_case_with_their_apostrophes_hyphens_and_numbers() -> None:
    assert words_of("It's a Lock-free queue, 2.5 times") == ["it's", "a", "lock-free", "queue", "2.5", "times"]


def test_a_script_without_spaces_is_read_in_pairs() -> None:
    assert words_of("证明根号") == ["证明", "明根", "根号"]
    assert Lexicon().lead("证明根号二是无理数。") == {"prove"}
