"""How a trained model is written, and what is asked of it before it is registered."""

from pydantic import Field

from aligner.config import StrictModel


class Parity(StrictModel):
    """The export under vLLM against the same export under Transformers.

    vLLM answers held-out prompts greedily; Transformers then reads prompt and answer. Each token
    must be the one that Transformers would choose too (or as good as that one), at the same
    log-probability.
    """

    rows: int = Field(default=0, ge=0)
    """Held-out rows that are compared; 0 leaves the check out. It starts an engine: half a minute
    on a CPU."""

    new_tokens: int = Field(default=64, ge=1)
    """Tokens generated for each row, at most."""

    tolerance: float | None = Field(default=None, gt=0)
    """Largest difference of two log-probabilities (natural logarithm); unset: 0.01 for fp32
    and 0.25 for bf16, whose numbers have three digits."""


class Export(StrictModel):
    """The trained model in Hugging Face's layout."""

    shard_bytes: int = Field(default=4 * 1024**3, ge=1)
    """Size of a file of weights, at most, unless one weight is larger; no worker ever holds more
    than one file's weights for it."""

    adapter: bool = False
    """Also write what LoRA has added by itself, in PEFT's layout in the folder ``adapter``: several
    such Aligners can be served by one engine that holds the model they were trained on once. The
    merged weights are written all the same; they are what is evaluated and promoted."""

    parity: Parity = Field(default=Parity())
    """Whether both engines that use an export agree about it."""
