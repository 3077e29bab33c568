"""Conversations written as one text with ``Human:`` and ``Assistant:`` marks, as in hh-rlhf."""

import re
from typing import Final

from aligner.records import Role, Turn
from aligner_jobs.conversations import require_alternating
from aligner_jobs.raw_rows import RowProblem

_MARK: Final = re.compile(r"\n\n(Human|Assistant):")
_ROLES: Final[dict[str, Role]] = {"Human": "user", "Assistant": "assistant"}


def parse(text: str) -> tuple[Turn, ...]:
    """The turns of a conversation, white space around each removed; the last may be empty.

    Raises:
        RowProblem: ``no_marks``, ``text_before_marks``, or as
            :func:`~aligner_jobs.conversations.require_alternating` (a mark inside a turn's own
            words looks like a role that is repeated).
    """
    # The first mark of a file that was cleaned up may have lost its line breaks.
    before, *parts = _MARK.split("\n\n" + text.lstrip("\n"))
    if not parts:
        raise RowProblem("no_marks")
    if before.strip():
        raise RowProblem("text_before_marks")
    names, texts = parts[::2], parts[1::2]
    turns = tuple(
        Turn(role=_ROLES[name], text=words.strip())
        for name, words in zip(names, texts, strict=True)
    )
    require_alternating(turns)
    return turns
