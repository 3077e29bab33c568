"""Named filters: each returns ``"keep"`` or the reason for dropping a row."""

from collections.abc import Callable

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


def first_reason(row: Triple, filters: tuple[Filter, ...]) -> str:
    """The first filter's reason to drop ``row``, or ``"keep"``."""
    for judge in filters:
        if (reason := judge(row)) != KEEP:
            return reason
    return KEEP
