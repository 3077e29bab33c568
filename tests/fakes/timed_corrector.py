"""A corrector that says how long it takes, and how long its engine alone takes."""

import random
import time

import random_models

from aligner.generation import Sampling
from aligner.records import Question
from aligner_serve.corrector import Corrector
from aligner_serve.engines import Decoding, Read
from aligner_serve.pieces import Finished

_QUESTION_TOKENS = 32


class TimedCorrector(Corrector):
    """Its aligner is called ``keeps`` and keeps whatever it is given."""

    async def turn(self, answer_tokens: int, vocab_size: int, seed: int) -> dict[str, float]:
        """Milliseconds of each way with a new answer of that length, by name."""
        drawn = random.Random(seed)

        def draw(tokens: int) -> list[int]:
            return [drawn.randrange(vocab_size - 3) for _ in range(tokens)]

        question, answer = (
            random_models.text_of(draw(n)) for n in (_QUESTION_TOKENS, answer_tokens)
        )
        began = time.perf_counter()
        pieces = await self.correct_whole("keeps", Question(question), answer, deadline_s=300)
        kept_ms = 1000 * (time.perf_counter() - began)
        end = pieces[-1]
        assert isinstance(end, Finished) and end.savings.kept and not end.savings.decode_steps
        prompt = end.usage.prompt_tokens
        ids = [one + 3 for one in draw(prompt + answer_tokens + 1)]
        return {
            "keep": kept_ms,
            "prefill": await self._read_ms(ids),
            "decode": await self._decode_ms([one + 3 for one in draw(prompt)], answer_tokens + 1),
        }

    async def _read_ms(self, ids: list[int]) -> float:
        began = time.perf_counter()
        assert isinstance(await self._engine.read(ids, deadline_s=300), Read)
        return 1000 * (time.perf_counter() - began)

    async def _decode_ms(self, prompt: list[int], tokens: int) -> float:
        work = Decoding(
            prompt,
            max_tokens=tokens,
            expected_tokens=tokens,
            sampling=Sampling(),
            end_ids=(),
            text=False,
        )
        written, began = 0, time.perf_counter()
        async for one in self._engine.decode(work, deadline_s=300, stream=False):
            written += len(getattr(one, "ids", ()))
        # A model that nobody has trained may write an end anywhere.
        return 1000 * (time.perf_counter() - began) * tokens / written
