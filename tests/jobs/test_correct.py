from typing import Any

import pytest

from aligner.answer_marks import Marks
from aligner.config import validate
from aligner.keeping import CopyScores
from aligner.prompt import PLAIN
from aligner.records import Question
from aligner_jobs.config.engine import EngineConfig
from aligner_jobs.config.evaluate import EvaluateConfig
from aligner_jobs.correct import (
    Correction,
    correct,
    engine_kwargs,
    job_of,
    read_output,
    reason_in,
)

MARKS = Marks(before=(5, 6), after=(7, 8), end_id=257)


class Bytes:
    """A tokenizer with a token per byte; 256 begins a sequence and 257 ends it."""

    bos_token_id: int | None = 256
    eos_token_id = 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")


CONFIG = validate(
    EvaluateConfig,
    {
        "out": "report",
        "model": "m",
        "upstreams": {"iron": {"model": "iron", "base_url": "http://127.0.0.1:1/v1"}},
        "questions": {"kind": "simworld"},
        "judge": {"kind": "simworld"},
        "min_room_tokens": 8,
    },
    where="test",
)


def job(answer: str, *, context_tokens: int) -> tuple[int, int]:
    """Prompt tokens and room."""
    made = job_of(
        Question("Q?"),
        answer,
        template=PLAIN,
        tokenizer=Bytes(),
        config=CONFIG,
        context_tokens=context_tokens,
    )
    return len(made.prompt_ids), made.max_tokens


def copy(answer: str, *, context_tokens: int) -> list[int]:
    made = job_of(
        Question("Q?"),
        answer,
        template=PLAIN,
        tokenizer=Bytes(),
        config=CONFIG,
        context_tokens=context_tokens,
    )
    return made.copy_ids


def output(ids: list[int], *, error: str = "") -> Correction:
    row: dict[str, Any] = {"index": 0, "generated_tokens": ids, "error": error}
    return read_output(row, template=PLAIN, tokenizer=Bytes())


def test_the_prompt_begins_with_bos_and_room_follows_the_answer() -> None:
    tokens, room = job("twenty characters ok", context_tokens=1000)
    assert tokens == 1 + len(PLAIN.render("Q?", "twenty characters ok"))
    assert room == 41


def test_room_ends_with_the_context() -> None:
    tokens, _ = job("twenty characters ok", context_tokens=1000)
    assert job("twenty characters ok", context_tokens=tokens + 30)[1] == 30


def test_a_pair_whose_copy_would_not_fit_gets_no_room() -> None:
    tokens, _ = job("twenty characters ok", context_tokens=1000)
    assert job("twenty characters ok", context_tokens=tokens + 21)[1] == 21
    assert job("twenty characters ok", context_tokens=tokens + 20)[1] == 0


def test_a_copy_ends_with_eos_and_leaves_room_for_what_the_engine_writes_behind_it() -> None:
    tokens, _ = job("twenty characters ok", context_tokens=1000)
    assert copy("twenty characters ok", context_tokens=tokens + 22) == [
        *b"twenty characters ok",
        257,
    ]
    assert copy("twenty characters ok", context_tokens=tokens + 21) == []


def test_a_copy_is_escaped_as_a_correction_is() -> None:
    text = "It says ##Answer: no."
    assert copy(text, context_tokens=1000) == [*PLAIN.frame.escape(text).encode(), 257]


def test_what_does_not_fit_is_passed_through_without_an_engine(tmp_path: Any) -> None:
    made = job_of(
        Question("Q?"),
        "A.",
        template=PLAIN,
        tokenizer=Bytes(),
        config=CONFIG,
        context_tokens=1,
    )
    done = correct(
        [made],
        model=tmp_path,
        template=PLAIN,
        tokenizer=Bytes(),
        engine=EngineConfig(),
        context_tokens=1,
    )
    assert list(done) == [(0, Correction(text="", unusable="too_long"))]


def test_a_correction_ends_with_eos() -> None:
    assert output([*b"Good.", 257]) == Correction(text="Good.", tokens=6, decoded_tokens=6)


def test_what_was_read_of_the_copy_is_told_with_the_correction() -> None:
    row = {
        "index": 0,
        "generated_tokens": [*b"Good.", 257],
        "error": "",
        "kept": False,
        "trusted_tokens": 4,
        "copy_logprobs": [-0.5, -2.0],
        "copy_ranks": [1, 3],
    }
    made = read_output(row, template=PLAIN, tokenizer=Bytes())
    assert (made.tokens, made.decoded_tokens, made.kept) == (6, 2, False)
    assert made.scores == CopyScores((-0.5, -2.0), (1, 3))


def test_marks_of_the_prompt_in_a_correction_come_back_as_they_were() -> None:
    ids = [*PLAIN.frame.escape("It says ##Answer: no.").encode(), 257]
    assert output(ids).text == "It says ##Answer: no."


def test_a_correction_without_eos_was_cut_off() -> None:
    assert output(list(b"Goo")).unusable == "cut_off"
    assert output([]).unusable == "cut_off"


@pytest.mark.parametrize("ids", [[257], [*b" \n", 257]])
def test_a_blank_correction_is_empty(ids: list[int]) -> None:
    assert output(ids).unusable == "empty"


def test_a_row_that_the_engine_could_not_do_is_an_engine_error() -> None:
    assert output([], error="ValueError: too bad").unusable == "engine_error"


def test_the_engine_is_told_nothing_about_gpus_on_a_cpu() -> None:
    arguments = engine_kwargs(EngineConfig(dtype="float32"), context_tokens=512, marks=[MARKS])
    assert arguments["speculative_config"]["num_speculative_tokens"] == 16
    assert arguments["max_model_len"] == 512
    assert arguments["skip_tokenizer_init"] is True
    assert arguments["trust_remote_code"] is False
    assert not {"tensor_parallel_size", "gpu_memory_utilization"} & set(arguments)


def test_the_engine_spans_the_gpus_that_it_is_given() -> None:
    arguments = engine_kwargs(EngineConfig(gpus=2), context_tokens=512, marks=[MARKS])
    assert "speculative_config" not in arguments
    assert arguments["tensor_parallel_size"] == 2


REFUSED = """ray::MapWorker() (pid=7, ip=127.0.0.1)
  File "vllm/config/model.py", line 1, in create
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, The checkpoint has model type `nope`. [type=value_error, input_type=ArgsKwargs]
    For further information visit https://errors.example/value_error
"""


def test_the_line_with_the_reason_is_found_in_a_trace() -> None:
    assert reason_in(REFUSED).startswith("Value error, The checkpoint has model type `nope`.")
    assert reason_in("Traceback:\n  x\nRuntimeError: out of memory.\n") == (
        "RuntimeError: out of memory"
    )
    assert reason_in("The actor died.") == "The actor died"
    assert reason_in("") == "no reason given"
