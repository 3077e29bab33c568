"""The tokenizer of a new model, trained on the dataset."""

import json
from collections.abc import Iterable, Iterator
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from aligner.adapters.hf_tokenizer import TOKENIZER_FILE, TokenizerFiles
from aligner.prompt import PromptTemplate
from aligner.records import Triple

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL: Final = (PAD, BOS, EOS)
"""Of a new model, with the ids 0, 1 and 2."""

# A word takes the space before it along; digits stand alone, so that numbers are copied digit by
# digit; runs of punctuation and of white space are pieces of their own.
_PIECES: Final = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(
    rows: Iterable[Triple], *, template: PromptTemplate, vocab_size: int
) -> TokenizerFiles:
    """A byte-level BPE over rendered prompts and corrections; equal rows give equal bytes.

    It has fewer than ``vocab_size`` tokens where the texts offer no more pairs to merge.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(rows, template), trainer=trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
    }
    return {
        TOKENIZER_FILE: backend.to_str(pretty=True).encode(),
        "tokenizer_config.json": (json.dumps(config, indent=2) + "\n").encode(),
    }


def _texts(rows: Iterable[Triple], template: PromptTemplate) -> Iterator[str]:
    for row in rows:
        yield template.render(row.question, row.answer, row.history)
        yield template.frame.escape(row.correction)
