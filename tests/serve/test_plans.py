"""Who reads ahead, and of what: over upstreams and correctors that remember what was asked."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from aligner.generation import Messages, Sampling, chat_messages
from aligner.records import Question, Turn
from aligner_serve.config.graph import GraphConfig
from aligner_serve.pieces import Delta, Finished, Piece, Reading
from aligner_serve.pipeline import Reply, Trouble
from aligner_serve.plans import Asked, Plans

WORDS = ("It ", "is ", "so ", "because ", "it ", "is.")
READS = {"prefill_ahead": {"min_new_chars": 1}}


class Upstream:
    def __init__(self) -> None:
        self.streams: list[bool] = []

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        self.streams.append(stream)
        for text in WORDS if stream else ["".join(WORDS)]:
            yield Delta(text)
            await asyncio.sleep(0.001)
        yield Finished(by="up")


class Corrector:
    def __init__(self) -> None:
        self.sessions: list[str] = []
        self.read: list[tuple[str, str, int, str]] = []

    async def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        self.sessions.append(session)
        yield Delta(f"{answer} Indeed.")
        yield Finished(by="1")

    async def ahead(
        self, question: Question, answer: str, *, tokens: int, deadline_s: float, session: str
    ) -> Reading:
        assert (deadline_s, question) == (30.0, ASKED.question)
        self.read.append((question.question, answer, tokens, session))
        return Reading("read", tokens + 1, 1)

    async def check_health(self) -> bool:
        return True


ASKED = Asked(
    Question("Why?", (Turn("user", "Is it?"), Turn("assistant", "Yes."))), chat_messages("Why?")
)


class Graph:
    """Two upstreams and two aligners, of which the first is set up as a test says."""

    def __init__(self, upstream: dict[str, Any] | None = None, **first: Any) -> None:
        source = {"source": {"kind": "path", "uri": "nowhere"}}
        config = GraphConfig.model_validate(
            {
                "base_url": "http://127.0.0.1:9/v1",
                "upstreams": {"up": upstream or {}},
                "aligners": {"first": {**source, **first}, "second": {**source, **READS}},
            }
        )
        self.upstream = Upstream()
        self.first, self.second = Corrector(), Corrector()
        self.told: list[tuple[str, Reading]] = []
        self._plans = Plans(
            config,
            upstreams={"up": self.upstream},
            correctors={"first": self.first, "second": self.second},
            read_ahead=lambda name, reading: self.told.append((name, reading)),
        )

    def answer(self, stack: Sequence[str] = ("first",), *, choices: int = 1) -> str:
        """The text of the first choice."""

        async def ask() -> list[Reply | Trouble]:
            plans = [
                self._plans.answer(ASKED, "up", stack, Sampling(), stream=False)
                for _ in range(choices)
            ]
            return await asyncio.gather(*(plan.respond() for plan in plans))

        (end, *_) = asyncio.run(ask())
        assert isinstance(end, Reply)
        return end.text


def test_an_answer_is_read_while_it_is_written_and_corrected_in_the_same_session() -> None:
    graph = Graph(**READS)
    assert graph.answer() == "It is so because it is. Indeed."
    assert graph.upstream.streams == [True]
    assert len(graph.first.read) >= 2
    (session,) = graph.first.sessions
    assert session and {one[3] for one in graph.first.read} == {session}
    assert all("".join(WORDS).startswith(answer) for _, answer, _, _ in graph.first.read)
    assert [tokens for _, _, tokens, _ in graph.first.read[:2]] == [0, 1]
    assert {name for name, _ in graph.told} == {"first"}


def test_without_the_setting_nothing_is_read_or_streamed() -> None:
    graph = Graph()
    assert graph.answer() == "It is so because it is. Indeed."
    assert graph.upstream.streams == [False]
    assert (graph.first.read, graph.first.sessions, graph.told) == ([], [""], [])


def test_of_a_stack_the_first_reads_ahead_and_no_other() -> None:
    graph = Graph(**READS)
    graph.answer(["first", "second"])
    assert graph.first.read and not graph.second.read
    other = Graph()
    other.answer(["first", "second"])
    assert not other.second.read


def test_the_choices_of_a_request_are_sessions_of_their_own() -> None:
    graph = Graph(**READS)
    graph.answer(choices=3)
    assert len({*graph.first.sessions}) == 3


@pytest.mark.parametrize(
    ("upstream", "heard"),
    [({"stream": False}, False), ({"kind": "vllm", "model": "folder"}, True)],
)
def test_only_who_streams_is_overheard(upstream: dict[str, Any], heard: bool) -> None:
    graph = Graph(upstream, **READS)
    graph.answer()
    assert graph.upstream.streams == [heard]
    assert bool(graph.first.read) is heard


def test_a_raw_answer_is_read_by_nobody() -> None:
    graph = Graph(**READS)
    assert graph.answer([]) == "".join(WORDS)
    assert not graph.first.read and not graph.told
