"""What ``aligner train --plan`` assumes where it cannot look."""

from typing import Literal

from pydantic import Field

from aligner.config import StrictModel

GpuName = Literal[
    "l4", "l40s", "a100-40gb", "a100-80gb", "a800-80gb", "h100-80gb", "h200-141gb", "b200-180gb"
]


class PlanSettings(StrictModel):
    """Nothing here changes a run."""

    gpu: GpuName = "a800-80gb"
    """Type of each worker's GPU; the default is the paper's. Unused on cores."""

    memory_gib: float | None = Field(default=None, gt=0)
    """Memory of one GPU, or of the machine whose cores are used; unset: the type's, or this
    machine's."""

    usd_per_hour: float | None = Field(default=None, ge=0)
    """Price of one GPU; unset: a rough one of the type's. Cores cost nothing unless it is set."""

    utilisation: float = Field(default=0.4, gt=0, le=1)
    """Share of the peak arithmetic that is reached while steps are computed, recomputing
    included; 0.4 is what well-set-up runs of one node reach."""

    rows: int = Field(default=50_000, ge=1)
    """Training rows where the dataset is not there yet; a fifth as many identity rows."""

    tokens_per_row: int = Field(default=512, ge=1)
    """Likewise: prompt and correction together."""

    target_share: float = Field(default=0.45, gt=0, le=1)
    """Likewise: the correction's share of them."""

    sample_rows: int = Field(default=1_000, ge=0)
    """So many rows of a dataset that is there are tokenised; 0: it is not looked for."""
