"""The models that correct, and the engines that run them. Free of ray, torch and fastapi."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from aligner.config import StrictModel
from aligner.generation import Sampling
from aligner_serve.config.ahead import PrefillAheadConfig
from aligner_serve.config.release import Challenger, FromPath, ProbeConfig, Source
from aligner_serve.config.scaling import EngineScaling

FailurePolicy = Literal["passthrough", "block", "error"]


class EngineConfig(StrictModel):
    """How vLLM runs a model."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "bfloat16"
    """Of weights and activations; float16 needs a GPU."""

    max_model_len_tokens: int | None = Field(default=None, ge=16)
    """Prompt and reply together; unset: what the model was made for."""

    max_num_seqs: int = Field(default=32, ge=1)
    """Replies decoded at once by one replica."""

    enforce_eager: bool = True
    """Without compilation: quick to start, and no slower on a CPU. Off for a GPU."""

    copy_speculation_tokens: int | None = Field(default=None, ge=0)
    """Tokens of one correction drafted at once, at most, by copying from where it stands in its
    answer; the engine drafts as many as pay for their checking, a loaded one few. What comes out
    is the same. 0 is off; unset: 16 for an aligner on a CPU, else off. On a GPU vLLM gives up
    asynchronous scheduling for it: measure first."""

    num_gpus: int = Field(default=0, ge=0)
    """Per replica; 0 decodes on the CPU."""


class OwnEngine(EngineConfig):
    """An engine that holds the aligner's weights, or a model to which they are added."""

    kind: Literal["own"] = "own"

    base: str | None = None
    """Folder or export of the model that the aligner was trained on with LoRA. The engine holds
    that one and adds the aligner's adapter; other aligners may then share it. Unset: it holds the
    aligner's own weights, into which the adapter is merged."""


class SharedEngine(StrictModel):
    """The engine of another aligner, whose base this one was trained on as well."""

    kind: Literal["shared"]

    aligner: str
    """Whose engine it is; that one sets ``engine.base``."""


def _kind(raw: Any) -> Any:
    """Whose engine it is; its own need not be called so."""
    return raw.get("kind", "own") if isinstance(raw, dict) else getattr(raw, "kind", None)


Engine = Annotated[
    Annotated[OwnEngine, Tag("own")] | Annotated[SharedEngine, Tag("shared")],
    Discriminator(_kind),
]


class KeepConfig(StrictModel):
    """Which answers go out as they are, because the aligner has no doubt about them."""

    calibration: str | None = None
    """Folder or ``s3://`` prefix of the evaluation report that says how sure is sure enough; unset:
    it is the one that the model version carries. It holds for one export, so an alias that moves
    needs the version's own."""


class AlignerConfig(StrictModel):
    """The model that corrects."""

    source: Source
    """Where its weights come from. An alias is watched: when it moves, the version that it then
    names is rolled out."""

    probe: ProbeConfig = ProbeConfig()
    """What each version has to show before it corrects."""

    challenger: Challenger | None = None
    """A second version beside it: a canary, or a shadow."""

    engine: Engine = OwnEngine()
    """How they are run."""

    sampling: Sampling = Sampling(max_tokens=1024)
    """Greedy: a correction is no place for chance. ``max_tokens`` bounds one correction."""

    keep: KeepConfig | None = None
    """Read each answer's copy before anything is decoded, and decode only what is not sure to be
    copied; unset: everything is decoded."""

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

    prefill_ahead: PrefillAheadConfig | None = None
    """Read the answer while the upstream still writes it; unset: once it is there."""

    scaling: EngineScaling = EngineScaling()
    """Of the corrector's deployment."""

    @model_validator(mode="after")
    def _a_shared_engine_is_set_up_elsewhere(self) -> Self:
        if not isinstance(self.engine, SharedEngine):
            return self
        if self.scaling != EngineScaling():
            raise ValueError(
                f"scaling has no effect on a shared engine; set that of {self.engine.aligner!r}"
            )
        if self.challenger is not None:
            raise ValueError("a challenger needs engine.kind=own; remove it, or set that")
        return self

    @model_validator(mode="after")
    def _a_challenger_brings_its_own_calibration(self) -> Self:
        if self.keep is None or self.challenger is None:
            return self
        if self.keep.calibration is not None:
            raise ValueError(
                "keep.calibration holds for one export, and the challenger is another; leave it "
                "out, so that each version brings its own, or remove the challenger"
            )
        if isinstance(self.challenger.source, FromPath):
            raise ValueError(
                "a challenger of source.kind=path brings no calibration, which keep asks for; take "
                "it from the registry, or remove keep"
            )
        return self
