"""An export with all the arithmetic of a model of its size, and nothing learnt."""

import json
from pathlib import Path
from typing import Final

import tokenizers
import torch
from tokenizers import models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from aligner import artefacts
from aligner.manifest import Manifest, provenance
from aligner.prompt import PLAIN

_SPECIAL: Final = ("<s>", "</s>", "<unk>")


def text_of(numbers: list[int]) -> str:
    """A text of as many tokens; a number is 0 or more and less than the vocabulary by three."""
    return " ".join(f"w{number}" for number in numbers)


def write_export(
    uri: str, *, vocab_size: int, layers: int = 8, width: int = 512, context_tokens: int = 4096
) -> tuple[Manifest, int]:
    """A Llama with random weights that may be served as an aligner, and its parameters."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=round(width * 8 / 3 / 32) * 32,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            max_position_embeddings=context_tokens,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    with artefacts.staging(uri) as staging:
        model.save_pretrained(staging.path)
        _write_tokenizer(staging.path, vocab_size)
        manifest: Manifest = staging.publish(
            kind="export",
            name="random",
            prompt=PLAIN,
            prompt_fingerprint=PLAIN.fingerprint,
            **provenance(),
        )
    return manifest, sum(one.numel() for one in model.parameters())


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    words = [*_SPECIAL, *(f"w{number}" for number in range(vocab_size - len(_SPECIAL)))]
    names = {name: number for number, name in enumerate(words)}
    backend = tokenizers.Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(_SPECIAL))
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
