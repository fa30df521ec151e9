from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox import tokens


@given(st.text())
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(tokens.pieces(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_never_has_more_tokens_than_bytes(text: str) -> None:
    assert tokens.count(text) == len(tokens.pieces(text)) <= len(text.encode())


def test_short_words_are_one_token_each_and_long_ones_several() -> None:
    assert tokens.pieces("a small  question") == ["a", " small", "  question"]
    assert tokens.count("incomprehensibilities") == 3
    assert tokens.count("") == 0
