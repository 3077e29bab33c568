"""The asking stages without Ray: plain async calls against the simulation over HTTP."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from aligner.adapters.simworld_http import SimworldServer
from aligner.errors import EndpointError
from aligner.generation import Endpoint
from aligner.records import Question, Triple
from aligner.simworld.profiles import answer
from aligner.simworld.questions import training_questions
from aligner.simworld.world import World
from aligner_jobs.generate import GAVE_UP, AskUpstreams, probe
from aligner_jobs.tables import WORK_SCHEMA, Row, drop, question_row, triple_row

WORLD = World(2)
QUESTIONS = training_questions(WORLD, 12)
NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def server() -> Iterator[SimworldServer]:
    with SimworldServer(2) as server:
        yield server


def asked(*questions: Question) -> list[Row]:
    return [
        question_row(question, source="s", where=f"f:{i}", rows=1)
        for i, question in enumerate(questions)
    ]


def through(stage: AskUpstreams, rows: list[Row]) -> list[Row]:
    async def passed() -> pa.Table:
        try:
            return await stage(pa.Table.from_pylist(rows, schema=WORK_SCHEMA))
        finally:
            await stage.aclose()

    result: list[Row] = asyncio.run(passed()).to_pylist()
    return result


def test_each_question_becomes_a_row_per_upstream_and_sample(server: SimworldServer) -> None:
    common = {"base_url": server.base_url}
    stage = AskUpstreams(
        {
            "one": {**common, "model": "amber", "samples_per_question": 2},
            "two": {**common, "model": "basalt"},
        }
    )
    rows = through(stage, asked(*QUESTIONS))
    expected = []
    for question in QUESTIONS:
        expected += [("one", answer(WORLD, "amber", question, sample=i)) for i in range(2)]
        expected += [("two", answer(WORLD, "basalt", question))]
    assert [(row["upstream"], row["answer"]) for row in rows] == expected
    assert {row["rows"] for row in rows} == {1}


def test_rows_with_an_answer_and_dropped_ones_pass(server: SimworldServer) -> None:
    stage = AskUpstreams({"one": {"base_url": server.base_url, "model": "amber"}})
    ready = triple_row(Triple("q", "a", "c"), where="f:1")
    lost = drop(ready, step="read", reason="broken_json")
    assert through(stage, [ready, lost]) == [ready, lost]


def test_a_failing_row_is_a_dropped_row_that_stands_for_all_its_samples() -> None:
    settings: dict[str, Any] = {"model": "m", "max_attempts": 1, "samples_per_question": 3}
    stage = AskUpstreams({"one": {"base_url": NOBODY, **settings}})
    (row,) = through(stage, asked(QUESTIONS[0]))
    assert (row["step"], row["reason"], row["rows"]) == ("answers", "refused", 3)


def test_nobody_there_is_given_up_on_after_a_while() -> None:
    stage = AskUpstreams({"one": {"base_url": NOBODY, "model": "m", "max_attempts": 1}})
    rows = through(stage, asked(*QUESTIONS * 4))
    reasons = [row["reason"] for row in rows]
    assert reasons[0] == "refused"
    assert reasons[-1] == f"{GAVE_UP}refused"
    assert set(reasons) == {"refused", f"{GAVE_UP}refused"}


def test_a_probe_finds_the_one_that_is_missing(server: SimworldServer) -> None:
    there = Endpoint(base_url=server.base_url, model="amber")
    asyncio.run(probe([there]))
    missing = Endpoint(base_url=NOBODY, model="amber")
    with pytest.raises(EndpointError, match=missing.base_url):
        asyncio.run(probe([there, missing]))
