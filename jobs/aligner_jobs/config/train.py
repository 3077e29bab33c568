"""Settings of ``aligner train``. Defaults are those of the paper's Table 22."""

import hashlib
import json
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from aligner.config import StrictModel
from aligner.tracking import TrackingConfig
from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.export import Export
from aligner_jobs.config.measuring import EarlyStop, Guard, Heldout
from aligner_jobs.config.model import Model
from aligner_jobs.config.objective import CorrectionObjective, Objective
from aligner_jobs.config.plan import PlanSettings

PhaseName = Literal["warmup", "correction"]


class Phase(StrictModel):
    """One pass of training with a schedule of its own."""

    epochs: int = Field(default=3, ge=0)
    """Times that each row is seen; 0 leaves the phase out."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak; a cosine leads from there to 0 at the phase's end."""

    lr_warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the phase's steps in which the rate rises from 0 (not the identity warm-up)."""


class Optimizer(StrictModel):
    """AdamW."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""

    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""

    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled."""

    gradient_clipping: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""


class Zero(StrictModel):
    """DeepSpeed's ZeRO; the three sizes matter in stage 3 alone."""

    stage: Literal[0, 1, 2, 3] = 3
    """What is partitioned: 0 nothing, 1 optimizer states, 2 and gradients, 3 and parameters."""

    persistence_threshold: int = Field(default=10_000, ge=0)
    """Parameters smaller than this stay on every worker (elements)."""

    max_live_parameters: int = Field(default=30_000_000, ge=0)
    """Upper bound of gathered elements."""

    prefetch_bucket_size: int = Field(default=30_000_000, ge=0)
    """Elements gathered ahead."""

    offload_optimizer: bool = False
    """Keep optimizer states in the machine's memory and compute the update there; stage 1 up."""

    offload_parameters: bool = False
    """Keep parameters there too, and fetch each as it is needed; stage 3."""

    @model_validator(mode="after")
    def _partitioned_before_offloaded(self) -> Self:
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("offload_optimizer needs partitioned states; try stage=1")
        if self.offload_parameters and self.stage < 3:
            raise ValueError("offload_parameters needs partitioned parameters; try stage=3")
        return self


class Checkpoints(StrictModel):
    """Resumable states; one more is written where the phases meet and one at the end."""

    every_steps: int = Field(default=200, ge=1)
    """Optimiser steps between two."""

    keep: int = Field(default=2, ge=1)
    """The best so many by held-out loss stay, and the last. One at whose step nothing was measured
    counts as worse than any other."""


