"""Conversations as lists of messages, and what every conversation must be like to be of use."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from aligner.records import Question, Role, Triple, Turn
from aligner_jobs.config.sources import Messages
from aligner_jobs.raw_rows import RowProblem


def read_turns(messages: Sequence[Any], names: Messages) -> tuple[Turn, ...]:
    """The turns that ``messages`` are, instructions before them folded in where they are to be.

    Raises:
        RowProblem: ``not_messages``, ``not_text``, ``broken_unicode``, ``unknown_role`` or
            ``system_turn``.
    """
    if not all(isinstance(message, dict) for message in messages):
        raise RowProblem("not_messages")
    system = ""
    if messages and messages[0].get(names.role_key) in names.system_roles:
        if names.system_turns == "set_aside":
            raise RowProblem("system_turn")
        system = _text(messages[0], names)
        messages = messages[1:]
    turns = tuple(Turn(_role(message, names), _text(message, names)) for message in messages)
    if not system.strip() or not turns:
        return turns
    first = Turn(turns[0].role, f"{system}\n\n{turns[0].text}")
    return (first, *turns[1:])


def require_alternating(turns: Sequence[Turn]) -> None:
    """See that user and assistant take turns, the user first, and that each says something.

    The last turn may be empty: what is missing there depends on what it was to be.

    Raises:
        RowProblem: ``not_user_first``, ``role_repeated`` or ``empty_turn``.
    """
    if turns and turns[0].role != "user":
        raise RowProblem("not_user_first")
    if any(one.role == other.role for one, other in itertools.pairwise(turns)):
        raise RowProblem("role_repeated")
    if not all(turn.text.strip() for turn in turns[:-1]):
        raise RowProblem("empty_turn")


def questions(turns: Sequence[Turn]) -> Iterator[tuple[int, Question]]:
    """Every turn of the user, numbered from 1, as a question with what was said before it.

    Raises:
        RowProblem: As :func:`require_alternating`, ``empty_question`` or ``no_question``.
    """
    require_alternating(turns)
    if not turns:
        raise RowProblem("no_question")
    if turns[-1].role == "user" and not turns[-1].text.strip():
        raise RowProblem("empty_question")
    for at, turn in enumerate(turns):
        if turn.role == "user":
            yield at + 1, Question(turn.text, tuple(turns[:at]))


def pair(preferred: Sequence[Turn], dispreferred: Sequence[Turn], *, source: str) -> Triple:
    """Two conversations that part at the last reply: the rejected reply is the answer.

    Raises:
        RowProblem: As :func:`require_alternating`, or ``no_reply``, ``empty_reply``,
            ``no_question``, ``turns_differ`` (in number) or ``context_differs`` (in what was said
            before the last reply).
    """
    for turns in (preferred, dispreferred):
        require_alternating(turns)
        if not turns or turns[-1].role != "assistant":
            raise RowProblem("no_reply")
        if not turns[-1].text.strip():
            raise RowProblem("empty_reply")
    if len(preferred) != len(dispreferred):
        raise RowProblem("turns_differ")
    if preferred[:-1] != dispreferred[:-1]:
        raise RowProblem("context_differs")
    *history, last = preferred[:-1]
    return Triple(
        question=last.text,
        answer=dispreferred[-1].text,
        correction=preferred[-1].text,
        source=source,
        history=tuple(history),
    )


def _role(message: dict[str, Any], names: Messages) -> Role:
    role = message.get(names.role_key)
    if role in names.user_roles:
        return "user"
    if role in names.assistant_roles:
        return "assistant"
    raise RowProblem("system_turn" if role in names.system_roles else "unknown_role")


def _text(message: dict[str, Any], names: Messages) -> str:
    value = message.get(names.text_key)
    if not isinstance(value, str):
        raise RowProblem("not_text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowProblem("broken_unicode") from None
    return value
