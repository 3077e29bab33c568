"""How tokens become the pieces of a correction; ``test_engine_serving.py`` has real engines."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.prompt import PLAIN
from aligner_serve.corrector import correction_of
from aligner_serve.engines import Decoded
from aligner_serve.pieces import (
    NOTHING_SAVED,
    Delta,
    Failed,
    Finished,
    Piece,
    Savings,
    Usage,
)

EOS = 256
PIECES = st.sampled_from(["a", " ", "#", ":", "\\", "真", "🙂", "\n", "##Answer:", "#\\#Answer:"])
ANSWERS = st.lists(PIECES, max_size=12).map("".join)


class Bytes:
    """A tokenizer whose tokens are bytes."""

    bos_token_id = None
    eos_token_id = EOS

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


def pieces_of(*chunks: Decoded | Failed, looked: Savings = NOTHING_SAVED) -> list[Piece]:
    async def decoded() -> AsyncGenerator[Decoded | Failed]:
        for chunk in chunks:
            yield chunk

    async def read() -> list[Piece]:
        pieces = correction_of(
            decoded(),
            tokenizer=Bytes(),
            frame=PLAIN.frame,
            version="v",
            prompt_tokens=7,
            looked=looked,
        )
        return [piece async for piece in pieces]

    return asyncio.run(read())


def one_by_one(text: str, *, finish: str = "stop") -> list[Decoded]:
    ids = [*Bytes().encode(text), EOS]
    return [Decoded([i], "", finish if at == len(ids) - 1 else None) for at, i in enumerate(ids)]


@given(text=ANSWERS)
def test_what_was_trained_on_comes_out_however_it_is_cut(text: str) -> None:
    written = PLAIN.frame.escape(text)
    *deltas, last = pieces_of(*one_by_one(written))
    assert "".join(piece.text for piece in deltas if isinstance(piece, Delta)) == text
    assert isinstance(last, Finished)
    assert (last.usage, last.by) == (Usage(7, len(written.encode())), "v")
    # The end is decoded, too.
    assert last.savings.decoded_tokens == len(written.encode()) + 1


@given(text=ANSWERS, part=st.floats(0, 1))
def test_what_an_answer_lends_counts_as_written_but_not_as_decoded(text: str, part: float) -> None:
    tokens = one_by_one(PLAIN.frame.escape(text))
    cut = int(part * (len(tokens) - 1))
    begun = Decoded([i for token in tokens[:cut] for i in token.ids], "", steps=0)
    looked = Savings(kept=False, trusted_tokens=cut, keep_ms=2.0, cached_tokens=5)
    # Who decodes after looking finds all of it again, which says nothing.
    first = Decoded(tokens[cut].ids, "", tokens[cut].finish, cached_tokens=cut + 7)
    *deltas, last = pieces_of(begun, first, *tokens[cut + 1 :], looked=looked)
    assert "".join(piece.text for piece in deltas if isinstance(piece, Delta)) == text
    assert isinstance(last, Finished) and last.usage == Usage(7, len(tokens) - 1)
    savings = last.savings
    assert savings.trusted_tokens + savings.decoded_tokens == len(tokens)
    assert (savings.kept, savings.cached_tokens) == (False, 5)
    assert savings.decode_steps == len(tokens) - cut
    assert savings.first_token_ms is not None and savings.first_token_ms >= 2.0


def test_a_character_leaves_when_it_is_whole() -> None:
    first, second, _ = pieces_of(*one_by_one("真🙂"))
    assert (first, second) == (Delta("真"), Delta("🙂"))


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "length"), ("abort", "unavailable"), ("error", "unavailable")]
)
def test_what_does_not_end_by_itself_is_no_correction(finish: str, reason: str) -> None:
    assert pieces_of(*one_by_one("so", finish=finish))[-1] == Failed(reason)


def test_an_engine_that_says_nothing_more_has_failed() -> None:
    assert pieces_of()[-1] == Failed("unavailable")
    assert pieces_of(Decoded([65], ""), Failed("timeout")) == [Delta("A"), Failed("timeout")]
