"""MinHash signatures by rensa."""

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from aligner.shingles import Grams

_SEED = 1
"""Signatures are compared within one dataset only; any number would do."""


def signatures(grams: Grams, *, values: int) -> NDArray[np.uint32]:
    """One row of ``values`` per text; the same in every process.

    Two texts agree in a value with a probability that is their sets' Jaccard similarity.
    """
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        grams.hashes, grams.offsets.astype(np.uint64), values, _SEED
    )
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, values)
