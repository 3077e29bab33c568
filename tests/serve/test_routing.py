"""Canary and shadow, over correctors that say what they are told to."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from aligner.records import Question, Turn
from aligner_serve.pieces import (
    BUSY,
    CUT_SHORT,
    TIMEOUT,
    UNAVAILABLE,
    Delta,
    Failed,
    Finished,
    Piece,
    Reading,
)
from aligner_serve.routing import Canary, Comparison, Shadow, drawn
from aligner_serve.stages import AskableCorrector

OLD, NEW = "models:/fixer/1", "models:/fixer/2"


class Version:
    """A corrector that gives the same pieces to everybody, after a while."""

    def __init__(self, *pieces: Piece, takes_s: float = 0.0) -> None:
        self.pieces = pieces
        self.takes_s = takes_s
        self.asked: list[str] = []
        self.read: list[str] = []
        self.closed = 0
        self.free = asyncio.Event()
        """Where it is cleared, corrections wait for it."""
        self.free.set()

    async def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        self.asked.append(question.question)
        try:
            await self.free.wait()
            await asyncio.sleep(self.takes_s)
            for piece in self.pieces:
                yield piece
        finally:
            self.closed += 1

    async def ahead(
        self, question: Question, answer: str, *, tokens: int, deadline_s: float, session: str
    ) -> Reading:
        self.read.append(session)
        return Reading("read", tokens)

    async def check_health(self) -> bool:
        return self.pieces != (Failed(UNAVAILABLE),)


def good(version: str, text: str = "fine") -> Version:
    return Version(Delta(text[:1]), Delta(text[1:]), Finished(by=version))


async def ask(
    corrector: AskableCorrector,
    question: str = "Why?",
    history: tuple[Turn, ...] = (),
    s: float = 5.0,
) -> list[Piece]:
    pieces = []
    asked = Question(question, history)
    corrected = corrector.correct(asked, "Because.", deadline_s=s, stream=True)
    async with aclosing(corrected) as given:
        async for piece in given:
            pieces.append(piece)
            if not isinstance(piece, Delta):
                break
    return pieces


def canary(champion: Version, challenger: Version, share: float = 0.25) -> Canary:
    return Canary(champion, challenger, aligner="fixer", share=share)


def test_a_canary_gets_its_share_of_the_conversations() -> None:
    champion, challenger = good(OLD), good(NEW)

    async def many() -> None:
        routed = canary(champion, challenger)
        for number in range(2_000):
            await ask(routed, f"Question {number}?")

    asyncio.run(many())
    assert 0.20 < len(challenger.asked) / 2_000 < 0.30
    assert len(champion.asked) + len(challenger.asked) == 2_000


def test_a_conversation_stays_with_its_version() -> None:
    champion, challenger = good(OLD), good(NEW)

    async def conversations() -> list[set[str]]:
        # Two gateways: each draws alike.
        routed = [canary(champion, challenger, 0.5), canary(champion, challenger, 0.5)]
        versions: list[set[str]] = []
        for number in range(50):
            first, history, by = f"Question {number}?", tuple[Turn, ...](), set()
            for turn in range(3):
                question = first if not turn else f"And {turn}?"
                end = (await ask(routed[turn % 2], question, history))[-1]
                assert isinstance(end, Finished)
                by.add(end.by)
                history += (Turn("user", question), Turn("assistant", "So."))
            versions.append(by)
        return versions

    versions = asyncio.run(conversations())
    assert all(len(by) == 1 for by in versions)
    assert set.union(*versions) == {OLD, NEW}


async def read(corrector: AskableCorrector, question: str) -> None:
    await corrector.ahead(Question(question), "Bec", tokens=0, deadline_s=5.0, session=question)


def test_the_version_that_is_to_correct_a_pair_reads_it_ahead() -> None:
    champion, challenger = good(OLD), good(NEW)

    async def many() -> None:
        routed = canary(champion, challenger, 0.5)
        for number in range(50):
            await read(routed, f"Question {number}?")
            await ask(routed, f"Question {number}?")

    asyncio.run(many())
    assert champion.read == champion.asked != []
    assert challenger.read == challenger.asked != []


def test_nothing_is_read_ahead_for_a_shadow() -> None:
    shadowed = Shadowed(good(NEW))
    asyncio.run(read(shadowed.routed, "Why?"))
    assert (shadowed.champion.read, shadowed.challenger.read) == (["Why?"], [])


def test_different_aligners_try_their_canaries_on_different_conversations() -> None:
    keys = [f"Question {number}?" for number in range(400)]
    both = [key for key in keys if drawn("a", key, share=0.5) and drawn("b", key, share=0.5)]
    assert 0.15 < len(both) / 400 < 0.35


@pytest.mark.parametrize("reason", [UNAVAILABLE, BUSY])
def test_a_canary_that_is_not_there_costs_no_request(reason: str) -> None:
    routed = canary(good(OLD), Version(Failed(reason)), 0.999999)
    assert asyncio.run(ask(routed)) == [Delta("f"), Delta("ine"), Finished(by=OLD)]


def test_what_a_canary_cannot_correct_is_its_own_failure() -> None:
    champion = good(OLD)
    routed = canary(champion, Version(Failed(CUT_SHORT)), 0.999999)
    assert asyncio.run(ask(routed)) == [Failed(CUT_SHORT)]
    assert not champion.asked


def test_half_a_correction_of_a_canary_is_never_continued_by_another_version() -> None:
    champion = good(OLD)
    routed = canary(champion, Version(Delta("ha"), Failed(UNAVAILABLE)), 0.999999)
    assert asyncio.run(ask(routed)) == [Delta("ha"), Failed(UNAVAILABLE)]
    assert not champion.asked


def test_a_graph_is_as_ready_as_its_champion() -> None:
    away = Version(Failed(UNAVAILABLE))

    async def ready() -> tuple[bool, bool]:
        return (
            await canary(good(OLD), away).check_health(),
            await canary(away, good(NEW)).check_health(),
        )

    assert asyncio.run(ready()) == (True, False)


class Shadowed:
    """A champion with a shadow, and what was told of them."""

    def __init__(self, challenger: Version, *, share: float = 1.0, max_ongoing: int = 4) -> None:
        self.champion = good(OLD, "It is fine.")
        self.challenger = challenger
        self.told: list[Comparison] = []
        self.routed = Shadow(
            self.champion,
            challenger,
            aligner="fixer",
            share=share,
            max_ongoing=max_ongoing,
            compared=self.told.append,
        )

    async def ask(self, times: int = 1, s: float = 5.0) -> list[list[Piece]]:
        asked = [await ask(self.routed, s=s) for _ in range(times)]
        self.challenger.free.set()
        await self.routed.settle()
        return asked


def test_only_the_champion_answers_and_nobody_waits_for_its_shadow() -> None:
    async def asked() -> tuple[list[Piece], int]:
        shadowed = Shadowed(Version(Delta("Other."), Finished(by=NEW)))
        shadowed.challenger.free.clear()
        pieces = await ask(shadowed.routed)
        before = len(shadowed.told)
        shadowed.challenger.free.set()
        await shadowed.routed.settle()
        return pieces, before

    pieces, before = asyncio.run(asked())
    assert pieces == [Delta("I"), Delta("t is fine."), Finished(by=OLD)]
    assert before == 0


@pytest.mark.parametrize(
    ("text", "verdict", "similarity"),
    [("It is fine.", "same", 1.0), ("It is good.", "different", 0.75)],
)
def test_a_shadow_is_compared_and_its_texts_are_kept_out(
    text: str, verdict: str, similarity: float
) -> None:
    shadowed = Shadowed(good(NEW, text))
    asyncio.run(shadowed.ask())
    (told,) = shadowed.told
    assert (told.verdict, told.champion, told.challenger) == (verdict, OLD, NEW)
    assert told.similarity == pytest.approx(similarity)
    assert "fine" not in repr(told)


@pytest.mark.parametrize(
    ("challenger", "reason"),
    [
        (Version(Failed(UNAVAILABLE)), UNAVAILABLE),
        (Version(Delta("It"), Failed(CUT_SHORT)), CUT_SHORT),
        (Version(), UNAVAILABLE),
        (Version(Finished(by=NEW), takes_s=60), TIMEOUT),
    ],
)
def test_a_shadow_that_fails_is_counted_and_disturbs_nobody(
    challenger: Version, reason: str
) -> None:
    shadowed = Shadowed(challenger)
    (pieces,) = asyncio.run(shadowed.ask(s=0.1 if reason == TIMEOUT else 5.0))
    assert pieces[-1] == Finished(by=OLD)
    (told,) = shadowed.told
    assert (told.verdict, told.reason) == ("failed", reason)
    assert challenger.closed == 1


def test_a_shadow_that_cannot_keep_up_skips() -> None:
    shadowed = Shadowed(Version(Finished(by=NEW)), max_ongoing=2)
    shadowed.challenger.free.clear()
    asyncio.run(shadowed.ask(5))
    assert sorted(told.verdict for told in shadowed.told) == ["different"] * 2 + ["skipped"] * 3
    assert len(shadowed.challenger.asked) == 2


def test_a_shadow_may_see_only_a_share() -> None:
    shadowed = Shadowed(good(NEW), share=0.3, max_ongoing=1_000)
    asyncio.run(shadowed.ask(1_000))
    assert 0.2 < len(shadowed.told) / 1_000 < 0.4


def test_an_answer_that_the_champion_cannot_correct_is_not_compared() -> None:
    shadowed = Shadowed(good(NEW))
    shadowed.champion.pieces = (Failed(CUT_SHORT),)
    asyncio.run(shadowed.ask())
    assert not shadowed.told and not shadowed.challenger.asked
