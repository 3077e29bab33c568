"""Conversations written as one text with ``Human:`` and ``Assistant:`` marks, as in hh-rlhf."""

import itertools
import re
from typing import Final

from aligner.records import Question, Role, Triple, Turn

_MARK: Final = re.compile(r"\n\n(Human|Assistant):")
_ROLES: Final[dict[str, Role]] = {"Human": "user", "Assistant": "assistant"}


class RowProblem(Exception):
    """A row cannot be used; the only argument is the reason's name."""


def parse(text: str) -> tuple[Turn, ...]:
    """The turns of a conversation, white space around each removed; the last may be empty.

    Raises:
        RowProblem: ``no_marks``, ``text_before_marks``, ``not_user_first``, ``role_repeated`` (a
            mark inside a turn's own words looks like that, too) or ``empty_turn``.
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
    if turns[0].role != "user":
        raise RowProblem("not_user_first")
    if any(one.role == other.role for one, other in itertools.pairwise(turns)):
        raise RowProblem("role_repeated")
    if not all(turn.text for turn in turns[:-1]):
        raise RowProblem("empty_turn")
    return turns


def pair(chosen: str, rejected: str, *, source: str) -> Triple:
    """Two conversations that part at the last reply: the rejected reply is the answer.

    Raises:
        RowProblem: As :func:`parse`, or ``no_reply``, ``empty_reply``, ``turns_differ`` (in
            number) or ``context_differs`` (in what was said before the last reply).
    """
    preferred, dispreferred = parse(chosen), parse(rejected)
    for turns in (preferred, dispreferred):
        if turns[-1].role != "assistant":
            raise RowProblem("no_reply")
        if not turns[-1].text:
            raise RowProblem("empty_reply")
    if len(preferred) != len(dispreferred):
        raise RowProblem("turns_differ")
    if preferred[:-1] != dispreferred[:-1]:
        raise RowProblem("context_differs")
    *history, last = preferred[:-1]
    asked = Question(last.text, tuple(history))
    return Triple(
        question=asked.question,
        answer=dispreferred[-1].text,
        correction=preferred[-1].text,
        source=source,
        history=asked.history,
    )
