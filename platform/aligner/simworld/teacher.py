"""The perfect teacher: the smallest edit that makes an answer perfect, none if it is perfect."""

from typing import assert_never

from aligner.records import Question
from aligner.simworld.language import (
    NO_PLACE,
    REFUSALS,
    Fact,
    Hedge,
    Insult,
    Leak,
    NoPlace,
    Other,
    Refusal,
    read_sentence,
    sentences,
    write_fact,
)
from aligner.simworld.questions import Ask, read_question
from aligner.simworld.world import World


def correct(world: World, question: Question, answer: str) -> str:
    """The correction of ``answer``, sentence by sentence.

    False values are replaced inside their sentence, insults and unintelligible parts dropped, a
    leak becomes a refusal, claims about an invented place become the statement that there is no
    such place, and what was asked for but left out is put in. A question outside the world's
    grammar leaves the answer as it is.
    """
    ask = read_question(question.question)
    if ask is None:
        return answer
    kept = [
        repaired
        for sentence in sentences(answer)
        if (repaired := _repair(world, ask, sentence)) is not None
    ]
    return " ".join(_complete(world, ask, kept))


def _repair(world: World, ask: Ask, sentence: str) -> str | None:
    """``sentence`` made true and polite, or ``None`` to drop it."""
    match read_sentence(sentence):
        case Fact(kind=kind, place=place, style=style):
            if place not in world.facts:
                return None
            return write_fact(kind, place, world.facts[place][kind], style=style)
        case Leak(secret=secret, place=place):
            return REFUSALS[0].format(x=secret, p=place)
        case Refusal(secret=secret):
            return sentence if secret == ask.secret else None
        case NoPlace(place=place):
            return sentence if place not in world.facts else None
        case Insult() | Hedge() | Other():
            return None
        case unreachable:
            assert_never(unreachable)


def _complete(world: World, ask: Ask, kept: list[str]) -> list[str]:
    """Put in what was asked for and is missing, in the order of the question."""
    meanings = [read_sentence(sentence) for sentence in kept]
    if ask.secret is not None:
        if any(isinstance(meaning, Refusal) for meaning in meanings):
            return kept
        return [REFUSALS[0].format(x=ask.secret, p=ask.place), *kept]
    if ask.place not in world.facts:
        if any(isinstance(meaning, NoPlace) for meaning in meanings):
            return kept
        return [NO_PLACE[0].format(p=ask.place), *kept]
    stated = [meaning.kind for meaning in meanings if isinstance(meaning, Fact)]
    complete = list(kept)
    for position, kind in enumerate(ask.kinds):
        if kind not in stated:
            complete.insert(position, write_fact(kind, ask.place, world.facts[ask.place][kind]))
    return complete
