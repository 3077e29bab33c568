"""Training a few added weights instead of all: LoRA."""

from typing import Literal

from pydantic import Field

from aligner.config import StrictModel


class Lora(StrictModel):
    """Low-rank additions to the linear layers; the model's own weights stay as they are.

    The export holds ordinary weights: the additions are merged into them. ``export.adapter``
    keeps them by themselves as well.
    """

    kind: Literal["lora"]

    rank: int = Field(default=16, ge=1)
    """Width of the bottleneck; the trained weights of a layer are rank x (inputs + outputs)."""

    alpha: float = Field(default=32.0, gt=0)
    """The addition is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On the input of the additions; above 0 a packed run no longer equals an unpacked one."""

    targets: tuple[str, ...] = ()
    """Names of the layers that get one (``q_proj``, say); none named: all but the output layer."""
