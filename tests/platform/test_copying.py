import re
from pathlib import Path

import numpy as np
import pyarrow.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.copying import LONGEST_RUN, Follower, Guess

END = 1
PROMPT = [100, 101]
TOKENS = st.integers(2, 6)
TEXTS = st.lists(TOKENS, max_size=40)


def follower(answer: list[int], *, prompt: list[int] = PROMPT) -> Follower:
    ids = np.array([*prompt, *answer, 102], dtype=np.int32)
    return Follower(ids, slice(len(prompt), len(prompt) + len(answer)), end_id=END)


def after(answer: list[int], written: list[int], *, prompt: list[int] = PROMPT) -> Guess:
    one = follower(answer, prompt=prompt)
    one.read(written)
    return one.guess(4)


def steps(answer: list[int], correction: list[int], *, depth: int = 16) -> int:
    """Engine steps for a correction and its end, if all that is guessed is drafted."""
    one, wanted, number = follower(answer), [*correction, END], 0
    while wanted:
        came = 0
        for guessed, token in zip(one.guess(depth).ids, wanted, strict=False):
            if guessed != token:
                break
            came += 1
        one.read(wanted[: came + 1])
        wanted = wanted[came + 1 :]
        number += 1
    return number


ANSWER = list(range(10, 40))


def test_a_correction_is_expected_to_begin_as_its_answer() -> None:
    assert after(ANSWER, []) == Guess(ANSWER[:4], "start", 0)
    assert after(ANSWER, ANSWER[:2]) == Guess(ANSWER[2:6], "start", 2)


def test_behind_the_whole_answer_its_end_is_expected() -> None:
    assert after(ANSWER, ANSWER[:28]).ids == [38, 39, END]
    assert after(ANSWER, ANSWER) == Guess([END], "answer", LONGEST_RUN)


def test_behind_a_word_that_was_replaced_the_answer_goes_on() -> None:
    assert after(ANSWER, [*ANSWER[:12], 7]) == Guess(ANSWER[13:17], "answer", 0)


def test_behind_words_that_were_added_the_answer_is_found_again() -> None:
    assert after(ANSWER, [*ANSWER[:12], 7, 8, 9, *ANSWER[12:14]]).ids == ANSWER[14:18]


def test_behind_words_that_were_left_out_the_answer_is_found_again() -> None:
    assert after(ANSWER, [*ANSWER[:5], *ANSWER[20:22]]).ids == ANSWER[22:26]


def test_a_part_that_was_moved_is_followed() -> None:
    assert after(ANSWER, [*ANSWER[20:], *ANSWER[2:5]]).ids == ANSWER[5:9]


def test_of_two_places_the_nearer_is_meant() -> None:
    answer = [*range(10, 20), 5, 6, *range(20, 30), 5, 6, *range(30, 40)]
    assert after(answer, [*answer[:9], 7, 5, 6]).ids == answer[12:16]
    assert after(answer, [*answer[:21], 7, 5, 6]).ids == answer[24:28]


def test_what_the_answer_has_not_is_looked_up_in_the_question() -> None:
    prompt = [100, 101, 50, 51, 52, 53, 54, 101]
    guess = after(ANSWER, [*ANSWER[:3], 50, 51], prompt=prompt)
    assert (guess.ids, guess.support, guess.run) == ([52, 53, 54, 101], "elsewhere", 2)


def test_without_an_answer_all_is_looked_up() -> None:
    one = Follower(np.array([5, 6, 7, 8], dtype=np.int32), slice(0, 0), end_id=None)
    assert one.guess(4).ids == []
    one.read([6])
    assert one.guess(2).ids == [7, 8]


@given(TEXTS, TEXTS, TEXTS, st.integers(0, 20))
def test_each_guess_is_a_piece_of_what_was_read_and_never_fails(
    question: list[int], answer: list[int], correction: list[int], depth: int
) -> None:
    prompt = [*question, 101]
    one = follower(answer, prompt=prompt)
    for number in range(len(correction) + 1):
        guess = one.guess(depth)
        assert len(guess.ids) <= depth and 0 <= guess.run <= LONGEST_RUN
        written = correction[:number]
        texts = [[*answer, END], [*prompt, *answer, 102, *written]]
        assert any(guess.ids == text[i : i + len(guess.ids)] for text in texts for i in range(99))
        if guess.support != "start" and guess.run:
            tail = written[-guess.run :]
            assert any(
                text[i : i + len(tail) + len(guess.ids)] == [*tail, *guess.ids]
                for text in texts
                for i in range(99)
            )
        one.read(correction[number : number + 1])


@given(st.lists(TOKENS, min_size=1, max_size=120), st.integers(1, 16))
def test_an_identical_correction_comes_by_the_whole_depth(answer: list[int], depth: int) -> None:
    assert steps(answer, answer, depth=depth) == -(-(len(answer) + 1) // (depth + 1))


@given(st.lists(st.lists(TOKENS, max_size=9), max_size=9), TEXTS)
def test_it_is_the_same_in_whatever_pieces_a_correction_is_read(
    pieces: list[list[int]], answer: list[int]
) -> None:
    at_once, by_pieces = follower(answer), follower(answer)
    at_once.read([token for piece in pieces for token in piece])
    for piece in pieces:
        by_pieces.read(piece)
    assert at_once.guess(8).ids == by_pieces.guess(8).ids


KINDS = {"identical": 13.96, "edit": 4.67, "selfee": 4.11, "cai": 2.01, "rewrite": 1.24}
"""Tokens a step of prompt lookup at depth 16, simulated, from the data sets' own README."""


@pytest.mark.parametrize(("kind", "bound"), KINDS.items())
def test_real_corrections_come_in_fewer_steps_than_by_prompt_lookup(
    shared_data: Path, kind: str, bound: float
) -> None:
    written = taken = 0
    for answer, correction in real_pairs(shared_data, kind):
        written += len(correction) + 1
        taken += steps(answer, correction)
    # Of a part of the rows; nine tenths allow for which part.
    assert written / taken >= 0.9 * bound


def real_pairs(folder: Path, kind: str) -> list[tuple[list[int], list[int]]]:
    """Token ids of some answers and corrections, split as the README's figures are."""
    names = {"cai": "cai_revisions", "selfee": "selfee_revisions"}
    table = pyarrow.json.read_json(
        folder / f"{names.get(kind, 'aligner2b_corrections')}.jsonl.gz",
        read_options=pyarrow.json.ReadOptions(block_size=1 << 24),
    )
    known: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        words = re.findall(r"\s*(?:\w+|[^\w\s])", text)
        return [known.setdefault(word, len(known) + END + 1) for word in words]

    rows = [row for row in table.to_pylist() if kind in names or row["kind"] == kind]
    return [(encode(row["answer"]), encode(row["correction"])) for row in rows[:: len(rows) // 60]]
