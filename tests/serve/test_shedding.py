"""What reading ahead costs at most: over real plans and correctors whose engines only count."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import counted_graph
import pytest
from counted_graph import FIRST, FLAWED, GOOD, QUESTION, Graph

from aligner.records import Question
from aligner_serve.handles import CorrectorHandle

READS = {"min_new_chars": 8, "max_queued_tokens": 300}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("shedding")
    counted_graph.write_exports(found)
    return found


async def reading(folder: Path, **changes: Any) -> Graph:
    """A graph whose first aligner reads ahead, and whose upstream gives a flawed answer."""
    config = counted_graph.settings(folder, prefill_ahead={**READS, **changes})
    graph = await counted_graph.started(config)
    graph.forget(FLAWED)
    return graph


def results(graph: Graph) -> list[str]:
    return [one.result for _, one in graph.readings]


def test_a_loaded_replica_reads_nothing_ahead_and_corrects_all_the_same(folder: Path) -> None:
    async def asked() -> None:
        graph = await reading(folder)
        engine = graph.engine()
        engine.queued_tokens = 301
        end = await graph.answer()
        assert (end.outcome, end.text) == ("corrected", GOOD)
        assert engine.begun == 0
        # All of the prompt is read once, as if nobody had wanted to read ahead.
        assert engine.computed == end.stages[-1].usage.prompt_tokens
        # Each refusal doubles the time to the next: of 100 characters every 8, 16, 32 and 64.
        assert {*results(graph)} == {"loaded"} and len(results(graph)) <= 4
        engine.queued_tokens = 0
        graph.forget(FLAWED)
        assert (await graph.answer()).text == GOOD
        assert "read" in results(graph)

    asyncio.run(asyncio.wait_for(asked(), 30))


def test_what_many_answers_have_read_ahead_fills_no_replica(folder: Path) -> None:
    """One beside another, as gateways ask that know nothing of each other."""

    async def asked() -> None:
        graph = await reading(folder)
        engine = graph.engine()
        engine.open.clear()
        handle = CorrectorHandle(counted_graph.Handle(graph.correctors[FIRST]), FIRST)
        calls = [
            asyncio.ensure_future(
                handle.ahead(
                    Question(f"{number}: {QUESTION}"), GOOD, tokens=0, deadline_s=60, session="s"
                )
            )
            for number in range(40)
        ]
        await counted_graph.settled()
        longest = len(f"39: {QUESTION}{GOOD}") + 40
        assert 300 < engine.most_queued <= 300 + longest
        assert engine.reading == engine.begun <= 4
        engine.open.set()
        told = [(await call).result for call in calls]
        assert (told.count("read"), told.count("loaded")) == (engine.begun, 40 - engine.begun)
        assert engine.queued_tokens == 0

    asyncio.run(asyncio.wait_for(asked(), 30))


def test_a_gateway_has_no_more_readings_than_it_may(folder: Path) -> None:
    async def asked() -> None:
        graph = await reading(folder, max_ongoing=3, max_queued_tokens=100_000)
        engine = graph.engine()
        engine.open.clear()
        asking = [asyncio.ensure_future(graph.answer()) for _ in range(12)]
        # Until all answers are there: what is still being read ahead is dropped then.
        while engine.reading < len(asking) or engine.begun_now:
            await asyncio.sleep(0)
        assert engine.begun == engine.most_begun == 3
        engine.open.set()
        ends = await asyncio.gather(*asking)
        assert {end.text for end in ends} == {GOOD}
        assert {*results(graph)} == {"dropped"}

    asyncio.run(asyncio.wait_for(asked(), 30))


def test_a_client_that_leaves_ends_the_reading(folder: Path) -> None:
    async def asked() -> None:
        graph = await reading(folder)
        engine = graph.engine()
        engine.open.clear()

        async def client() -> None:
            async with aclosing(graph.plan(stream=True).stream()) as events:
                async for _ in events:
                    pass

        waiting = asyncio.ensure_future(client())
        while not engine.reading:
            await asyncio.sleep(0)
        assert engine.queued_tokens > 0
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await counted_graph.settled()
        assert (engine.reading, engine.queued_tokens, engine.computed) == (0, 0, 0)
        assert graph.upstream.closed == 1
        assert results(graph) == ["dropped"]

    asyncio.run(asyncio.wait_for(asked(), 30))


def test_an_answer_that_breaks_off_wastes_what_was_read_of_it_and_no_more(folder: Path) -> None:
    async def asked() -> None:
        graph = await reading(folder)
        graph.upstream.breaks_off = True
        end = await graph.answer()
        assert end.text == GOOD
        found = [one for _, one in graph.readings]
        read = sum(one.computed for one in found)
        assert 0 < read <= len(f"{QUESTION}{FLAWED}") + 40
        assert read == max(one.tokens for one in found)
        assert graph.engine().computed <= read + end.stages[-1].usage.prompt_tokens

    asyncio.run(asyncio.wait_for(asked(), 30))
