"""The tokenizer of a new model, trained on the dataset, and a tokenizer's files as a value."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from aligner.adapters.hf_tokenizer import TOKENIZER_FILE, HfTokenizer
from aligner.prompt import PromptTemplate
from aligner.records import Triple

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL: Final = (PAD, BOS, EOS)
"""Of a new model, with the ids 0, 1 and 2."""

_NAMES: Final = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
)

# A word takes the space before it along; digits stand alone, so that numbers are copied digit by
# digit; runs of punctuation and of white space are pieces of their own.
_PIECES: Final = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

TokenizerFiles = Mapping[str, bytes]
"""A tokenizer's folder as a value: name to content; small enough to send to every worker."""


def train_tokenizer(
    rows: Sequence[Triple], *, template: PromptTemplate, vocab_size: int
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


def read_files(folder: Path) -> TokenizerFiles:
    """A tokenizer's files, and the model's config files that name its special ids."""
    return {name: (folder / name).read_bytes() for name in _NAMES if (folder / name).is_file()}


def write_files(files: TokenizerFiles, folder: Path, *, overwrite: bool = True) -> None:
    """The inverse of :func:`read_files`."""
    for name, content in files.items():
        if overwrite or not (folder / name).exists():
            (folder / name).write_bytes(content)


def open_files(files: TokenizerFiles) -> HfTokenizer:
    """The tokenizer that ``files`` hold.

    Raises:
        DataError: They hold none, or one without EOS.
    """
    with tempfile.TemporaryDirectory(prefix="aligner-tokenizer-") as folder:
        write_files(files, Path(folder))
        return HfTokenizer.load(folder)


def _texts(rows: Sequence[Triple], template: PromptTemplate) -> Iterator[str]:
    for row in rows:
        yield template.render(row.question, row.answer, row.history)
        yield row.correction
