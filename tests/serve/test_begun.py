"""How much of a begun prompt is read, by an engine that only counts."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from aligner_serve.begun import read_ahead
from aligner_serve.engines import Read
from aligner_serve.pieces import Failed, Reading


@dataclass
class Counting:
    """Stands for an engine whose cache has blocks of 16 tokens."""

    gives: Read | Failed
    block_tokens: int = 16
    asked: list[tuple[list[int], str]] = field(default_factory=list)

    async def read(self, prompt: list[int], *, deadline_s: float, model: str) -> Read | Failed:
        self.asked.append((prompt, model))
        return self.gives


def reading(engine: Any, begun: list[int], tokens: int) -> Reading:
    return asyncio.run(read_ahead(engine, begun, tokens=tokens, deadline_s=5.0, model="polite"))


def test_whole_blocks_are_read_and_it_is_told_what_was_new() -> None:
    engine = Counting(Read(cached_tokens=16))
    assert reading(engine, [*range(50)], 16) == Reading("read", 48, 32)
    assert engine.asked == [([*range(48)], "polite")]


@pytest.mark.parametrize(("length", "tokens"), [(0, 0), (15, 0), (31, 16), (47, 32)])
def test_what_fills_no_further_block_is_not_read(length: int, tokens: int) -> None:
    engine = Counting(Read(cached_tokens=0))
    assert reading(engine, [*range(length)], tokens) == Reading("nothing_new", tokens)
    assert not engine.asked


def test_what_the_engine_cannot_read_has_failed() -> None:
    engine = Counting(Failed("timeout"))
    assert reading(engine, [*range(50)], 16) == Reading("failed", 16)
