"""Two requests for a row: what is read, what is kept, and where writing begins."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from aligner_jobs.copy_first import copy_first, scores_of

EOS = 99
PROMPT = [7, 7, 7]
Model = Callable[[list[int]], int]
"""The token that greedy decoding writes behind others."""


class Greedy:
    """An engine whose model is a function: its token has probability 0.9, each other 0.001."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.asked: list[dict[str, Any]] = []

    async def generate(self, row: dict[str, Any]) -> tuple[str, dict[str, Any], float]:
        self.asked.append(row)
        ids, sampling = list(row["tokenized_prompt"]), row["sampling_params"]
        read = [self._told(ids, place) for place in range(len(ids))]
        written: list[int] = []
        while len(written) < sampling["max_tokens"] and EOS not in written:
            written.append(self.model([*ids, *written]))
        told = read if "prompt_logprobs" in sampling else None
        return "request", {"generated_tokens": written, "prompt_logprobs": told}, 1.0

    def _told(self, ids: list[int], place: int) -> dict[int, dict[str, Any]] | None:
        if place == 0:
            return None
        likely = self.model(ids[:place]) == ids[place]
        return {
            ids[place]: {"logprob": math.log(0.9 if likely else 0.001), "rank": 1 if likely else 5}
        }


def writes(correction: list[int]) -> Model:
    """A model that goes on with ``correction`` wherever the text so far is its beginning."""

    def next_token(ids: list[int]) -> int:
        written = ids[len(PROMPT) :]
        agrees = correction[: len(written)] == written
        return correction[len(written)] if agrees and len(written) < len(correction) else EOS

    return next_token


def done(
    answer: list[int], correction: list[int], *, keep_from: float = math.inf, room: int = 20
) -> tuple[dict[str, Any], Greedy]:
    engine = Greedy(writes([*correction, EOS]))
    row = {
        "tokenized_prompt": PROMPT,
        "sampling_params": {"temperature": 0.0, "max_tokens": room, "stop_token_ids": [EOS]},
        "copy_ids": [*answer, EOS],
        "keep_from": keep_from,
    }
    _, output, _ = asyncio.run(copy_first(engine.generate, row))
    return output, engine


@pytest.mark.parametrize(
    ("answer", "correction"),
    [
        ([1, 2, 3, 4], [9, 2, 3, 4]),
        ([1, 2, 3, 4], [1, 2, 8, 4]),
        ([1, 2, 3, 4], [1, 2, 3, 8]),
        ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6]),
        ([1, 2, 3, 4], [1, 2]),
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 2, 3, 4], []),
        ([], [1, 2]),
        ([], []),
    ],
    ids=["start", "middle", "end", "appended", "cut", "same", "emptied", "filled", "empty"],
)
def test_the_tokens_are_those_of_plain_greedy_decoding(
    answer: list[int], correction: list[int]
) -> None:
    output, _ = done(answer, correction)
    assert output["generated_tokens"] == [*correction, EOS]


def test_a_correction_that_is_cut_off_is_cut_off_at_the_same_token() -> None:
    output, _ = done([1, 2, 3], [1, 2, 8, 9, 10], room=4)
    assert output["generated_tokens"] == [1, 2, 8, 9]


def test_decoding_begins_behind_the_last_trusted_token() -> None:
    output, engine = done([1, 2, 3, 4], [1, 2, 8, 4])
    assert [row["tokenized_prompt"] for row in engine.asked] == [
        [*PROMPT, 1, 2, 3, 4, EOS],
        [*PROMPT, 1, 2],
    ]
    assert engine.asked[1]["sampling_params"]["max_tokens"] == 18
    assert (output["trusted_tokens"], output["kept"]) == (2, False)
    assert len(output["copy_ranks"]) == len(output["copy_logprobs"]) == 5


def test_an_answer_that_greedy_decoding_would_return_costs_one_request() -> None:
    output, engine = done([1, 2, 3], [1, 2, 3])
    assert len(engine.asked) == 1
    assert (output["trusted_tokens"], output["kept"]) == (4, False)


def test_an_answer_above_the_threshold_is_kept_though_decoding_would_change_it() -> None:
    output, engine = done([1, 2, 3], [1, 2, 8], keep_from=math.log(0.0009))
    assert len(engine.asked) == 1
    assert output["kept"]
    assert output["generated_tokens"] == [1, 2, 3, EOS]


def test_what_was_read_does_not_travel_further() -> None:
    assert done([1], [1])[0]["prompt_logprobs"] is None


def test_a_row_without_room_to_be_read_is_only_decoded() -> None:
    engine = Greedy(writes([1, 2, EOS]))
    row = {
        "tokenized_prompt": PROMPT,
        "sampling_params": {"temperature": 0.0, "max_tokens": 9},
        "copy_ids": [],
        "keep_from": -1.0,
    }
    _, output, _ = asyncio.run(copy_first(engine.generate, row))
    assert output["generated_tokens"] == [1, 2, EOS]
    assert (output["kept"], output["trusted_tokens"], output["copy_ranks"]) == (False, 0, [])


def test_scores_are_those_of_the_last_tokens() -> None:
    told = [None, {5: {"logprob": -9.0, "rank": 7}}, {6: {"logprob": -0.5, "rank": 1}}]
    scores = scores_of(told, [6])
    assert (scores.logprobs, scores.ranks) == ((-0.5,), (1,))
