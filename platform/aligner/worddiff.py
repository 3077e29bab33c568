"""What a correction changed, word by word, for people to look at."""

import difflib
import re
from typing import Final, Literal, NamedTuple

_WORD: Final = re.compile(r"\s+|\w+|[^\w\s]")


class Piece(NamedTuple):
    """A run of text: in both, in the answer alone, or in the correction alone."""

    kind: Literal["same", "removed", "added"]
    text: str


def word_diff(answer: str, correction: str) -> list[Piece]:
    """The pieces in reading order, what was removed before what replaced it.

    ``same`` and ``removed`` pieces together are the answer, ``same`` and ``added`` ones the
    correction, to the byte.
    """
    old, new = _WORD.findall(answer), _WORD.findall(correction)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    pieces: list[Piece] = []
    removed = added = ""
    for tag, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        gone, come = "".join(old[old_from:old_to]), "".join(new[new_from:new_to])
        inside = (removed or added) and old_to < len(old)
        # Two changed words with a space between them read better as one change.
        if tag != "equal" or (inside and gone.isspace()):
            removed, added = removed + gone, added + come
            continue
        pieces += [*_changed(removed, added), Piece("same", gone)]
        removed = added = ""
    return pieces + _changed(removed, added)


def _changed(removed: str, added: str) -> list[Piece]:
    pieces = [Piece("removed", removed), Piece("added", added)]
    return [piece for piece in pieces if piece.text]
