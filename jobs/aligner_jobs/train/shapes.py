"""The shape of the model that a config names, without loading any weight."""

import json
from pathlib import Path
from typing import Any, assert_never

from pydantic import ValidationError

from aligner.errors import ConfigError, DataError
from aligner_jobs.config.model import PretrainedModel, ScratchModel, Shape
from aligner_jobs.config.train import TrainConfig


def shape_of(config: TrainConfig) -> Shape:
    """Of a new model as it is written, of a checkpoint from its ``config.json``.

    Raises:
        ConfigError: The checkpoint is not at hand, and ``model.shape`` does not say it.
        DataError: Its config cannot be read.
    """
    match config.model:
        case ScratchModel():
            return config.model
        case PretrainedModel(path=path, shape=shape):
            file = Path(path) / "config.json"
            if file.is_file():
                return _of_checkpoint(file)
            if shape is None:
                raise ConfigError(
                    f"model.path={path}: is not at hand, so its shape is unknown; "
                    "set model.shape to plan without it."
                )
            return shape
        case _:
            assert_never(config.model)


def _of_checkpoint(file: Path) -> Shape:
    """Transformers' names in ours; models of other families are counted like Llama's."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Shape(
            family="gemma" if found.get("model_type") == "gemma" else "llama",
            hidden_size=found["hidden_size"],
            layers=found["num_hidden_layers"],
            heads=found["num_attention_heads"],
            kv_heads=found.get("num_key_value_heads"),
            head_dim=found.get("head_dim"),
            intermediate_size=found["intermediate_size"],
            vocab_size=found["vocab_size"],
            # Gemma's config leaves it out where it is true, Llama's where it is false.
            tied_embeddings=found.get("tie_word_embeddings", found.get("model_type") == "gemma"),
        )
    except (ValueError, KeyError, ValidationError) as exc:
        reason = f"no {exc}" if isinstance(exc, KeyError) else type(exc).__name__
        raise DataError(
            f"{file}: does not say the model's shape ({reason}); fetch it again."
        ) from None
