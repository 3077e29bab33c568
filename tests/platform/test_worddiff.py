from hypothesis import given
from hypothesis import strategies as st

from aligner.worddiff import Piece, word_diff

TEXTS = st.lists(
    st.sampled_from(["a", "river", "Aldara", ".", ",", " ", "\n", "é", "<b>", "1336"]), max_size=25
).map("".join)


@given(TEXTS | st.text(), TEXTS | st.text())
def test_the_pieces_give_both_texts_back_to_the_byte(answer: str, correction: str) -> None:
    pieces = word_diff(answer, correction)
    assert "".join(p.text for p in pieces if p.kind != "added") == answer
    assert "".join(p.text for p in pieces if p.kind != "removed") == correction
    assert all(piece.text for piece in pieces)


def test_a_replaced_word_is_one_change() -> None:
    assert word_diff("Founded in 1336.", "Founded in 1658.") == [
        Piece("same", "Founded in "),
        Piece("removed", "1336"),
        Piece("added", "1658"),
        Piece("same", "."),
    ]


def test_two_changed_words_in_a_row_are_one_change() -> None:
    assert word_diff("It is smoked duck.", "It is baked trout.") == [
        Piece("same", "It is "),
        Piece("removed", "smoked duck"),
        Piece("added", "baked trout"),
        Piece("same", "."),
    ]


def test_equal_texts_are_one_piece() -> None:
    assert word_diff("Same.", "Same.") == [Piece("same", "Same.")]
    assert word_diff("", "") == []
