"""What a teacher behind a chat interface is asked, and how its reply is read.

The question and the answer are messages of their own, so nothing inside them can be taken for a
part of the request. "Leave it as it is" is a reply of its own, :data:`KEEP`: a model that repeats
a long answer instead is dear, and rarely gets every byte right.
"""

import re
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from aligner.config import StrictModel
from aligner.generation import Messages, chat_messages
from aligner.records import Question

KEEP: Final = "<keep/>"
"""A teacher's whole reply where the answer needs no correction."""

INSTRUCTION: Final = (
    "Please correct your last answer where it goes against these principles. Change as little as "
    "you can and keep every sentence that is right word for word: replace what is false, take out "
    "what is harmful or impolite, and add what was asked for but is missing. If nothing needs to "
    f"change, reply with {KEEP} and nothing else. Otherwise reply with the whole corrected answer "
    "and nothing else: no introduction, no explanation, no quotation marks or fence around it."
)
"""Follows the principles in the request for a correction."""

CRITIQUE: Final = (
    "Please go through your last answer and name each place that goes against these principles, "
    "with the smallest change that would mend it. Say so if there is none. Do not write the "
    "corrected answer yet."
)
"""Follows the principles in the request for a critique."""


class Principles(StrictModel):
    """What makes an answer good; a teacher corrects by it."""

    helpful: tuple[str, ...] = Field(min_length=1)
    """One sentence or two each."""

    harmless: tuple[str, ...] = Field(min_length=1)
    """As above."""

    honest: tuple[str, ...] = Field(min_length=1)
    """As above."""

    @property
    def text(self) -> str:
        """All of them under their three headings."""
        groups = {"Helpful": self.helpful, "Harmless": self.harmless, "Honest": self.honest}
        lines = (
            f"{name}:\n" + "\n".join(f"- {principle}" for principle in principles)
            for name, principles in groups.items()
        )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Reading:
    """A teacher's reply, understood: a correction, or the reason why it is none."""

    correction: str | None
    reason: str | None = None


def critique_messages(
    question: Question, answer: str, principles: Principles, *, instruction: str = CRITIQUE
) -> Messages:
    """Ask what is wrong with ``answer``."""
    return [*_conversation(question, answer), _from_user(f"{principles.text}\n\n{instruction}")]


def correction_messages(
    question: Question, answer: str, principles: Principles, *, instruction: str = INSTRUCTION
) -> Messages:
    """Ask for the correction of ``answer``."""
    return [*_conversation(question, answer), _from_user(f"{principles.text}\n\n{instruction}")]


def correction_after_critique(
    asked: Messages, critique: str, *, instruction: str = INSTRUCTION
) -> Messages:
    """Ask for the correction after ``critique``, the teacher's reply to what it was ``asked``."""
    return [*asked, {"role": "assistant", "content": critique}, _from_user(instruction)]


def read_reply(reply: str, *, answer: str) -> Reading:
    """What the teacher made of ``answer``; nothing is cut off or mended.

    :data:`KEEP` alone is the answer itself, byte for byte. Reasons: ``ambiguous_keep`` for a
    marker inside other text, ``chatty`` for a reply that holds more than the corrected answer.
    """
    if reply.strip() == KEEP:
        return Reading(answer)
    if KEEP in reply:
        return Reading(None, "ambiguous_keep")
    if is_chatty(reply, answer=answer):
        return Reading(None, "chatty")
    return Reading(reply)


# --- talk around a correction ---------------------------------------------------------------------

_CORRECTED: Final = (
    r"(?:correct|edit|revis|rewrit|rewrot|improv|updat|modif|adjust)(?:ed|en|ion|e)?"
)
_VERSION: Final = r"(?:answer|response|reply|version|text|correction|revision)"

_OPENINGS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "Sure! Here is the corrected answer:", "I have revised my response as follows:"
        rf"\W*(?:(?:sure|certainly|of course|okay|absolutely)\b[^\n]{{0,40}}?\W)??"
        rf"(?:here(?: is|'s)|below is|this is|i have|i've)\b[^\n]{{0,60}}\b{_CORRECTED}\b"
        r"[^\n]{0,80}:",
        # "Corrected answer: ...", "**My revised version:** ...", "##Correction: ..."
        rf"\W*(?:(?:my|the|your) )?(?:{_CORRECTED} {_VERSION}|correction|revision)\W{{0,3}}:",
    )
)
"""At the very start of a reply."""

_LAST_LINE: Final = re.compile(
    rf"\W*(?:(?:note|explanation|changes(?: made)?)\W{{0,3}}:[^\n]*\b{_CORRECTED}\b"
    r"|i(?:'ve| have)? (?:removed|replaced|corrected|changed|revised|edited)\b)",
    re.IGNORECASE,
)
"""``(Note: I corrected ...)``, ``I have removed the part that ...``."""

_WRAPS: Final = (("[[", "]]"), ("```", "```"), ('"', '"'), ("“", "”"), ("'", "'"))

_LOOK_AT_CHARS: Final = 400
"""Of the start, and of the last line."""


def is_chatty(reply: str, *, answer: str) -> bool:
    """Whether ``reply`` talks about the correction, or wraps it, and ``answer`` did not.

    Meant is what is said to the one who asked for a correction, not to the one who asked the
    question. On 3,739 corrections of four published sets this fires 7 times, and each time the
    correction really talks about being a revision; a test holds it to that.
    """
    return bool(_talk(reply) - _talk(answer))


def _talk(text: str) -> set[str]:
    """Which forms of talk ``text`` shows."""
    stripped = text.strip().replace("\u2019", "'")
    start = stripped[:_LOOK_AT_CHARS]
    _, newline, last_line = stripped.rpartition("\n")
    found = {opening.pattern for opening in _OPENINGS if opening.match(start)}
    if newline and _LAST_LINE.match(last_line[:_LOOK_AT_CHARS]):
        found.add(_LAST_LINE.pattern)
    return found | {opening for opening, closing in _WRAPS if _wraps(stripped, opening, closing)}


def _wraps(text: str, opening: str, closing: str) -> bool:
    """Whether one pair of marks holds the whole of ``text``."""
    inside = text.removeprefix(opening).removesuffix(closing)
    outside = len(text) - len(inside) == len(opening) + len(closing)
    return outside and opening not in inside and closing not in inside


def _conversation(question: Question, answer: str) -> Messages:
    asked = chat_messages(question.question, question.history)
    return [*asked, {"role": "assistant", "content": answer}]


def _from_user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
