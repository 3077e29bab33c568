"""What the engine is told; ``test_engine_serving.py`` has real ones."""

import asyncio
from collections.abc import AsyncGenerator

from aligner_serve import engines
from aligner_serve.pieces import Failed


def test_tokens_that_come_fast_are_handed_on_together() -> None:
    async def fast() -> AsyncGenerator[engines.Decoded | Failed]:
        for number in range(50):
            yield engines.Decoded([number], f"{number} ", "stop" if number == 49 else None)

    async def gathered() -> list[engines.Decoded | Failed]:
        return [one async for one in engines._gathered(fast(), stream=True)]

    first, *_, last = found = asyncio.run(gathered())
    assert first == engines.Decoded([0], "0 ")
    assert len(found) < 10
    assert isinstance(last, engines.Decoded) and last.finish == "stop"
    texts = [one.text for one in found if isinstance(one, engines.Decoded)]
    assert "".join(texts) == "".join(f"{number} " for number in range(50))


def test_what_nobody_wants_piece_by_piece_comes_whole() -> None:
    async def three() -> AsyncGenerator[engines.Decoded | Failed]:
        yield engines.Decoded([1], "a", cached_tokens=16)
        yield engines.Decoded([2, 3], "bc")
        yield engines.Decoded([4], "d", "stop")

    async def gathered() -> list[engines.Decoded | Failed]:
        return [one async for one in engines._gathered(three(), stream=False)]

    assert asyncio.run(gathered()) == [engines.Decoded([1, 2, 3, 4], "abcd", "stop", 3, 16)]
