"""Texts as word n-grams, hashed: what near-duplicates and leaked questions are told by.

Hashes are the same in every process and every run. Those of one text stand in a row of
:class:`Grams`, so that a batch of texts costs a handful of numpy calls.
"""

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Written without spaces between words: kana, Chinese characters, Thai, Lao, Burmese, Khmer.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that no power of it is zero modulo 2**64."""


@dataclass(frozen=True, slots=True)
class Grams:
    """The n-gram hashes of several texts, one after the other."""

    hashes: Hashes
    offsets: NDArray[np.int64]
    """Text ``i`` has ``hashes[offsets[i] : offsets[i + 1]]``, in the order of its words."""

    @property
    def owners(self) -> NDArray[np.int64]:
        """For each hash, the number of its text."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def sets(self) -> list[set[int]]:
        """The different hashes of each text."""
        values, ends = self.hashes.tolist(), self.offsets.tolist()
        return [set(values[start:end]) for start, end in itertools.pairwise(ends)]


def words(text: str) -> list[str]:
    """The words of ``text`` in order, free of case, punctuation and Unicode's many forms (NFKC).

    In scripts without spaces every character is a word. A text of signs alone, of emoji for
    instance, has what its white space separates.
    """
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    folded = plain.casefold()
    return _WORD.findall(folded) or folded.split()


def ngrams(texts: Sequence[Sequence[str]], *, size: int, pad: bool) -> Grams:
    """All runs of ``size`` words of each text.

    A text with fewer has none, or with ``pad`` a single one of all its words.
    """
    if pad:
        texts = [
            [*text, *[""] * (size - len(text))] if len(text) < size else text for text in texts
        ]
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    flat = np.array([_hash(word) for text in texts for word in text], dtype=np.uint64)
    runs = max(len(flat) - size + 1, 0)
    hashes = np.zeros(runs, dtype=np.uint64)
    for place in range(size):
        hashes = hashes * _BASE + flat[place : place + runs]
    starts = np.cumsum(lengths) - lengths
    # Runs that begin in one text and end in the next are none.
    room = np.repeat(starts + lengths, lengths)[:runs] - np.arange(runs)
    counts = np.maximum(lengths - size + 1, 0)
    return Grams(_mixed(hashes[room >= size]), np.concatenate([[0], np.cumsum(counts)]))


def hash_of(text: Sequence[str]) -> int:
    """The hash of a whole sequence of words."""
    return _hash("\n".join(text))


@functools.lru_cache(maxsize=1 << 17)
def _hash(text: str) -> int:
    # Whoever reads rows has refused lone surrogates; a hash need not fall over them again.
    encoded = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit depends on all: a sum's low bits know only the low bits of its terms."""
    mixed = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))
