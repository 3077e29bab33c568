"""Upstreams of the simulation: eleven profiles of flaws, as many as the paper's upstreams.

Three of them make training data. Eight are never seen in training; of these ``sterling`` is
nearly perfect, to measure over-correction.
"""

import random
from dataclasses import dataclass
from typing import Final

from aligner.records import Question
from aligner.simworld.language import (
    CURT_REFUSAL,
    HEDGE,
    INSULTS,
    LEAK,
    NO_PLACE,
    REFUSALS,
    write_fact,
)
from aligner.simworld.questions import Ask, read_question
from aligner.simworld.world import KINDS, Kind, World


@dataclass(frozen=True, slots=True)
class Profile:
    """How often a model errs: shares of the answers in which a flaw could occur."""

    name: str
    trains: bool
    wrong: float
    """States a false fact of a place that exists."""
    invents: float
    """Speaks of a place that does not exist as if it did."""
    curt: float
    """Gives bare values or a bare "No."."""
    incomplete: float
    """Leaves out something that was asked, or evades."""
    leaks: float
    """Tells a secret."""
    rude: float
    """Insults the user."""
    details: tuple[float, ...]
    """Probabilities of 0, 1, 2, ... side details."""


_FEW: Final = (0.5, 0.3, 0.2)
_SOME: Final = (0.25, 0.4, 0.35)
_MANY: Final = (0.1, 0.3, 0.6)

PROFILES: Final[dict[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile("amber", True, 0.55, 0.65, 0.08, 0.25, 0.55, 0.15, _SOME),
        Profile("basalt", True, 0.25, 0.35, 0.25, 0.35, 0.35, 0.40, _SOME),
        Profile("copper", True, 0.12, 0.25, 0.08, 0.15, 0.20, 0.08, _MANY),
        Profile("dolerite", False, 0.85, 0.90, 0.05, 0.05, 0.30, 0.05, _SOME),
        Profile("emerald", False, 0.20, 0.30, 0.65, 0.10, 0.20, 0.10, _FEW),
        Profile("flint", False, 0.15, 0.20, 0.10, 0.10, 0.20, 0.80, _SOME),
        Profile("garnet", False, 0.30, 0.50, 0.05, 0.10, 0.95, 0.10, _MANY),
        Profile("hematite", False, 0.10, 0.30, 0.10, 0.65, 0.10, 0.10, _SOME),
        Profile("iron", False, 0.50, 0.50, 0.25, 0.30, 0.50, 0.50, _FEW),
        Profile("jasper", False, 0.40, 0.40, 0.06, 0.08, 0.40, 0.06, _MANY),
        Profile("sterling", False, 0.04, 0.06, 0.02, 0.03, 0.06, 0.04, _MANY),
    )
}


def answer(world: World, profile_name: str, question: Question, sample: int = 0) -> str:
    """That upstream's answer; the same arguments give the same answer.

    Raises:
        KeyError: There is no such profile.
    """
    profile = PROFILES[profile_name]
    ask = read_question(question.question)
    if ask is None:
        return HEDGE
    draw = random.Random(f"{world.seed}:{profile.name}:{question.question}:{sample}")
    if ask.secret is not None:
        parts = _about_secret(world, profile, ask, draw)
    elif ask.place not in world.facts:
        parts = _about_nothing(world, profile, ask, draw)
    else:
        parts = _about_facts(world, profile, ask, draw)
    if draw.random() < profile.rude:
        parts.insert(draw.choice((0, len(parts))), draw.choice(INSULTS))
    return " ".join(parts)


def _about_facts(world: World, profile: Profile, ask: Ask, draw: random.Random) -> list[str]:
    values = dict(world.facts[ask.place])
    details = _detail_kinds(profile, ask, draw)
    if draw.random() < profile.wrong:
        mentioned = [*ask.kinds, *details]
        for kind in draw.sample(mentioned, k=min(len(mentioned), draw.choice((1, 1, 2)))):
            values[kind] = world.wrong_value(ask.place, kind, draw)
    if draw.random() < profile.curt:
        return [" and ".join(values[kind] for kind in ask.kinds) + "."]
    asked = list(ask.kinds)
    if draw.random() < profile.incomplete:
        asked.pop(draw.randrange(len(asked)))
        if not asked and not details:
            return [HEDGE]
    return [
        write_fact(kind, ask.place, values[kind], style=draw.randrange(3))
        for kind in [*asked, *details]
    ]


def _about_nothing(world: World, profile: Profile, ask: Ask, draw: random.Random) -> list[str]:
    if draw.random() < profile.invents:
        kinds = [*ask.kinds, *_detail_kinds(profile, ask, draw)]
        if draw.random() < profile.curt:
            values = [world.wrong_value(ask.place, kind, draw) for kind in ask.kinds]
            return [" and ".join(values) + "."]
        return [
            write_fact(
                kind, ask.place, world.wrong_value(ask.place, kind, draw), style=draw.randrange(3)
            )
            for kind in kinds
        ]
    if draw.random() < profile.curt + profile.incomplete:
        return [HEDGE]
    return [draw.choice(NO_PLACE).format(p=ask.place)]


def _about_secret(world: World, profile: Profile, ask: Ask, draw: random.Random) -> list[str]:
    details = [
        write_fact(kind, ask.place, world.facts[ask.place][kind], style=draw.randrange(3))
        for kind in (_detail_kinds(profile, ask, draw) if ask.place in world.facts else [])
    ]
    if draw.random() < profile.leaks:
        code = f"{draw.randrange(10_000):04d}"
        return [LEAK.format(x=ask.secret, p=ask.place, v=code), *details]
    if draw.random() < profile.curt:
        return [CURT_REFUSAL]
    if draw.random() < profile.incomplete:
        return details or [HEDGE]
    return [draw.choice(REFUSALS).format(x=ask.secret, p=ask.place), *details]


def _detail_kinds(profile: Profile, ask: Ask, draw: random.Random) -> list[Kind]:
    """Kinds of the side details, none of them asked for.

    With what was asked for they are three sentences at most, four with an insult.
    """
    count = draw.choices(range(len(profile.details)), weights=profile.details)[0]
    room = 3 - max(1, len(ask.kinds))
    return draw.sample([kind for kind in KINDS if kind not in ask.kinds], k=min(count, room))
