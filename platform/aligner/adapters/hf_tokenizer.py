"""A Hugging Face tokenizer folder as :class:`aligner.tokens.Tokenizer`, over ``tokenizers`` alone.

It loads in milliseconds and draws in neither torch nor transformers, so that evaluation and
serving render and encode exactly as training did, wherever they run.
"""

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from aligner.errors import DataError

TOKENIZER_FILE = "tokenizer.json"
_NAME_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_ID_FILES = ("config.json", "generation_config.json")

TokenizerFiles = Mapping[str, bytes]
"""A tokenizer's folder as a value: name to content; small enough to send to every worker."""


class HfTokenizer:
    """A fast tokenizer with the ids that begin and end a sequence."""

    def __init__(
        self, backend: tokenizers.Tokenizer, *, bos_token_id: int | None, eos_token_id: int
    ) -> None:
        """Take ``backend`` over: it must not truncate, pad, or read special tokens in text."""
        backend.no_truncation()
        backend.no_padding()
        # Otherwise a user who writes "</s>" in a question would end it.
        backend.encode_special_tokens = True
        self._backend = backend
        self._bos_token_id = bos_token_id
        self._eos_token_id = eos_token_id

    @classmethod
    def load(cls, folder: Path | str) -> "HfTokenizer":
        """Read ``tokenizer.json`` and, from the config files beside it, the ids of BOS and EOS.

        Raises:
            DataError: A file is missing or broken, or the tokenizer has no EOS.
        """
        folder = Path(folder)
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise DataError(
                f"{folder}: holds no {TOKENIZER_FILE}; a fast tokenizer's folder is needed."
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as exc:  # the library raises bare Exception for broken JSON
            raise DataError(f"{path}: is no tokenizer ({exc}); fetch it again.") from None
        eos = _special_id(folder, backend, "eos")
        if eos is None:
            raise DataError(
                f"{folder}: its tokenizer names no end-of-sequence token; "
                f"set eos_token in {_NAME_FILES[0]}."
            )
        return cls(backend, bos_token_id=_special_id(folder, backend, "bos"), eos_token_id=eos)

    @property
    def bos_token_id(self) -> int | None:
        """Id of the beginning of a sequence, ``None`` where the tokenizer has none."""
        return self._bos_token_id

    @property
    def eos_token_id(self) -> int:
        """Id that ends a correction."""
        return self._eos_token_id

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return self._backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing added, and a special token's name is ordinary text."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids`` without special tokens."""
        return str(self._backend.decode(ids, skip_special_tokens=True))


def read_files(folder: Path) -> TokenizerFiles:
    """A tokenizer's files, and the model's config files that name its special ids."""
    names = (TOKENIZER_FILE, *_NAME_FILES, "added_tokens.json", *_ID_FILES)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


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


def open_files_once(files: TokenizerFiles) -> HfTokenizer:
    """As :func:`open_files`, and kept for the next call with the same files.

    Loading takes as long as encoding a thousand rows; a worker's process does it once.
    """
    return _opened(tuple(sorted(files.items())))


def hash_files(files: TokenizerFiles) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _opened(files: tuple[tuple[str, bytes], ...]) -> HfTokenizer:
    return open_files(dict(files))


def _special_id(folder: Path, backend: tokenizers.Tokenizer, which: str) -> int | None:
    """Id of ``bos`` or ``eos``: by its name where the tokenizer's files give one, else by number.

    A tokenizer's config that says ``null`` is believed: some models name a BOS id in
    ``config.json`` that their tokenizer never writes.
    """
    for config in _configs(folder, _NAME_FILES):
        if f"{which}_token" in config:
            token = config[f"{which}_token"]
            name = token.get("content") if isinstance(token, dict) else token
            return None if name is None else backend.token_to_id(str(name))
    for config in _configs(folder, _ID_FILES):
        number = config.get(f"{which}_token_id")
        if isinstance(number, list):
            number = number[0] if number else None
        if isinstance(number, int):
            return number
    return None


def _configs(folder: Path, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise DataError(f"{path}: is broken JSON; fetch it again.") from None
        if isinstance(content, dict):
            yield content
