"""Reading the beginning of a prompt into an engine's cache, where a later request finds it."""

from aligner_serve.engines import MODEL, Engine
from aligner_serve.pieces import Failed, Reading


async def read_ahead(
    engine: Engine, begun: list[int], *, tokens: int, deadline_s: float, model: str = MODEL
) -> Reading:
    """Read as much of ``begun`` as fills whole blocks of the cache; ``tokens`` were read before.

    The rest of a block would be read in vain: it is not kept.
    """
    whole = len(begun) - len(begun) % engine.block_tokens
    if whole <= tokens:
        return Reading("nothing_new", tokens)
    read = await engine.read(begun[:whole], model=model, deadline_s=deadline_s)
    if isinstance(read, Failed):
        return Reading("failed", tokens)
    return Reading("read", whole, whole - read.cached_tokens)
