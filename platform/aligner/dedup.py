"""Near-duplicates: rows whose question and answer say almost the same words in the same order.

The measure is Jaccard's similarity of two rows' sets of word n-grams (shingles). Comparing all
pairs is out of the question, so MinHash signatures are cut into bands (Leskovec, Rajaraman and
Ullman, *Mining of Massive Datasets*, section 3.4): rows that agree in a whole band are candidates,
and candidates are compared exactly.

Letters: N rows, K values of a signature, B bands, P pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aligner.shingles import Grams, Hashes, ngrams, words

RECALL: Final = 0.999
"""Share of the pairs at the threshold that become candidates; of more similar pairs, more do."""

_MAX_VALUES: Final = 128
_MAX_ROWS_PER_BAND: Final = 12
_NEIGHBOURS: Final = 3

Mask = NDArray[np.bool_]
Pairs = NDArray[np.int64]
"""P x 2: a row's number and the number of an earlier row; sorted."""


@dataclass(frozen=True, slots=True)
class Banding:
    """How a signature is cut: a band agrees with probability ``similarity ** values_per_band``."""

    bands: int
    values_per_band: int

    @property
    def values(self) -> int:
        """Of a signature."""
        return self.bands * self.values_per_band

    def found(self, similarity: float) -> float:
        """Probability that a pair of this similarity agrees in a band."""
        return float(1 - (1 - similarity**self.values_per_band) ** self.bands)


def banding(threshold: float) -> Banding:
    """The longest bands that find :data:`RECALL` of the pairs at ``threshold``.

    Long bands keep dissimilar rows apart. At 0.8 they are 18 of 5 values: a pair at 0.8 is found
    with probability 0.9992, one at 0.3 is compared in vain with probability 0.043.
    """
    for length in range(_MAX_ROWS_PER_BAND, 0, -1):
        bands = math.ceil(math.log(1 - RECALL) / math.log(1 - threshold**length))
        if bands * length <= _MAX_VALUES:
            return Banding(bands, length)
    raise AssertionError("one value per band is enough for every threshold of 0.05 and more")


def shingles(rows: Sequence[tuple[str, str]], *, size: int) -> Grams:
    """The n-grams of each row of question and answer.

    The correction is left out: it mostly repeats the answer, and two corrections of one answer
    contradict each other. So is the history: a conversation's next turn repeats all of it.
    """
    return ngrams(
        [words(f"{question}\n{answer}") for question, answer in rows], size=size, pad=True
    )


def band_hashes(signatures_NK: NDArray[np.uint32], cut: Banding) -> Hashes:
    """N x B: rows that have a hash in common agree in that band."""
    values_NBR = signatures_NK.reshape(-1, cut.bands, cut.values_per_band).astype(np.uint64)
    hashes_NB = np.zeros(values_NBR.shape[:2], dtype=np.uint64)
    for place in range(cut.values_per_band):
        hashes_NB = (hashes_NB ^ values_NBR[:, :, place]) * np.uint64(0x9E3779B97F4A7C15)
        hashes_NB ^= hashes_NB >> np.uint64(29)
    return hashes_NB


def candidates(hashes_N: Hashes, numbers_N: NDArray[np.int64]) -> Pairs:
    """Pairs of rows to compare, of one band; ``numbers_N`` ascends.

    Of rows that agree each is paired with the first and with its nearest predecessors, not with
    all: their number stays linear where a boilerplate text makes half of the rows agree. Real
    near-duplicates agree in several bands, and have other neighbours in each.
    """
    order = np.argsort(hashes_N, kind="stable")
    hashes, numbers = hashes_N[order], numbers_N[order]
    same = np.zeros(len(hashes), dtype=np.bool_)
    same[1:] = hashes[1:] == hashes[:-1]
    # For each place, that of the first row of its group.
    firsts = np.maximum.accumulate(np.where(same, 0, np.arange(len(hashes))))
    found = [np.stack([numbers[same], numbers[firsts[same]]], axis=1)]
    for distance in range(1, _NEIGHBOURS + 1):
        later = np.flatnonzero(np.arange(len(hashes)) - firsts > distance)
        found.append(np.stack([numbers[later], numbers[later - distance]], axis=1))
    return unique_pairs(found)


def unique_pairs(found: Sequence[Pairs]) -> Pairs:
    """All of ``found`` once."""
    if not found:
        return np.empty((0, 2), dtype=np.int64)
    return _unpacked(np.unique(_packed(np.concatenate(found))))


def without_pairs(pairs: Pairs, known: Pairs) -> Pairs:
    """``pairs`` less those of ``known``."""
    return _unpacked(np.setdiff1d(_packed(pairs), _packed(known), assume_unique=True))


def jaccard(one: set[int], other: set[int]) -> float:
    """Shared elements over all elements; 1 for two empty sets."""
    shared = len(one & other)
    union = len(one) + len(other) - shared
    return shared / union if union else 1.0


def fallen(similar: Pairs, *, rows: int) -> Mask:
    """Rows that are similar to an earlier row which stays.

    Of a chain in which each row resembles the next, every second one stays at least: what is
    similar only to a row that fell is no duplicate of anything kept.
    """
    falls = np.zeros(rows, dtype=np.bool_)
    for later, earlier in similar.tolist():
        if not falls[earlier]:
            falls[later] = True
    return falls


def _packed(pairs: Pairs) -> Hashes:
    assert not len(pairs) or pairs.max() < 2**32, "row numbers of more than 32 bits"
    return (pairs[:, 0].astype(np.uint64) << np.uint64(32)) | pairs[:, 1].astype(np.uint64)


def _unpacked(packed: Hashes) -> Pairs:
    halves = [packed >> np.uint64(32), packed & np.uint64(0xFFFFFFFF)]
    return np.stack(halves, axis=1).astype(np.int64)
