"""What is trained: a model's shape, new weights or a checkpoint."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aligner.config import StrictModel


class Shape(StrictModel):
    """Sizes of a decoder; everything that its memory and its arithmetic follow from."""

    family: Literal["llama", "gemma"] = "llama"
    """Gemma's differs in its activation (GELU), its norms and in scaling the embedding."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""

    layers: int = Field(default=4, ge=1)
    """Number of decoder layers."""

    heads: int = Field(default=4, ge=1)
    """Attention heads; vLLM on a CPU wants a ``head_dim`` of 32, 64, 80, 96, ..."""

    kv_heads: int | None = Field(default=None, ge=1)
    """Heads of keys and values, shared by groups of ``heads``; unset: as many as ``heads``."""

    head_dim: int | None = Field(default=None, ge=2)
    """Width of a head; unset: ``hidden_size`` / ``heads``."""

    intermediate_size: int = Field(default=384, ge=8)
    """Width of the gated feed-forward."""

    vocab_size: int = Field(default=512, ge=260)
    """Tokens, the 256 bytes and three special ones included; a small one copies names better."""

    tied_embeddings: bool = True
    """Whether the output layer shares its weights with the embedding."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.head_dim is None and self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be an even multiple of heads={self.heads}; "
                f"try hidden_size={32 * self.heads}, or set head_dim"
            )
        if self.head_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be an even multiple of heads={self.heads}, "
                f"here a head is {self.head_size} wide; try head_dim={self.head_size + 1}"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}; try kv_heads=1"
            )
        return self

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.head_dim or self.hidden_size // self.heads

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: attention, feed-forward and two norms, without biases."""
        queries = self.heads * self.head_size
        keys_values = 2 * self.key_value_heads * self.head_size
        attention = self.hidden_size * (2 * queries + keys_values)
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """Parameters of one embedding, which the output layer shares or has again."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters; those that two layers share count once."""
        embeddings = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        return self.layers * self.layer_parameters + embeddings + self.hidden_size


class ScratchModel(Shape):
    """A new model of some shape, with a byte-level BPE trained on the dataset's train texts."""

    kind: Literal["scratch"]

    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights. The usual 0.02 is meant for widths of thousands:
    a width of 128 leaves its first plateau in half the steps with 0.04."""


class PretrainedModel(StrictModel):
    """A checkpoint in Hugging Face's layout; code it brings is never run."""

    kind: Literal["pretrained"]

    path: str
    """A local folder (an export of ours, say) or a hub id; safetensors only."""

    revision: str | None = None
    """Of a hub id: a commit, tag or branch."""

    shape: Shape | None = None
    """For ``--plan`` where the checkpoint is not at hand; training reads the checkpoint's own."""


Model = Annotated[ScratchModel | PretrainedModel, Field(discriminator="kind")]
