"""Personal data out of a row: the same text gets the same mark wherever the row holds it."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from aligner.records import Triple, Turn

Entity = Literal[
    "CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER", "US_SSN"
]
ENTITIES: Final[tuple[Entity, ...]] = get_args(Entity)

Find = Callable[[str], Mapping[str, Entity]]
"""From a text to the personal data that it holds, and of what kind each is."""


_EMAIL: Final = re.compile(
    # Every part is bounded, so that a megabyte without a space is read in one go.
    r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?!\w)"
)
_IP: Final = re.compile(
    r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w:]|\.\d)"
    r"|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d))"
)


def emails(text: str) -> list[str]:
    """Mail addresses in ``text``."""
    return _EMAIL.findall(text)


def ip_addresses(text: str) -> list[str]:
    """Addresses of machines, version 4 and 6, other than this machine's own (``127.0.0.1``)."""
    return [found for found in _IP.findall(text) if _is_somebodys(found)]


def _is_somebodys(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    # "a::b" reads as an address, too, and is more often a name in a program.
    told = address.version == 4 or sum(map(bool, text.split(":"))) >= 3
    return told and not (address.is_loopback or address.is_unspecified)


@dataclass(frozen=True, slots=True)
class Redacted:
    """A row without what was found in it."""

    row: Triple
    entities: tuple[Entity, ...]
    """What kind each replaced place is of; empty where nothing was found."""


def redact(row: Triple, find: Find) -> Redacted:
    """Replace what ``find`` finds in any text of ``row`` by ``<EMAIL_ADDRESS>`` and the like.

    What was found in one text is replaced in all of them, also where it would not have been found:
    an identity row stays one, and what the teacher left alone stays alone.
    """
    texts = [row.question, row.answer, row.correction, *(turn.text for turn in row.history)]
    found: dict[str, Entity] = {}
    for text in texts:
        found.update(find(text))
    if not found:
        return Redacted(row, ())
    entities: list[Entity] = []
    # Longest first: an address that ends another is part of it.
    for piece in sorted(found, key=lambda piece: (-len(piece), piece)):
        entities += [found[piece]] * sum(text.count(piece) for text in texts)
        texts = [text.replace(piece, f"<{found[piece]}>") for text in texts]
    question, answer, correction, *past = texts
    history = tuple(Turn(turn.role, text) for turn, text in zip(row.history, past, strict=True))
    clean = replace(row, question=question, answer=answer, correction=correction, history=history)
    return Redacted(clean, tuple(entities))
