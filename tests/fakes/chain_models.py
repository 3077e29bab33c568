"""A model whose every word follows from the word before it, with all the arithmetic of a large one.

Nobody has trained it: its layers compute and their outputs are multiplied by zero, so that what
comes next is decided by the last word alone, and the output layer holds who follows whom. Greedily
decoded it says the same in any batch and precision. As an upstream it gives one answer to every
question, as an Aligner that answer with another beginning.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import tokenizers
import torch
from tokenizers import models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from aligner import artefacts
from aligner.manifest import provenance
from aligner.prompt import PLAIN

_TEMPLATE: Final = "{% for one in messages %}{{ one.role }} {{ one.content }} {% endfor %}assistant"
_ANSWERS, _CORRECTS, _END = "assistant", ":", "</s>"
"""What the upstream's prompt ends with, the Aligner's, and a text."""


@dataclass(frozen=True)
class Chain:
    """What the models say."""

    answer: tuple[str, ...]
    correction: tuple[str, ...]

    @classmethod
    def of(cls, tokens: int, *, changed: int) -> "Chain":
        """``tokens`` words, of which the first ``changed`` are corrected."""
        answer = tuple(f"w{number}" for number in range(tokens))
        return cls(answer, (*(f"v{number}" for number in range(changed)), *answer[changed:]))

    @property
    def followers(self) -> Mapping[str, str]:
        """Word to the one that comes after it."""
        said = [(_ANSWERS, *self.answer, _END), (_CORRECTS, *self.correction, _END)]
        return {one: after for words in said for one, after in pairwise(words)}


def write_models(
    folder: Path, chain: Chain, *, layers: int = 8, width: int = 512, context_tokens: int = 2048
) -> int:
    """An upstream in ``folder/chat``, an Aligner's export in ``folder/export``; their parameters.

    Eight layers of 512 are 30 million.
    """
    words = _vocabulary(chain)
    upstream = folder / "chat"
    upstream.mkdir()
    model = _model(chain, words, layers=layers, width=width, context_tokens=context_tokens)
    model.save_pretrained(upstream)
    _write_tokenizer(upstream, words)
    with artefacts.staging(str(folder / "export")) as staging:
        shutil.copytree(upstream, staging.path, dirs_exist_ok=True)
        staging.publish(
            kind="export",
            name="chain",
            prompt=PLAIN,
            prompt_fingerprint=PLAIN.fingerprint,
            **provenance(),
        )
    return sum(one.numel() for one in model.parameters())


def question(number: int, words: int = 32) -> str:
    """One of many, in words that the models know; no two begin alike."""
    return " ".join(f"q{(number * 7919 + place * 104729) % 2000}" for place in range(words))


def _vocabulary(chain: Chain) -> dict[str, int]:
    marks = ["<s>", _END, "<unk>", _ANSWERS, _CORRECTS, "user", "##"]
    marks += ["Question", "Answer", "Correction"]
    said = [*chain.answer, *chain.correction, *(f"q{number}" for number in range(2000))]
    names = list(dict.fromkeys([*marks, *said]))
    names += [f"x{number}" for number in range(4096 - len(names))]
    return {name: number for number, name in enumerate(names)}


def _write_tokenizer(folder: Path, words: dict[str, int]) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<s>", _END])
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": _END,
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _model(
    chain: Chain, words: dict[str, int], *, layers: int, width: int, context_tokens: int
) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=round(width * 8 / 3 / 32) * 32,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            max_position_embeddings=context_tokens,
            bos_token_id=words["<s>"],
            eos_token_id=words[_END],
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedded = torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=1)
        model.lm_head.weight.zero_()
        for word, after in chain.followers.items():
            model.lm_head.weight[words[after]] += embedded[words[word]]
    return model
