"""Settings for what is measured, and what is watched over, while training runs."""

from pydantic import Field

from aligner.config import StrictModel


class Beside(StrictModel):
    """A process that evaluates checkpoints while the workers train on."""

    cpus: int = Field(default=1, ge=0)
    """Cores that it waits for, and threads that it uses (one with 0, which waits for none)."""

    gpus: float = Field(default=0.0, ge=0)
    """GPUs that it waits for; it holds the whole model."""

    timeout_s: float = Field(default=3600.0, gt=0)
    """After which one evaluation is given up."""


class Heldout(StrictModel):
    """What is measured on held-out rows while training runs."""

    every_steps: int = Field(default=200, ge=1)
    """Optimiser steps between two evaluations."""

    rows: int = Field(default=512, ge=1)
    """Held-out rows whose loss is measured; they are drawn by content hash."""

    sample_rows: int = Field(default=20, ge=0)
    """Held-out rows, and as many held-out identity rows, that are corrected at each evaluation;
    they are shown as a table in the tracking server. 0: only the loss is measured."""

    generate_rows: int = Field(default=128, ge=0)
    """Held-out rows, and as many held-out identity rows, that are corrected at the end; no more
    than these are sampled on the way."""

    generate_batch_size: int = Field(default=64, ge=1)
    """Rows generated at once on each worker."""

    beside: Beside | None = None
    """Unset: the workers stop for each evaluation. Else they write a checkpoint for it and train
    on; an evaluation is left out where the one before has not ended."""


class EarlyStop(StrictModel):
    """Ends the correction phase when the held-out loss has ceased to fall; what is exported are the
    weights with the best one. Each evaluation writes a checkpoint."""

    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without a gain after which the phase ends."""

    min_gain: float = Field(default=0.0, ge=0)
    """Nats per token by which the loss must fall below its best so far to count as a gain."""


class Guard(StrictModel):
    """Ends a run whose training loss has run away, before it costs more."""

    spike_factor: float = Field(default=3.0, gt=1)
    """A logged loss that is this many times the median of the recent ones, and half a nat above
    it, is a spike."""

    spikes: int = Field(default=3, ge=1)
    """Spikes in a row that end the run."""
