"""What saves work, in all combinations: the same comes out, and each part does its own share."""

import asyncio
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import counted_graph
import pytest
from counted_graph import FIRST, FLAWED, GOOD, OTHER, SECOND, Graph

from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import challenger_of
from aligner_serve.pipeline import StageReport

ANSWERS = {"good": (GOOD, GOOD), "flawed": (FLAWED, GOOD)}
"""An answer, and what is to become of it."""

READS_OFTEN = {"min_new_chars": 8}

SEATS: dict[str, dict[str, Any]] = {
    "alone": {},
    "guest": {"engine": {"kind": "shared", "aligner": SECOND}},
    "canary": {"challenger": {"kind": "canary", "share": 0.999999}},
    "shadow": {"challenger": {"kind": "shadow"}},
}


@dataclass(frozen=True)
class Switches:
    """One way to set up a graph."""

    seat: str
    keep: bool
    ahead: bool
    rounds: int

    def config(self, folder: Path) -> GraphConfig:
        first = {**SEATS[self.seat], "rounds": self.rounds}
        if "challenger" in first:
            source = {"kind": "path", "uri": str(folder / OTHER)}
            first["challenger"] = {**first["challenger"], "source": source}
        return counted_graph.settings(
            folder, **first, prefill_ahead=READS_OFTEN if self.ahead else None
        )

    @property
    def who(self) -> str:
        """The seat that corrects."""
        return challenger_of(FIRST) if self.seat == "canary" else FIRST


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("combinations")
    counted_graph.write_exports(found)
    return found


Way = tuple[str, tuple[str, ...], bool]
"""One way to ask it: key of an answer, a stack, and whether it is streamed."""
WAYS: list[Way] = [
    *itertools.product(ANSWERS, ((FIRST,), (FIRST, SECOND)), (False, True)),
]


@pytest.mark.parametrize("seat", SEATS)
def test_whatever_is_switched_on_the_same_comes_out_for_less_work(seat: str, folder: Path) -> None:
    async def all_of_them() -> None:
        for switches in itertools.product((False, True), (False, True), (1, 3)):
            case = Switches(seat, *switches)
            graph = await counted_graph.started(case.config(folder), keep=case.keep)
            for way in WAYS:
                await asked_as_due(graph, case, way)

    asyncio.run(all_of_them())


async def asked_as_due(graph: Graph, case: Switches, way: Way) -> None:
    name, stack, stream = way
    answer, correction = ANSWERS[name]
    graph.forget(answer)
    end = await graph.answer(stack, stream=stream)
    assert end.text == correction, (case, way)
    assert end.outcome == ("unchanged" if answer == correction else "corrected"), (case, way)
    own = [one for one in end.stages if one.name == FIRST]
    again = case.rounds > 1 and answer != correction
    assert len(own) == (2 if again else 1), (case, way)
    kept_as_due(case, own, flawed=answer != correction)
    if case.seat != "shadow":
        told = sum(one.savings.decoded_tokens for one in end.stages)
        assert sum(engine.written for engine in graph.engines) == told, (case, way)
    read_as_due(case, own, graph)


def kept_as_due(case: Switches, own: list[StageReport], *, flawed: bool) -> None:
    """A good answer is kept, a flawed one decoded from its flaw on, and its correction kept."""
    savings = [one.savings for one in own]
    if not case.keep:
        assert [one.kept for one in savings] == [None] * len(own), case
        assert all(one.decoded_tokens and not one.trusted_tokens for one in savings), case
        return
    assert [one.kept for one in savings] == [not flawed, True][: len(own)], case
    if flawed:
        trusted = len("It is so because it ")
        assert savings[0].trusted_tokens == trusted, case
        assert savings[0].decoded_tokens == len(GOOD) + 1 - trusted, case
    for one in savings[1:] if flawed else savings:
        assert (one.decoded_tokens, one.decode_steps) == (0, 0), case


def read_as_due(case: Switches, own: list[StageReport], graph: Graph) -> None:
    """Who corrects has read ahead, and nobody reads anything twice."""
    reading = graph.engine(case.who)
    if not case.ahead:
        assert not graph.readings and not reading.begun, case
        assert own[0].savings.cached_tokens == 0, case
        return
    results = [one.result for name, one in graph.readings if name == FIRST]
    assert len(results) == len(graph.readings) and "read" in results, case
    known = [one.tokens for _, one in graph.readings if one.result == "read"]
    assert own[0].savings.cached_tokens >= max(known) > 0, case
    assert not any(one.begun for one in graph.engines if one is not reading), case
    if case.seat in ("alone", "canary"):
        # Each token once, but for what did not fill a block: by each reading, and by decoding.
        prompt = own[0].usage.prompt_tokens
        once = sum(prompt + len(GOOD) + 1 for _ in own)
        blocks = (len(own) * 2 + len(known)) * reading.block_tokens
        assert reading.computed <= once + blocks, case
