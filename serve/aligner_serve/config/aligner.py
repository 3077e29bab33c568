"""The models that correct, and the engines that run them. Free of ray, torch and fastapi."""

from typing import Annotated, Literal

from pydantic import Field

from aligner.config import StrictModel
from aligner.generation import Sampling
from aligner_serve.config.scaling import Scaling

FailurePolicy = Literal["passthrough", "block", "error"]


class FromRegistry(StrictModel):
    """The version that a registry's alias names."""

    kind: Literal["registry"] = "registry"

    model: str
    """Registered name."""

    version: str = Field(default="@champion", coerce_numbers_to_str=True)
    """An alias (``@champion``), a number or ``latest``."""


class FromPath(StrictModel):
    """An export by its place, without a registry."""

    kind: Literal["path"] = "path"

    uri: str
    """Local folder or ``s3://``."""


class EngineConfig(StrictModel):
    """The vLLM engine that decodes corrections."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "bfloat16"
    """Of weights and activations; float16 needs a GPU."""

    max_model_len_tokens: int | None = Field(default=None, ge=16)
    """Prompt and correction together; unset: what the model was made for."""

    max_num_seqs: int = Field(default=32, ge=1)
    """Corrections decoded at once by one replica."""

    enforce_eager: bool = True
    """Without compilation: quick to start, and no slower on a CPU. Off for a GPU."""

    ngram_speculation_tokens: int = Field(default=0, ge=0)
    """Tokens guessed ahead by copying from the prompt; corrections mostly copy. 0 is off."""

    num_gpus: int = Field(default=0, ge=0)
    """Per replica; 0 decodes on the CPU."""


class AlignerConfig(StrictModel):
    """The model that corrects."""

    source: Annotated[FromRegistry | FromPath, Field(discriminator="kind")]
    """Where its weights come from."""

    engine: EngineConfig = EngineConfig()
    """How they are run."""

    sampling: Sampling = Sampling(max_tokens=1024)
    """Greedy: a correction is no place for chance. ``max_tokens`` bounds one correction."""

    headroom_ratio: float = Field(default=1.25, ge=1.0)
    """Room that must be left for a correction, as a multiple of the answer's tokens; a pair
    that leaves less is not corrected, for a correction cut short would lose its end."""

    timeout_s: float = Field(default=30.0, gt=0)
    """For one correction, from sending the pair to its last token."""

    on_failure: FailurePolicy = "passthrough"
    """What a request gets whose correction failed: the answer as it is, nothing, or an error.
    Never in silence: the outcome is in the reply and in the header ``x-aligner-outcome``."""

    rounds: int = Field(default=1, ge=1, le=8)
    """Corrects its own correction again, at most so often, until nothing changes."""

    show_original: bool = True
    """Whether those who ask for the upstream's own answer may see it."""

    scaling: Scaling = Scaling(max_ongoing_requests=32, num_cpus=1)
    """Of the corrector's deployment."""
