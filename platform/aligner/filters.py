"""Named filters: each returns ``"keep"`` or the reason for dropping a row."""

from collections.abc import Callable

from aligner.metrics import similarity
from aligner.records import Triple

KEEP = "keep"

Filter = Callable[[Triple], str]


def blank_text(row: Triple) -> str:
    """Drop rows without words in one of the three texts."""
    for name in ("question", "answer", "correction"):
        if not getattr(row, name).strip():
            return f"blank_{name}"
    return KEEP


def length(row: Triple, *, max_chars: int) -> str:
    """Drop rows with a text of more than ``max_chars`` Unicode code points."""
    for name in ("question", "answer", "correction"):
        if len(getattr(row, name)) > max_chars:
            return f"long_{name}"
    return KEEP


def surrogates(row: Triple) -> str:
    """Drop rows with lone surrogates: they are no text, Parquet and tokenizers refuse them."""
    texts = (row.question, row.answer, row.correction, *(turn.text for turn in row.history))
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        return "broken_unicode"
    return KEEP


def unchanged(row: Triple) -> str:
    """Drop rows whose correction is the answer, byte for byte."""
    return "unchanged" if row.is_identity else KEEP


def whitespace_edit(row: Triple) -> str:
    """Drop rows whose correction differs from the answer in white space alone."""
    if not row.is_identity and row.correction.split() == row.answer.split():
        return "whitespace_edit"
    return KEEP


def dissimilar(row: Triple, *, min_similarity: float) -> str:
    """Drop corrections that are another answer rather than an edit of this one."""
    return KEEP if similarity(row.answer, row.correction) >= min_similarity else "dissimilar"


def first_reason(row: Triple, filters: tuple[Filter, ...]) -> str:
    """The first filter's reason to drop ``row``, or ``"keep"``."""
    for judge in filters:
        if (reason := judge(row)) != KEEP:
            return reason
    return KEEP
