"""What is written besides the rows, and on what conditions: mix and packs."""

from typing import Annotated

from pydantic import Field

from aligner.config import StrictModel

Mix = dict[str, Annotated[float, Field(gt=0.0)]]
"""Source to its share of the rows, in any unit; the scarcest source decides how many stay."""


class Packing(StrictModel):
    """Tokenised rows put together up to a token budget, ready to train on."""

    tokenizer: str
    """Folder of a fast tokenizer (or of an export or a checkpoint), or a model's id on the hub."""

    max_tokens: int = Field(default=2048, ge=16)
    """Longest pack; a row that is longer by itself is set aside and counted, never cut."""


def mix_problem(mix: Mix, sources: set[str]) -> str | None:
    """What is wrong with ``mix``, with the remedy; ``None`` for nothing."""
    if unknown := sorted(set(mix) - sources):
        return f"mix names {unknown[0]!r}, which is no source; correct it or add the source"
    if missing := sorted(sources - set(mix)):
        return f"mix leaves out source {missing[0]!r}; give it a share or remove the source"
    return None
