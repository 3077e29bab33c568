"""Splits by content: the same question falls in the same split in every run and every dataset."""

import hashlib

from aligner.records import Split


def split_of(question_id: str, *, heldout_share: float, salt: str = "split") -> Split:
    """``"heldout"`` for about ``heldout_share`` of all question ids, else ``"train"``."""
    return "heldout" if unit_hash(question_id, salt=salt) < heldout_share else "train"


def unit_hash(key: str, *, salt: str) -> float:
    """A number in [0, 1), uniform over keys and fixed for a key; other salts are independent."""
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
