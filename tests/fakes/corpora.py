"""Corpora of given tokens."""

from collections.abc import Sequence

from aligner.tokens import Example
from aligner_jobs.train.corpus import Corpus, local_corpus
from aligner_jobs.train.encoding import block


def corpus_of(rows: Sequence[Sequence[Example]], *, per_block: int = 100) -> Corpus:
    """Rows of one or more documents each, the same number in every row."""
    named = [(f"{number:016x}", "keep", list(row)) for number, row in enumerate(rows)]
    blocks = [block(named[at : at + per_block]) for at in range(0, len(named), per_block)]
    each = len(rows[0]) if rows else 1
    return local_corpus(blocks, documents_per_row=each)[0]


def counting(*rows: tuple[int, int]) -> Corpus:
    """Rows of (prompt tokens, target tokens) with ids that tell row and place."""
    examples = []
    for number, (prompt, target) in enumerate(rows, start=1):
        ids = [100 * number + place for place in range(prompt + target)]
        examples.append([Example(prompt_ids=ids[:prompt], target_ids=ids[prompt:])])
    return corpus_of(examples, per_block=2)