class TrainConfig(StrictModel):
    """Dataset in, Aligner out: identity warm-up, then correction, exported and registered."""

    dataset: str
    """The dataset artefact: a folder or ``s3://`` URI."""

    out: str
    """Folder or URI for the export (``<out>/export``) and the checkpoints."""

    model: Model
    """What is trained."""

    adapter: Lora | None = None
    """Train additions of low rank; unset: all weights are trained."""

    register_as: str | None = None
    """Registered model that the export becomes a version of; unset: it is not registered."""

    objective: Objective = Field(default=CorrectionObjective())
    """What is minimised; all but the default train an upstream and have no identity warm-up."""

    warmup: Phase = Field(default=Phase(epochs=1))
    """On identity rows (answer -> answer)."""

    correction: Phase = Field(default=Phase())
    """On all training rows (answer -> correction), from the warm-up's weights."""

    max_length_tokens: int = Field(default=2048, ge=8)
    """Prompt, correction and EOS together; longer rows are set aside and counted."""

    global_batch_size: int = Field(default=256, ge=1)
    """Rows per optimiser step, over all workers."""

    packing: bool = True
    """Put rows through the model end to end, each attending to itself alone, instead of padding
    them to the longest. The losses are the same; no token is wasted."""

    micro_batch_tokens: int | None = Field(default=None, ge=8)
    """With packing: tokens that one worker puts through the model at once, at most; unset: as many
    as ``max_length_tokens``."""

    micro_batch_size: int = Field(default=4, ge=1)
    """Without packing: rows that one worker puts through the model at once, at most."""

    num_workers: int = Field(default=1, ge=1)
    """Training processes; with ``use_gpu`` one GPU each."""

    min_workers: int | None = Field(default=None, ge=1)
    """With how few to go on where machines are lost, until others come; each then holds a larger
    part of the states. Unset: it waits until all ``num_workers`` have a place again."""

    cpus_per_worker: int = Field(default=1, ge=1)
    """Cores reserved for each, and threads that its arithmetic uses."""

    use_gpu: bool = False
    """Whether workers compute on GPUs (NCCL) or cores (gloo)."""

    precision: Literal["fp32", "bf16"] = "bf16"
    """Of weights and activations; with bf16 the optimizer keeps fp32 master weights."""

    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them: less memory, a third more time."""

    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    """PyTorch's own, which has FlashAttention inside, or the package flash-attn where installed."""

    kernels: Literal["auto", "liger", "torch"] = "auto"
    """Code for norms, rotations and feed-forward; auto: Liger's on a GPU where installed."""

    optimizer: Optimizer = Field(default=Optimizer())
    """Both phases share it; its moments live on across the border."""

    zero: Zero = Field(default=Zero())
    """How DeepSpeed spreads the model's states over the workers."""

    checkpoints: Checkpoints = Field(default=Checkpoints())
    """For resuming."""

    heldout: Heldout = Field(default=Heldout())
    """Evaluation in the loop."""

    early_stop: EarlyStop | None = None
    """Unset: the correction phase has all its epochs."""

    guard: Guard | None = Field(default=Guard())
    """Unset: only a loss that is no number ends a run."""

    export: Export = Field(default=Export())
    """The weights in Hugging Face's layout."""

    max_failures: int = Field(default=3, ge=0)
    """Times that a dead worker group is started again from the last checkpoint."""

    log_every_steps: int = Field(default=10, ge=1)
    """Optimiser steps between two logged losses; the loss is also checked for NaN then."""

    seed: int = 42
    """Of the initial weights and of the order of rows."""

    tracking: TrackingConfig = Field(default=TrackingConfig())
    """Where run, metrics and model version are recorded."""

    plan: PlanSettings = Field(default=PlanSettings())
    """What ``--plan`` assumes."""

    @field_validator("dataset", "out")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must name a folder or URI")
        return value.rstrip("/") or value

    @model_validator(mode="after")
    def _a_row_fits_a_pass(self) -> Self:
        if self.pack_tokens < self.max_length_tokens:
            raise ValueError(
                f"micro_batch_tokens={self.micro_batch_tokens} is less than max_length_tokens="
                f"{self.max_length_tokens}, so that not every row would fit; raise it"
            )
        return self

    @model_validator(mode="after")
    def _fewer_workers_are_fewer(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers={self.min_workers} is more than num_workers={self.num_workers}; "
                "lower it"
            )
        return self

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.warmup.epochs and not self.correction.epochs:
            raise ValueError("warmup.epochs and correction.epochs are both 0; raise one")
        return self

    @model_validator(mode="after")
    def _an_adapter_is_added_to_something(self) -> Self:
        if self.export.adapter and (self.adapter is None or self.model.kind != "pretrained"):
            raise ValueError(
                "export.adapter=true needs adapter.kind=lora and model.kind=pretrained, for an "
                "adapter is only of use with the model that it was added to; set it to false"
            )
        return self

    @model_validator(mode="after")
    def _server_can_reach_it(self) -> Self:
        server = self.tracking.uri.startswith(("http://", "https://"))
        if self.register_as and server and "://" not in self.out:
            raise ValueError(
                f"out={self.out} is a folder of this machine, which a tracking server registers "
                "no model from; name an s3:// place, or set register_as=null"
            )
        return self

    @property
    def pack_tokens(self) -> int:
        """Tokens that a pack may hold."""
        return self.micro_batch_tokens or self.max_length_tokens

    @property
    def export_uri(self) -> str:
        """Where the export will stand."""
        return f"{self.out}/export"

    def phase(self, name: PhaseName) -> Phase:
        """Settings of one phase."""
        return self.warmup if name == "warmup" else self.correction

    def run_name(self, dataset_hash: str) -> str:
        """Equal for configs that must give the same weights; such a run is resumed, not repeated.

        The number of workers is left out on purpose: a checkpoint of another number must be
        refused aloud, not passed over in silence.
        """
        decisive = self.model_dump(
            mode="json",
            include={
                *("model", "adapter", "objective", "warmup", "correction", "max_length_tokens"),
                *("global_batch_size", "precision", "optimizer", "zero", "seed", "early_stop"),
            },
            # Where states lie changes no number.
            exclude={"model": {"shape"}, "zero": {"offload_optimizer", "offload_parameters"}},
        )
        canonical = json.dumps([decisive, dataset_hash], sort_keys=True)
        return f"train-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"
