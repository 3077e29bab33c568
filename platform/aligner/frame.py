r"""What stands around the values of a prompt, and how a value that holds the same is told apart.

A frame's marks are the pieces of its template and the labels in them (``##Answer:``, ``USER:``).
A value that holds a mark is written with a backslash behind the mark's first character, one that
holds ``#\#Answer:`` already with one more, and so on:

    ##Answer:  ->  #\#Answer:        #\#Answer:  ->  #\\#Answer:

So no mark stands in a value, a value without marks is written as it is, and :meth:`unescape` gives
every value back. A model trained on rows that are written so copies them as it copies all else.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

_SHORTEST: Final = 2
"""Characters of a mark: a single one has no inside to write into."""

_LABEL: Final = re.compile(r"(?:[A-Z]|[^\w\s])\S*[^\w\s.,;!?'\")]")
"""A word of a frame that stands for a part by itself: ``USER:``, ``##Answer:``, ``<|user|>``."""


@dataclass(frozen=True)
class Frame:
    """The marks of a prompt."""

    marks: tuple[str, ...]
    """Each of two characters or more."""

    @cached_property
    def _escape(self) -> str:
        """A backslash, or the first character that stands in no mark."""
        text = "".join(self.marks)
        return next(char for char in map(chr, [0x5C, *range(0x21, 0x110000)]) if char not in text)

    @cached_property
    def _first(self) -> re.Pattern[str]:
        """A mark's first character, where the rest of the mark follows, escaped or not."""
        escapes = f"{re.escape(self._escape)}*"
        rests = (f"{re.escape(mark[0])}(?={escapes}{re.escape(mark[1:])})" for mark in self.marks)
        return re.compile("|".join(rests) or r"(?!)")

    @cached_property
    def _escaped(self) -> re.Pattern[str]:
        """A character that begins a mark, and the escapes behind it."""
        firsts = "|".join(sorted({re.escape(mark[0]) for mark in self.marks})) or r"(?!)"
        return re.compile(f"(?:{firsts}){re.escape(self._escape)}+")

    def escape(self, value: str, *, left: str = "", right: str = "") -> str:
        """``value`` with no mark in it.

        ``left`` and ``right`` are what stands beside it in the prompt: a mark that begins in the
        last character of the one, or ends in the other, is told apart as well.
        """
        text = left[-1:] + value + right
        begin, end = len(left[-1:]), len(left[-1:]) + len(value)
        pieces, done = [], begin
        for match in self._first.finditer(text):
            if match.start() >= end:
                break
            pieces += [text[done : match.end()], self._escape]
            done = match.end()
        return "".join([*pieces, text[done:end]]) if pieces else value

    def unescape(self, text: str) -> str:
        """The value that :meth:`escape` wrote as ``text``; any other text mostly as it is."""
        if self._escape not in text:
            return text
        # From the end: whether a mark goes on behind an escape is only known once that is undone.
        for match in reversed(list(self._escaped.finditer(text))):
            if self._first.match(text, match.start()):
                text = text[: match.start() + 1] + text[match.start() + 2 :]
        return text

    def settled(self, text: str) -> str:
        """As much of the unescaped text as is known while ``text`` may still go on."""
        if self._escape not in text:
            return text
        end = len(text)
        for match in reversed(list(self._escaped.finditer(text))):
            behind = text[match.end() : end].replace(self._escape, "")
            if len(behind) >= self._longest_rest:
                break
            begun = match[0][0] + behind
            if any(len(begun) < len(mark) and mark.startswith(begun) for mark in self.marks):
                end = match.start() + 1
        return self.unescape(text[:end])

    def begun(self, value: str) -> str:
        """The beginning of ``value`` whose escapes are known, however it goes on."""
        end, left = len(value), self._longest_rest
        while end and left:
            end -= 1
            # Escapes may stand in a mark that is yet to be whole, any number of them.
            left -= value[end] != self._escape
        return value[:end]

    @cached_property
    def _longest_rest(self) -> int:
        return max((len(mark) - 1 for mark in self.marks), default=0)


def marks_of(*pieces: str) -> tuple[str, ...]:
    """The marks of the literal ``pieces`` of a template, longest first."""
    found = set[str]()
    for piece in pieces:
        found.update(label for label in piece.split() if _LABEL.fullmatch(label))
        # White space around a piece is part of the mark only where there is little else.
        mark = piece.strip() if len(piece.strip()) >= _SHORTEST else piece
        found.add(mark)
    return tuple(
        sorted((mark for mark in found if len(mark) >= _SHORTEST), key=lambda m: (-len(m), m))
    )
