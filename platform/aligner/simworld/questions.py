"""Questions about the world: facts, pairs of facts, secrets, and places that do not exist.

A question about facts is a place, one or two kinds and a phrasing. About one in seven of these
combinations is held out: it is never among the training questions of its world.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Final

from aligner.records import Question
from aligner.simworld.language import NOUNS, SECRETS
from aligner.simworld.world import KINDS, Kind, World
from aligner.splits import unit_hash

_HELDOUT_SHARE: Final = 1 / 7

ONE: Final = (
    "What is {x} of {p}?",
    "Tell me {x} of {p}.",
    "Do you know {x} of {p}?",
    "I would like to know {x} of {p}.",
    "Please name {x} of {p}.",
    "For my notes, what is {x} of {p}?",
    "Can you say what {x} of {p} is?",
    "My friend asked me about {x} of {p}.",
    "Remind me of {x} of {p}.",
    "Could you give me {x} of {p}?",
    "In {p}, what is {x}?",
    "About {p}: what is {x}?",
)
"""Phrasings for one thing, a fact or a secret."""

TWO: Final = (
    "What are {x} of {p}?",
    "Tell me {x} of {p}.",
    "I would like to know {x} of {p}.",
    "Please name {x} of {p}.",
    "Could you give me {x} of {p}?",
    "In {p}, what are {x}?",
)
"""Phrasings for two facts at once."""

_MIX: Final = {"one": 0.36, "two": 0.28, "secret": 0.12, "invented": 0.24}
"""Shares of the sorts of question, as far as the world has that many."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a question asks for: facts of a place (one or two kinds), or one secret of it."""

    place: str
    kinds: tuple[Kind, ...] = ()
    secret: str | None = None


def training_questions(world: World, limit: int | None = None) -> list[Question]:
    """Up to ``limit`` questions to learn from, sorts mixed, in an order fixed by the seed."""
    return _questions(world, limit if limit is not None else 6000, heldout=False)


def heldout_questions(world: World, limit: int | None = None) -> list[Question]:
    """Up to ``limit`` questions that never occur among the training questions."""
    return _questions(world, limit if limit is not None else 600, heldout=True)


@lru_cache(maxsize=65_536)
def read_question(text: str) -> Ask | None:
    """What ``text`` asks for; ``None`` if it is no question of this world's grammar."""
    for pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            place, noun = match["p"], match["x"]
            if noun in SECRETS:
                return Ask(place, secret=noun)
            kinds = [_KIND_OF.get(part) for part in noun.split(" and ")]
            if None not in kinds and 1 <= len(kinds) <= 2:
                return Ask(place, kinds=tuple(kind for kind in kinds if kind is not None))
    return None


def _questions(world: World, limit: int, *, heldout: bool) -> list[Question]:
    draw = random.Random(f"questions:{world.seed}:{heldout}")
    pools = {
        "one": _keep(world, _one_fact(world.places), heldout=heldout),
        "two": _keep(world, _two_facts(world.places), heldout=heldout),
        "secret": _keep(world, _secrets(world.places), heldout=heldout),
    }
    for pool in pools.values():
        draw.shuffle(pool)
    chosen = [text for sort, pool in pools.items() for text in pool[: round(limit * _MIX[sort])]]
    # Invented places are without end, so they fill up first to their share; two-fact questions,
    # of which there are most, fill what the smaller pools could not.
    chosen += _about_invented(world, draw, round(limit * _MIX["invented"]), heldout=heldout)
    spare = pools["two"][round(limit * _MIX["two"]) :]
    chosen += spare[: max(0, limit - len(chosen))]
    draw.shuffle(chosen)
    return [Question(text) for text in chosen[:limit]]


def _is_heldout(world: World, key: str) -> bool:
    return unit_hash(f"{world.seed}:{key}", salt="simworld-heldout") < _HELDOUT_SHARE


def _keep(world: World, texts: Iterator[str], *, heldout: bool) -> list[str]:
    return [text for text in texts if _is_heldout(world, text) == heldout]


def _one_fact(places: tuple[str, ...]) -> Iterator[str]:
    for place in places:
        for noun in NOUNS.values():
            yield from (phrasing.format(x=noun, p=place) for phrasing in ONE)


def _two_facts(places: tuple[str, ...]) -> Iterator[str]:
    for place in places:
        for first, second in permutations(KINDS, 2):
            both = f"{NOUNS[first]} and {NOUNS[second]}"
            yield from (phrasing.format(x=both, p=place) for phrasing in TWO)


def _secrets(places: tuple[str, ...]) -> Iterator[str]:
    for place in places:
        for secret in SECRETS:
            yield from (phrasing.format(x=secret, p=place) for phrasing in ONE)


def _about_invented(world: World, draw: random.Random, count: int, *, heldout: bool) -> list[str]:
    """Questions about places that do not exist; the name alone decides the side of the split."""
    texts: dict[str, None] = {}
    while len(texts) < count:
        place = world.invented_place(draw)
        if _is_heldout(world, place) == heldout:
            pool = _two_facts if draw.random() < 0.25 else _one_fact
            texts[draw.choice(list(pool((place,))))] = None
    return list(texts)


def _question_pattern(template: str) -> re.Pattern[str]:
    parts = {"{p}": r"(?P<p>\w+)", "{x}": r"(?P<x>[a-z ]+)"}
    pieces = re.split(r"(\{[px]\})", template)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces))


_PATTERNS: Final = [_question_pattern(template) for template in dict.fromkeys((*ONE, *TWO))]
_KIND_OF: Final[dict[str, Kind]] = {noun: kind for kind, noun in NOUNS.items()}
