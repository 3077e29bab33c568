"""An engine that counts what it reads, finds in its cache, and writes; and one process around it.

Its model is a function from answers to corrections, and has no doubt where both are the same.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligner.adapters.hf_tokenizer import HfTokenizer
from aligner.answer_marks import Marks
from aligner.prompt import PLAIN
from aligner_serve.corrector import Corrector
from aligner_serve.engines import MODEL, Decoded, Decoding, Read
from aligner_serve.pieces import Failed

Corrects = Callable[[str], str]

SURE, DOUBTFUL = -0.1, -5.0
"""What it gives a token that it would write itself, and one that it would not."""


class CountingEngine:
    """Stands where :class:`~aligner_serve.engines.Engine` does."""

    block_tokens = 8

    def __init__(
        self,
        folder: Path,
        settings: Any,
        *,
        corrects: Corrects,
        context_tokens: int,
        num_cpus: float,
        adapters: Mapping[str, Path] | None = None,
        marks: Sequence[Marks] = (),
        scores: bool = False,
    ) -> None:
        """As the real one, but for ``corrects``, its model."""
        self.adapters = adapters or {}
        self.scores = scores
        self._tokenizer = HfTokenizer.load(next(iter(self.adapters.values()), folder / "-").parent)
        (self._marks,) = marks
        self._corrects = corrects
        self._cache: set[tuple[str, tuple[int, ...]]] = set()
        self.open = asyncio.Event()
        """Nothing is read while it is not set."""
        self.open.set()
        self.queued_tokens = self.most_queued = 0
        self.computed = self.written = self.reading = 0
        """Tokens read that were in no cache; tokens decoded; prompts that are being read."""
        self.begun = self.begun_now = self.most_begun = 0
        """Prompts that were only read; those that are, and the most of them at once."""

    async def start(self) -> None:
        """Nothing to load."""

    async def check_health(self) -> None:
        """Always well."""

    async def shutdown(self) -> None:
        """Nothing is left of it."""

    def count_from_here(self) -> None:
        """Forget what was counted and read so far."""
        self._cache.clear()
        self.computed = self.written = self.most_queued = self.begun = self.most_begun = 0

    async def read(
        self,
        prompt: list[int],
        *,
        deadline_s: float,
        model: str = MODEL,
        scored_from: int | None = None,
    ) -> Read | Failed:
        """As the real one."""
        if scored_from is None:
            return Read(await self._begin(prompt, model))
        assert self.scores
        cached = await self._take_in(prompt, model, scored_from)
        copy, own = prompt[scored_from:], self._writes(prompt[:scored_from])
        same = [one == other for one, other in zip(copy, [*own, *copy[len(own) :]], strict=False)]
        return Read(
            cached,
            tuple(SURE if one else DOUBTFUL for one in same),
            tuple(1 if one else 2 for one in same),
        )

    async def decode(
        self, work: Decoding, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Decoded | Failed]:
        """As the real one."""
        own = self._writes(work.prompt)
        begun = list(work.begun)
        assert own[: len(begun)] == begun, "it would not have written that"
        if begun:
            yield Decoded(begun, "", steps=0)
        cached = await self._take_in([*work.prompt, *begun], work.model, None)
        rest = own[len(begun) :]
        self.written += len(rest)
        yield Decoded(rest, "", "stop", steps=len(rest), cached_tokens=cached)

    async def _begin(self, prompt: list[int], model: str) -> int:
        self.begun, self.begun_now = self.begun + 1, self.begun_now + 1
        self.most_begun = max(self.most_begun, self.begun_now)
        try:
            return await self._take_in(prompt, model, None)
        finally:
            self.begun_now -= 1

    async def _take_in(self, prompt: list[int], model: str, scored_from: int | None) -> int:
        """How much of ``prompt`` was there already."""
        self.queued_tokens += len(prompt)
        self.most_queued = max(self.most_queued, self.queued_tokens)
        self.reading += 1
        try:
            await self.open.wait()
            # Others have their turn, as they have beside a real one.
            await asyncio.sleep(0)
        finally:
            self.reading -= 1
            self.queued_tokens -= len(prompt)
        blocks = [
            (model, tuple(prompt[:end]))
            for end in range(self.block_tokens, len(prompt) + 1, self.block_tokens)
        ]
        found = sum(block in self._cache for block in blocks) * self.block_tokens
        self._cache.update(blocks)
        # What is found is not scored, and is then read again.
        cached = 0 if scored_from is not None and found >= scored_from else found
        self.computed += len(prompt) - cached
        return cached

    def _writes(self, prompt: list[int]) -> list[int]:
        found = self._marks.find(np.array(prompt, dtype=np.int32))
        assert found is not None
        answer, _ = found
        text = PLAIN.frame.unescape(self._tokenizer.decode(prompt[answer])).strip()
        return [
            *self._tokenizer.encode(PLAIN.frame.escape(self._corrects(text))),
            self._tokenizer.eos_token_id,
        ]


class Replica(Corrector):
    """One that nobody awaits at its end."""

    def __del__(self) -> None:  # type: ignore[override]  # its engine holds nothing
        pass


async def corrector(served: dict[str, Any], *, corrects: Corrects) -> Corrector:
    """One replica, started as Serve would start it; what its probe cost is not counted."""
    made = Replica.__new__(Replica)

    def engine(*args: Any, **kwargs: Any) -> Any:
        return CountingEngine(*args, corrects=corrects, **kwargs)

    await made.__init__(served, "nowhere", engine=engine)  # type: ignore[misc]
    engine_of(made).count_from_here()
    return made


def engine_of(made: Corrector) -> CountingEngine:
    """What it counts with."""
    found: Any = made._engine
    assert isinstance(found, CountingEngine)
    return found
