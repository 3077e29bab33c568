import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.answer_marks import Marks
from aligner.drafts import Drafter

MARKS = Marks(before=(3, 4), after=(5, 6), end_id=2)
CONTEXT = 128
ANSWER = list(range(20, 60))


class Written:
    """A request whose tokens are known beforehand, as an engine that checks drafts writes them."""

    def __init__(self, answer: list[int], correction: list[int], *, begun: int = 0) -> None:
        self.prompt = [1, 9, 3, 4, *answer, 5, 6, *correction[:begun]]
        self.left = [*correction[begun:], MARKS.end_id]
        self.ids = list(self.prompt)
        self.steps = 0

    def step(self, draft: list[int]) -> list[int]:
        came = 0
        while came < min(len(draft), len(self.left) - 1) and draft[came] == self.left[came]:
            came += 1
        new = self.left[: came + 1]
        self.left = self.left[came + 1 :]
        self.ids += new
        self.steps += 1
        return new


def table(rows: list[Written]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.full((16, CONTEXT), 77, dtype=np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = row.ids
    lengths = [len(row.ids) for row in rows] + [0] * (16 - len(rows))
    return np.array(lengths, dtype=np.int32), ids


def drafter(*, budget: int = 999) -> Drafter:
    return Drafter([MARKS], depth=8, budget=budget, context_tokens=CONTEXT)


def run(rows: list[Written], one: Drafter, *, order: random.Random | None = None) -> None:
    """Write all of ``rows``, which move about between two steps."""
    drafts: dict[int, list[int]] = {}
    while rows := [row for row in rows if row.left]:
        if order is not None:
            order.shuffle(rows)
        came = [row.step(drafts.get(id(row), [])) for row in rows]
        found = one.draft(came, *table(rows), took_ms=10 + len(rows) / 2)
        drafts = {id(row): draft for row, draft in zip(rows, found, strict=True)}


def test_a_copy_comes_in_a_few_steps() -> None:
    row = Written(ANSWER, ANSWER)
    run([row], drafter())
    assert row.ids == [*row.prompt, *ANSWER, MARKS.end_id]
    assert row.steps <= 1 + -(-len(ANSWER) // 8)


def test_requests_are_known_again_wherever_their_rows_are() -> None:
    rows = [Written([*ANSWER[n:], *ANSWER[:n]], [*ANSWER[n:], *ANSWER[:n]]) for n in range(9)]
    run(rows, drafter(), order=random.Random(0))
    assert all(row.steps <= 9 for row in rows)


def test_a_prompt_that_holds_a_part_of_the_correction_is_gone_on_with() -> None:
    row = Written(ANSWER, ANSWER, begun=25)
    run([row], drafter())
    assert row.steps <= 4


def test_rows_whose_prompts_are_still_read_get_no_draft_and_take_none_away() -> None:
    one, row, reading = drafter(), Written(ANSWER, ANSWER), Written(ANSWER, ANSWER)
    drafts: list[list[int]] = [[]]
    while row.left:
        came = [[], row.step(drafts[-1])]
        drafts = one.draft(came, *table([reading, row]), took_ms=10)
        assert drafts[0] == []
    assert row.steps <= 7


def test_a_text_that_copies_nothing_is_soon_left_alone() -> None:
    row = Written(ANSWER, list(range(200, 260)))
    one = drafter()
    drafts, drafted = [[0]], 0
    while row.left:
        drafts = one.draft([row.step(drafts[0])], *table([row]), took_ms=10 + len(drafts[0]) * 5)
        drafted += len(drafts[0])
    assert drafted <= 16


def test_among_many_a_text_that_copies_nothing_is_left_alone_until_it_copies_again() -> None:
    rewritten = [200, *range(201, 230)]
    rows = [Written(ANSWER, [*rewritten, *ANSWER]) for _ in range(8)]
    run(rows, drafter())
    assert all(row.ids[-1] == MARKS.end_id for row in rows)
    # The second half is a copy, and has been taken for one before its end.
    assert all(row.steps < len(rewritten) + len(ANSWER) - 8 for row in rows)


def test_nothing_is_drafted_past_the_end_of_the_context() -> None:
    answer = list(range(200, 250))
    row = Written(answer, [*answer, *answer])
    one = drafter()
    drafts: list[list[int]] = [[]]
    while len(row.ids) < CONTEXT and row.left:
        drafts = one.draft([row.step(drafts[0])], *table([row]), took_ms=10)
        assert len(row.ids) + len(drafts[0]) + 1 <= max(CONTEXT, len(row.ids) + 1)


def test_all_rows_together_keep_to_the_budget() -> None:
    rows, one = [Written(ANSWER, ANSWER) for _ in range(8)], drafter(budget=10)
    drafts: list[list[int]] = [[] for _ in rows]
    for _ in range(4):
        came = [row.step(draft) for row, draft in zip(rows, drafts, strict=True)]
        drafts = one.draft(came, *table(rows), took_ms=10)
        assert sum(map(len, drafts)) <= 10


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(2, 9), max_size=12), st.lists(st.integers(2, 9), max_size=20)
        ),
        min_size=1,
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
def test_whatever_is_written_each_row_gets_a_draft_and_nothing_fails(
    pairs: list[tuple[list[int], list[int]]], order: random.Random
) -> None:
    rows = [Written(answer, correction) for answer, correction in pairs]
    run(rows, drafter(), order=order)
    assert [row.left for row in rows] == [[] for _ in rows]


@settings(max_examples=100)
@given(st.lists(st.lists(st.lists(st.integers(1, 9), max_size=30), max_size=4), max_size=6))
def test_rows_that_come_and_go_as_they_like_do_no_harm(steps: list[list[list[int]]]) -> None:
    one = drafter()
    for number, rows in enumerate(steps):
        ids, lengths = np.zeros((4, CONTEXT), dtype=np.int32), np.zeros(4, dtype=np.int32)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            lengths[place] = len(row)
        came = [row[len(row) - number % 3 :] if number % 3 <= len(row) else [] for row in rows]
        drafts = one.draft(came, lengths, ids, took_ms=float(number))
        assert all(new or not draft for draft, new in zip(drafts, came, strict=True))
